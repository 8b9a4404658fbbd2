//! Images in the legacy format: pushed, pulled back, and what is in them.

use std::fs;
use std::io::Read;

use serde_json::{Value, json};

use crate::common::docker_registry::{DockerRegistry, program, skopeo};
use crate::common::image::Image;
use crate::common::registry::{On, Registry, digest};
use crate::common::workstation::{Workstation, names_in};

const REPO: &str = "edge/legacy";

fn image() -> Image {
    Image { disks: vec![b"data".to_vec(), b"more".to_vec()], ..Image::new("v1").with_root_of((3 << 20) + 1) }
}

/// Pushes the image with these flags before the reference; what the program prints.
fn push(workstation: &Workstation, image: &Image, flags: &[&str], reference: &str) -> String {
    let mut arguments = workstation.push_arguments(image, reference);
    let reference = arguments.pop().unwrap();
    arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
    arguments.push(reference);
    workstation.must(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The one file in a gzipped tar: its name and its bytes; and the digest of the tar.
fn unpacked(layer: &[u8]) -> (String, Vec<u8>, String) {
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(layer).read_to_end(&mut tar).unwrap();
    let mut archive = tar::Archive::new(&tar[..]);
    let mut entries = archive.entries().unwrap();
    let mut entry = entries.next().unwrap().unwrap();
    let name = entry.path().unwrap().to_str().unwrap().to_owned();
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).unwrap();
    assert!(entries.next().is_none());
    (name, bytes, digest(&tar))
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_archives_of_one_file_and_the_config_names_them() {
    let (registry, workstation, image) = (Registry::http(), Workstation::new(), image());
    let reference = registry.reference(REPO, "v1");
    let printed = push(&workstation, &image, &["--format", "legacy", "--author", "A", "--arch", "arm64"], &reference);
    let manifest = registry.manifest(REPO, "v1").unwrap();
    assert_eq!(printed, format!("{reference}@{}\n", digest(&manifest.bytes)));
    let manifest: Value = serde_json::from_slice(&manifest.bytes).unwrap();
    let config = &manifest["config"];
    assert_eq!(config["mediaType"], "application/vnd.oci.image.config.v1+json");
    let disk = "application/vnd.lfedge.disk.layer.v1+raw";
    let expected = [
        ("kernel", "application/vnd.lfedge.eci.kernel.layer.v1+kernel", "kernel", &image.kernel),
        ("initrd", "application/vnd.lfedge.eci.initrd.layer.v1+cpio", "initrd", &image.initrd),
        ("disk-root", disk, "disk-root-root.raw", &image.root),
        ("disk-additional", disk, "disk-0-data.raw", &image.disks[0]),
        ("disk-additional", disk, "disk-1-data.raw", &image.disks[1]),
    ];
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), expected.len());
    let mut diff_ids = Vec::new();
    for (layer, (role, media_type, title, content)) in layers.iter().zip(expected) {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
        let annotations = json!({
            "org.lfedge.eci.role": role, "org.lfedge.eci.mediaType": media_type,
            "org.opencontainers.image.title": title,
        });
        assert_eq!(layer["annotations"], annotations);
        let blob = registry.blob(REPO, layer["digest"].as_str().unwrap()).unwrap();
        let (name, bytes, diff_id) = unpacked(&blob);
        assert_eq!(name, title);
        assert!(bytes == *content, "{title}");
        diff_ids.push(diff_id);
    }
    let config: Value =
        serde_json::from_slice(&registry.blob(REPO, config["digest"].as_str().unwrap()).unwrap()).unwrap();
    let labels = json!({
        "org.lfedge.eci.artifact.kernel": "/kernel", "org.lfedge.eci.artifact.initrd": "/initrd",
        "org.lfedge.eci.artifact.root": "/disk-root-root.raw",
        "org.lfedge.eci.artifact.disk-0": "/disk-0-data.raw", "org.lfedge.eci.artifact.disk-1": "/disk-1-data.raw",
    });
    let expected = json!({
        "author": "A", "os": "linux", "architecture": "arm64", "config": {"Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    assert_eq!(config, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_comes_back_and_is_the_same_wherever_it_is_pushed_from() {
    let (registry, image) = (Registry::http(), image());
    let reference = registry.reference(REPO, "v1");
    let mut digests = Vec::new();
    for target in [&reference, "oci:layout:v1"] {
        let workstation = Workstation::new();
        let temporary = workstation.path("tmp");
        fs::create_dir(&temporary).unwrap();
        let printed = push(&workstation, &image, &["--legacy"], target);
        digests.push(printed.trim().split_once('@').unwrap().1.to_owned());
        workstation.must(&["pull", "--dir", "out", printed.trim()]);
        workstation.has_pulled("out", &image);
        if target.starts_with("oci:") {
            assert_eq!(names_in(&workstation.path("layout")), ["blobs", "index.json", "oci-layout"]);
            assert_eq!(names_in(&workstation.path("layout/blobs/sha256")).len(), 5 + 2, "each blob once");
        }
    }
    assert_eq!(digests[0], digests[1]);
    registry.take_log();
    push(&Workstation::new(), &image, &["--legacy"], &registry.reference(REPO, "v2"));
    assert_eq!(registry.count(&On::uploads()), 0, "what is there is not sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_where_temporary_files_are() {
    let (registry, workstation, image) = (Registry::http(), Workstation::new(), image());
    let temporary = workstation.path("tmp");
    fs::create_dir(&temporary).unwrap();
    for target in [registry.reference(REPO, "v1"), "127.0.0.1:9/edge/x:v1".to_owned()] {
        let mut arguments = workstation.push_arguments(&image, &target);
        arguments.insert(1, "--legacy".to_owned());
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        workstation.command(&arguments).env("TMPDIR", &temporary).output().unwrap();
        assert_eq!(names_in(&temporary), [""; 0]);
    }
    assert!(registry.manifest(REPO, "v1").is_some());
    let arguments = workstation.push_arguments(&image, "oci:elsewhere:v1");
    let arguments: Vec<_> = [&arguments[..], &["--legacy".to_owned()]].concat();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    // A layout has a place of its own for it, as the stick that it is on may be the only one with room.
    let output = workstation.command(&arguments).env("TMPDIR", workstation.path("absent")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_files_and_notes_go_along() {
    let (registry, workstation, image) = (Registry::http(), Workstation::new(), Image::new("v1"));
    workstation.write("notes.txt", "notes");
    for (tag, format) in [("a", "artifacts"), ("l", "legacy")] {
        let reference = registry.reference(REPO, tag);
        let flags = ["--format", format, "--other", "notes.txt", "--annotation", "org.example.a=b=c"];
        push(&workstation, &image, &flags, &reference);
        let manifest: Value = serde_json::from_slice(&registry.manifest(REPO, tag).unwrap().bytes).unwrap();
        assert_eq!(manifest["annotations"], json!({"org.example.a": "b=c"}));
        let other = &manifest["layers"][3]["annotations"];
        assert_eq!(other["org.lfedge.eci.mediaType"], "application/vnd.lfedge.eci.layer.v1");
        workstation.must(&["pull", "--dir", tag, &reference]);
        assert_eq!(fs::read(workstation.path(tag).join("notes.txt")).unwrap(), b"notes", "{format}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn debians_registry_and_skopeo_take_the_legacy_format() {
    const TEST: &str = "debians_registry_and_skopeo_take_the_legacy_format";
    let Some(registry) = DockerRegistry::http(TEST) else { return };
    let (workstation, image) = (Workstation::new(), image());
    let reference = registry.reference(REPO, "v1");
    push(&workstation, &image, &["--legacy"], &reference);
    workstation.must(&["pull", "--dir", "out", &reference]);
    workstation.has_pulled("out", &image);
    if program(TEST, "skopeo").is_none() {
        return;
    }
    // It unpacks no layer, but holds the diff_ids of the config to be as many as the layers.
    let copy = workstation.path("copy");
    let (from, to) = (format!("docker://{reference}"), format!("oci:{}:v1", copy.display()));
    skopeo(TEST, &["copy", "--src-tls-verify=false", &from, &to]).unwrap();
    workstation.must(&["pull", "--dir", "back", &to]);
    workstation.has_pulled("back", &image);
}
