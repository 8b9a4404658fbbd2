//! Layers whose bytes are odd: skippable frames, media types that are not true, old tars, and what pax can say.

use serde_json::json;

use crate::common::agent::Node;
use crate::common::archive::{entry, gzip, pax_record, skippable, tar, zstd};
use crate::common::registry::Registry;
use crate::common::workstation::Workstation;
use crate::legacy::{GZIP_LAYER, LAYER, annotations, labels, layer, publish};

const ZSTD_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// A registry, and a node that boots a good image from it.
struct Trial {
    registry: Registry,
    node: Node,
    workstation: Workstation,
}

impl Trial {
    fn new() -> Self {
        let registry = Registry::http();
        let mut node = Node::new();
        node.desire_image(&Self::one_file(&registry, "good", LAYER, b"good disk"));
        node.start();
        node.until_activated("good");
        Self { registry, node, workstation: Workstation::new() }
    }

    /// An image of one layer, which is or holds the root disk.
    fn one_file(registry: &Registry, tag: &str, media_type: &str, bytes: &[u8]) -> String {
        let root = annotations("disk-root", "application/vnd.lfedge.disk.layer.v1+raw", "root.raw");
        publish(registry, tag, b"{}", &[layer(registry, media_type, bytes, &root)])
    }

    /// An image of one layer, in which a label names the root disk.
    fn labelled(&self, tag: &str, bytes: &[u8]) -> String {
        let config = labels(&[("root", "/images/root.raw")]);
        publish(&self.registry, tag, &config, &[layer(&self.registry, GZIP_LAYER, bytes, &json!({}))])
    }

    /// The image is this root disk, on the node and after a pull.
    fn is(&self, tag: &str, reference: &str, disk: &[u8]) {
        self.node.desire_image(reference);
        self.node.until_activated(reference);
        assert!(self.node.current("disk-root-root.raw") == disk, "{tag}");
        self.workstation.must(&["pull", "--dir", tag, reference]);
        assert!(std::fs::read(self.workstation.path(tag).join("disk-root-root.raw")).unwrap() == disk, "{tag}");
    }

    /// The image is refused, on the node and by a pull.
    fn is_refused(&self, tag: &str, reference: &str, kind: &str) {
        let before = self.node.current("disk-root-root.raw");
        self.node.desire_image(reference);
        self.node.until_failed(kind);
        assert_eq!(self.node.status()["workloads"]["default"]["phase"], "blocked", "{tag}");
        assert!(self.node.current("disk-root-root.raw") == before, "{tag}");
        self.workstation.fails(65, &["pull", "--dir", tag, reference]);
        assert!(!self.workstation.path(tag).join("disk-root-root.raw").exists(), "{tag}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn skippable_frames_are_skipped_and_media_types_are_true() {
    let trial = Trial::new();
    let disk = b"a root disk".repeat(1000);
    let (small, frame) = (skippable(b"abcd"), zstd(&disk));
    let packed = zstd(&tar(&[("root.raw", &disk)]));
    let (one, two) = disk.split_at(5000);
    let halves = [&small[..], &zstd(one), &skippable(b""), &zstd(two), &small].concat();
    for (tag, media_type, bytes) in [
        ("before", ZSTD_LAYER, [&small[..], &frame].concat()),
        ("several", ZSTD_LAYER, halves),
        ("large", ZSTD_LAYER, [&skippable(&vec![7; 1 << 20])[..], &frame, &small].concat()),
        ("tar", ZSTD_LAYER, [&small[..], &packed].concat()),
        ("tar-as-gzip", GZIP_LAYER, [&small[..], &packed].concat()),
        ("tar-as-tar", LAYER, [&small[..], &packed].concat()),
        ("plain-tar-as-gzip", DOCKER_LAYER, tar(&[("root.raw", &disk)])),
        ("gzip-tar-as-zstd", ZSTD_LAYER, gzip(&tar(&[("root.raw", &disk)]))),
        ("chunked", "application/vnd.oci.image.layer.v1.tar+zstd:chunked", frame.clone()),
    ] {
        trial.is(tag, &Trial::one_file(&trial.registry, tag, media_type, &bytes), &disk);
    }
    // Nothing says that these are compressed.
    for (tag, bytes) in [("plain", disk.clone()), ("zstd-file", frame.clone()), ("skippable", small.clone())] {
        trial.is(tag, &Trial::one_file(&trial.registry, tag, LAYER, &bytes), &bytes);
    }
    for (tag, media_type, bytes, kind) in [
        ("no-gzip", GZIP_LAYER, disk.clone(), "archive-refused"),
        ("no-docker-gzip", DOCKER_LAYER, disk.clone(), "archive-refused"),
        ("no-zstd", ZSTD_LAYER, disk.clone(), "archive-refused"),
        ("not-that-one", GZIP_LAYER, frame.clone(), "archive-refused"),
        ("skippable-and-plain", ZSTD_LAYER, [&small[..], &disk].concat(), "archive-refused"),
        ("only-skippable", ZSTD_LAYER, small.clone(), "archive-refused"),
        ("cut", ZSTD_LAYER, small[..10].to_vec(), "archive-damaged"),
        ("cut-at-end", ZSTD_LAYER, [&frame[..], &small[..10]].concat(), "archive-damaged"),
        ("other", "application/vnd.oci.image.layer.v1.tar+xz", disk, "archive-refused"),
    ] {
        trial.is_refused(tag, &Trial::one_file(&trial.registry, tag, media_type, &bytes), kind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tars_of_all_kinds_are_read() {
    let trial = Trial::new();
    let disk = b"a root disk".repeat(100);
    let root = |name: &str, kind: u8| entry(name, kind, "", &disk);
    let pax = |kind: u8, key: &str, value: &[u8]| entry("pax", kind, "", &pax_record(key, value));
    let signed = {
        let mut bytes = entry("d", b'0', "", b"x");
        bytes[0] = 0xe9;
        bytes[148..156].fill(b' ');
        let sum: i64 = bytes[..512].iter().map(|byte| i64::from(byte.cast_signed())).sum();
        bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes
    };
    // As GNU tar's --label writes it: most fields are blank, and the size is one of them.
    let label = {
        let mut bytes = entry("backup", b'V', "", b"");
        bytes[100..136].fill(0);
        bytes[148..156].fill(b' ');
        let sum: u64 = bytes[..512].iter().map(|byte| u64::from(*byte)).sum();
        bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes
    };
    let capability = pax(b'x', "SCHILY.xattr.security.capability", b"\x01\n\x02");
    let file = |name: &str| entry(name, b'0', "", b"x");
    for (tag, entries) in [
        ("capability", vec![capability.clone(), file("bin/ping"), root("images/root.raw", b'0')]),
        ("capability-wanted", vec![capability, root("images/root.raw", b'0')]),
        ("nul", vec![pax(b'x', "SCHILY.xattr.user.x", b"\0=\n\n"), file("x"), root("images/root.raw", b'0')]),
        ("charset", vec![pax(b'x', "hdrcharset", b"BINARY"), root("images/root.raw", b'0')]),
        ("global", vec![pax(b'g', "comment", b"a\nb"), root("images/root.raw", b'0')]),
        ("pax-path", vec![pax(b'x', "path", b"images/root.raw"), root("cut", b'0')]),
        ("absolute", vec![file("/usr/x"), file("//usr/y"), file("./usr/z"), root("images/root.raw", b'0')]),
        ("absolute-wanted", vec![root("/images/root.raw", b'0')]),
        ("signed", vec![signed, root("images/root.raw", b'0')]),
        ("contiguous", vec![root("images/root.raw", b'7')]),
        ("label", vec![label, root("images/root.raw", b'0')]),
        ("old", vec![entry("images/", 0, "", b""), root("images/root.raw", 0)]),
    ] {
        trial.is(tag, &trial.labelled(tag, &gzip(&entries.concat())), &disk);
    }
    for (tag, entries, kind) in [
        ("upwards", vec![file("/usr/../../x"), root("images/root.raw", b'0')], "archive-refused"),
        ("length", vec![entry("pax", b'x', "", b"99 path=x\n"), root("images/root.raw", b'0')], "archive-damaged"),
        ("size", vec![pax(b'x', "size", b"18446744073709551616"), root("images/root.raw", b'0')], "archive-damaged"),
        ("whiteout", vec![file("/images/.wh.root.raw")], "file-missing"),
    ] {
        trial.is_refused(tag, &trial.labelled(tag, &gzip(&entries.concat())), kind);
    }
}
