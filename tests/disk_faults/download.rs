//! Beside a long download: what is read back after a sync that failed may be in memory only, and is given up; what fails
//! of another blob is no reason to pay twice for what is on the line.

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

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_the_disk_fails_cuts_no_other_off() {
    let (registry, mut node) = (Registry::http(), Node::new());
    let disk = Disk::under(&mut node);
    let image = Image::new("v1").with_root_of(MIB);
    image.publish(&registry, "edge/nginx", "v1");
    disk.call(&image.kernel, "kernel");
    disk.fail(&super::Fault::once("set the mode of partial/kernel", Answer::Fail(Errno::EIO)));

    let of = |bytes: &[u8]| On::blobs().get().reference(&digest(bytes));
    let kernel = registry.inject(of(&image.kernel), Fault::Hold);
    let root = registry.inject(of(&image.root), Fault::StallAfter(MIB as u64 / 2));
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.start();
    root.struck(1).await;
    kernel.struck(1).await;
    kernel.release();
    let said = "a blob did not come; those that are under way still do";
    super::wait_until("failed", &node, || node.log().contains(said));
    root.release();
    let failed = node.until_failed("io");
    assert!(failed["message"].as_str().unwrap().contains(&disk.struck(&node.state_dir())[0]), "{failed}");
    node.until_activated("nginx:v1");
    assert_eq!(registry.count(&of(&image.root)), 1, "it was cut off");
}
