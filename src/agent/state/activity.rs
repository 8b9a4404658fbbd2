//! What is being done about a workload.

use super::Generation;
use crate::desired::Spec;

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

/// Which way the links are swapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To what is desired.
    Forth,
    /// To what ran before.
    Back,
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
