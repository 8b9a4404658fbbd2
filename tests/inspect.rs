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
    assert_eq!(lines.len(), 2 + 1 + 5, "{text}");
    assert_eq!(lines[2], "  platform linux/amd64");
    assert_eq!(registry.count(&On::blobs()), 1, "the config alone is fetched");

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

/// Pushes an image with all that a push can say of it; its reference.
fn push_with_all(workstation: &Workstation, registry: &Registry, flags: &[&str]) -> String {
    let reference = registry.reference(REPO, "pushed");
    let mut arguments = workstation.push_arguments(&image(), &reference);
    let said =
        ["--annotation", "org.example.a=b\u{202e}c", "--annotation", "org.example.d=", "--author", "Edge \u{1b}[2J"];
    arguments.splice(1..1, said.iter().chain(flags).map(|flag| (*flag).to_owned()));
    workstation.must(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    reference
}

#[tokio::test(flavor = "multi_thread")]
async fn inspect_shows_the_fields_of_a_push() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    let reference = push_with_all(&workstation, &registry, &["--legacy", "--arch", "arm/v7"]);
    let text = workstation.must(&["inspect", &reference]);
    for line in [
        "  annotation org.example.a=b\u{fffd}c",
        "  annotation org.example.d=",
        "  platform linux/arm/v7",
        "  author Edge \u{fffd}[2J",
        "  label org.lfedge.eci.artifact.root=/disk-root-root.raw",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text:?}");

    let json_text = workstation.must(&["inspect", "--json", &reference]);
    assert!(json_text.contains(r"b\u202ec") && !json_text.contains(['\u{1b}', '\u{202e}']), "{json_text:?}");
    let found: Value = serde_json::from_str(&json_text).unwrap();
    let manifest = registry.manifest(REPO, "pushed").unwrap();
    let parsed: Value = serde_json::from_slice(&manifest.bytes).unwrap();
    let config = registry.blob(REPO, parsed["config"]["digest"].as_str().unwrap()).unwrap();
    let labels: Value = serde_json::from_slice(&config).unwrap();
    let layers = parsed["layers"].as_array().unwrap();
    let disk = "application/vnd.lfedge.disk.layer.v1+raw";
    let rows = [
        ("kernel", "kernel", "kernel", "application/vnd.lfedge.eci.kernel.layer.v1+kernel"),
        ("initrd", "initrd", "cpio", "application/vnd.lfedge.eci.initrd.layer.v1+cpio"),
        ("disk-root", "disk-root-root.raw", "raw", disk),
        ("disk-additional", "disk-0-data.raw", "raw", disk),
    ];
    let files: Vec<_> = rows
        .iter()
        .zip(layers)
        .map(|((role, name, format, media_type), layer)| {
            json!({"role": role, "name": name, "format": format, "size": layer["size"], "digest": layer["digest"],
                "media_type": media_type, "path": null})
        })
        .collect();
    let size: u64 = layers.iter().chain([&parsed["config"]]).map(|blob| blob["size"].as_u64().unwrap()).sum();
    let expected = json!({
        "reference": reference, "digest": digest(&manifest.bytes), "media_type": MANIFEST, "size": size,
        "index_digest": null, "platform": "linux/arm/v7", "platforms": ["linux/arm/v7"],
        "annotations": {"org.example.a": "b\u{202e}c", "org.example.d": ""},
        "config": {
            "digest": parsed["config"]["digest"], "size": config.len(), "problem": null,
            "media_type": "application/vnd.lfedge.eci.config.v1+json",
            "os": "linux", "architecture": "arm", "variant": "v7", "author": "Edge \u{1b}[2J",
            "labels": labels["config"]["Labels"],
        },
        "files": files, "index": null, "manifest": found["manifest"],
    });
    assert_eq!(found, expected);
    assert_eq!(found["manifest"]["annotations"], found["annotations"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_documents_and_configs_come_as_they_are() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    let platforms = ["--platform", "linux/arm64", "--platform", "linux/s390x"];
    let reference = push_with_all(&workstation, &registry, &platforms);
    let index = registry.manifest(REPO, "pushed").unwrap().bytes;
    let entries: Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(workstation.must(&["inspect", "--raw", &reference]).as_bytes(), index);
    for (n, platform) in ["linux/arm64", "linux/s390x"].iter().enumerate() {
        let manifest = registry.manifest(REPO, entries["manifests"][n]["digest"].as_str().unwrap()).unwrap().bytes;
        let printed = workstation.must(&["inspect", "--raw", "--platform", platform, &reference]);
        assert_eq!(printed.as_bytes(), manifest, "{platform}");
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let config = registry.blob(REPO, manifest["config"]["digest"].as_str().unwrap()).unwrap();
        let printed = workstation.must(&["inspect", "--config", "--platform", platform, &reference]);
        assert_eq!(printed.as_bytes(), config, "{platform}");
    }
    let found: Value =
        serde_json::from_str(&workstation.must(&["inspect", "--json", "--platform", "linux/s390x", &reference]))
            .unwrap();
    assert_eq!((&found["platform"], &found["index_digest"]), (&json!("linux/s390x"), &json!(digest(&index))));
    assert_eq!(found["platforms"], json!(["linux/arm64", "linux/s390x"]));
    let said = workstation.fails(65, &["inspect", "--config", "--platform", "linux/riscv64", &reference]);
    assert!(said.contains("linux/arm64 and linux/s390x"), "{said}");
    for pair in [["--raw", "--config"], ["--raw", "--json"], ["--config", "--json"]] {
        workstation.fails(64, &["inspect", pair[0], pair[1], &reference]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_bytes_need_not_make_sense() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    const CONFIG: &[u8] = b"\xff no JSON \n\n";
    let config = registry.put_blob(REPO, CONFIG.to_vec());
    let config = json!({"mediaType": "application/x", "digest": config, "size": CONFIG.len()});
    let manifest =
        format!(" {}\r\n\n", json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []}));
    registry.put_manifest(REPO, Some("v1"), MANIFEST, manifest.clone());
    let reference = registry.reference(REPO, "v1");
    assert_eq!(workstation.must(&["inspect", "--raw", &reference]), manifest);
    assert_eq!(workstation.eci(&["inspect", "--config", &reference]).stdout, CONFIG);
    let text = workstation.must(&["inspect", &reference]);
    assert!(text.contains("! the config cannot be read: it is not JSON"), "{text}");
    // A layout as well, by a reference and by --remote.
    workstation.push(&image(), "oci:layout:v1");
    let raw = workstation.must(&["inspect", "--raw", "oci:layout:v1"]);
    assert_eq!(raw, workstation.must(&["inspect", "--raw", "--remote", "layout", "a.example/b:v1"]));
    let at = |bytes: &[u8]| workstation.path("layout/blobs/sha256").join(digest(bytes).replace("sha256:", ""));
    assert!(at(raw.as_bytes()).exists());
    let config = workstation.must(&["inspect", "--config", "oci:layout:v1"]);
    // Without the config, all else is shown; what is to be printed itself is an error.
    std::fs::remove_file(at(config.as_bytes())).unwrap();
    let text = workstation.must(&["inspect", "oci:layout:v1"]);
    assert!(text.contains("! the config cannot be read: ") && text.contains("disk-root-root.raw"), "{text}");
    let found: Value = serde_json::from_str(&workstation.must(&["inspect", "--json", "oci:layout:v1"])).unwrap();
    assert!(found["config"]["problem"].is_string() && found["config"]["os"].is_null(), "{found}");
    workstation.fails(65, &["inspect", "--config", "oci:layout:v1"]);
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
    assert!(said.contains("linux/arm64 and linux/s390x"), "{said}");

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
