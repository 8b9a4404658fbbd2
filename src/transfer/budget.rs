//! How much of the network one update may take.

use std::future::Future;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::blocking;
use crate::durable::{DurableError, open_file, write_atomic};

/// In how many steps the limit is noted: a kill or a power cut forgets one of them.
const STEPS: u64 = 64;
/// The note is nobody else's business.
const MODE: u32 = 0o600;
/// As many bytes as a note has at most: the digits of a number.
const LONGEST_NOTE: u64 = 20;

/// What one update has taken so far, over all of its tries and restarts of the agent, and the most that it may take.
#[derive(Debug)]
pub struct Budget {
    limit: AtomicU64,
    spent: AtomicU64,
    note: PathBuf,
    /// What the note says.
    noted: Mutex<u64>,
    /// Another step is gone.
    due: Notify,
}

impl Budget {
    /// At most `limit` bytes. Gone is what the note at `note` says, which is kept up from now on; at the least, that is
    /// `landed` bytes. Blocks.
    pub fn open(note: &Path, limit: u64, landed: u64) -> Self {
        let noted = read(note).unwrap_or(0);
        Self {
            limit: limit.into(),
            spent: noted.max(landed).into(),
            note: note.to_owned(),
            noted: noted.into(),
            due: Notify::new(),
        }
    }

    /// From now on, at most `limit` bytes.
    pub fn allow(&self, limit: u64) {
        self.limit.store(limit, Relaxed);
    }

    /// The most that it may take, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit.load(Relaxed)
    }

    /// What it has taken, in bytes.
    pub fn spent(&self) -> u64 {
        self.spent.load(Relaxed)
    }

    /// Counts bytes that came.
    pub(super) fn spend(&self, bytes: u64) {
        let before = self.spent.fetch_add(bytes, Relaxed);
        let step = (self.limit() / STEPS).max(1);
        if before / step < before.saturating_add(bytes) / step {
            self.due.notify_one();
        }
    }

    /// Whether nothing of it is left.
    pub(super) fn is_used_up(&self) -> bool {
        self.spent() >= self.limit()
    }

    /// Runs `fetching` to its end, and beside it keeps the note up.
    pub async fn keep<T>(self: &Arc<Self>, fetching: impl Future<Output = T>) -> T {
        let noting = async {
            loop {
                self.due.notified().await;
                self.write_down().await;
            }
        };
        let mut fetching = pin!(fetching);
        let ended = tokio::select! {
            ended = &mut fetching => ended,
            never = noting => never,
        };
        self.write_down().await;
        ended
    }

    /// Without a note the limit still holds until the agent ends.
    async fn write_down(self: &Arc<Self>) {
        let budget = Arc::clone(self);
        if let Err(error) = blocking::run(move || budget.write()).await {
            tracing::warn!(%error, "a restart of the agent will not know what an update has taken of the network");
        }
    }

    fn write(&self) -> Result<(), DurableError> {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = self.spent();
        if *noted != spent {
            write_atomic(&self.note, spent.to_string().as_bytes(), MODE)?;
            *noted = spent;
        }
        Ok(())
    }
}

/// What a note says; nothing where it is none of ours.
fn read(note: &Path) -> Option<u64> {
    let mut text = String::new();
    open_file(note).ok()?.take(LONGEST_NOTE).read_to_string(&mut text).ok()?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_taken_is_known_to_the_next_run_and_not_counted_twice() {
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join("x.wire");
        let budget = Arc::new(Budget::open(&note, 1000, 0));
        budget.keep(async { budget.spend(300) }).await;
        // 200 of them lie in partial downloads, 100 became a blob or were wrong.
        let budget = Arc::new(Budget::open(&note, 1000, 200));
        assert_eq!(budget.spent(), 300);
        budget.keep(async { budget.spend(699) }).await;
        assert!(!budget.is_used_up());
        budget.keep(async { budget.spend(1) }).await;
        let budget = Budget::open(&note, 1000, 0);
        assert!(budget.is_used_up());
        budget.allow(1001);
        assert!(!budget.is_used_up());
    }

    #[tokio::test]
    async fn a_kill_forgets_one_step() {
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join("x.wire");
        let budget = Arc::new(Budget::open(&note, 6400, 0));
        let running = Arc::clone(&budget);
        let running = tokio::spawn(async move {
            let more = async {
                for _ in 0..10 {
                    running.spend(99);
                    tokio::task::yield_now().await;
                }
                std::future::pending::<()>().await;
            };
            running.keep(more).await;
        });
        while Budget::open(&note, 6400, 0).spent() < 900 {
            tokio::task::yield_now().await;
        }
        running.abort();
        // More has landed than was noted.
        assert_eq!(Budget::open(&note, 6400, 2000).spent(), 2000);
    }

    #[test]
    fn a_note_that_is_none_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join("x.wire");
        for text in ["", "-1", "one", "99999999999999999999999"] {
            std::fs::write(&note, text).unwrap();
            assert_eq!(Budget::open(&note, 10, 3).spent(), 3, "{text}");
        }
    }
}
