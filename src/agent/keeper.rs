//! The state directory as a whole: the state is kept on disk, and what others do to the directory is noticed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use nix::errno::Errno;
use nix::sys::statvfs::{FsFlags, statvfs};
use tokio::time::Instant;

use super::Event;
use super::context::Context;
use super::restore::differences;
use super::state::{State, Trouble};
use super::store::Store;
use super::transition::delay;
use crate::blocking;
use crate::deploy::{Generations, Links};
use crate::durable::{DirLock, DurableError};
use crate::failure::Failure;

/// How often the directory is looked at. A look reads the lengths of the files that boot, and no file.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Who looks after the state directory.
pub(super) struct Keeper {
    state_dir: PathBuf,
    lock: Arc<DirLock>,
    store: Store,
    generations: Generations,
    links: Links,
    /// Why nothing can be written, until something can.
    trouble: Option<Trouble>,
    /// When to try again to save; none while what is on disk is right.
    save_at: Option<Instant>,
    look_at: Instant,
}

impl Keeper {
    pub(super) fn new(
        state_dir: PathBuf,
        lock: Arc<DirLock>,
        store: Store,
        generations: Generations,
        links: Links,
        is_saved: bool,
    ) -> Self {
        let (look_at, save_at) = (Instant::now() + LOOK_EVERY, (!is_saved).then(Instant::now));
        Self { state_dir, lock, store, generations, links, trouble: None, save_at, look_at }
    }

    pub(super) fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// When to be called again.
    pub(super) fn wake_at(&self) -> Instant {
        self.save_at.map_or(self.look_at, |at| at.min(self.look_at))
    }

    /// Whether what was decided last is not on disk.
    pub(super) fn is_behind(&self) -> bool {
        self.save_at.is_some()
    }

    pub(super) fn save_is_due(&self) -> bool {
        self.save_at.is_some_and(|at| at <= Instant::now())
    }

    pub(super) fn look_is_due(&self) -> bool {
        self.look_at <= Instant::now()
    }

    /// Writes the state, or says when it is tried again.
    pub(super) async fn save(&mut self, state: &Arc<State>, context: &Context) -> Result<(), Failure> {
        let (store, state) = (self.store.clone(), Arc::clone(state));
        match blocking::run(move || store.save(&state)).await {
            Ok(()) => {
                (self.save_at, self.trouble) = (None, None);
                Ok(())
            }
            Err(error) => {
                let failure = Failure::from(error);
                let attempts = self.trouble.as_ref().map_or(0, |trouble| trouble.attempts);
                let wait = delay(failure.kind, failure.retry, attempts, context);
                self.save_at = Some(Instant::now() + wait);
                self.suffer(&failure, context.wall, wait);
                Err(failure)
            }
        }
    }

    /// Whether the state directory is another than the one that was locked: somebody removed it, or mounted or unmounted
    /// something there.
    pub(super) async fn is_lost(&self) -> bool {
        let lock = Arc::clone(&self.lock);
        !blocking::run(move || lock.is_in_place()).await
    }

    /// Looks whether what boots is what the state says, and whether the directory can be written to. What is different
    /// comes back as events. Nothing else may begin a step meanwhile.
    pub(super) async fn look(&mut self, state: &Arc<State>, context: &Context) -> Vec<Event> {
        self.look_at = Instant::now() + LOOK_EVERY;
        let (state, dir) = (Arc::clone(state), self.state_dir.clone());
        let (generations, links) = (self.generations.clone(), self.links.clone());
        let found = blocking::run(move || {
            let found = differences(&state, &generations, &links);
            // Before all else that fails for it: it is the reason that a person can do something about.
            let is_read_only = statvfs(&dir).is_ok_and(|found| found.flags().contains(FsFlags::ST_RDONLY));
            if is_read_only { Err(DurableError::new("write to", &dir, Errno::EROFS.into())) } else { found }
        });
        match found.await {
            Ok(events) => {
                // A state that could not be written says more than a look.
                if !self.is_behind() {
                    self.trouble = None;
                }
                events
            }
            Err(error) => {
                self.suffer(&error.into(), context.wall, LOOK_EVERY);
                Vec::new()
            }
        }
    }

    fn suffer(&mut self, failure: &Failure, now: Timestamp, wait: Duration) {
        let retry_at = now.checked_add(wait).ok();
        self.trouble = Some(Trouble::after(self.trouble.as_ref(), failure, now, retry_at));
    }
}
