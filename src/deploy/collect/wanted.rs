//! What the workloads want, kept up to date by the agent's loop and read by collections beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::desired::WorkloadName;
use crate::oci::Digest;

/// What is wanted of a state directory beside what its links point at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// The workloads that there are, and how their generations stand.
    pub workloads: BTreeMap<WorkloadName, Standing>,
    /// The manifests of the images that they are on their way to.
    pub manifests: BTreeSet<Digest>,
    /// The indexes that those were chosen from.
    pub indexes: BTreeSet<Digest>,
    /// Whether some workload wants an image that is not known yet: what an earlier run has fetched of it may be any blob.
    pub is_unsure: bool,
}

/// What a workload has to do with its generations, beside those that its links point at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The numbers of those that are to become `current`.
    pub awaited: BTreeSet<u64>,
    /// The highest number that it is known to have used: what has a higher one is just being made.
    pub last: u64,
    /// Whether `previous` is all that there is to go back to, whatever is to be kept.
    pub needs_previous: bool,
}

impl Standing {
    /// Whether a generation may become `current`.
    pub fn awaits(&self, generation: u64) -> bool {
        generation > self.last || self.awaited.contains(&generation)
    }
}

/// The wants as they are now. Cheap to clone; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Wanted(Arc<Mutex<Wants>>);

impl Wanted {
    /// Wants this from now on. To be called before anything is done about it, so that no collection takes it for rubbish.
    pub fn set(&self, wants: Wants) {
        *self.lock() = wants;
    }

    /// The wants. For as long as this is held, nobody wants anything else.
    pub fn lock(&self) -> MutexGuard<'_, Wants> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
