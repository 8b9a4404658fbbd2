//! Warnings that are logged once for each object, however often it is used.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Objects that are remembered; beyond that, warnings are left out: a registry can name any number of hosts.
const MAX_OBJECTS: usize = 100;

/// The objects that a warning was logged for.
#[derive(Debug, Default)]
pub(super) struct WarnOnce(Mutex<BTreeSet<String>>);

impl WarnOnce {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeSet::new()))
    }

    /// True the first time that it is asked for `object`.
    pub(super) fn is_first(&self, object: &str) -> bool {
        let mut objects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        objects.len() < MAX_OBJECTS && objects.insert(object.to_owned())
    }
}
