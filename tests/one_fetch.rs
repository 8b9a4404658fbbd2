//! Several workloads that want one blob: it is fetched once, whatever becomes of the one that fetches it.

use std::time::Instant;

use crate::common::agent::{Node, PATIENCE};
use crate::common::image::Image;
use crate::common::registry::{Fault, On, Registry, digest};

const MIB: usize = 1 << 20;
/// Five segments and a bit.
const SIZE: usize = 41 * MIB;
const NAMES: [&str; 3] = ["one", "two", "three"];

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_goes_in_the_midst_of_it_leaves_the_blob_to_the_others() {
    let registry = Registry::http();
    let shared = Image::new("shared").with_root_of(SIZE).root;
    for name in NAMES {
        Image { root: shared.clone(), ..Image::new(name) }.publish(&registry, "edge/vm", name);
    }
    let root = On::blobs().get().reference(&digest(&shared));
    let desire = |node: &Node, names: &[&str]| {
        let table = |name: &&str| format!("[workload.{name}]\nimage = \"{}\"\n", registry.reference("edge/vm", name));
        node.desire(&names.iter().map(table).collect::<String>());
    };
    // All four connections stand still in the midst of their segments.
    let stall = registry.inject(root.clone(), Fault::StallAfter(5 * MIB as u64));
    let mut node = Node::new();
    desire(&node, &NAMES);
    node.start();
    stall.struck(4).await;
    let deadline = Instant::now() + PATIENCE;
    while node.has_written(&shared) < 20 * MIB as u64 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    let status = node.status();
    let wire = |name: &str| status["workloads"][name]["last_transfer"]["wire_bytes"].as_u64().unwrap();
    let (fetching, others): (Vec<&str>, Vec<&str>) = NAMES.into_iter().partition(|name| wire(name) > MIB as u64);
    assert_eq!(fetching.len(), 1, "{status}");
    desire(&node, &others);
    // Another one goes on with it, where the first one stopped.
    stall.struck(5).await;
    assert!(node.has_written(&shared) > 20 * MIB as u64);
    stall.remove();
    let activated = std::cell::RefCell::new(std::collections::BTreeSet::new());
    node.until("activated, both", |event| {
        if event["event"] == "activated" {
            activated.borrow_mut().insert(event["workload"].as_str().unwrap().to_owned());
        }
        activated.borrow().len() == 2
    });
    for name in others {
        let disk = node.state_dir().join("workloads").join(name).join("current/disk-root");
        assert!(std::fs::read(disk).unwrap() == shared, "{name}");
    }
    assert!(!node.state_dir().join("workloads").join(fetching[0]).join("current").exists());
    assert_eq!(registry.body_bytes(&root), SIZE as u64, "no byte is paid for twice");
}
