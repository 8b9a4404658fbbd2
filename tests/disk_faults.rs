//! The disk fails at any step of what the agent does: what runs goes on, the error says what is wrong, and once the disk is
//! well again, what was wanted is done and nothing is left of what was not.

mod collection;
mod download;
mod retire;
mod start;
pub mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::agent::{Node, PATIENCE, files_below};
use crate::common::fault_points::{Answer, Point, arm};
use crate::common::registry::digest;

/// What a disk may fail with.
const FAULTS: [Answer; 5] = [
    Answer::Fail(Errno::ENOSPC),
    Answer::Fail(Errno::EIO),
    Answer::Fail(Errno::EDQUOT),
    Answer::Fail(Errno::EROFS),
    Answer::Short,
];

/// Whether every step is to meet every fault, and not only one.
pub fn is_full() -> bool {
    std::env::var_os("ECI_TEST_FULL").is_some()
}

/// What `step` may fail with: only a write can be short.
fn faults(step: &str) -> Vec<Answer> {
    let is_fit = |fault: &&Answer| **fault != Answer::Short || step.starts_with("write ");
    FAULTS.iter().filter(is_fit).copied().collect()
}

/// The kind of failure that it is, and what the message advises.
pub fn named(with: Answer) -> (&'static str, &'static str) {
    match with {
        Answer::Fail(Errno::ENOSPC) | Answer::Short => ("disk-full", "free some space"),
        Answer::Fail(Errno::EDQUOT) => ("disk-full", "raise the quota"),
        Answer::Fail(Errno::EROFS) => ("read-only", "mount it writable"),
        _ => ("io", "look for the reason in the kernel's log"),
    }
}

/// The disk under a node's agent. It does its work until it is told to fail.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// What blobs are called in steps.
    names: BTreeMap<String, &'static str>,
    /// The steps that were taken, in order.
    taken: Vec<String>,
    fault: Option<Fault>,
    /// What failed.
    struck: Vec<Point>,
    /// The step before which a process is killed.
    end: Option<(String, u32)>,
}

/// A step that fails.
#[derive(Clone, Debug)]
struct Fault {
    step: String,
    with: Answer,
    /// How often it is taken before that, and how often it fails.
    after: u32,
    times: u32,
}

impl Fault {
    fn once(step: &str, with: Answer) -> Self {
        Self { step: step.to_owned(), with, after: 0, times: 1 }
    }

    /// Until the disk is healed.
    fn lasting(step: &str, with: Answer) -> Self {
        Self { times: u32::MAX, ..Self::once(step, with) }
    }

    fn is_lasting(&self) -> bool {
        self.times > 1
    }
}

impl Disk {
    fn under(node: &mut Node) -> Self {
        let disk = Self::default();
        let inner = Arc::clone(&disk.0);
        arm(node, move |point| {
            if point.is_made {
                return Answer::Go;
            }
            inner.lock().unwrap_or_else(PoisonError::into_inner).answer(point)
        });
        disk
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls a blob by a name of its own in steps.
    fn call(&self, blob: &[u8], name: &'static str) {
        self.lock().names.insert(digest(blob).replace("sha256:", ""), name);
    }

    /// The steps that were taken since this was asked last, in order.
    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().taken)
    }

    /// From now on it has `fault`.
    fn fail(&self, fault: &Fault) {
        let mut inner = self.lock();
        inner.struck.clear();
        inner.fault = Some(fault.clone());
    }

    /// What failed, as errors have it: the operation, and the path in `state`.
    fn struck(&self, state: &Path) -> Vec<String> {
        let text = |point: &Point| {
            let path: PathBuf = state.join(&point.path).components().collect();
            format!("cannot {} {}", point.operation, path.display())
        };
        self.lock().struck.iter().map(text).collect()
    }

    fn strikes(&self) -> usize {
        self.lock().struck.len()
    }

    /// The process is killed before it takes `step` the next time.
    fn kill_before(&self, step: &str, pid: u32) {
        self.lock().end = Some((step.to_owned(), pid));
    }

    fn has_killed(&self) -> bool {
        self.lock().end.is_none()
    }

    fn heal(&self) {
        self.lock().fault = None;
    }
}

impl Inner {
    fn answer(&mut self, point: &Point) -> Answer {
        let step = self.step(point);
        self.taken.push(step.clone());
        if let Some((_, pid)) = self.end.take_if(|(last, _)| *last == step) {
            kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
        }
        let Some(fault) = self.fault.as_mut().filter(|fault| fault.step == step) else { return Answer::Go };
        if fault.after > 0 || fault.times == 0 {
            fault.after = fault.after.saturating_sub(1);
            return Answer::Go;
        }
        fault.times -= 1;
        self.struck.push(point.clone());
        fault.with
    }

    /// A point without what differs from run to run: numbers of generations, and digests.
    fn step(&self, point: &Point) -> String {
        let path: Vec<String> = point.path.iter().map(|name| self.plain(name.to_str().unwrap())).collect();
        format!("{} {}", point.operation, path.join("/"))
    }

    fn plain(&self, name: &str) -> String {
        let bare = name.trim_start_matches('.');
        let dots = &name[..name.len() - bare.len()];
        if let Some((hex, rest)) = bare.split_at_checked(64)
            && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
        {
            return format!("{dots}{}{rest}", self.names.get(hex).unwrap_or(&"small"));
        }
        let rest = bare.trim_start_matches(|character: char| character.is_ascii_digit());
        if rest.len() < bare.len() { format!("{dots}N{rest}") } else { name.to_owned() }
    }
}

/// Steps, each once, in the order in which they were first taken.
fn distinct(taken: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    taken.into_iter().filter(|step| seen.insert(step.clone())).collect()
}

pub fn wait_until(what: &str, node: &Node, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        let left = files_below(&node.state_dir());
        assert!(Instant::now() < deadline, "never {what}; {left:?}; {}", node.log());
        std::thread::yield_now();
    }
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_str().unwrap().to_owned()).collect()
}

/// What of a state directory nothing leads to: blobs that no generation has, leases of generations that are gone, what
/// was on its way, and what is not complete.
fn rubbish(state: &Path) -> Vec<String> {
    let mut wanted = BTreeSet::new();
    for workload in names(&state.join("generations")) {
        for number in names(&state.join("generations").join(&workload)) {
            let dir = state.join("generations").join(&workload).join(number);
            for name in ["manifest.json", "config.json"] {
                wanted.insert(digest(&fs::read(dir.join(name)).unwrap_or_default()));
            }
            let launch = fs::read(dir.join("launch.json")).unwrap_or_default();
            let launch: Value = serde_json::from_slice(&launch).unwrap_or_default();
            let files = launch["files"].as_array().into_iter().flatten();
            wanted.extend(files.map(|file| file["digest"].as_str().unwrap().to_owned()));
        }
    }
    let mut rubbish: Vec<String> = names(&state.join("cache/blobs/sha256"))
        .into_iter()
        .filter(|hex| !wanted.contains(&format!("sha256:{hex}")))
        .collect();
    let is_unfinished = |path: &&PathBuf| {
        let is_dotted = path.iter().any(|name| name.as_encoded_bytes().starts_with(b"."));
        path.starts_with("partial") || (is_dotted && *path != Path::new("generations/.highest-gone"))
    };
    let leases = files_below(&state.join("leases")).into_iter().filter(|path| path.as_os_str() != "_boot");
    rubbish.extend(
        leases.filter(|path| !state.join("generations").join(path).is_dir()).map(|path| path.display().to_string()),
    );
    rubbish.extend(files_below(state).iter().filter(is_unfinished).map(|path| path.display().to_string()));
    rubbish
}
