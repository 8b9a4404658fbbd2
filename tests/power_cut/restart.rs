//! The agent after a power cut.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use super::check::Disk;
use super::story::{Blob, End, Story};
use crate::common::agent::Node;
use crate::common::disk_image::run;
use crate::common::registry::{On, Registry};

/// A node that runs the agent on one copy after the other, and the one source that it has.
pub struct Restarter<'a> {
    story: &'a Story,
    state_dir: &'a Path,
    mirror: Registry,
    node: Node,
}

impl<'a> Restarter<'a> {
    /// Copies are mounted at `state_dir`. To be made by a thread that has mounts of its own: the machine has started anew.
    pub fn new(story: &'a Story, origin: &str, state_dir: &'a Path) -> Self {
        let mirror = Registry::http();
        story.publish(&mirror);
        let mut node = Node::with_config(&format!("[registry.\"{origin}\"]\nmirrors = [\"{}\"]\n", mirror.url("")));
        node.environment.push(("ECI_STATE_DIR", state_dir.to_owned()));
        let boot: PathBuf = node.path("boot-id");
        fs::write(&boot, "3d6f8c1a-0000-4000-8000-000000000000\n").unwrap();
        run("mount", &["--bind", boot.to_str().unwrap(), "/proc/sys/kernel/random/boot_id"]).unwrap();
        Self { story, state_dir, mirror, node }
    }

    /// Runs the agent until what `stage` desires is there; what is wrong on the way or then.
    pub fn violations(&mut self, stage: usize) -> Vec<String> {
        let stage = &self.story.stages[stage];
        let disk = || Disk::new(self.state_dir, self.story);
        let current = |workload: &str| disk().image_at(&format!("workloads/{workload}/current"));
        let mut ends: Vec<End> = stage.ends.iter().filter(|end| matches!(end, End::Rejected)).cloned().collect();
        for (workload, image) in &stage.runs {
            let image = &self.story.known[*image];
            let is_there = current(workload).is_ok_and(|digest| digest == image.digest);
            ends.push(if is_there { End::Active(workload) } else { End::Activated(image.reference.clone()) });
        }
        let saved = fs::read(self.state_dir.join("state.json")).unwrap_or_default();
        let saved: serde_json::Value = serde_json::from_slice(&saved).unwrap_or_default();
        let is_known = saved["workloads"]["router"].is_object() || self.state_dir.join("workloads/router").exists();
        if is_known && !stage.runs.contains_key("router") {
            ends.push(End::Retired("router"));
        }
        let wanted = || stage.runs.values().flat_map(|image| &self.story.known[*image].blobs);
        let lacks: Vec<(&Blob, u64)> = wanted().map(|blob| (blob, disk().lacks(blob))).collect();
        self.mirror.take_log();
        let log = self.node.log().len();
        self.node.desire(&stage.desired);
        self.node.start();
        all(&self.node, ends);
        let mut found = Vec::new();
        for (blob, lacks) in lacks {
            let served = self.mirror.body_bytes(&On::blobs().get().reference(&blob.digest));
            if served > lacks {
                let blob = &blob.digest;
                found.push(format!("{served} bytes of {blob} are fetched, and {lacks} were not there"));
            }
        }
        for (workload, image) in &stage.runs {
            let (is, wanted) = (current(workload), &self.story.known[*image]);
            if is.as_ref() != Ok(&wanted.digest) {
                found.push(format!("{workload} runs {is:?}, and not {}", wanted.reference));
            }
        }
        if !stage.runs.contains_key("router") && self.state_dir.join("workloads/router/current").is_symlink() {
            found.push("router was retired, and has its link".to_owned());
        }
        self.node.stop();
        if !found.is_empty() {
            found.push(self.node.log()[log..].to_owned());
        }
        found
    }
}

/// Waits until all of this has happened, in whatever order.
pub fn all(node: &Node, ends: Vec<End>) {
    let left = RefCell::new(ends);
    if !left.borrow().is_empty() {
        node.until("through", |event| {
            left.borrow_mut().retain(|end| !end.is(event));
            left.borrow().is_empty()
        });
    }
}
