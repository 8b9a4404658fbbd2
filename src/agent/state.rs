//! What the agent knows: values only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::event::Way;
use super::health::Health;
use super::probation::Probation;
use super::quarantine::Quarantine;
use crate::deploy::{GenerationName, Launch, Standing, Wants};
use crate::desired::{Disks, Spec, WorkloadName};
use crate::failure::{Failure, Kind};
use crate::oci::{Digest, Platform, Reference};
use crate::transfer::Target;

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

/// How many retired workloads are remembered by name: as many as can be desired.
const MAX_RETIRED: usize = 256;

impl State {
    /// The highest number that a workload which is not among `workloads` may have used.
    pub(super) fn last_generation_of(&self, name: &WorkloadName) -> u64 {
        self.retired.get(name).copied().unwrap_or(self.forgotten)
    }

    /// Forgets a workload but for the highest number that it used. Of too many, those go that used the fewest.
    pub(super) fn retire(&mut self, name: &WorkloadName) {
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
    pub(super) fn times(&self) -> impl Iterator<Item = Timestamp> {
        let activated = |workload: &Workload| workload.current.as_ref().and_then(|current| current.activated_at);
        self.accepted.iter().map(|accepted| accepted.at).chain(self.workloads.values().filter_map(activated))
    }
}

/// Which text was accepted, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Digest of the file's bytes.
    pub sha256: Digest,
    /// When it came into force.
    pub at: Timestamp,
}

/// One workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// What it should run; none where it is no longer desired.
    pub spec: Option<Spec>,
    /// What is being done about it.
    pub activity: Activity,
    /// What its reference was found to be, last.
    pub target: Option<Arc<Target>>,
    /// The manifest of the image that it was last on its way to, until it runs what is desired. It outlives a restart: what
    /// was downloaded of that image is kept.
    pub after: Option<Digest>,
    /// The generation that `current` points at.
    pub current: Option<Generation>,
    /// The generation that `previous` points at.
    pub previous: Option<Generation>,
    /// A generation that is complete, and waits to become `current`.
    pub staged: Option<Generation>,
    /// The number of a staged generation that a person has let pass.
    pub approved: Option<u64>,
    /// The times in which generations have to be confirmed, by their numbers: that of `current`, and of those that a link
    /// that is in doubt may point at. What is not here is final.
    pub probations: BTreeMap<u64, Probation>,
    /// What was rolled back, and is not tried again while the same is desired.
    pub quarantine: Quarantine,
    /// How the checks of `current` have gone.
    pub health: Health,
    /// The generation that the hooks after an activation have been run for, last.
    pub announced: Option<u64>,
    /// The highest number that it has given to a generation.
    pub last_generation: u64,
    /// Whether the links may not be what `current` says: swapping or removing them failed, perhaps half way.
    pub links_in_doubt: bool,
    /// Whether `current` points at what is not complete any more.
    pub is_damaged: bool,
    /// The image that was damaged, where that is known: what is put in its place waits for nobody.
    pub lost: Option<Digest>,
    /// What the records of generations are to be that were taken for lost, beside those that are known: a link may point at
    /// one still, and it is not to be trusted for what it says now.
    pub lost_records: BTreeMap<u64, Digest>,
    /// When it may be repaired as it is again, on the boot clock: each try reads all that is on disk.
    pub repair_after: Option<Duration>,
    /// What went wrong last, until something goes right.
    pub trouble: Option<Trouble>,
    /// When to start again without being asked, on the boot clock.
    pub wake_at: Option<Duration>,
}

impl Workload {
    /// The time in which `current` has to be confirmed; none where it is final.
    pub fn probation(&self) -> Option<&Probation> {
        self.current.as_ref().and_then(|current| self.probations.get(&current.number))
    }

    /// What the records of its generations are known to be, by their numbers.
    pub(super) fn records(&self) -> BTreeMap<u64, Digest> {
        let activating = match &self.activity {
            Activity::Activating(_, activation) => Some(&activation.generation),
            _ => None,
        };
        let known = [&self.previous, &self.staged, &self.current].into_iter().flatten().chain(activating);
        let known = known.filter_map(|generation| Some((generation.number, generation.record?)));
        self.lost_records.clone().into_iter().chain(known).collect()
    }

    /// Whether `current` was given up, and is still there.
    pub(super) fn is_to_leave_current(&self) -> bool {
        self.current.as_ref().is_some_and(|current| self.quarantine.has_generation(current.number))
    }

    /// Whether `generation` takes the place of a damaged one of the same image.
    pub(super) fn is_repaired_by(&self, generation: &Generation) -> bool {
        self.is_damaged && self.lost == Some(generation.digest)
    }

    /// Whether it is at something that changes the disk, and is left to end.
    pub(super) fn is_changing_the_disk(&self) -> bool {
        matches!(self.activity, Activity::Materializing(_) | Activity::Activating(..) | Activity::Retiring(_))
    }

    /// When it is to be looked after next, on the boot clock.
    fn next_wake(&self) -> Option<Duration> {
        // What changes the disk ends soon, and what is due is seen to then.
        let ends_at = self.probation().filter(|_| self.is_on_trial()).and_then(|probation| probation.ends_at);
        [self.wake_at, ends_at].into_iter().flatten().min()
    }

    /// What a collection has to know of it.
    fn standing(&self) -> Standing {
        let activating = match &self.activity {
            Activity::Activating(_, activation) => Some(activation.generation.number),
            _ => None,
        };
        Standing {
            // What runs is in it for when its link is lost.
            awaited: [&self.staged, &self.current]
                .into_iter()
                .flatten()
                .map(|one| one.number)
                .chain(activating)
                .collect(),
            last: self.last_generation,
            needs_previous: !self.probations.is_empty() || self.is_to_leave_current(),
        }
    }

    /// Whether it waits for something, or failed at something, that another time of day may mend.
    pub(super) fn waits_for_the_clock(&self) -> bool {
        let kind = self.trouble.as_ref().map(|trouble| trouble.kind);
        let waits = self.activity == Activity::Staged || matches!(kind, Some(Kind::Tls | Kind::ClockWrong));
        self.activity.job().is_none() && waits
    }
}

/// What is being done about a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    /// Nothing yet.
    #[default]
    Idle,
    /// The reference is being resolved.
    Resolving(Job),
    /// The image is being compared with the cache.
    Planning(Job),
    /// Blobs are on their way.
    Fetching(Job),
    /// What was in the cache before is read, as far as nobody has since the agent started.
    Verifying(Job),
    /// A generation is being laid out.
    Materializing(Job),
    /// A generation is ready, and waits for a person or for the window.
    Staged,
    /// A hook is asked whether it may be activated.
    Asking(Job, u64),
    /// `current` is being swapped.
    Activating(Job, Box<Activation>),
    /// What runs is what is desired.
    Active,
    /// The same, and the tag is being looked at again.
    Polling(Job),
    /// It failed, and will be tried again.
    Backoff,
    /// It failed, and waiting will not help.
    Blocked,
    /// Its links are being removed.
    Retiring(Job),
}

/// A swap of the links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// What `current` is to point at.
    pub generation: Generation,
    /// What `previous` is to point at.
    pub previous: Option<Generation>,
    /// Whether it is what is desired, or what ran before.
    pub way: Way,
}

/// One run of work for a workload, and the spec that it works towards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Tells this run from earlier ones, whose late results do not count.
    pub id: u64,
    /// What it works towards; none for a retirement.
    pub spec: Option<Spec>,
    /// Whether it has found blobs of the cache damaged, and has them fetched again.
    pub mends: bool,
}

/// A generation, as far as the state is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Its number.
    pub number: u64,
    /// The image, as the desired state wrote it.
    pub reference: Reference,
    /// The manifest's digest.
    pub digest: Digest,
    /// The digest of the index that the manifest was chosen from.
    pub index_digest: Option<Digest>,
    /// The platform that it was chosen for.
    pub platform: Platform,
    /// The kernel's command line.
    pub cmdline: Option<String>,
    /// What its guest may write to.
    pub disks: Disks,
    /// The digest of its record, `launch.json`.
    pub record: Option<Digest>,
    /// When `current` came to point at it; none while it never has.
    pub activated_at: Option<Timestamp>,
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The stable name.
    pub kind: Kind,
    /// The text for a person.
    pub message: String,
    /// When it first went wrong; later failures of the same kind keep it.
    pub since: Timestamp,
    /// How often in a row.
    pub attempts: u32,
    /// When it is tried again; none where it is not, by itself.
    pub retry_at: Option<Timestamp>,
}

impl Activity {
    /// The job that is under way.
    pub fn job(&self) -> Option<&Job> {
        match self {
            Self::Idle | Self::Staged | Self::Active | Self::Backoff | Self::Blocked => None,
            Self::Resolving(job)
            | Self::Planning(job)
            | Self::Fetching(job)
            | Self::Verifying(job)
            | Self::Materializing(job)
            | Self::Asking(job, _)
            | Self::Activating(job, _)
            | Self::Polling(job)
            | Self::Retiring(job) => Some(job),
        }
    }
}

impl Generation {
    /// The generation that `launch` describes.
    pub fn new(launch: &Launch, activated_at: Option<Timestamp>) -> Self {
        Self {
            number: launch.generation,
            reference: launch.reference.clone(),
            digest: launch.digest,
            index_digest: launch.index_digest,
            platform: launch.platform.clone(),
            cmdline: launch.cmdline.clone(),
            disks: launch.disks,
            record: launch.record,
            activated_at,
        }
    }

    /// Whether two descriptions are of the same generation, and say the same of it.
    pub(super) fn is_same(one: Option<&Self>, other: Option<&Self>) -> bool {
        let timeless = |generation: &Self| Self { activated_at: None, ..generation.clone() };
        one.map(timeless) == other.map(timeless)
    }

    /// Whether it is what `spec` asks for, as far as that can be told without asking what its reference leads to.
    pub fn suits(&self, spec: &Spec) -> bool {
        self.reference == spec.reference
            && self.platform == spec.platform()
            && self.cmdline == spec.cmdline
            && self.disks == spec.disks
    }

    /// Whether it is what `spec`, resolved to `target`, asks for.
    pub fn satisfies(&self, spec: &Spec, target: &Target) -> bool {
        self.suits(spec)
            && self.digest == target.manifest.digest
            && self.index_digest == target.index_digest
            && self.platform == target.platform
    }
}

impl Trouble {
    /// The first of its kind, or the next one after `before`.
    pub fn after(before: Option<&Self>, failure: &Failure, now: Timestamp, retry_at: Option<Timestamp>) -> Self {
        Self {
            kind: failure.kind,
            message: failure.message.clone(),
            since: before.filter(|before| before.kind == failure.kind).map_or(now, |before| before.since),
            attempts: before.map_or(1, |before| before.attempts.saturating_add(1)),
            retry_at,
        }
    }
}

impl State {
    /// When the next workload wakes by itself.
    pub fn next_wake(&self) -> Option<Duration> {
        self.workloads.values().filter_map(Workload::next_wake).min()
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
    pub(super) fn wants(&self) -> Wants {
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
    pub(super) fn records(&self) -> BTreeMap<GenerationName, Digest> {
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
