//! What can happen, and what can be done about it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::agent::state::{Generation, Way};
use crate::deploy::Launch;
use crate::desired::{Reading, Spec, WorkloadName};
use crate::failure::Failure;
use crate::oci::Digest;
use crate::transfer::{Plan, Target};

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The agent has started.
    Started,
    /// The desired-state file was read.
    Desired(Result<Reading, Failure>),
    /// A step of a job ended.
    Step {
        /// Whose job it is.
        workload: WorkloadName,
        /// The job's number.
        job: u64,
        /// How it ended.
        outcome: Result<Outcome, Failure>,
    },
    /// The links of a workload without a job, or the generations that they point at, are not what they were.
    Found {
        /// The workload.
        workload: WorkloadName,
        /// What `current` points at, where that is complete.
        current: Option<Box<Generation>>,
        /// What `previous` points at, where that is complete.
        previous: Option<Box<Generation>>,
    },
    /// Someone asks to look again now, at one workload or at all.
    Reconcile(Option<WorkloadName>),
    /// An operator ends the time of every pending retirement. The digest is that of the desired state which the
    /// operator looked at.
    Retire(Digest),
    /// Someone lets a staged generation pass, or has an image tried again that was rolled back.
    Activate(WorkloadName),
    /// Someone says that what runs is right.
    Confirm(WorkloadName),
    /// Someone wants back what ran before.
    RollBack(WorkloadName),
    /// What a generation runs was checked.
    Checked {
        /// Whose it is.
        workload: WorkloadName,
        /// Its number.
        generation: u64,
        /// What is wrong, for a person.
        result: Result<(), String>,
    },
    /// The hook after an activation has been run.
    Announced {
        /// Whose it was.
        workload: WorkloadName,
        /// The generation that it was run for.
        generation: u64,
        /// How it ended.
        result: Result<(), Failure>,
    },
    /// What runs is checked in another way from now on, or not at all.
    ChecksChanged,
    /// Time went by.
    Tick,
    /// Somebody set the clock.
    ClockSet,
}

/// What a step that succeeded brought.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// What the reference leads to.
    Resolved(Arc<Target>),
    /// What has to be fetched.
    Planned(Plan),
    /// The blobs are in the cache.
    Fetched,
    /// They are right.
    Verified,
    /// These were not, or have gone since they were planned.
    Missing(Vec<Digest>),
    /// A generation is laid out.
    Materialized(Box<Launch>),
    /// The hook has let a generation pass.
    Agreed,
    /// `current` points at it.
    Activated,
    /// The links are gone.
    Retired,
}

/// Something to do. Jobs report back with [`Event::Step`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are what the step needs")]
pub enum Action {
    /// Write the state to disk, before any later action. Where that fails, steps fail for the same reason, and are tried
    /// again as after any failure, until the state is on disk.
    Save,
    /// Give up a job; its result, if it still comes, does not count.
    Cancel { job: u64 },
    /// Find out what a reference leads to.
    Resolve { workload: WorkloadName, job: u64, spec: Spec },
    /// Compare an image with the cache.
    Plan { workload: WorkloadName, job: u64, target: Arc<Target> },
    /// Fetch the missing blobs.
    Fetch { workload: WorkloadName, job: u64, spec: Spec, target: Arc<Target>, plan: Plan },
    /// Read what was in the cache before.
    Verify { workload: WorkloadName, job: u64, target: Arc<Target> },
    /// Lay out a generation.
    Materialize { workload: WorkloadName, job: u64, spec: Spec, target: Arc<Target>, after: u64 },
    /// Show a generation to the hook that may refuse it.
    Ask { workload: WorkloadName, job: u64, generation: u64, replaces: Option<u64> },
    /// Swap the links: `current` to the generation, if it is complete, and `previous` to what it says; where it says
    /// nothing, that link goes.
    Activate { workload: WorkloadName, job: u64, generation: u64, previous: Option<u64>, way: Way },
    /// Run the hook that follows an activation. It is no job: nothing waits for it.
    Announce { workload: WorkloadName, generation: u64, replaced: Option<u64>, way: Way },
    /// Repair what is damaged on disk, as far as that can be had.
    Repair,
    /// Remove the links.
    Retire { workload: WorkloadName, job: u64 },
    /// Give up downloads but for those of the images with these manifests, which alone are wanted.
    Sweep { wanted: BTreeSet<Digest> },
}

impl Action {
    /// Whose step it begins, and of which job; none where it is no step.
    pub(in crate::agent) fn step(&self) -> Option<(&WorkloadName, u64)> {
        match self {
            Self::Save | Self::Cancel { .. } | Self::Sweep { .. } | Self::Announce { .. } | Self::Repair => None,
            Self::Resolve { workload, job, .. }
            | Self::Plan { workload, job, .. }
            | Self::Fetch { workload, job, .. }
            | Self::Verify { workload, job, .. }
            | Self::Materialize { workload, job, .. }
            | Self::Ask { workload, job, .. }
            | Self::Activate { workload, job, .. }
            | Self::Retire { workload, job } => Some((workload, *job)),
        }
    }
}

/// Why an event changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// It is the result of a job that was given up.
    #[error("job {0} was given up")]
    Stale(u64),
    /// It names a workload that does not exist.
    #[error("there is no workload {0}")]
    UnknownWorkload(WorkloadName),
    /// Someone asks for what makes no sense now.
    #[error("workload {workload}: {why}")]
    Refused {
        /// The workload.
        workload: WorkloadName,
        /// Why, and what could be done instead.
        why: String,
    },
    /// Another desired state is in force than the one that a request is about.
    #[error("the desired state {} is not in force: another one was accepted meanwhile; apply the file again", .0.short())]
    OtherDesired(Digest),
    /// It was decided, and could not be saved: a crash undoes it.
    #[error("it was decided, but cannot be saved, so that a crash would undo it: {0}")]
    Unsaved(Failure),
    /// The agent ends.
    #[error("the agent is ending: ask again once it runs")]
    Ending,
    /// It does not follow from what is being done.
    #[error("workload {workload} is {phase}: {event} is out of place")]
    OutOfPlace {
        /// The workload.
        workload: WorkloadName,
        /// Its phase.
        phase: &'static str,
        /// What came.
        event: &'static str,
    },
}

impl Outcome {
    /// The name of it, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Resolved(_) => "resolved",
            Self::Planned(_) => "planned",
            Self::Fetched => "fetched",
            Self::Verified => "verified",
            Self::Missing(_) => "missing",
            Self::Materialized(_) => "materialized",
            Self::Agreed => "agreed",
            Self::Activated => "activated",
            Self::Retired => "retired",
        }
    }
}
