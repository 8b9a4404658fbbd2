//! Putting the agent together: everything is opened before anything is served.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Event;
use super::clock_watch::watch_clock;
use super::fsck::{Fsck, scrub};
use super::handle::{Handle, Request};
use super::journal::Journal;
use super::reconcile::Reconciler;
use super::restore::restore;
use super::status::Snapshot;
use super::store::{Store, StoreError};
use super::transition::Policy;
use super::workshop::Workshop;
use crate::cache::Cache;
use crate::config::Settings;
use crate::deploy::{Collector, Generations, Links, Wanted};
use crate::desired::{DesiredError, Watcher, read};
use crate::durable::{DirLock, DurableError, LockError, create_dir};
use crate::failure::{Classify, Failure, Kind, Retry};
use crate::transfer::Fetcher;
use crate::{blocking, clock};

/// How soon a desired-state file that cannot be read is tried again.
const READ_AGAIN: Duration = Duration::from_secs(10);
/// How many requests may wait for the loop; senders wait beyond that.
const INBOX: usize = 64;

/// The agent, ready to run. It holds the lock on its state directory.
pub struct Daemon {
    lock: DirLock,
    settings: Settings,
    reconciler: Reconciler,
    handle: Handle,
}

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Another one runs.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The state is of no use.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state directory cannot be used.
    #[error(transparent)]
    Disk(#[from] DurableError),
}

impl Classify for DaemonError {
    fn kind(&self) -> Kind {
        match self {
            Self::Lock(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Disk(error) => error.kind(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Lock(error) => error.retry(),
            Self::Store(error) => error.retry(),
            Self::Disk(error) => error.retry(),
        }
    }
}

impl Daemon {
    /// Takes the state directory and restores what was. Blocks, briefly: no network, no hashing.
    pub fn open(settings: Settings) -> Result<Self, DaemonError> {
        let dir = &settings.state_dir;
        create_dir(dir, 0o755)?;
        let lock = DirLock::acquire(&dir.join("lock"))?;
        let cache = Cache::open(dir)?;
        cache.set_reserve(settings.cache.reserve);
        let generations = Generations::open(dir)?;
        let links = Links::open(dir)?;
        generations.sweep()?;
        links.mirror(&crate::desired::WorkloadName::default_name())?;
        let store = Store::new(dir);
        let state = Arc::new(restore(store.load()?, &generations, &links)?);
        state.times().for_each(clock::note);
        let started = (Timestamp::now(), Instant::now());
        let journal = Journal::new(started.0);
        let wanted = Wanted::default();
        wanted.set(state.wants());
        let keep = settings.cache.keep;
        let collector = Collector::new(cache.clone(), generations.clone(), links.clone(), wanted, keep);
        let fsck = Fsck::new(dir, store.clone());
        let (requests, inbox) = mpsc::channel(INBOX);
        let snapshot =
            watch::Sender::new(Snapshot { state: Arc::clone(&state), progress: std::collections::BTreeMap::new() });
        let handle = Handle {
            requests: requests.clone(),
            snapshot: snapshot.subscribe(),
            journal: journal.clone(),
            cache: cache.clone(),
            collector: collector.clone(),
            fsck: fsck.clone(),
            desired_path: Arc::new(settings.desired.path.clone()),
            started,
            reread: Arc::default(),
        };
        let fetcher = Fetcher::new(cache, &settings.transfer);
        let reconciler = Reconciler {
            state,
            policy: Policy::new(&settings),
            workshop: Workshop::new(&settings, fetcher, generations, links, collector, fsck, requests),
            store,
            journal,
            requests: inbox,
            snapshot,
            started: started.1,
            save_at: None,
        };
        Ok(Self { lock, settings, reconciler, handle })
    }

    /// The way to it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until cancelled. What is half done then is taken up by the next run.
    pub async fn run(self) {
        let Self { lock, settings, reconciler, handle } = self;
        // Never given back: when this is cancelled, a step that takes the disk goes on until the process ends, and until
        // then no other agent may have the directory.
        std::mem::forget(lock);
        watch_clock(handle.requests());
        let mut tasks = JoinSet::new();
        let (cache, every) = (handle.cache.clone(), reconciler.workshop.scrub_interval());
        tasks.spawn(scrub(handle.fsck.clone(), cache, handle.requests(), every));
        tasks.spawn(watch_desired(settings, handle.requests(), handle.reread));
        tasks.spawn(reconciler.run());
        // Neither ends by itself; dropping the set ends both.
        tasks.join_next().await;
    }
}

/// Reads the desired-state file at the start and whenever it changes, and tells the loop.
async fn watch_desired(settings: Settings, requests: mpsc::Sender<Request>, reread: Arc<Notify>) {
    let path = settings.desired.path.clone();
    let mut watcher = Watcher::new(&path, settings.desired.debounce);
    loop {
        let file = path.clone();
        let reading = blocking::run(move || read(&file)).await;
        // A file that could not be read may well be readable again without a change that anyone would notice; and at
        // each poll it is looked at in any case, because a mount over its directory shows in no event.
        let again = match &reading {
            Err(DesiredError::Read { .. }) => Some(READ_AGAIN),
            _ => settings.desired.poll,
        };
        let reading = reading.map_err(Failure::from);
        if requests.send(Request::Event(Event::Desired(reading))).await.is_err() {
            return;
        }
        tokio::select! {
            () = watcher.changed() => {}
            () = reread.notified() => {}
            () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_agent_that_was_stopped_keeps_its_directory_until_the_process_ends() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings { state_dir: dir.path().join("state"), ..Settings::default() };
        settings.desired.path = dir.path().join("desired.toml");
        let running = tokio::spawn(Daemon::open(settings.clone()).unwrap().run());
        tokio::task::yield_now().await;
        running.abort();
        let _ = running.await;
        assert!(matches!(Daemon::open(settings), Err(DaemonError::Lock(LockError::Held { .. }))));
    }
}
