//! Kill -9 at any moment of an update leaves `current` complete, and the next start gets there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::agent::{Node, files_below};
use crate::common::image::Image;
use crate::common::registry::{Registry, digest};
use crate::common::workstation::Workstation;

const TAGS: [&str; 2] = ["even", "odd"];

/// Two images in a registry, and a node that goes to and fro between them.
struct Trial {
    registry: Registry,
    images: [Image; 2],
    /// The digests of their manifests.
    digests: [String; 2],
}

impl Trial {
    /// Publishes each image by `publish`, which tells its digest.
    fn new(publish: impl Fn(&Registry, &Image, &str) -> String) -> Self {
        let registry = Registry::http();
        let images = TAGS.map(|tag| Image::new(tag).with_root_of(2 << 20));
        let digests = [0, 1].map(|n| publish(&registry, &images[n], TAGS[n]));
        Self { registry, images, digests }
    }

    fn reference(&self, n: usize) -> String {
        self.registry.reference("edge/nginx", TAGS[n % 2])
    }

    /// Checks that what `current` points at is one of the images, whole.
    fn complete(&self, state: &Path) -> PathBuf {
        for link in ["current", "workloads/default/current"] {
            let dir = state.join(link);
            let read = |name: &str| fs::read(dir.join(name)).unwrap();
            let launch: serde_json::Value = serde_json::from_slice(&read("launch.json")).unwrap();
            let n = self.digests.iter().position(|digest| launch["digest"] == **digest).unwrap();
            assert_eq!(read("kernel"), self.images[n].kernel);
            assert_eq!(read("initrd"), self.images[n].initrd);
            assert_eq!(digest(&read("disk-root")), digest(&self.images[n].root));
            assert_eq!(digest(&read("manifest.json")), self.digests[n]);
        }
        fs::read_link(state.join("current")).unwrap()
    }

    /// Kills the agent at so many moments of updates. `settled` looks at the node where one has come to its end.
    async fn survives(&self, moments: u32, settled: impl Fn(&Node, usize)) {
        let mut node = Node::new();
        node.desire_image(&self.reference(0));
        node.start();
        // How long an update takes here, so that the moments are spread over all of it.
        let begun = std::time::Instant::now();
        node.until_activated(&self.reference(0));
        let whole = begun.elapsed().max(Duration::from_millis(20)) * 2;

        let mut seen = std::collections::BTreeSet::new();
        for n in 1..=moments as usize {
            let wanted = self.reference(n);
            // Half of the updates find nothing in the cache, so that each step has its share of the moments.
            if n % 4 < 2 {
                forget(&node, &self.images[n % 2]);
            }
            node.desire_image(&wanted);
            tokio::time::sleep(whole * fastrand::u32(0..1000) / 1000).await;
            node.kill();
            seen.insert(self.complete(&node.state_dir()));
            node.start();
            if n % 10 == 0 {
                node.until("settled", |event| event["event"] == "phase" && event["phase"] == "active");
                let current = fs::read_link(node.state_dir().join("current")).unwrap();
                assert_eq!(self.complete(&node.state_dir()), current);
                assert_eq!(node.status()["workloads"]["default"]["current"]["reference"], wanted);
                settled(&node, n % 2);
            }
        }
        assert!(seen.len() > moments as usize / 20, "updates were got through between the kills: {seen:?}");
    }
}

/// Takes the root disk out of the cache; generations that have it keep it.
fn forget(node: &Node, image: &Image) {
    let _ = fs::remove_file(blob(node, &digest(&image.root)));
}

fn blob(node: &Node, digest: &str) -> PathBuf {
    node.state_dir().join("cache/blobs").join(digest.replace(':', "/"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_of_an_update_leaves_current_complete() {
    let trial = Trial::new(|registry, image, tag| image.publish(registry, "edge/nginx", tag));
    trial.survives(200, |_, _| ()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_layers_are_unpacked_leaves_nothing_of_them() {
    let trial = Trial::new(|registry, image, tag| {
        let workstation = Workstation::new();
        let mut arguments = workstation.push_arguments(image, &registry.reference("edge/nginx", tag));
        arguments.insert(1, "--legacy".to_owned());
        workstation.must(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        digest(&registry.manifest("edge/nginx", tag).unwrap().bytes)
    });
    let layers = |n: usize| {
        let manifest = trial.registry.manifest("edge/nginx", TAGS[n]).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&manifest.bytes).unwrap();
        let layers = manifest["layers"].as_array().unwrap().clone();
        layers.into_iter().map(|layer| layer["digest"].as_str().unwrap().to_owned())
    };
    let settled = |node: &Node, n: usize| {
        assert!(layers(n).all(|layer| !blob(node, &layer).exists()), "a layer is left");
        let partial = files_below(&node.state_dir().join("partial"));
        let is_half = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "staged");
        assert!(!partial.iter().any(is_half), "half of a file is left: {partial:?}");
    };
    trial.survives(100, settled).await;
}
