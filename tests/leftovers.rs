//! Partial downloads that nobody wants any more, beside others that somebody does.

use std::time::Instant;

use crate::common::agent::{Node, PATIENCE, files_below};
use crate::common::image::Image;
use crate::common::registry::{Fault, On, Registry, digest};

const MIB: usize = 1 << 20;
const REPO: &str = "edge/nginx";

fn wait_until(what: &str, node: &Node, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        let left = files_below(&node.state_dir().join("partial"));
        assert!(Instant::now() < deadline, "never {what}; {left:?}; {}", node.log());
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_workload_that_fails_keeps_its_own_and_not_what_others_left() {
    let registry = Registry::http();
    let [stuck, left] = ["stuck", "left"].map(|tag| Image::new(tag).with_root_of(3 * MIB));
    stuck.publish(&registry, "edge/stuck", "v1");
    left.publish(&registry, REPO, "left");
    let small = Image::new("small").publish(&registry, REPO, "small");
    let [stuck_root, left_root] = [&stuck, &left].map(|image| On::blobs().get().reference(&digest(&image.root)));
    for root in [&stuck_root, &left_root] {
        registry.inject(root.clone().once(), Fault::DropAfter(MIB as u64));
        registry.inject(root.clone().skip(1), Fault::status(503));
    }
    let desire = |node: &Node, image: &str| {
        node.desire(&format!(
            "[workload.stuck]\nimage = \"{}\"\n[workload.absent]\nimage = \"{}\"\n[workload.vm]\nimage = \"{image}\"\n",
            registry.reference("edge/stuck", "v1"),
            registry.reference("edge/absent", "v1"),
        ));
    };
    let mut node = Node::new();
    desire(&node, &registry.reference(REPO, "left"));
    node.start();
    let failed = std::cell::RefCell::new(std::collections::BTreeSet::new());
    node.until("failed, all of them", |event| {
        if event["event"] == "failed" {
            failed.borrow_mut().insert(event["workload"].to_string());
        }
        failed.borrow().len() == 3
    });
    assert!(node.partial(&stuck.root).exists() && node.partial(&left.root).exists(), "they are wanted");

    let pinned = format!("{}@{small}", registry.reference(REPO, "small"));
    desire(&node, &pinned);
    wait_until("given up", &node, || !node.partial(&left.root).exists());
    assert!(node.partial(&stuck.root).exists(), "it is still wanted");

    // A restart does not know what the one that fails leads to until a registry says so; it remembers.
    node.kill();
    registry.inject(On::manifests().repo("edge/stuck"), Fault::status(503));
    let rubbish = node.leave_partial(b"rubbish", 3);
    node.start();
    wait_until("given up", &node, || !rubbish.exists());
    assert!(node.partial(&stuck.root).exists(), "it is wanted after a restart as well");
    registry.take_log();
    registry.clear_faults();
    node.until("activated", |event| event["event"] == "activated" && event["workload"] == "stuck");
    assert_eq!(registry.body_bytes(&stuck_root), 2 * MIB as u64, "no byte is paid for twice");
    wait_until("empty", &node, || files_below(&node.state_dir().join("partial")).is_empty());
}
