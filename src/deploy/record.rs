//! What generations are known to have said of themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::desired::WorkloadName;
use crate::oci::Digest;

/// A generation's workload and number.
pub type GenerationName = (WorkloadName, u64);

/// The digests of generations' records, as far as they are known. The agent's loop keeps them up to date, and all who read a
/// record compare. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Records(Arc<Mutex<BTreeMap<GenerationName, Digest>>>);

impl Records {
    /// Knows these from now on, and no others.
    pub(super) fn set(&self, records: BTreeMap<GenerationName, Digest>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = records;
    }

    /// Whether a record with the digest `found` may be what the generation has said: nothing else is known of it.
    pub(super) fn allow(&self, workload: &WorkloadName, generation: u64, found: &Digest) -> bool {
        let records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        records.get(&(workload.clone(), generation)).is_none_or(|known| known == found)
    }
}
