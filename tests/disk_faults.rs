//! The disk fails at any step of an update: what runs goes on, the error says what is wrong, and once the disk is well again
//! the update is made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use nix::errno::Errno;

use crate::common::agent::Node;
use crate::common::fault_points::{Answer, arm};
use crate::common::image::Image;
use crate::common::registry::Registry;

const REPO: &str = "edge/nginx";

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_goes_on_until_the_links_can_be_swapped() {
    let (registry, mut node) = (Registry::http(), Node::new());
    let is_ill = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&is_ill);
    arm(&mut node, move |point| {
        let is_swap = point.operation == "rename into place" && point.path.ends_with("workloads/default/current");
        if is_swap && !point.is_made && asked.load(SeqCst) { Answer::Fail(Errno::EIO) } else { Answer::Go }
    });
    let images = ["v1", "v2"].map(|tag| {
        let image = Image::new(tag);
        image.publish(&registry, REPO, tag);
        image
    });
    node.desire_image(&registry.reference(REPO, "v1"));
    node.start();
    node.until_activated("nginx:v1");
    is_ill.store(true, SeqCst);
    node.desire_image(&registry.reference(REPO, "v2"));
    node.until_failed("io");
    assert_eq!(node.current("initrd"), images[0].initrd);
    is_ill.store(false, SeqCst);
    node.until_activated("nginx:v2");
    assert_eq!(node.current("initrd"), images[1].initrd);
}
