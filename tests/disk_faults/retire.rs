//! Of the end of a workload.

use std::cell::Cell;

use super::{Disk, Fault, distinct, faults, is_full, named, rubbish, wait_until};
use crate::common::agent::Node;
use crate::common::image::Image;
use crate::common::registry::Registry;

const WORKLOADS: [&str; 2] = ["default", "other"];

struct Trial {
    registry: Registry,
    node: Node,
    disk: Disk,
}

impl Trial {
    fn new() -> Self {
        let registry = Registry::http();
        for tag in ["v1", "v2"] {
            Image::new(tag).publish(&registry, "edge/nginx", tag);
        }
        let mut node = Node::new();
        let disk = Disk::under(&mut node);
        node.desire("");
        node.start();
        Self { registry, node, disk }
    }

    fn desire(&self, workloads: &[&str], tag: &str) {
        let image = self.registry.reference("edge/nginx", tag);
        let section = |name: &&str| format!("[workload.{name}]\nimage = \"{image}\"\n");
        self.node.desire(&workloads.iter().map(section).collect::<String>());
    }

    /// Has both run, each with something to go back to, and then no longer `name`.
    fn retire(&self, name: &str, fault: Option<&Fault>) {
        for tag in ["v1", "v2"] {
            self.desire(&WORKLOADS, tag);
            let runs = Cell::new([false; 2]);
            self.node.until("activated", |event| {
                if event["event"] == "activated" && event["message"].as_str().unwrap().contains(tag) {
                    let [default, other] = runs.get();
                    let is_default = event["workload"] == "default";
                    runs.set([default || is_default, other || !is_default]);
                }
                runs.get() == [true; 2]
            });
        }
        assert!(self.node.eci(&["gc"]).status.success());
        self.disk.taken();
        if let Some(fault) = fault {
            self.disk.fail(fault);
        }
        let rest: Vec<_> = WORKLOADS.into_iter().filter(|other| *other != name).collect();
        self.desire(&rest, "v2");
        if let Some(fault) = fault {
            self.fails(name, fault);
        }
        self.node.until("retired", |event| event["event"] == "retired" && event["workload"] == name);
        assert!(self.node.status()["workloads"][name].is_null());
        let links = self.node.state_dir().join("workloads");
        assert!(!links.join(name).join("current").is_symlink());
        assert_eq!(std::fs::read(links.join(rest[0]).join("current/disk-root")).unwrap(), b"root disk of v2");
        assert_eq!(self.node.state_dir().join("current").is_symlink(), name != "default");
        assert!(self.node.eci(&["gc"]).status.success());
        wait_until("tidy", &self.node, || rubbish(&self.node.state_dir()).is_empty());
    }

    fn fails(&self, name: &str, fault: &Fault) {
        let (kind, advice) = named(fault.with);
        // Something of somebody else's in the directory is no reason to keep the workload.
        if fault.step != format!("remove workloads/{name}") {
            let failed = self.node.until_failed(kind);
            let struck = self.disk.struck(&self.node.state_dir());
            let text = failed["message"].as_str().unwrap();
            assert!(
                failed["workload"] == name && text.contains(&struck[0]) && text.contains(advice),
                "{fault:?}: {failed}"
            );
        }
        wait_until("struck", &self.node, || self.disk.strikes() > 0);
        self.disk.heal();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_is_retired_however_often_the_disk_fails() {
    let trial = Trial::new();
    let mut count = 0;
    for name in WORKLOADS {
        trial.retire(name, None);
        let is_of_links = |step: &String| {
            let path = step.rsplit_once(' ').unwrap().1;
            path.starts_with(&format!("workloads/{name}")) || ["current", "previous"].contains(&path)
        };
        let steps = distinct(trial.disk.taken());
        for (n, step) in steps.iter().filter(|step| is_of_links(step)).enumerate() {
            for (m, with) in faults(step).into_iter().enumerate() {
                if is_full() || m == n % faults(step).len() {
                    count += 2;
                    trial.retire(name, Some(&Fault::once(step, with)));
                    trial.retire(name, Some(&Fault::lasting(step, with)));
                }
            }
        }
    }
    println!("{count} times");
    assert!(count > 0);
}
