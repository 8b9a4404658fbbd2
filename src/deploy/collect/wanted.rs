//! What the workloads want, kept up to date by the agent's loop and read by collections beside it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::desired::WorkloadName;
use crate::oci::Digest;

/// What is wanted of a state directory beside what its links point at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// The workloads that there are.
    pub workloads: BTreeSet<WorkloadName>,
    /// The manifests of the images that they are on their way to.
    pub manifests: BTreeSet<Digest>,
    /// The indexes that those were chosen from.
    pub indexes: BTreeSet<Digest>,
    /// Whether some workload wants an image that is not known yet: what an earlier run has fetched of it may be any blob.
    pub is_unsure: bool,
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
