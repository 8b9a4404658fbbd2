//! What an image is made of, told without fetching it.

use serde_json::{Value, json};

use crate::common::image::{INDEX, Image, MANIFEST};
use crate::common::registry::{On, Registry, digest};
use crate::common::workstation::Workstation;

const REPO: &str = "edge/nginx";

fn image() -> Image {
    Image { disks: vec![b"data".to_vec()], ..Image::new("v1").with_root_of(2 << 20) }
}

/// Puts an index of two images there; its digest and those of its images.
fn publish_index(registry: &Registry) -> (String, [String; 2]) {
    let mut entries = Vec::new();
    let digests = ["arm64", "s390x"].map(|arch| {
        let image = Image::new(arch);
        let digest = image.publish(registry, REPO, arch);
        let size = image.manifest().to_string().len();
        let platform = json!({"os": "linux", "architecture": arch});
        entries.push(json!({"mediaType": MANIFEST, "digest": digest, "size": size, "platform": platform}));
        digest
    });
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
    (registry.put_manifest(REPO, Some("all"), INDEX, index), digests)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_shows_roles_names_formats_sizes_and_digests() {
    let (registry, workstation, image) = (Registry::http(), Workstation::new(), image());
    let reference = registry.reference(REPO, "v1");
    let manifest = image.publish(&registry, REPO, "v1");
    let text = workstation.must(&["inspect", &reference]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], reference);
    assert!(lines[1].contains(&manifest), "{text}");
    let root = digest(&image.root).replace("sha256:", "");
    let line = lines.iter().find(|line| line.contains("disk-root-root.raw")).unwrap();
    for part in ["disk-root ", "raw", "2.0 MiB", &root[..12]] {
        assert!(line.contains(part), "{line}");
    }
    assert_eq!(lines.len(), 2 + 5, "{text}");
    assert_eq!(registry.count(&On::blobs()), 0, "no blob is fetched");

    let found: Value = serde_json::from_str(&workstation.must(&["inspect", "--json", &reference])).unwrap();
    assert_eq!(found["manifest"]["digest"], manifest);
    assert_eq!(found["manifest"]["size"], image.size());
    let disk = json!({
        "role": "disk-additional", "name": "disk-0-data.raw", "format": "raw", "size": 4, "digest": digest(b"data"),
        "media_type": "application/vnd.lfedge.disk.layer.v1+raw",
    });
    assert_eq!(found["manifest"]["layers"][3], disk);
    assert_eq!(found["index"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_lists_its_platforms_and_shows_the_chosen_image() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    let (index, digests) = publish_index(&registry);
    let reference = registry.reference(REPO, "all");
    let text = workstation.must(&["inspect", "--platform", "linux/s390x", &reference]);
    assert!(text.contains(&index) && text.contains("linux/arm64") && text.contains("* linux/s390x"), "{text}");
    assert!(text.contains(&format!("manifest {}", digests[1])), "{text}");
    let said = workstation.fails(65, &["inspect", "--platform", "linux/riscv64", &reference]);
    assert!(said.contains("linux/arm64, linux/s390x"), "{said}");

    workstation.must(&["pull", "--platform", "linux/s390x", "--dir", "out", &reference]);
    workstation.has_pulled("out", &Image::new("s390x"));
    workstation.fails(65, &["pull", "--platform", "linux/riscv64", &reference]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_deployed_is_shown_with_the_reason() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    let layer = json!({"mediaType": "text/plain", "digest": digest(b"x"), "size": 1,
        "annotations": {"org.opencontainers.image.title": "no\u{1b}te"}});
    let config = json!({"mediaType": "application/json", "digest": digest(b"{}"), "size": 2});
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
    registry.put_manifest(REPO, Some("v1"), MANIFEST, manifest.to_string());
    let text = workstation.must(&["inspect", &registry.reference(REPO, "v1")]);
    assert!(text.contains("text/plain") && text.contains("! cannot be deployed"), "{text}");
    assert!(!text.contains('\u{1b}'), "a title does not speak to the terminal");
    workstation.fails(69, &["inspect", &registry.reference(REPO, "absent")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_in_indexes_are_shown_down_to_the_image() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    let (inner, digests) = publish_index(&registry);
    let size = registry.manifest(REPO, &inner).unwrap().bytes.len();
    let entry = json!({"mediaType": INDEX, "digest": inner, "size": size});
    let outer = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).to_string();
    let outer = registry.put_manifest(REPO, Some("outer"), INDEX, outer);
    let reference = registry.reference(REPO, "outer");
    let arguments = ["inspect", "--platform", "linux/s390x", &reference];
    let text = workstation.must(&arguments);
    for part in [format!("index {outer}"), format!("  index {inner}"), format!("manifest {}", digests[1])] {
        assert!(text.contains(&part), "{part}: {text}");
    }
    let found: Value = serde_json::from_str(&workstation.must(&[&arguments[..], &["--json"]].concat())).unwrap();
    assert_eq!(found["index"]["nested"]["digest"], inner);
    assert_eq!(found["index"]["nested"]["entries"][1]["chosen"], true);
    workstation.must(&["pull", "--platform", "linux/s390x", "--dir", "out", &reference]);
    workstation.has_pulled("out", &Image::new("s390x"));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_labels_name_are_shown_with_their_paths() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    let labels = json!({
        "org.lfedge.eci.artifact.kernel": "/boot/vmlinuz", "org.lfedge.eci.artifact.root": "images/root.qcow2",
    });
    let config = json!({"config": {"Labels": labels}}).to_string();
    let config_digest = registry.put_blob(REPO, config.clone());
    let layer = json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(b"x"), "size": 1});
    let config =
        json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len()});
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
    registry.put_manifest(REPO, Some("v1"), MANIFEST, manifest.to_string());
    let reference = registry.reference(REPO, "v1");
    let text = workstation.must(&["inspect", &reference]);
    assert!(text.contains("disk-root-root.qcow2") && text.contains("/images/root.qcow2"), "{text}");
    assert!(!text.contains("cannot be deployed"), "{text}");
    let found: Value = serde_json::from_str(&workstation.must(&["inspect", "--json", &reference])).unwrap();
    let kernel = json!({"role": "kernel", "name": "kernel", "format": "kernel", "path": "/boot/vmlinuz"});
    assert_eq!(found["manifest"]["files"][0], kernel);
    assert_eq!(registry.count(&On::blobs().get()), 2, "the config, at each look");
}
