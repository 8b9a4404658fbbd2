//! The legacy format in the forms that are in the wild, deployed by the agent.

use serde_json::{Value, json};

use crate::common::agent::{Node, files_below};
use crate::common::archive::{gzip, tar, zstd};
use crate::common::disk_bytes::disk;
use crate::common::image::MANIFEST;
use crate::common::registry::{On, Registry, digest};

pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const GZIP_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const REPO: &str = "edge/legacy";

/// Puts a layer into the registry, and describes it.
pub fn layer(registry: &Registry, media_type: &str, bytes: &[u8], annotations: &Value) -> Value {
    let digest = registry.put_blob(REPO, bytes.to_vec());
    json!({"mediaType": media_type, "digest": digest, "size": bytes.len(), "annotations": annotations})
}

pub fn annotations(role: &str, media_type: &str, title: &str) -> Value {
    json!({
        "org.lfedge.eci.role": role,
        "org.lfedge.eci.mediaType": media_type,
        "org.opencontainers.image.title": title,
    })
}

/// Puts a manifest of `layers` and `config` into the registry.
pub fn publish(registry: &Registry, tag: &str, config: &[u8], layers: &[Value]) -> String {
    let config_digest = registry.put_blob(REPO, config.to_vec());
    let media_type = "application/vnd.oci.image.config.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
        "config": {"mediaType": media_type, "digest": config_digest, "size": config.len()},
    });
    registry.put_manifest(REPO, Some(tag), MANIFEST, manifest.to_string());
    registry.reference(REPO, tag)
}

pub fn labels(paths: &[(&str, &str)]) -> Vec<u8> {
    let labels: serde_json::Map<_, _> =
        paths.iter().map(|(key, path)| (format!("org.lfedge.eci.artifact.{key}"), json!(path))).collect();
    json!({"architecture": "amd64", "os": "linux", "config": {"Labels": labels}}).to_string().into_bytes()
}

/// A node that deploys `reference`.
pub fn deploy(reference: &str) -> Node {
    let mut node = Node::new();
    node.desire_image(reference);
    node.start();
    node.until_activated(reference);
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_files_and_archives_of_one_file_are_deployed() {
    let registry = Registry::http();
    let kernel = annotations("kernel", "application/vnd.lfedge.eci.kernel.layer.v1+kernel", "kernel");
    let initrd = annotations("initrd", "application/vnd.lfedge.eci.initrd.layer.v1+cpio", "initrd");
    let root = annotations("disk-root", "application/vnd.lfedge.disk.layer.v1+raw", "disk-root-root.raw");
    let mut disk = vec![0; 3 << 20];
    disk[1 << 20..(1 << 20) + 5].copy_from_slice(b"bytes");
    // A plain file that is itself compressed stays as it is: only an archive is taken apart.
    let compressed_initrd = gzip(b"initrd");
    let layers = [
        layer(&registry, LAYER, b"kernel", &kernel),
        layer(&registry, LAYER, &compressed_initrd, &initrd),
        layer(&registry, GZIP_LAYER, &gzip(&tar(&[("whatever", &disk)])), &root),
    ];
    let node = deploy(&publish(&registry, "v1", b"{}", &layers));
    assert_eq!(node.current("kernel"), b"kernel");
    assert_eq!(node.current("initrd"), compressed_initrd);
    assert!(node.current("disk-root") == disk);
    let launch: Value = serde_json::from_slice(&node.current("launch.json")).unwrap();
    assert_eq!(
        (&launch["files"][2]["digest"], &launch["files"][2]["size"]),
        (&json!(digest(&disk)), &json!(disk.len()))
    );
    // The layer is gone, the file is there once, with its holes.
    let blobs = files_below(&node.state_dir().join("cache/blobs"));
    assert_eq!(blobs.len(), 5, "config, manifest, kernel, initrd and disk: {blobs:?}");
    let allocated =
        std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(node.state_dir().join("current/disk-root")).unwrap())
            * 512;
    assert!(allocated < 1 << 20, "{allocated}");
    assert!(files_below(&node.state_dir().join("partial")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_was_unpacked_is_not_fetched_again() {
    let registry = Registry::http();
    let root = annotations("disk-root", "application/vnd.lfedge.disk.layer.v1+raw", "root.raw");
    let packed = gzip(&tar(&[("root.raw", &[7; 100_000])]));
    let shared = layer(&registry, GZIP_LAYER, &packed, &root);
    let node = deploy(&publish(&registry, "v1", b"{}", std::slice::from_ref(&shared)));
    let kernel = annotations("kernel", "application/vnd.lfedge.eci.kernel.layer.v1+kernel", "kernel");
    let second = publish(&registry, "v2", b"{}", &[layer(&registry, LAYER, b"kernel", &kernel), shared]);
    node.desire_image(&second);
    node.until_activated(&second);
    assert_eq!(registry.count(&On::blobs().get().reference(&digest(&packed))), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_kept_where_that_is_wanted() {
    let registry = Registry::http();
    let root = annotations("disk-root", "application/vnd.lfedge.disk.layer.v1+raw", "root.raw");
    let packed = gzip(&tar(&[("root.raw", &[7; 100_000])]));
    let reference = publish(&registry, "v1", b"{}", &[layer(&registry, GZIP_LAYER, &packed, &root)]);
    for keep in [false, true] {
        let mut node = Node::with_config(&format!("[cache]\nkeep_layers = {keep}\n"));
        node.desire_image(&reference);
        node.start();
        node.until_activated(&reference);
        let cache = node.state_dir().join("cache");
        assert_eq!(cache.join("blobs").join(digest(&packed).replace(':', "/")).exists(), keep);
        // The layout lists only what it has as a whole.
        let index = std::fs::read_to_string(cache.join("index.json")).unwrap();
        assert_eq!(index.contains(&reference), keep);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn container_images_are_read_by_their_labels() {
    let (registry, root, iso) = (Registry::http(), disk("qcow2", "root"), disk("iso", "second disk"));
    let base =
        gzip(&tar(&[("boot/vmlinuz", b"old kernel"), ("images/root.qcow2", &root), ("images/a.raw", b"hidden")]));
    let middle = zstd(&tar(&[("images/disk-1-b.iso", &iso), ("images/.wh.a.raw", b"")]));
    let top = tar(&[("boot/vmlinuz", b"new kernel"), ("images/a.raw", b"first disk")]);
    let none = json!({});
    let layers = [
        layer(&registry, DOCKER_LAYER, &base, &none),
        layer(&registry, "application/vnd.oci.image.layer.v1.tar+zstd", &middle, &none),
        layer(&registry, LAYER, &top, &none),
    ];
    let config = labels(&[
        ("kernel", "/boot/vmlinuz"),
        ("root", "/images/root.qcow2"),
        ("disk-0", "images/a.raw"),
        ("disk-1", "/images/disk-1-b.iso"),
    ]);
    let node = deploy(&publish(&registry, "v1", &config, &layers));
    assert_eq!(node.current("kernel"), b"new kernel", "later layers win");
    assert!(node.current("disk-root-root.qcow2") == root);
    assert_eq!(node.current("disk-0-a.raw"), b"first disk");
    assert!(node.current("disk-1-b.iso") == iso);
    assert_eq!(node.current("config.json"), config);

    // A new top layer: of the others all is known.
    registry.take_log();
    let newer = tar(&[("boot/vmlinuz", b"newer kernel")]);
    let layers = [&layers[..], &[layer(&registry, LAYER, &newer, &none)]].concat();
    let second = publish(&registry, "v2", &config, &layers);
    node.desire_image(&second);
    node.until_activated(&second);
    assert_eq!(node.current("kernel"), b"newer kernel");
    assert_eq!(registry.count(&On::blobs().get()), 1, "{:?}", registry.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_labels_name_must_be_there_and_be_a_file() {
    let registry = Registry::http();
    let gone = [tar(&[("boot/vmlinuz", b"kernel")]), tar(&[("boot/.wh.vmlinuz", b"")])];
    let none = json!({});
    let node = deploy(&publish(
        &registry,
        "good",
        &labels(&[("kernel", "/k")]),
        &[layer(&registry, LAYER, &tar(&[("k", b"kernel")]), &none)],
    ));
    for (tag, config, layers, kind) in [
        ("gone", labels(&[("kernel", "/boot/vmlinuz")]), gone.to_vec(), "file-missing"),
        ("never", labels(&[("kernel", "/boot/other")]), vec![gone[0].clone()], "file-missing"),
        ("cut", labels(&[("kernel", "/boot/vmlinuz")]), vec![gzip(&gone[0])[..40].to_vec()], "archive-refused"),
        ("label", labels(&[("kernel", "/boot/../../x")]), vec![gone[0].clone()], "manifest-invalid"),
        ("config", b"no JSON".to_vec(), vec![gone[0].clone()], "config-damaged"),
        ("nothing", b"{}".to_vec(), vec![gone[0].clone()], "not-bootable"),
    ] {
        let layers: Vec<_> = layers.iter().map(|bytes| layer(&registry, LAYER, bytes, &none)).collect();
        node.desire_image(&publish(&registry, tag, &config, &layers));
        node.until_failed(kind);
        assert_eq!(node.current("kernel"), b"kernel");
        assert_eq!(node.status()["workloads"]["default"]["phase"], "blocked", "{tag}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_of_older_tools_is_pulled_as_it_stands() {
    let registry = Registry::http();
    let manifest = include_str!("data/sample-manifest/manifest.json");
    let document: Value = serde_json::from_str(manifest).unwrap();
    // Its digests are of bytes that nobody has any more; blobs are made to fit its sizes, and it to their digests.
    let mut fitted = manifest.to_owned();
    let descriptors = std::iter::once(&document["config"]).chain(document["layers"].as_array().unwrap());
    let blobs: Vec<_> = descriptors
        .enumerate()
        .map(|(n, descriptor)| {
            let bytes =
                vec![b'a' + u8::try_from(n).unwrap(); usize::try_from(descriptor["size"].as_u64().unwrap()).unwrap()];
            fitted = fitted.replace(descriptor["digest"].as_str().unwrap(), &registry.put_blob(REPO, bytes.clone()));
            bytes
        })
        .collect();
    registry.put_manifest(REPO, Some("sample"), MANIFEST, fitted);
    let node = deploy(&registry.reference(REPO, "sample"));
    for (name, bytes) in ["config.json", "kernel", "initrd", "disk-root-root.raw"].iter().zip(blobs) {
        assert_eq!(node.current(name), bytes, "{name}");
    }
}
