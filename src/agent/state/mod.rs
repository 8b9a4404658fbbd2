//! What the agent knows: values only.

mod activity;
mod generation;
mod health;
mod phase;
mod probation;
mod quarantine;
mod retirement;
mod trouble;
mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use activity::{Activation, Activity, Job, Way};
pub use generation::Generation;
pub use health::Health;
pub use phase::Phase;
pub use probation::Probation;
pub use quarantine::{Quarantine, Quarantined};
pub use retirement::Retirement;
pub use trouble::Trouble;
pub use workload::Workload;

use crate::deploy::{GenerationName, Wants};
use crate::desired::{Spec, WorkloadName};
use crate::oci::Digest;

/// Everything that the agent knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The desired state that is in force.
    pub accepted: Option<Accepted>,
    /// Why the desired-state file, as it is now, is not in force.
    pub rejected: Option<Trouble>,
    /// The workloads, those that are being retired included.
    pub workloads: BTreeMap<WorkloadName, Workload>,
    /// The highest numbers of generations that retired workloads used, for when they are named again.
    pub retired: BTreeMap<WorkloadName, u64>,
    /// No number up to this one is free for a workload that is named nowhere else: `retired` keeps so many and no more.
    pub forgotten: u64,
    /// The number of the last job; numbers are never used twice.
    pub last_job: u64,
}

/// Which text was accepted, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Digest of the file's bytes.
    pub sha256: Digest,
    /// When it came into force.
    pub at: Timestamp,
}

/// How many retired workloads are remembered by name: as many as can be desired.
const MAX_RETIRED: usize = 256;

impl State {
    /// The highest number that a workload which is not among `workloads` may have used.
    pub(in crate::agent) fn last_generation_of(&self, name: &WorkloadName) -> u64 {
        self.retired.get(name).copied().unwrap_or(self.forgotten)
    }

    /// Forgets a workload but for the highest number that it used. Of too many, those go that used the fewest.
    pub(in crate::agent) fn retire(&mut self, name: &WorkloadName) {
        if let Some(workload) = self.workloads.remove(name) {
            self.retired.insert(name.clone(), workload.last_generation);
        }
        while self.retired.len() > MAX_RETIRED
            && let Some((name, last)) = self.retired.iter().min_by_key(|(_, last)| **last)
        {
            let (name, last) = (name.clone(), *last);
            self.forgotten = self.forgotten.max(last);
            self.retired.remove(&name);
        }
    }

    /// Times that have been.
    pub(in crate::agent) fn times(&self) -> impl Iterator<Item = Timestamp> {
        let activated = |workload: &Workload| workload.current.as_ref().and_then(|current| current.activated_at);
        self.accepted.iter().map(|accepted| accepted.at).chain(self.workloads.values().filter_map(activated))
    }

    /// When the next workload wakes by itself.
    pub fn next_wake(&self) -> Option<Duration> {
        let retirements = self.workloads.values().filter_map(|workload| self.retires_at(workload));
        self.workloads.values().filter_map(Workload::next_wake).chain(retirements).min()
    }

    /// The time at which `workload` is retired, on the boot clock. While the desired-state file is rejected, no
    /// workload is retired: the file may be about to name it again.
    pub(in crate::agent) fn retires_at(&self, workload: &Workload) -> Option<Duration> {
        workload.retirement.filter(|_| self.rejected.is_none()).and_then(|retirement| retirement.ends_at)
    }

    /// The manifests of all images that workloads are on their way to. None where that is not known: a workload is to have
    /// another image than it runs, and has not been looked at yet, or its image is just being found out.
    pub fn wanted(&self) -> Option<BTreeSet<Digest>> {
        let is_unknown = |workload: &Workload| {
            let is_new = matches!(workload.activity, Activity::Idle | Activity::Resolving(_));
            let runs = workload.current.as_ref().map(|current| &current.reference);
            let is_another = workload.spec.as_ref().is_some_and(|spec| runs != Some(&spec.reference));
            is_new && is_another && workload.after.is_none()
        };
        let after = || self.workloads.values().filter_map(|workload| workload.after).collect();
        (!self.workloads.values().any(is_unknown)).then(after)
    }

    /// What is wanted of the state directory, for those who remove what is not.
    pub(in crate::agent) fn wants(&self) -> Wants {
        let manifests = self.wanted();
        let is_on_its_way = |workload: &&Workload| workload.after.is_some();
        let indexes = self.workloads.values().filter(is_on_its_way).filter_map(|workload| workload.target.as_ref());
        Wants {
            workloads: self.workloads.iter().map(|(name, workload)| (name.clone(), workload.standing())).collect(),
            is_unsure: manifests.is_none(),
            manifests: self.workloads.values().filter_map(|workload| workload.after).collect(),
            indexes: indexes.filter_map(|target| target.index_digest).collect(),
        }
    }

    /// What the records of generations are known to be.
    pub(in crate::agent) fn records(&self) -> BTreeMap<GenerationName, Digest> {
        let records = |(name, workload): (&WorkloadName, &Workload)| {
            let name = name.clone();
            workload.records().into_iter().map(move |(number, record)| ((name.clone(), number), record))
        };
        self.workloads.iter().flat_map(records).collect()
    }

    /// The desired state that is in force, as the file says it.
    pub fn specs(&self) -> BTreeMap<WorkloadName, Spec> {
        self.workloads.iter().filter_map(|(name, workload)| Some((name.clone(), workload.spec.clone()?))).collect()
    }
}
