//! Images in the forms that the format's documents and other tools give them, pulled at a workstation and by a node.

use std::fs;

use serde_json::{Value, json};

use crate::common::agent::Node;
use crate::common::archive::{gzip, tar};
use crate::common::disk_bytes::disk;
use crate::common::image::{INDEX, MANIFEST};
use crate::common::registry::{Registry, digest};
use crate::common::workstation::Workstation;

const REPO: &str = "edge/forms";
const KERNEL: &str = "application/vnd.lfedge.eci.kernel.layer.v1+kernel";
const RAW: &str = "application/vnd.lfedge.disk.layer.v1+raw";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const TITLE: &str = "org.opencontainers.image.title";

fn blob(registry: &Registry, media_type: &str, bytes: &[u8], annotations: &Value) -> Value {
    let digest = registry.put_blob(REPO, bytes.to_vec());
    json!({"mediaType": media_type, "digest": digest, "size": bytes.len(), "annotations": annotations})
}

/// A tar of one file at `path`, as a container tool packs it.
fn layer(path: &str, bytes: &[u8]) -> Vec<u8> {
    gzip(&tar(&[(path, bytes)]))
}

/// Checks that `reference` is these files, after `eci pull` and on a node.
fn is(reference: &str, files: &[(&str, &[u8])]) -> Node {
    let workstation = Workstation::new();
    workstation.must(&["pull", "--dir", "out", reference]);
    for (name, bytes) in files {
        assert!(fs::read(workstation.path("out").join(name)).unwrap() == *bytes, "pulled {name}");
    }
    let mut node = Node::new();
    node.desire_image(reference);
    node.start();
    node.until_activated(reference);
    for (name, bytes) in files {
        assert!(node.current(name) == *bytes, "{name} on the node");
    }
    node
}

/// The formats of what a node boots, by the files' names.
fn formats(node: &Node) -> Vec<(String, String)> {
    let launch: Value = serde_json::from_slice(&node.current("launch.json")).unwrap();
    let name = |file: &Value| file["path"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let format = |file: &Value| file["format"].as_str().unwrap().to_owned();
    launch["files"].as_array().unwrap().iter().map(|file| (name(file), format(file))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_of_disk() {
    const TYPES: [&str; 8] = ["raw", "vhd", "vmdk", "iso", "qcow", "qcow2", "ova", "vhdx"];
    for format in ["artifacts", "legacy"] {
        let (registry, workstation) = (Registry::http(), Workstation::new());
        let reference = registry.reference(REPO, "v1");
        let bytes = |kind: &str| disk(kind, "d");
        let mut arguments = vec!["push".to_owned(), "--format".to_owned(), format.to_owned()];
        for kind in TYPES {
            workstation.write(&format!("d.{kind}"), bytes(kind));
            arguments.extend(["--disk".to_owned(), format!("d.{kind}:{kind}")]);
        }
        workstation.write("root", "the root disk");
        arguments.extend(["--root".to_owned(), "root:raw".to_owned(), reference.clone()]);
        workstation.must(&arguments.iter().map(String::as_str).collect::<Vec<_>>());

        let disks: Vec<_> =
            TYPES.iter().enumerate().map(|(n, kind)| (format!("disk-{n}-d.{kind}"), bytes(kind))).collect();
        let files: Vec<_> = disks.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        let node = is(&reference, &files);
        let expected = disks.iter().zip(TYPES).map(|((name, _), kind)| (name.clone(), kind.to_owned()));
        let found: Vec<_> = formats(&node).into_iter().filter(|(name, _)| name != "disk-root-root").collect();
        assert_eq!(found, expected.collect::<Vec<_>>(), "{format}");

        let manifest: Value = serde_json::from_slice(&registry.manifest(REPO, "v1").unwrap().bytes).unwrap();
        for (layer, kind) in manifest["layers"].as_array().unwrap().iter().skip(1).zip(TYPES) {
            let media_type = format!("application/vnd.lfedge.disk.layer.v1+{kind}");
            assert_eq!(layer["annotations"]["org.lfedge.eci.mediaType"], media_type);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_with_a_type_and_an_empty_config() {
    let registry = Registry::http();
    let empty = "application/vnd.oci.empty.v1+json";
    let mut config = blob(&registry, empty, b"{}", &Value::Null);
    config["data"] = "e30=".into();
    let layers = [
        blob(&registry, KERNEL, b"kernel", &json!({TITLE: "vmlinuz"})),
        blob(&registry, RAW, b"root", &json!({TITLE: "root.raw", "org.lfedge.eci.role": "disk-root"})),
    ];
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.example.appliance",
        "config": config, "layers": layers,
    });
    registry.put_manifest(REPO, Some("v1"), MANIFEST, manifest.to_string());
    let reference = registry.reference(REPO, "v1");
    is(&reference, &[("kernel", b"kernel"), ("disk-root-root.raw", b"root"), ("config.json", b"{}")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_media_types_of_the_documents() {
    let registry = Registry::http();
    // Neither is a tar, whatever its name says.
    let layers = [
        blob(&registry, "application/vnd.lfedge.eci.kernel.layer.v1.tar", b"kernel", &json!({})),
        blob(&registry, "application/vnd.lfedge.eci.initrd.layer.v1.tar", b"initrd", &json!({})),
        blob(&registry, RAW, b"root", &json!({TITLE: "disk-root-root.raw"})),
    ];
    let config = blob(&registry, "application/vnd.lfedge.eci.config.v1+json", b"{}", &json!({}));
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
    registry.put_manifest(REPO, Some("v1"), MANIFEST, manifest.to_string());
    let files: &[(&str, &[u8])] = &[("kernel", b"kernel"), ("initrd", b"initrd"), ("disk-root-root.raw", b"root")];
    let node = is(&registry.reference(REPO, "v1"), files);
    let expected = [("kernel", "kernel"), ("initrd", "cpio"), ("disk-root-root.raw", "raw")];
    assert_eq!(formats(&node), expected.map(|(name, format)| (name.to_owned(), format.to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_in_the_annotations_of_the_manifest() {
    let (registry, root, data) = (Registry::http(), disk("qcow2", "root"), disk("iso", "data"));
    let layers = [
        blob(&registry, DOCKER_LAYER, &layer("boot/vmlinuz", b"kernel"), &json!({})),
        blob(&registry, DOCKER_LAYER, &layer("images/root.qcow2", &root), &json!({})),
        blob(&registry, DOCKER_LAYER, &layer("images/data.iso", &data), &json!({})),
    ];
    let annotations = json!({
        "org.lfedge.eci.artifact.kernel": "/boot/vmlinuz",
        "org.lfedge.eci.artifact.root": "/images/root.qcow2",
        "org.lfedge.eci.artifact.disk-0": "images/data.iso",
    });
    let config = blob(&registry, CONFIG, b"{}", &json!({}));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers, "annotations": annotations,
    });
    registry.put_manifest(REPO, Some("v1"), MANIFEST, manifest.to_string());
    let files: &[(&str, &[u8])] = &[("kernel", b"kernel"), ("disk-root-root.qcow2", &root), ("disk-0-data.iso", &data)];
    let node = is(&registry.reference(REPO, "v1"), files);
    let found: Vec<_> = formats(&node).into_iter().map(|(_, format)| format).collect();
    assert_eq!(found, ["kernel", "qcow2", "iso"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_and_lists_of_docker() {
    let registry = Registry::http();
    let architecture = eci_agent::oci::Platform::host().architecture;
    let labels = json!({"org.lfedge.eci.artifact.kernel": "/boot/vmlinuz"});
    let config = json!({"architecture": architecture, "os": "linux", "config": {"Labels": labels}}).to_string();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": DOCKER_MANIFEST,
        "config": blob(&registry, DOCKER_CONFIG, config.as_bytes(), &json!({})),
        "layers": [blob(&registry, DOCKER_LAYER, &layer("boot/vmlinuz", b"kernel"), &json!({}))],
    })
    .to_string();
    let platform = |architecture: &str| json!({"os": "linux", "architecture": architecture});
    let entry = |digest: &str, architecture: &str| json!({"mediaType": DOCKER_MANIFEST, "digest": digest, "size": manifest.len(), "platform": platform(architecture)});
    let ours = registry.put_manifest(REPO, Some("single"), DOCKER_MANIFEST, manifest.clone());
    let entries = [entry(&digest(b"another"), "s390"), entry(&ours, &architecture)];
    for (tag, media_type) in [("list", DOCKER_LIST), ("index", INDEX)] {
        let list = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries});
        registry.put_manifest(REPO, Some(tag), media_type, list.to_string());
    }
    for tag in ["single", "list", "index"] {
        let node = is(&registry.reference(REPO, tag), &[("kernel", b"kernel"), ("config.json", config.as_bytes())]);
        assert_eq!(node.status()["workloads"]["default"]["error"], Value::Null, "{tag}");
    }
}
