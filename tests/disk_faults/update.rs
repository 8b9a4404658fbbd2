//! Of an update: two workloads, one with a disk that comes in segments, one with a disk that is packed in a layer; and the
//! collection of what they leave.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{Disk, Fault, distinct, faults, is_full, named, names, rubbish, wait_until};
use crate::common::agent::Node;
use crate::common::archive::{gzip, tar};
use crate::common::image::Image;
use crate::common::registry::{On, Registry, digest};
use crate::legacy::{GZIP_LAYER, annotations, layer, publish};

const MIB: usize = 1 << 20;
const WORKLOADS: [&str; 2] = ["default", "packed"];

/// What both workloads are to run.
pub struct Edition {
    tag: &'static str,
    pub image: Image,
    /// The layer in which the other workload's disk is packed, and the disk.
    layer: Vec<u8>,
    disk: Vec<u8>,
    references: [String; 2],
}

impl Edition {
    fn publish(registry: &Registry, tag: &'static str) -> Self {
        let image = Image::new(tag).with_root_of(17 * MIB);
        image.publish(registry, "edge/nginx", tag);
        let disk = Image::new(&format!("disk of {tag}")).with_root_of(MIB / 2).root;
        let layer_bytes = gzip(&tar(&[("root.raw", &disk)]));
        let root = annotations("disk-root", "application/vnd.lfedge.disk.layer.v1+raw", "root.raw");
        let packed = publish(registry, tag, b"{}", &[layer(registry, GZIP_LAYER, &layer_bytes, &root)]);
        let references = [registry.reference("edge/nginx", tag), packed];
        Self { tag, image, layer: layer_bytes, disk, references }
    }

    fn desired(&self) -> String {
        WORKLOADS
            .iter()
            .zip(&self.references)
            .map(|(name, image)| format!("[workload.{name}]\nimage = \"{image}\"\n"))
            .collect()
    }

    /// Whether `dir` has, whole, what the workload `n` is to run.
    fn is_in(&self, n: usize, dir: &Path) -> bool {
        let has = |name: &str, bytes: &[u8]| fs::read(dir.join(name)).is_ok_and(|found| found == bytes);
        let launch = fs::read(dir.join("launch.json")).unwrap_or_default();
        let launch: Value = serde_json::from_slice(&launch).unwrap_or_default();
        launch["reference"] == *self.references[n]
            && match n {
                0 => {
                    has("kernel", &self.image.kernel)
                        && has("initrd", &self.image.initrd)
                        && has("disk-root", &self.image.root)
                }
                _ => has("disk-root", &self.disk),
            }
    }
}

/// What was told of an update.
struct Told<'a> {
    next: &'a Edition,
    runs: Cell<[bool; 2]>,
    failed: RefCell<Vec<Value>>,
}

impl<'a> Told<'a> {
    fn of(next: &'a Edition) -> Self {
        Self { next, runs: Cell::default(), failed: RefCell::default() }
    }

    fn take(&self, event: &Value) {
        let text = event["message"].as_str().unwrap();
        match event["event"].as_str().unwrap() {
            "failed" => self.failed.borrow_mut().push(event.clone()),
            "activated" => {
                let [default, packed] = self.runs.get();
                let [first, second] = &self.next.references;
                self.runs.set([default || text.contains(first), packed || text.contains(second)]);
            }
            _ => {}
        }
    }

    fn is_done(&self) -> bool {
        self.runs.get() == [true; 2]
    }

    fn until_done(&self, node: &Node) {
        if !self.is_done() {
            node.until(&format!("activated {}", self.next.tag), |event| {
                self.take(event);
                self.is_done()
            });
        }
    }

    fn until_failed(&self, node: &Node) {
        node.until("failed", |event| {
            self.take(event);
            !self.failed.borrow().is_empty()
        });
    }
}

/// How an update went in which the disk failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Went {
    /// The error was in the status, and the update was made once the disk was well.
    Failed,
    /// The update was made all the same.
    On,
}

pub struct Trial {
    registry: Registry,
    pub node: Node,
    disk: Disk,
    editions: [Edition; 2],
    now: usize,
}

impl Trial {
    pub fn new() -> Self {
        let registry = Registry::http();
        // Nothing is kept, so that each update has something to collect; the limit brings its note with it.
        let config = "[cache]\nkeep = 0\nreserve = \"0B\"\n[transfer]\nmax_wire_bytes = \"1GiB\"\n";
        let mut node = Node::with_config(config);
        let disk = Disk::under(&mut node);
        let editions = ["even", "odd"].map(|tag| Edition::publish(&registry, tag));
        for edition in &editions {
            disk.call(&edition.image.root, "large");
            disk.call(&edition.layer, "layer");
            disk.call(&edition.disk, "unpacked");
        }
        node.desire(&editions[0].desired());
        node.start();
        let trial = Self { registry, node, disk, editions, now: 0 };
        Told::of(&trial.editions[0]).until_done(&trial.node);
        trial.until_tidy();
        trial
    }

    /// Each workload's `current` has one of the editions, whole.
    pub fn is_whole(&self) {
        for (n, name) in WORKLOADS.iter().enumerate() {
            let mut links = vec![format!("workloads/{name}/current")];
            links.extend((n == 0).then(|| "current".to_owned()));
            for link in links {
                let link = self.node.state_dir().join(link);
                let mut target = fs::read_link(&link).unwrap();
                while !self.editions.iter().any(|edition| edition.is_in(n, &link)) {
                    // It may have been swapped meanwhile, and what it pointed at been collected.
                    let now = fs::read_link(&link).unwrap();
                    assert_ne!(now, target, "{} is not whole; {}", link.display(), self.node.log());
                    target = now;
                }
            }
        }
    }

    /// What is left of a failure goes with the next round, at the latest.
    pub fn until_tidy(&self) {
        assert!(self.node.eci(&["reconcile"]).status.success());
        // What was in use at one collection goes with the next.
        wait_until("tidy", &self.node, || {
            assert!(self.node.eci(&["gc"]).status.success());
            rubbish(&self.node.state_dir()).is_empty()
        });
    }

    /// What the other edition is that the next update is to.
    pub fn next(&self) -> &Edition {
        &self.editions[1 - self.now]
    }

    /// One update to the other edition, whatever becomes of the disk meanwhile; what was said of failures.
    pub fn go(&mut self) -> Vec<Value> {
        self.now = 1 - self.now;
        let next = &self.editions[self.now];
        self.node.desire(&next.desired());
        let told = Told::of(next);
        told.until_done(&self.node);
        self.is_whole();
        told.failed.take()
    }

    /// All steps of an update in which nothing fails, and of the collection after it.
    fn steps(&mut self) -> Vec<String> {
        self.disk.taken();
        self.go();
        self.until_tidy();
        distinct(self.disk.taken())
    }

    /// One update to the other edition, with a disk that has `fault`.
    fn update(&mut self, fault: &Fault) -> Went {
        let before = self.node.log().len();
        self.registry.take_log();
        self.now = 1 - self.now;
        let next = &self.editions[self.now];
        self.disk.fail(fault);
        self.node.desire(&next.desired());
        let told = Told::of(next);
        if fault.is_lasting() && (saves_the_state(fault) || !may_go_on(fault)) {
            told.until_failed(&self.node);
            self.is_whole();
            let status = self.node.status();
            let is_it = |error: &Value| error["kind"] == named(fault.with).0;
            let has_failed = |name: &&str| is_it(&status["workloads"][name]["error"]);
            // What a finished download noted is not removed again: the next try gets through.
            let is_taken_again = !fault.step.starts_with("remove partial/");
            let is_shown = is_it(&status["agent"]["error"]) || WORKLOADS.iter().any(has_failed);
            assert!(!is_taken_again || is_shown, "{fault:?}: {status}");
            self.disk.heal();
        }
        told.until_done(&self.node);
        wait_until(&format!("struck by {fault:?}"), &self.node, || self.disk.strikes() > 0);
        self.disk.heal();
        for (n, name) in WORKLOADS.iter().enumerate() {
            let current = self.node.state_dir().join("workloads").join(name).join("current");
            assert!(next.is_in(n, &current), "{fault:?}: {}", self.node.log());
        }
        let failed = told.failed.take();
        self.is_said(fault, &failed, before);
        self.has_paid_once(fault);
        // Downloads that nobody wants are looked for when an update ends, and only then.
        if fault.step.starts_with("remove partial/") {
            self.steps();
        }
        self.until_tidy();
        if failed.is_empty() { Went::On } else { Went::Failed }
    }

    /// An update to the other edition that is killed before `step`, and the way back to what ran before.
    fn interrupt(&mut self, step: &str) {
        self.disk.kill_before(step, self.node.pid());
        self.node.desire(&self.editions[1 - self.now].desired());
        wait_until(&format!("killed before {step}"), &self.node, || self.disk.has_killed());
        self.node.kill();
        self.is_whole();
        let back = &self.editions[self.now];
        self.node.desire(&back.desired());
        self.node.start();
        wait_until("back", &self.node, || {
            let status = self.node.status();
            let mut all = WORKLOADS.iter().zip(&back.references);
            all.all(|(name, reference)| {
                let workload = &status["workloads"][name];
                workload["phase"] == "active" && workload["current"]["reference"] == **reference
            })
        });
        self.is_whole();
        self.until_tidy();
        // The start may have laid out what was desired before it was told to go back; that is for the next update.
        if WORKLOADS.iter().any(|name| names(&self.node.state_dir().join("generations").join(name)).len() > 1) {
            self.go();
            self.until_tidy();
        }
    }

    /// Every failure is the one that was, by its kind, its path and what is to be done. The log from `before` on has it.
    fn is_said(&self, fault: &Fault, failed: &[Value], before: usize) {
        let (kind, advice) = named(fault.with);
        let struck: Vec<String> = self.disk.struck(&self.node.state_dir());
        let is_it = |text: &str| text.contains(advice) && struck.iter().any(|place| text.contains(place));
        for failed in failed {
            assert!(
                failed["kind"] == kind && is_it(failed["message"].as_str().unwrap()),
                "{fault:?}: {struck:?} {failed}"
            );
        }
        assert!(!failed.is_empty() || may_go_on(fault), "{fault:?}: {}", &self.node.log()[before..]);
        // What a download notes of itself is noted again with the next piece. It may be said a moment after it was.
        let is_noted = || fault.step.ends_with(".written") || self.node.log()[before..].lines().any(is_it);
        wait_until(&format!("said of {fault:?} at {struck:?}"), &self.node, is_noted);
    }

    /// No byte comes twice but those of a download that was given up, and those on their way when one broke off.
    fn has_paid_once(&self, fault: &Fault) {
        let edition = &self.editions[self.now];
        let is_download = fault.step.contains(" partial/");
        for bytes in [&edition.image.root, &edition.image.initrd, &edition.layer] {
            let paid = self.registry.body_bytes(&On::blobs().get().reference(&digest(bytes)));
            let tries = if is_download { 1 + self.disk.strikes() as u64 } else { 1 };
            assert!(paid <= bytes.len() as u64 * tries, "{fault:?}: {paid} of {} bytes", bytes.len());
        }
        // What was read back after a sync that failed may be in memory only.
        for (step, bytes) in [("sync partial/large", &edition.image.root), ("sync partial/layer", &edition.layer)] {
            let paid = self.registry.body_bytes(&On::blobs().get().reference(&digest(bytes)));
            assert!(
                fault.step != step || paid == bytes.len() as u64 * (1 + self.disk.strikes() as u64),
                "{fault:?}: {paid}"
            );
        }
    }
}

/// Whether the update goes on all the same: the step is a note that only helps, of the collection, or saves the state.
fn may_go_on(fault: &Fault) -> bool {
    let (operation, path) = fault.step.rsplit_once(' ').unwrap();
    // Without its lease file, a generation boots without a lease. One that is left goes with the next collection.
    let is_lease = path.starts_with("leases");
    let is_note =
        is_lease || path.contains(".wire") || path.ends_with(".written") && operation == "write" || path == "partial";
    let is_collection = path.ends_with(".retired")
        || operation == "remove"
            && (path.ends_with("previous")
                || path == "cache/unpacked/layer.json"
                || path.starts_with("cache/blobs/") && !path.ends_with("layer") && !path.contains("/."));
    // Of the state directory itself, it is the state that is saved first; the links are swapped later.
    is_note || is_collection || saves_the_state(fault) || path.is_empty() && !fault.is_lasting()
}

/// Whether the step saves the state: for as long as it fails, nothing is begun that the state has to know.
fn saves_the_state(fault: &Fault) -> bool {
    fault.step.ends_with("state.json") || fault.step.ends_with(".state.json.new")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_gets_over_a_disk_that_fails_at_any_step() {
    let mut trial = Trial::new();
    let steps = trial.steps();
    let mut trials = Vec::new();
    for (n, step) in steps.iter().enumerate() {
        let faults = faults(step);
        let (of, is_lasting) = (n % faults.len(), (n / faults.len()).is_multiple_of(2));
        for (m, with) in faults.into_iter().enumerate() {
            let all = [Fault::once(step, with), Fault::lasting(step, with)];
            trials.extend(all.into_iter().filter(|fault| is_full() || (m == of && fault.is_lasting() == is_lasting)));
            if step == "write partial/large" {
                trials.push(Fault { after: 40, ..Fault::once(step, with) });
            }
        }
    }
    let mut went = BTreeMap::new();
    for fault in &trials {
        *went.entry((named(fault.with).0, fault.is_lasting(), trial.update(fault))).or_insert(0) += 1;
    }
    println!("{} steps", steps.len());
    for ((kind, is_lasting, went), count) in went {
        println!("{kind}, {}: {went:?}, {count} times", if is_lasting { "until it was mended" } else { "once" });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_step_of_an_update_leaves_nothing_that_stays() {
    let mut trial = Trial::new();
    let steps = trial.steps();
    let leaves_something = |step: &&String| is_full() || step.starts_with("write ");
    let steps: Vec<_> = steps.iter().filter(leaves_something).collect();
    for step in &steps {
        trial.interrupt(step);
    }
    println!("killed {} times", steps.len());
}
