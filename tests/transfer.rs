//! Large blobs: in segments over several connections, resumed segment by segment, each byte once.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::common::agent::Node;
use crate::common::image::Image;
use crate::common::registry::{Fault, On, Registry, digest};

const MIB: usize = 1 << 20;
/// Five segments and a bit.
const SIZE: usize = 41 * MIB;

/// A node that wants an image with a large root disk from a registry, which is not started yet.
fn wanting(config: &str) -> (Registry, Node, Image, On) {
    let registry = Registry::http();
    let image = Image::new("large").with_root_of(SIZE);
    image.publish(&registry, "edge/large", "v1");
    let node = Node::with_config(config);
    node.desire_image(&registry.reference("edge/large", "v1"));
    let root = On::blobs().get().reference(&digest(&image.root));
    (registry, node, image, root)
}

fn arrives(node: &Node, image: &Image) {
    node.until_activated("large:v1");
    assert!(node.current("disk-root") == image.root);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_comes_in_segments_over_several_connections() {
    let (registry, mut node, image, root) = wanting("");
    // Slow enough that more connections bring more.
    registry.inject(root.clone(), Fault::Trickle(64 << 10, Duration::from_millis(2)));
    node.start();
    arrives(&node, &image);
    let asked: Vec<_> = registry.log().into_iter().filter(|request| root.matches(request)).collect();
    let ranges: BTreeSet<_> = asked.iter().filter_map(|request| request.range.clone()).collect();
    assert!(asked.len() >= 3 && ranges.len() == asked.len(), "{asked:?}");
    assert_eq!(registry.body_bytes(&root), SIZE as u64);
    let peers: BTreeSet<_> = asked.iter().map(|request| request.peer).collect();
    assert!(peers.len() >= 2, "{peers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_fails_for_now_cuts_no_other_off() {
    let (registry, mut node) = (Registry::http(), Node::new());
    let image = Image { initrd: vec![7; MIB], ..Image::new("v1") };
    image.publish(&registry, "edge/large", "v1");
    node.desire_image(&registry.reference("edge/large", "v1"));
    let [initrd, root] = [&image.initrd, &image.root].map(|bytes| On::blobs().get().reference(&digest(bytes)));
    let stall = registry.inject(initrd.clone().once(), Fault::StallAfter(MIB as u64 / 2));
    let held = registry.inject(root.clone().once(), Fault::Hold);
    let broken = registry.inject(root.once(), Fault::status(503));
    node.start();
    stall.struck(1).await;
    held.release();
    broken.struck(1).await;
    // Whatever the agent makes of that, it has made it by the time that it has answered twice.
    node.status();
    node.status();
    stall.release();
    arrives(&node, &image);
    let asked = registry.log().into_iter().filter(|request| initrd.matches(request)).count();
    assert_eq!((asked, registry.body_bytes(&initrd)), (1, MIB as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_is_enough_where_no_more_are_allowed() {
    let (registry, mut node, image, root) = wanting("[transfer]\nconnections = 1\n");
    node.start();
    arrives(&node, &image);
    let log = registry.log();
    let ranges = log.iter().filter(|request| root.matches(request)).filter_map(|request| request.range.clone());
    let starts =
        ranges.map(|range| range.trim_start_matches("bytes=").split('-').next().unwrap().parse::<u64>().unwrap());
    let starts: Vec<_> = starts.collect();
    assert!(starts.is_sorted(), "one after another: {starts:?}");
    assert_eq!(registry.body_bytes(&root), SIZE as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_go_on_where_they_stopped() {
    let (registry, mut node, image, root) = wanting("");
    for turn in 0..8 {
        registry.inject(root.clone().skip(turn * 2).once(), Fault::DropAfter(3 * MIB as u64));
    }
    node.start();
    arrives(&node, &image);
    assert_eq!(registry.body_bytes(&root), SIZE as u64, "no byte is paid for twice");
    assert!(!node.log().contains("event=\"failed\""), "{}", node.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_ranges_is_asked_once() {
    for wrong in [Fault::IgnoreRange, Fault::ContentRange("bytes 0-1/*".to_owned()), Fault::status(416)] {
        let (registry, mut node, image, root) = wanting("");
        // That status, unlike the others, would be wrong for the whole blob too.
        let times = if matches!(wrong, Fault::Status(_)) { 1 } else { u64::MAX };
        registry.inject(root.clone().times(times), wrong.clone());
        node.start();
        arrives(&node, &image);
        let asked: Vec<_> = registry.log().into_iter().filter(|request| root.matches(request)).collect();
        assert_eq!(asked.iter().filter(|request| request.range.is_some()).count(), 1, "{wrong:?}: {asked:?}");
        assert!(registry.body_bytes(&root) <= SIZE as u64 + (1 << 20), "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_ranges_that_always_breaks_off_is_not_asked_for_ever() {
    let (registry, mut node, _, root) = wanting("");
    registry.inject(root.clone(), Fault::IgnoreRange);
    registry.inject(root.clone(), Fault::DropAfter(3 * MIB as u64));
    node.start();
    node.until_failed("unreachable");
    assert!(registry.count(&root) <= 4, "{}", registry.count(&root));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_bears_one_connection_is_not_pestered_with_others() {
    let (registry, mut node, image, root) = wanting("");
    registry.inject(root.clone().skip(1).times(3), Fault::status(503));
    registry.inject(root.clone(), Fault::Trickle(64 << 10, Duration::from_millis(2)));
    node.start();
    arrives(&node, &image);
    assert!(registry.count(&root) <= 12, "{}", registry.count(&root));
    assert!(!node.log().contains("event=\"failed\""), "{}", node.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_costs_what_was_on_its_way_and_no_more() {
    let (registry, mut node, image, root) = wanting("");
    // All four connections stand still in the midst of their segments.
    let stall = registry.inject(root.clone(), Fault::StallAfter(5 * MIB as u64));
    node.start();
    stall.struck(4).await;
    let deadline = std::time::Instant::now() + crate::common::agent::PATIENCE;
    while node.has_written(&image.root) < 20 * MIB as u64 {
        assert!(std::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    node.kill();
    stall.remove();
    node.start();
    arrives(&node, &image);
    assert_eq!(registry.body_bytes(&root), SIZE as u64, "no byte is paid for twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_noticed_whichever_connection_brings_them() {
    let (registry, mut node, image, root) = wanting("");
    let wrong = registry.inject(root.clone(), Fault::FlipByte(20 * MIB as u64));
    node.start();
    node.until_failed("digest-mismatch");
    assert!(!node.state_dir().join("current").exists());
    wrong.remove();
    arrives(&node, &image);
}

#[tokio::test(flavor = "multi_thread")]
async fn zeros_become_holes() {
    use std::os::unix::fs::MetadataExt;
    let registry = Registry::http();
    let mut image = Image::new("large");
    image.root = vec![0; SIZE];
    image.root[..5].copy_from_slice(b"start");
    image.root[SIZE / 2] = 1;
    image.publish(&registry, "edge/large", "v1");
    let mut node = Node::new();
    node.desire_image(&registry.reference("edge/large", "v1"));
    node.start();
    arrives(&node, &image);
    let disk = std::fs::metadata(node.state_dir().join("current/disk-root")).unwrap();
    assert_eq!(disk.len(), SIZE as u64);
    assert!(disk.blocks() * 512 <= 64 << 10, "{} bytes on disk", disk.blocks() * 512);
}

/// A file system of its own in a file, mounted at a directory and unmounted at the end.
struct Disk(std::path::PathBuf);

impl Disk {
    /// None, and a line that says so, where it cannot be made or mounted.
    fn mount(test: &str, kind: &str, image: &std::path::Path, dir: std::path::PathBuf) -> Option<Self> {
        std::fs::File::create(image).unwrap().set_len(400 << 20).unwrap();
        std::fs::create_dir_all(&dir).unwrap();
        let done = |command: &mut std::process::Command| command.output().is_ok_and(|output| output.status.success());
        let made = done(std::process::Command::new(format!("mkfs.{kind}")).arg(image));
        if made && done(std::process::Command::new("mount").args(["-o", "loop"]).arg(image).arg(&dir)) {
            return Some(Self(dir));
        }
        println!("SKIP {test}: {kind} cannot be made and mounted here");
        None
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_and_resumption_are_the_same_on_every_file_system() {
    use std::os::unix::fs::MetadataExt;
    const TEST: &str = "holes_and_resumption_are_the_same_on_every_file_system";
    for kind in ["ext4", "xfs", "btrfs"] {
        let registry = Registry::http();
        let mut image = Image::new("large").with_root_of(SIZE);
        image.root[10 * MIB..SIZE - 5].fill(0);
        image.publish(&registry, "edge/large", "v1");
        let mut node = Node::new();
        let Some(_disk) = Disk::mount(TEST, kind, &node.path("disk"), node.state_dir()) else { continue };
        // Something that nobody noted is where a hole is to be.
        let partial = node.leave_partial(&image.root, 3 * MIB);
        let mut wrong = image.root[..3 * MIB].to_vec();
        wrong.resize(20 * MIB, 7);
        std::fs::write(&partial, wrong).unwrap();
        node.desire_image(&registry.reference("edge/large", "v1"));
        node.start();
        arrives(&node, &image);
        let root = On::blobs().get().reference(&digest(&image.root));
        assert_eq!(registry.body_bytes(&root), (SIZE - 3 * MIB) as u64, "{kind}");
        let disk = std::fs::metadata(node.state_dir().join("current/disk-root")).unwrap();
        assert!(disk.blocks() * 512 <= 10 * MIB as u64 + (256 << 10), "{kind}: {} bytes on disk", disk.blocks() * 512);
        node.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_connection_holds_up_no_blob() {
    for connections in [1, 4] {
        let (registry, mut node, image, root) = wanting(&format!("[transfer]\nconnections = {connections}\n"));
        registry.inject(root.clone(), Fault::Trickle(64 << 10, Duration::from_millis(2)));
        // As it is, that one segment would take half an hour.
        let slow = registry.inject(root.clone().skip(2).once(), Fault::Trickle(512, Duration::from_millis(100)));
        node.start();
        arrives(&node, &image);
        assert_eq!(slow.strikes(), 1);
        let paid = registry.body_bytes(&root);
        assert!(paid <= SIZE as u64 + (64 << 10), "{paid} bytes");
        assert!(registry.count(&root) <= 12, "{}", registry.count(&root));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_line_is_no_slow_connection() {
    let (registry, mut node, image, root) = wanting("");
    registry.inject(root.clone(), Fault::Trickle(64 << 10, Duration::from_millis(10)));
    node.start();
    arrives(&node, &image);
    assert_eq!(registry.body_bytes(&root), SIZE as u64);
    assert!(!node.log().contains("is slow"), "{}", node.log());
}

/// What a process has read from files, sockets and pipes, in bytes.
fn has_read(pid: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_in_vain_does_not_read_what_has_landed() {
    let (registry, mut node, image, root) = wanting("");
    node.leave_partial(&image.root, 40 * MIB);
    let down = registry.inject(root.clone(), Fault::Disconnect);
    node.start();
    node.until_failed("unreachable");
    assert!(has_read(node.pid()) < 20 * MIB as u64, "{}", has_read(node.pid()));
    down.remove();
    arrives(&node, &image);
    assert_eq!(registry.body_bytes(&root), MIB as u64);
}
