//! Images and layouts as lf-edge/edge-containers writes them: `schemaVersion` is 0, and a layout has no `oci-layout`.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::agent::Node;
use crate::common::image::{Image, MANIFEST};
use crate::common::registry::{Registry, digest};
use crate::common::workstation::Workstation;

const REPO: &str = "lfedge/eci-nginx";

/// The image's manifest with another `schemaVersion`.
fn manifest(image: &Image, schema_version: &Value) -> String {
    let mut manifest = image.manifest();
    manifest["schemaVersion"] = schema_version.clone();
    manifest.to_string()
}

/// Turns a layout with one entry into the form that lf-edge's tool gives it; the manifest's digest.
fn write_layout(image: &Image, dir: &Path) -> String {
    image.write_layout(dir, "v1");
    let manifest = manifest(image, &json!(0));
    let digest = digest(manifest.as_bytes());
    fs::write(dir.join("blobs/sha256").join(digest.trim_start_matches("sha256:")), &manifest).unwrap();
    let index = json!({"schemaVersion": 0, "manifests": [{
        "mediaType": MANIFEST, "digest": digest, "size": manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": format!("{REPO}:1@{digest}")},
    }]});
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    fs::remove_file(dir.join("oci-layout")).unwrap();
    digest
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_without_a_schema_version_are_pulled() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    let mut node = Node::new();
    node.start();
    for (n, version) in [json!(0), json!(null), json!(2)].into_iter().enumerate() {
        let (tag, image) = (format!("v{n}"), Image::new(&format!("version {version}")));
        image.publish(&registry, REPO, "blobs");
        registry.put_manifest(REPO, Some(&tag), MANIFEST, manifest(&image, &version));
        let reference = registry.reference(REPO, &tag);
        workstation.must(&["pull", "--dir", &tag, &reference]);
        workstation.has_pulled(&tag, &image);
        node.desire_image(&reference);
        node.until_activated(&reference);
        assert_eq!(node.current("disk-root"), image.root);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dockers_first_schema_is_refused_with_the_reason() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    Image::new("one").publish(&registry, REPO, "blobs");
    let one = json!({"schemaVersion": 1, "name": REPO, "tag": "v1", "fsLayers": [], "history": []});
    registry.put_manifest(REPO, Some("v1"), MANIFEST, one.to_string());
    registry.put_manifest(REPO, Some("v2"), MANIFEST, manifest(&Image::new("one"), &json!(1)));
    for tag in ["v1", "v2"] {
        let said = workstation.fails(65, &["pull", "--dir", "out", &registry.reference(REPO, tag)]);
        assert!(said.contains("docker's schema 1"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layouts_without_a_marker_are_read_by_every_name() {
    let workstation = Workstation::new();
    let image = Image::new("layout");
    let digest = write_layout(&image, &workstation.path("layout"));
    let remote = workstation.path("layout").display().to_string();
    let pinned = format!("oci:layout@{digest}");
    for (n, from) in [
        &["oci:layout"][..],
        &["oci:layout:1"],
        &[&pinned],
        &["--remote", &remote, "lfedge/eci-nginx:1"],
        &["--remote", &remote, "registry.example.com/lfedge/eci-nginx:1"],
    ]
    .into_iter()
    .enumerate()
    {
        let dir = format!("out-{n}");
        workstation.must(&[&["pull", "--dir", &dir], from].concat());
        workstation.has_pulled(&dir, &image);
    }
    let mut node = Node::new();
    let reference = format!("oci:{remote}:1");
    node.desire_image(&reference);
    node.start();
    node.until_activated(&reference);
    assert_eq!(node.current("disk-root"), image.root);

    for wrong in [&["oci:layout:2"][..], &["--remote", &remote, "lfedge/other:1"]] {
        let said = workstation.fails(69, &[&["pull", "--dir", "none"], wrong].concat());
        assert!(said.contains("lfedge/eci-nginx:1"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_completes_a_layout_without_a_marker() {
    let workstation = Workstation::new();
    let (old, new) = (Image::new("old"), Image::new("new"));
    write_layout(&old, &workstation.path("layout"));
    let remote = workstation.path("layout").display().to_string();
    workstation.push(&new, "oci:layout:2");
    let read = |name: &str| -> Value { serde_json::from_slice(&fs::read(workstation.path(name)).unwrap()).unwrap() };
    assert_eq!(read("layout/oci-layout")["imageLayoutVersion"], "1.0.0");
    assert_eq!(read("layout/index.json")["schemaVersion"], 2);
    assert_eq!(read("layout/index.json")["manifests"].as_array().unwrap().len(), 2);
    for (tag, image) in [("1", &old), ("2", &new)] {
        workstation.must(&["pull", "--dir", tag, &format!("oci:layout:{tag}")]);
        workstation.has_pulled(tag, image);
    }
    // The name that lf-edge's tool gave is replaced, not kept beside the new one.
    let arguments = workstation.push_arguments(&new, "lfedge/eci-nginx:1");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(["--remote", &remote]).collect();
    workstation.must(&arguments);
    workstation.must(&["pull", "--dir", "replaced", "--remote", &remote, "lfedge/eci-nginx:1"]);
    workstation.has_pulled("replaced", &new);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_not_a_layout_is_named_so() {
    let workstation = Workstation::new();
    workstation.write("plain/file", "x");
    workstation.write("marked/oci-layout", "{");
    workstation.write("marked/index.json", r#"{"schemaVersion": 0, "manifests": []}"#);
    for (dir, reason) in [("plain", "plain is not an OCI image layout"), ("marked", "oci-layout is damaged")] {
        let said = workstation.fails(65, &["pull", "--dir", "out", &format!("oci:{dir}")]);
        assert!(said.contains(reason), "{dir}: {said}");
    }
}
