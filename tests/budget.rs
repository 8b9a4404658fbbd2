//! `[transfer] max_wire_bytes`: what an update has taken of the network counts, whatever becomes of the agent meanwhile.

use std::fs;
use std::time::Instant;

use crate::common::agent::{Node, PATIENCE, files_below};
use crate::common::image::Image;
use crate::common::registry::{Fault, On, Registry, digest};

const MIB: usize = 1 << 20;
const REPO: &str = "edge/nginx";
const LIMIT: u64 = 12 << 20;
/// How much of it a kill may forget.
const STEP: u64 = LIMIT / 64;

fn wait_until(what: &str, node: &Node, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never {what}; {}", node.log());
        std::thread::yield_now();
    }
}

fn node() -> Node {
    // One connection: what stalls is all that is under way.
    Node::with_config(&format!("[transfer]\nconnections = 1\nmax_wire_bytes = \"{}MiB\"\n", LIMIT >> 20))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_keeps_to_its_limit_however_often_the_agent_is_killed() {
    let registry = Registry::http();
    let mut image = Image::new("v1").with_root_of(30 * MIB);
    // It is whole before the first kill, and in no partial download from then on.
    image.initrd = Image::new("initrd").with_root_of(6 * MIB).root;
    let manifest = image.publish(&registry, REPO, "v1");
    let root = On::blobs().get().reference(&digest(&image.root));
    let came = || registry.body_bytes(&On::blobs().get());
    let mut node = node();
    node.desire_image(&registry.reference(REPO, "v1"));
    let note = node.state_dir().join("partial").join(format!("{}.wire", manifest.trim_start_matches("sha256:")));
    let noted = || fs::read_to_string(&note).ok().and_then(|text| text.parse().ok()).unwrap_or(0_u64);
    for round in 0..5 {
        let stall = registry.inject(root.clone(), Fault::StallAfter(MIB as u64));
        node.start();
        stall.struck(1).await;
        wait_until("noted", &node, || noted() + STEP > came());
        node.kill();
        stall.remove();
        if round == 2 {
            // As after a power cut that cost the whole download.
            let partial = node.partial(&image.root);
            let notes = ["written", "synced"].map(|ending| partial.with_extension(ending));
            notes.iter().chain([&partial]).for_each(|path| drop(fs::remove_file(path)));
        }
    }
    // A limit of the test's own, for what the sockets would take that the agent does not.
    registry.inject(root.clone(), Fault::StallAfter(2 * MIB as u64));
    node.start();
    node.until_failed("over-budget");
    assert_eq!(node.status()["workloads"]["default"]["phase"], "blocked");
    let all = came();
    assert!(all >= LIMIT && all <= LIMIT + MIB as u64 + 1000, "{all}");
    node.kill();
    node.start();
    node.until_failed("over-budget");
    assert_eq!(came(), all, "it is used up after a restart as well");

    registry.clear_faults();
    node.configure("[transfer]\nmax_wire_bytes = \"100MiB\"\n");
    node.signal(nix::sys::signal::Signal::SIGHUP);
    node.until_activated("nginx:v1");
    assert!(node.current("disk-root") == image.root);
    wait_until("forgotten", &node, || files_below(&node.state_dir().join("partial")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_spent_on_another_image_does_not_count() {
    let registry = Registry::http();
    for tag in ["one", "two"] {
        Image::new(tag).with_root_of(8 * MIB).publish(&registry, REPO, tag);
    }
    let mut node = node();
    let root = On::blobs().get().reference(&digest(&Image::new("one").with_root_of(8 * MIB).root));
    let stall = registry.inject(root, Fault::StallAfter(7 * MIB as u64));
    node.desire_image(&registry.reference(REPO, "one"));
    node.start();
    stall.struck(1).await;
    node.desire_image(&registry.reference(REPO, "two"));
    node.until_activated("nginx:two");
    wait_until("forgotten", &node, || files_below(&node.state_dir().join("partial")).is_empty());
    stall.remove();
    node.desire_image(&registry.reference(REPO, "one"));
    node.until_activated("nginx:one");
}
