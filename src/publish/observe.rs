//! Who is told how far a push or a pull is.

use std::sync::Arc;

use crate::transfer::Progress;

/// Told of what is moved, one thing after another: each blob of a push, the image of a pull.
pub trait Observer: Send + Sync {
    /// What is called `name` begins to move; `progress` tells how far it is.
    fn begin(&self, name: &str, progress: &Arc<Progress>);
    /// It has ended, well or not.
    fn end(&self);
}

/// Bytes of a push or a pull.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Length of all blobs.
    pub bytes: u64,
    /// Bytes of them that were there already.
    pub reused: u64,
}

impl Moved {
    /// Adds a blob of `bytes`, of which `reused` were there already.
    pub(super) fn add(&mut self, bytes: u64, reused: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.reused = self.reused.saturating_add(reused.min(bytes));
    }
}

/// Nobody is told.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Observer for Silent {
    fn begin(&self, _name: &str, _progress: &Arc<Progress>) {}
    fn end(&self) {}
}
