//! Of the syncs beside a long download: what is read back after one that failed may be in memory only, and is given up.

use std::time::Duration;

use nix::errno::Errno;

use super::{Disk, named};
use crate::common::agent::Node;
use crate::common::fault_points::Answer;
use crate::common::image::Image;
use crate::common::registry::{Fault, On, Registry, digest};

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_download_whose_sync_fails_begins_anew() {
    let (registry, mut node) = (Registry::http(), Node::new());
    let disk = Disk::under(&mut node);
    let images = ["v1", "v2"].map(|tag| Image::new(tag).with_root_of(20 * MIB));
    for (image, tag) in images.iter().zip(["v1", "v2"]) {
        image.publish(&registry, "edge/nginx", tag);
        disk.call(&image.root, "large");
    }
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.start();
    node.until_activated("nginx:v1");

    // Slow enough for a sync on the way: it takes longer than from one to the next.
    let root = On::blobs().get().reference(&digest(&images[1].root));
    let slow = registry.inject(root.clone(), Fault::Trickle(MIB, Duration::from_millis(500)));
    disk.taken();
    let fault = super::Fault::once("sync partial/large", Answer::Fail(Errno::EIO));
    disk.fail(&fault);
    node.desire_image(&registry.reference("edge/nginx", "v2"));
    let failed = node.until_failed("io");
    assert!(failed["message"].as_str().unwrap().contains(named(fault.with).1), "{failed}");
    assert!(failed["message"].as_str().unwrap().contains(&disk.struck(&node.state_dir())[0]), "{failed}");
    let taken = disk.taken();
    assert!(!taken.contains(&"set the mode of partial/large".to_owned()), "it was whole: {taken:?}");
    assert!(taken.contains(&"remove partial/large".to_owned()), "it is kept: {taken:?}");
    assert!(node.current("disk-root") == images[0].root);
    slow.remove();
    node.until_activated("nginx:v2");
    assert!(node.current("disk-root") == images[1].root);
    assert!(registry.body_bytes(&root) > images[1].root.len() as u64, "what was synced in vain is not trusted");
    assert_eq!(super::rubbish(&node.state_dir()), Vec::<String>::new());
}
