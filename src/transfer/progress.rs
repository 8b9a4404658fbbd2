//! How far a transfer is, told while it goes on.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Budget;

/// Counters that a transfer advances and a status reads.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    /// How long it took, once it has ended.
    took: OnceLock<Duration>,
    total: AtomicU64,
    reused: AtomicU64,
    wire: AtomicU64,
    budget: Option<Arc<Budget>>,
}

/// A reading of the counters, in bytes, bytes a second and seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProgressNow {
    /// Length of the whole image.
    pub bytes_total: u64,
    /// How much of it is on disk.
    pub bytes_done: u64,
    /// How much crossed the network.
    pub wire_bytes: u64,
    /// How much was there already.
    pub reused_bytes: u64,
    /// Mean speed since the transfer began.
    pub bytes_per_s: u64,
    /// How long the rest takes at that speed; none while there is no speed.
    pub eta_s: Option<u64>,
}

impl Progress {
    /// A transfer of `total` bytes, of which `reused` need not be fetched.
    pub fn new(total: u64, reused: u64) -> Self {
        Self {
            started: Instant::now(),
            took: OnceLock::new(),
            total: total.into(),
            reused: reused.into(),
            wire: 0.into(),
            budget: None,
        }
    }

    /// The same, with a limit on what may cross the network.
    #[must_use]
    pub fn within(self, budget: Option<Arc<Budget>>) -> Self {
        Self { budget, ..self }
    }

    /// The same, for what one update has to fetch after `before` has ended: what crossed the network then still does, and was not
    /// there already.
    #[must_use]
    pub fn going_on_from(self, before: &Self) -> Self {
        let (wire, reused) = (before.wire.load(Relaxed), self.reused.load(Relaxed));
        let took = before.took.get().copied().unwrap_or_else(|| before.started.elapsed());
        let started = self.started.checked_sub(took).unwrap_or(self.started);
        Self { started, wire: wire.into(), reused: reused.saturating_sub(wire).into(), ..self }
    }

    /// Whether anything more may cross the network; the error is the limit in bytes, which is used up.
    pub(super) fn check_budget(&self) -> Result<(), u64> {
        match &self.budget {
            Some(budget) if budget.is_used_up() => Err(budget.limit()),
            _ => Ok(()),
        }
    }

    /// Counts bytes of a partial download that are taken up.
    pub fn reuse(&self, bytes: u64) {
        self.reused.fetch_add(bytes, Relaxed);
    }

    /// Takes back bytes that turned out to be of no use: the source sends them again.
    pub fn give_up(&self, bytes: u64) {
        let _ = self.reused.fetch_update(Relaxed, Relaxed, |reused| Some(reused.saturating_sub(bytes)));
    }

    /// Begins again, with `offset` bytes on the other side.
    pub fn restart_at(&self, offset: u64) {
        self.reused.store(offset, Relaxed);
        self.wire.store(0, Relaxed);
    }

    /// Counts bytes that came over the wire.
    pub fn receive(&self, bytes: u64) {
        self.wire.fetch_add(bytes, Relaxed);
        if let Some(budget) = &self.budget {
            budget.spend(bytes);
        }
    }

    /// All that was needed is there: what is not turned out not to be.
    pub fn complete(&self) {
        let there = self.reused.load(Relaxed).saturating_add(self.wire.load(Relaxed));
        self.total.fetch_min(there, Relaxed);
    }

    /// The transfer has ended, well or not: the clock stops.
    pub fn finish(&self) {
        let _ = self.took.set(self.started.elapsed());
    }

    /// Reads the counters now.
    pub fn now(&self) -> ProgressNow {
        self.after(self.took.get().copied().unwrap_or_else(|| self.started.elapsed()))
    }

    fn after(&self, elapsed: Duration) -> ProgressNow {
        let (total, reused, wire) = (self.total.load(Relaxed), self.reused.load(Relaxed), self.wire.load(Relaxed));
        let done = reused.saturating_add(wire).min(total);
        let milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
        let speed = wire.saturating_mul(1000) / milliseconds;
        ProgressNow {
            bytes_total: total,
            bytes_done: done,
            wire_bytes: wire,
            reused_bytes: reused,
            bytes_per_s: speed,
            eta_s: (speed > 0).then(|| (total - done).div_ceil(speed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_update_fetches_in_parts_counts_once() {
        let before = Progress::new(1000, 700);
        before.receive(300);
        before.finish();
        // Of what was there, 200 turn out to be damaged.
        let progress = Progress::new(1000, 800).going_on_from(&before);
        let now = progress.now();
        assert_eq!((now.bytes_done, now.reused_bytes, now.wire_bytes), (800, 500, 300));
        progress.receive(200);
        let now = progress.now();
        assert_eq!((now.bytes_done, now.reused_bytes, now.wire_bytes), (1000, 500, 500));
    }

    #[test]
    fn speed_and_rest_come_from_what_crossed_the_wire() {
        let progress = Progress::new(1000, 100);
        assert_eq!(progress.after(Duration::from_secs(1)).eta_s, None);
        progress.receive(300);
        let now = progress.after(Duration::from_secs(2));
        assert_eq!((now.bytes_done, now.bytes_per_s, now.eta_s), (400, 150, Some(4)));
        progress.complete();
        let now = progress.after(Duration::from_secs(2));
        assert_eq!((now.bytes_done, now.bytes_total, now.eta_s), (400, 400, Some(0)));
    }
}
