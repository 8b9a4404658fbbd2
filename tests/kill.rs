//! Kill -9 at any moment of an update leaves `current` complete, and the next start gets there.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::common::agent::Node;
use crate::common::image::Image;
use crate::common::registry::{Registry, digest};

/// How many moments are tried.
const MOMENTS: u32 = 200;

/// Checks that what `current` points at is one of the images, whole.
fn complete(state: &Path, images: &[(&Image, String)]) -> String {
    for link in ["current", "workloads/default/current"] {
        let dir = state.join(link);
        let launch: serde_json::Value = serde_json::from_slice(&fs::read(dir.join("launch.json")).unwrap()).unwrap();
        let (image, _) = images.iter().find(|(_, digest)| launch["digest"] == **digest).unwrap();
        assert_eq!(fs::read(dir.join("kernel")).unwrap(), image.kernel);
        assert_eq!(fs::read(dir.join("initrd")).unwrap(), image.initrd);
        assert_eq!(digest(&fs::read(dir.join("disk-root")).unwrap()), digest(&image.root));
        assert_eq!(fs::read(dir.join("manifest.json")).unwrap(), image.manifest().to_string().as_bytes());
    }
    fs::read_link(state.join("current")).unwrap().display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_of_an_update_leaves_current_complete() {
    let registry = Registry::http();
    let images = ["even", "odd"].map(|label| Image::new(label).with_root_of(2 << 20));
    let tags = ["even", "odd"];
    let digests = [0, 1].map(|n| images[n].publish(&registry, "edge/nginx", tags[n]));
    let known = [(&images[0], digests[0].clone()), (&images[1], digests[1].clone())];
    let reference = |n: usize| registry.reference("edge/nginx", tags[n % 2]);
    let mut node = Node::new();
    node.desire_image(&reference(0));
    node.start();
    // How long an update takes here, so that the moments are spread over all of it.
    let begun = std::time::Instant::now();
    node.until_activated(&reference(0));
    let whole = begun.elapsed().max(Duration::from_millis(20)) * 2;

    let mut moments = std::collections::BTreeSet::new();
    for n in 1..=MOMENTS {
        let wanted = reference(n as usize);
        // Half of the updates find nothing in the cache, so that each step has its share of the moments.
        if n % 4 < 2 {
            forget(&node, &images[n as usize % 2]);
        }
        node.desire_image(&wanted);
        tokio::time::sleep(whole * fastrand::u32(0..1000) / 1000).await;
        node.kill();
        moments.insert(complete(&node.state_dir(), &known));
        node.start();
        if n % 10 == 0 {
            node.until("settled", |event| event["event"] == "phase" && event["phase"] == "active");
            assert_eq!(complete(&node.state_dir(), &known), moments_end(&node));
            assert_eq!(node.status()["workloads"]["default"]["current"]["reference"], wanted);
        }
    }
    assert!(moments.len() > 10, "updates were got through between the kills: {moments:?}");
}

fn moments_end(node: &Node) -> String {
    fs::read_link(node.state_dir().join("current")).unwrap().display().to_string()
}

/// Takes the root disk out of the cache; generations that have it keep it.
fn forget(node: &Node, image: &Image) {
    let blob = digest(&image.root).replace(':', "/");
    let _ = fs::remove_file(node.state_dir().join("cache/blobs").join(blob));
}
