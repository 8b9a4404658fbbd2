//! Bytes of images: layers that grow, windows that are large, disks that name other files.

use std::io::Write;

use serde_json::json;

use super::{Bounds, kib, mib, secs};
use crate::common::agent::Node;
use crate::common::archive::{entry, gzip, pax_record, tar, zstd};
use crate::common::image::{Image, MANIFEST};
use crate::common::registry::Registry;
use crate::legacy::{LAYER, labels, layer, publish};

const REPO: &str = "edge/nginx";
const MIB: usize = 1 << 20;
const DISK: &[u8] = b"a root disk";

fn good(registry: &Registry) -> Node {
    Image::new("good").publish(registry, REPO, "good");
    let mut node = Node::new();
    node.desire_image(&registry.reference(REPO, "good"));
    node.start();
    node.until_activated("good");
    node
}

/// An image of one layer, in which a label names the root disk.
fn labelled(registry: &Registry, tag: &str, bytes: &[u8]) -> String {
    publish(registry, tag, &labels(&[("root", "/images/root.raw")]), &[layer(registry, LAYER, bytes, &json!({}))])
}

fn window(log: u32, bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ::zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(log).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn large_windows_take_no_memory() {
    let case = Bounds { memory: mib(128), wire: mib(1), requests: 60, within: secs(40) }.start();
    let registry = Registry::http();
    let node = good(&registry);
    // As `zstd --long=27` makes it, in four workloads.
    let bomb = window(27, &tar(&[("images/root.raw", DISK), ("x", &vec![7; 2 * MIB])]));
    let tables: String = (0..4)
        .map(|n| format!("[workload.w{n}]\nimage = \"{}\"\n", labelled(&registry, &format!("long{n}"), &bomb)))
        .collect();
    node.desire(&tables);
    for _ in 0..4 {
        let failed = node.until_failed("archive-refused");
        assert!(failed["message"].as_str().unwrap().contains("[unpack] max_window"), "{failed}");
    }
    let reference = labelled(&registry, "short", &window(20, &tar(&[("images/root.raw", DISK)])));
    node.desire_image(&reference);
    node.until_activated(&reference);
    case.agent(&node).registry(&registry);
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_grow_without_end_are_refused() {
    let case = Bounds { memory: mib(128), wire: mib(12), requests: 60, within: secs(60) }.start();
    let registry = Registry::http();
    let node = good(&registry);
    let comment = zstd(&entry("pax", b'g', "", &pax_record("comment", &vec![b'7'; MIB - 100])));
    let end = zstd(&tar(&[("images/root.raw", DISK)]));
    for (tag, bytes) in [
        ("headers", [comment.repeat(2000), end.clone()].concat()),
        ("members", [gzip(b"").repeat(400_000), gzip(&tar(&[("images/root.raw", DISK)]))].concat()),
        ("frames", [zstd(b"").repeat(20_000), end.clone()].concat()),
    ] {
        let reference = labelled(&registry, tag, &bytes);
        node.desire_image(&reference);
        node.until_failed("archive-refused");
        assert_eq!(node.status()["workloads"]["default"]["phase"], "blocked", "{tag}");
    }
    let reference = labelled(&registry, "few", &[comment.repeat(3), end].concat());
    node.desire_image(&reference);
    node.until_activated(&reference);
    case.agent(&node).registry(&registry);
}

/// A qcow2 header of version 3 with these fields.
fn qcow2(backing: Option<&str>, incompatible: u64, encryption: u32) -> Vec<u8> {
    let mut image = vec![0; 1 << 16];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb\0\0\0\x03");
    if let Some(name) = backing {
        put(8, &512_u64.to_be_bytes());
        put(16, &u32::try_from(name.len()).unwrap().to_be_bytes());
        put(512, name.as_bytes());
    }
    put(20, &16_u32.to_be_bytes());
    put(24, &(1_u64 << 20).to_be_bytes());
    put(32, &encryption.to_be_bytes());
    put(36, &1_u32.to_be_bytes());
    put(40, &(1_u64 << 15).to_be_bytes());
    put(48, &(1_u64 << 14).to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    put(72, &incompatible.to_be_bytes());
    put(96, &4_u32.to_be_bytes());
    put(100, &104_u32.to_be_bytes());
    image
}

fn vmdk(parent: &str, extent: &str) -> Vec<u8> {
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID={parent}\ncreateType=\"monolithicFlat\"\n{extent}\n"
    )
    .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_that_name_other_files_are_refused() {
    let case = Bounds { memory: mib(128), wire: mib(4), requests: 200, within: secs(60) }.start();
    let registry = Registry::http();
    let node = good(&registry);
    let publish = |tag: &str, kind: &str, disk: &[u8]| {
        let (root, config) = (registry.put_blob(REPO, disk.to_vec()), registry.put_blob(REPO, &b"{}"[..]));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.lfedge.eci.config.v1+json", "digest": config, "size": 2},
            "layers": [{
                "mediaType": format!("application/vnd.lfedge.disk.layer.v1+{kind}"), "digest": root, "size": disk.len(),
                "annotations": {
                    "org.lfedge.eci.role": "disk-root", "org.opencontainers.image.title": format!("root.{kind}"),
                },
            }],
        });
        registry.put_manifest(REPO, Some(tag), MANIFEST, manifest.to_string());
        registry.reference(REPO, tag)
    };
    let neighbour = format!("{}/generations/b/1/disk-root-root.raw", node.state_dir().display());
    let mut qcow = vec![0; 1 << 16];
    qcow[..16].copy_from_slice(b"QFI\xfb\0\0\0\x01\0\0\0\0\0\0\x02\0");
    qcow[16..20].copy_from_slice(&11_u32.to_be_bytes());
    qcow[512..523].copy_from_slice(b"/etc/passwd");
    for (tag, kind, disk) in [
        ("neighbour", "qcow2", qcow2(Some(&neighbour), 0, 0)),
        ("passwd", "qcow2", qcow2(Some("/etc/passwd"), 0, 0)),
        ("remote", "qcow2", qcow2(Some("nbd://127.0.0.1:9/x"), 0, 0)),
        ("json", "qcow2", qcow2(Some("json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}"), 0, 0)),
        ("data", "qcow2", qcow2(None, 4, 0)),
        ("encrypted", "qcow2", qcow2(None, 0, 2)),
        ("old", "qcow", qcow),
        ("flat", "vmdk", vmdk("ffffffff", "RW 2048 FLAT \"/etc/passwd\" 0")),
        ("parent", "vmdk", vmdk("12345678", "RW 2048 SPARSE \"root.vmdk\"")),
    ] {
        let reference = publish(tag, kind, &disk);
        for disks in ["read-only", "overlay"] {
            node.desire(&format!("image = \"{reference}\"\ndisks = \"{disks}\"\n"));
            node.until_failed("unsafe-disk");
        }
        assert_eq!(node.current("disk-root"), Image::new("good").root, "{tag}");
    }
    let reference = publish("alone", "qcow2", &qcow2(None, 0, 0));
    node.desire_image(&reference);
    node.until_activated(&reference);
    case.agent(&node).registry(&registry);
}

#[tokio::test(flavor = "multi_thread")]
async fn declared_sizes_of_entries_are_refused_before_their_bytes() {
    let case = Bounds { memory: mib(128), wire: kib(64), requests: 60, within: secs(40) }.start();
    let registry = Registry::http();
    let node = good(&registry);
    let mut header = ::tar::Header::new_gnu();
    header.set_path("images/root.raw").unwrap();
    header.set_size((64 << 30) + 1);
    header.set_cksum();
    let reference = labelled(&registry, "declared", header.as_bytes());
    node.desire_image(&reference);
    node.until_failed("file-too-large");
    case.agent(&node).registry(&registry);
}

/// Lengths, offsets and sums in code that reads untrusted bytes: a release build checks them as a debug build does.
#[test]
fn release_builds_check_overflows() {
    let manifest: toml::Table = include_str!("../../Cargo.toml").parse().unwrap();
    assert_eq!(manifest["profile"]["release"]["overflow-checks"].as_bool(), Some(true));
    assert_eq!(manifest["lints"]["rust"]["unsafe_code"].as_str(), Some("forbid"));
}
