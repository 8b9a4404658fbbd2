//! How much of the network one update may take.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What one update has taken so far, over all of its tries, and the most that it may take.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    spent: AtomicU64,
}

impl Budget {
    /// At most `limit` bytes, of which `spent` are gone.
    pub fn new(limit: u64, spent: u64) -> Self {
        Self { limit, spent: spent.into() }
    }

    /// The most that it may take, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// What it has taken, in bytes.
    pub fn spent(&self) -> u64 {
        self.spent.load(Relaxed)
    }

    /// Counts bytes that came.
    pub(super) fn spend(&self, bytes: u64) {
        self.spent.fetch_add(bytes, Relaxed);
    }

    /// Whether nothing of it is left.
    pub(super) fn is_used_up(&self) -> bool {
        self.spent() >= self.limit
    }
}
