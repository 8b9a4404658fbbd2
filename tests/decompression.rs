//! Limits on decompression: the memory of windows, the bytes that come out, the members, and its cancellation.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use serde_json::json;

use crate::common::agent::{Node, PATIENCE, files_below};
use crate::common::archive::{entry, gzip, pax_record, skippable, tar, zstd};
use crate::common::registry::Registry;
use crate::common::workstation::Workstation;
use crate::legacy::{GZIP_LAYER, LAYER, annotations, deploy, labels, layer, publish};

const ZSTD_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const MIB: usize = 1 << 20;
const DISK: &[u8] = b"a root disk";

/// A registry, and a node that boots a good image from it.
struct Trial {
    registry: Registry,
    node: Node,
    workstation: Workstation,
}

impl Trial {
    fn new(config: &str) -> Self {
        let registry = Registry::http();
        let mut node = Node::with_config(config);
        node.desire_image(&labelled(&registry, "good", &tar(&[("images/root.raw", b"good disk")])));
        node.start();
        node.until_activated("good");
        Self { registry, node, workstation: Workstation::new() }
    }

    /// The node boots the image, and a pull takes it.
    fn works(&self, tag: &str, bytes: &[u8]) {
        let reference = labelled(&self.registry, tag, bytes);
        self.node.desire_image(&reference);
        self.node.until_activated(&reference);
        assert!(self.node.current("disk-root-root.raw") == DISK, "{tag}");
        self.is_pulled(tag);
    }

    fn is_pulled(&self, tag: &str) {
        self.workstation.must(&["pull", "--dir", tag, &self.registry.reference("edge/legacy", tag)]);
        assert!(fs::read(self.workstation.path(tag).join("disk-root-root.raw")).unwrap() == DISK, "{tag}");
    }

    /// The node refuses the image, tries no more, and says why.
    fn is_refused(&self, tag: &str, bytes: &[u8], kind: &str, why: &str) {
        let reference = labelled(&self.registry, tag, bytes);
        self.node.desire_image(&reference);
        let message = self.node.until_failed(kind)["message"].as_str().unwrap().to_owned();
        assert!(message.contains(why), "{tag}: {message}");
        assert_eq!(self.node.status()["workloads"]["default"]["phase"], "blocked", "{tag}");
    }

    /// The same, and a pull refuses it too.
    fn is_refused_by_both(&self, tag: &str, bytes: &[u8], kind: &str, why: &str) {
        self.is_refused(tag, bytes, kind, why);
        self.workstation.fails(65, &["pull", "--dir", tag, &self.registry.reference("edge/legacy", tag)]);
        assert!(!self.workstation.path(tag).join("disk-root-root.raw").exists(), "{tag}");
    }
}

/// An image of one layer, in which a label names the root disk.
fn labelled(registry: &Registry, tag: &str, bytes: &[u8]) -> String {
    publish(registry, tag, &labels(&[("root", "/images/root.raw")]), &[layer(registry, LAYER, bytes, &json!({}))])
}

/// A frame with a window of 2^`log` bytes.
fn window(log: u32, bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ::zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(log).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The end of an archive, with the wanted disk as its last entry.
fn end() -> Vec<u8> {
    zstd(&tar(&[("images/root.raw", DISK)]))
}

/// The header of an entry that is not wanted, and has `size` bytes.
fn header(name: &str, kind: u8, size: u64) -> Vec<u8> {
    let mut header = ::tar::Header::new_gnu();
    header.set_entry_type(::tar::EntryType::new(kind));
    header.set_path(name).unwrap();
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// An entry that is not wanted, of `count` times 16 MiB of `byte`, in frames of as much, and the disk.
fn large(byte: u8, count: usize) -> Vec<u8> {
    let size = (count * 16 * MIB) as u64;
    [zstd(&header("x", b'0', size)), zstd(&vec![byte; 16 * MIB]).repeat(count), end()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_are_limited_by_their_key() {
    const KEY: &str = "[unpack] max_window = 32.0 MiB";
    let trial = Trial::new("");
    let archive = tar(&[("images/root.raw", DISK)]);
    let (one, two) = archive.split_at(700);
    trial.works("of-32-mib", &window(25, &archive));
    trial.works("of-32-mib-later", &[window(10, one), window(25, two)].concat());
    let (large, later) = (window(27, &archive), [window(10, one), window(27, two)].concat());
    trial.is_refused("of-128-mib", &large, "archive-refused", KEY);
    trial.is_refused("of-128-mib-later", &later, "archive-refused", KEY);
    for tag in ["of-128-mib", "of-128-mib-later"] {
        trial.is_pulled(tag);
    }
    trial.is_refused_by_both("of-256-mib", &window(28, &archive), "archive-refused", "[unpack] max_window");
    // What was refused is tried again with other limits.
    let other = Trial::new("[unpack]\nmax_window = \"128MiB\"\nmemory = \"129MiB\"\n");
    other.works("of-128-mib", &large);
    let little = Trial::new("[unpack]\nmemory = \"16MiB\"\n");
    little.is_refused("of-32-mib", &window(25, &archive), "archive-refused", "[unpack] memory = 16.0 MiB");
    little.works("of-8-mib", &window(23, &archive));
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_wait_for_memory_together() {
    let registry = Registry::http();
    // Each takes more than half.
    let mut node = Node::with_config("[unpack]\nmax_window = \"2MiB\"\nmemory = \"4MiB\"\n");
    let tables = (0..6).map(|n| {
        let disk = vec![n; 3 * MIB];
        let reference = labelled(&registry, &format!("v{n}"), &window(21, &tar(&[("images/root.raw", &disk)])));
        format!("[workload.w{n}]\nimage = \"{reference}\"\n")
    });
    node.desire(&tables.collect::<String>());
    node.start();
    for _ in 0..6 {
        node.until("activated", |event| event["event"] == "activated");
    }
    for n in 0..6_u8 {
        let disk = node.state_dir().join(format!("workloads/w{n}/current/disk-root"));
        assert!(fs::read(disk).unwrap() == vec![n; 3 * MIB]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_decompressed_byte_counts() {
    const WHY: &str = "more than 1,000 times";
    let trial = Trial::new("");
    // 8 GiB of zeros are no more than 82 MiB of other bytes: they cost little, and an empty disk has as many.
    trial.works("zeros", &large(0, 512));
    trial.works("bytes", &large(7, 4));
    trial.is_refused_by_both("bomb", &large(7, 160), "archive-refused", WHY);
    let comment = |kind: u8| entry("pax", kind, "", &pax_record("comment", &vec![b'7'; MIB - 100]));
    for kind in [b'g', b'x'] {
        let frames = zstd(&comment(kind));
        trial.works(&format!("few-{}", char::from(kind)), &[frames.repeat(3), end()].concat());
        let bomb = [frames.repeat(2000), end()].concat();
        trial.is_refused(&format!("bomb-{}", char::from(kind)), &bomb, "archive-refused", WHY);
    }
    let name = zstd(&entry("././@LongLink", b'L', "", &vec![b'7'; MIB - 100]));
    trial.is_refused("bomb-names", &[name.repeat(2000), end()].concat(), "archive-refused", WHY);
    // A file of nothing but a map of its holes, which goes on for 32 MiB.
    let mut sparse = header("x", b'S', 0);
    sparse[482] = 1;
    let mut summed = ::tar::Header::from_byte_slice(&sparse).clone();
    summed.set_cksum();
    let mut block = [7; 512];
    block[504] = 1;
    let mut last = block;
    last[504] = 0;
    let map = [zstd(summed.as_bytes()), zstd(&block.repeat(2048)).repeat(31), zstd(&last)].concat();
    trial.works("few-maps", &[map.clone(), end()].concat());
    trial.is_refused("bomb-maps", &[map.repeat(70), end()].concat(), "archive-refused", WHY);
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_larger_than_a_file_may_be_are_refused() {
    let trial = Trial::new("");
    // Refused by what the header says, before a byte of it comes.
    let bytes = [zstd(&header("x", b'0', (64 << 30) + 1)), end()].concat();
    trial.is_refused_by_both("too-large", &bytes, "file-too-large", "68719476736 bytes");
    let cut = [zstd(&header("x", b'0', 64 << 30)), end()].concat();
    trial.is_refused_by_both("large", &cut, "archive-damaged", "cut short");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_limited() {
    let trial = Trial::new("");
    let archive = tar(&[("images/root.raw", DISK)]);
    for (tag, member, whole) in [
        ("gzip", gzip(b""), gzip(&archive)),
        ("zstd", zstd(b""), zstd(&archive)),
        ("skippable", skippable(b""), zstd(&archive)),
    ] {
        let (some, many) = ([member.repeat(9000), whole.clone()].concat(), [member.repeat(10_000), whole].concat());
        trial.works(&format!("some-{tag}"), &some);
        trial.is_refused_by_both(&format!("many-{tag}"), &many, "archive-refused", "more than 10000 members or frames");
    }
}

/// An empty file system of 4 GiB is so much of zeros, with metadata here and there, in 148 KB.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_disk_of_4_gib_works() {
    let registry = Registry::http();
    let (metadata, zeros) = (vec![7; 2 * MIB], vec![0; 126 * MIB]);
    let group = [zstd(&metadata), zstd(&zeros)].concat();
    let root = annotations("disk-root", "application/vnd.lfedge.disk.layer.v1+raw", "root.raw");
    let packed = layer(&registry, ZSTD_LAYER, &group.repeat(32), &root);
    let node = deploy(&publish(&registry, "v1", b"{}", &[packed]));
    let disk = fs::metadata(node.state_dir().join("current/disk-root")).unwrap();
    assert_eq!(disk.len(), 4 << 30);
    assert!(disk.blocks() * 512 < 80 << 20, "zeros are holes");
}

/// An image whose root disk has 60 GiB of zeros: minutes of work.
pub fn endless(registry: &Registry) -> String {
    let zeros = zstd(&vec![0; 128 * MIB]).repeat(480);
    let root = annotations("disk-root", "application/vnd.lfedge.disk.layer.v1+raw", "root.raw");
    publish(registry, "endless", b"{}", &[layer(registry, ZSTD_LAYER, &zeros, &root)])
}

/// True if a file is on its way out of a layer.
fn is_unpacking(node: &Node) -> bool {
    let partial = files_below(&node.state_dir().join("partial"));
    partial.iter().any(|path| path.extension().is_some_and(|ending| ending == "staged"))
}

fn until_unpacking(node: &Node, is_to: bool) {
    let deadline = Instant::now() + PATIENCE;
    while is_unpacking(node) != is_to {
        assert!(Instant::now() < deadline, "{}", node.log());
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unpacking_ends_when_nobody_wants_it() {
    let registry = Registry::http();
    let disk = annotations("disk-root", "application/vnd.lfedge.disk.layer.v1+raw", "root.raw");
    let good = publish(&registry, "good", b"{}", &[layer(&registry, GZIP_LAYER, &gzip(DISK), &disk)]);
    let endless = endless(&registry);
    let mut node = Node::new();
    node.desire_image(&endless);
    node.start();
    until_unpacking(&node, true);
    // Another image is desired.
    node.desire_image(&good);
    node.until_activated(&good);
    until_unpacking(&node, false);
    // The workload is retired.
    node.desire(&format!("[workload.a]\nimage = \"{endless}\"\n"));
    until_unpacking(&node, true);
    node.desire(&format!("[workload.b]\nimage = \"{good}\"\n"));
    until_unpacking(&node, false);
    // The agent stops.
    node.desire_image(&endless);
    until_unpacking(&node, true);
    assert!(node.stop().success());
    assert!(!is_unpacking(&node));
}
