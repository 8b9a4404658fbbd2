//! Disk images that name other files: made with the real tools, and refused before anything opens what they name.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::common::agent::Node;
use crate::common::image::{Image, MANIFEST};
use crate::common::registry::Registry;
use crate::common::workstation::Workstation;

const REPO: &str = "edge/unsafe";

/// Runs `qemu-img` in a directory; false with a printed reason if it is not installed.
fn qemu_img(test: &str, dir: &Path, arguments: &[&str]) -> bool {
    match Command::new("qemu-img").args(arguments).current_dir(dir).output() {
        Ok(output) if output.status.success() => true,
        Ok(output) => panic!("qemu-img {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            println!("SKIP {test}: qemu-img: {error}");
            false
        }
    }
}

/// Puts an image with this root disk into a registry under `tag`.
fn publish(registry: &Registry, tag: &str, kind: &str, disk: &[u8]) -> String {
    let kernel = registry.put_blob(REPO, &b"the kernel"[..]);
    let config = registry.put_blob(REPO, &b"{}"[..]);
    let root = registry.put_blob(REPO, disk.to_vec());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.lfedge.eci.config.v1+json", "digest": config, "size": 2},
        "layers": [
            {"mediaType": "application/vnd.lfedge.eci.kernel.layer.v1+kernel", "digest": kernel, "size": 10},
            {"mediaType": format!("application/vnd.lfedge.disk.layer.v1+{kind}"), "digest": root, "size": disk.len(),
             "annotations": {"org.lfedge.eci.role": "disk-root", "org.opencontainers.image.title": format!("root.{kind}")}},
        ],
    });
    registry.put_manifest(REPO, Some(tag), MANIFEST, manifest.to_string());
    registry.reference(REPO, tag)
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_name_other_files_never_become_current() {
    const TEST: &str = "images_that_name_other_files_never_become_current";
    let (registry, workstation) = (Registry::http(), Workstation::new());
    let dir = workstation.path("");
    let good = Image::new("good");
    good.publish(&registry, REPO, "good");
    let mut node = Node::new();
    node.desire_image(&registry.reference(REPO, "good"));
    node.start();
    node.until_activated("good");
    std::fs::write(workstation.path("secret"), vec![7; 1 << 20]).unwrap();

    let secret = workstation.path("secret").display().to_string();
    let data = format!("data_file={secret}.data");
    for (name, kind, arguments) in [
        ("backing", "qcow2", vec!["-u", "-F", "raw", "-b", &secret, "IMAGE", "1M"]),
        ("remote", "qcow2", vec!["-u", "-F", "raw", "-b", "nbd://127.0.0.1:9/x", "IMAGE", "1M"]),
        ("old", "qcow2", vec!["-u", "-o", "compat=0.10", "-F", "raw", "-b", "/etc/passwd", "IMAGE", "1M"]),
        ("first", "qcow", vec!["-u", "-F", "raw", "-b", &secret, "IMAGE", "1M"]),
        ("data", "qcow2", vec!["-o", &data, "IMAGE", "1M"]),
        ("flat", "vmdk", vec!["-o", "subformat=monolithicFlat", "IMAGE", "1M"]),
        ("split", "vmdk", vec!["-o", "subformat=twoGbMaxExtentSparse", "IMAGE", "1M"]),
    ] {
        let file = format!("{name}.{kind}");
        let arguments: Vec<&str> =
            arguments.into_iter().map(|argument| if argument == "IMAGE" { &file } else { argument }).collect();
        if !qemu_img(TEST, &dir, &[&["create", "-q", "-f", kind], &arguments[..]].concat()) {
            return;
        }
        let disk = std::fs::read(workstation.path(&file)).unwrap();
        let reference = publish(&registry, name, kind, &disk);
        node.desire_image(&reference);
        node.until_failed("unsafe-disk");
        assert_eq!(node.status()["workloads"]["default"]["phase"], "blocked", "{name}");
        assert_eq!(node.current("disk-root"), good.root, "{name}");
        let said = workstation.fails(65, &["pull", "--dir", "out", &reference]);
        assert!(said.contains(&format!("root.{kind}")), "{name}: {said}");
        let root = format!("{file}:{kind}");
        workstation.fails(65, &["push", "--root", &root, &registry.reference(REPO, "pushed")]);
        workstation.must(&["push", "--force", "--root", &root, &registry.reference(REPO, "pushed")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_stand_alone_are_deployed() {
    const TEST: &str = "images_that_stand_alone_are_deployed";
    let (registry, workstation) = (Registry::http(), Workstation::new());
    let dir = workstation.path("");
    let mut node = Node::new();
    node.start();
    std::fs::write(workstation.path("raw"), vec![7; 1 << 20]).unwrap();
    for (name, kind, format, options) in [
        ("two", "qcow2", "qcow2", "compat=0.10"),
        ("three", "qcow2", "qcow2", "compat=1.1,extended_l2=on,compression_type=zstd"),
        ("first", "qcow", "qcow", ""),
        ("sparse", "vmdk", "vmdk", "subformat=monolithicSparse"),
        ("stream", "vmdk", "vmdk", "subformat=streamOptimized"),
        ("dynamic", "vhd", "vpc", "subformat=dynamic"),
        ("fixed", "vhd", "vpc", "subformat=fixed"),
        ("dynamic", "vhdx", "vhdx", "subformat=dynamic"),
        ("fixed", "vhdx", "vhdx", "subformat=fixed"),
    ] {
        let file = format!("{name}.{kind}");
        let options = if options.is_empty() { vec![] } else { vec!["-o", options] };
        let arguments = [&["convert", "-O", format], &options[..], &["raw", &file]].concat();
        if !qemu_img(TEST, &dir, &arguments) {
            return;
        }
        workstation.write("vmlinuz", "the kernel");
        let reference = registry.reference(REPO, &format!("{name}-{kind}"));
        workstation.must(&["push", "--kernel", "vmlinuz", "--root", &format!("{file}:{kind}"), &reference]);
        // An overlay is made without opening the disk, by the size that its header says.
        let can_overlay = if kind == "vhd" { "read-only" } else { "overlay" };
        node.desire(&format!("image = \"{reference}\"\ndisks = \"{can_overlay}\"\n"));
        node.until_activated(&reference);
        let disk = std::fs::read(workstation.path(&file)).unwrap();
        let base = node.state_dir().join("current").join(format!("disk-root-{file}"));
        assert!(std::fs::read(base).unwrap() == disk, "{name}");
        if can_overlay == "overlay" {
            let overlay = node.state_dir().join("current/disk-root.overlay.qcow2");
            let shown = Command::new("qemu-img").args(["info", "--output=json"]).arg(&overlay).output().unwrap();
            let info: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
            assert_eq!(info["virtual-size"], 1 << 20, "{name} {kind}");
        }
    }
}
