//! Putting the agent together: everything is opened before anything is served.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Event;
use super::access::{self, AccessError};
use super::checkup::check_up;
use super::clock_watch::watch_clock;
use super::context::Policy;
use super::fsck::{Fsck, scrub};
use super::handle::{Handle, ReadingOrder, Request};
use super::journal::Journal;
use super::keeper::Keeper;
use super::reconcile::Reconciler;
use super::restore::{differences, restore};
use super::status::Snapshot;
use super::store::{Saved, Store, StoreError};
use super::suitability::check_mounts;
use super::workshop::Workshop;
use crate::cache::Cache;
use crate::config::Settings;
use crate::deploy::{Collector, Generations, Links, Wanted, Window};
use crate::desired::{DesiredError, Watcher, read};
use crate::durable::{DirLock, DurableError, FileSystemError, LockError, check_state_dir, create_dir};
use crate::failure::{Classify, Failure, Kind, Retry};
use crate::transfer::Fetcher;
use crate::{blocking, clock};

/// How soon a desired-state file that cannot be read is tried again.
const READ_AGAIN: Duration = Duration::from_secs(10);
/// How many requests may wait for the loop; senders wait beyond that.
const INBOX: usize = 64;
/// Orders to read the desired-state file that may wait; senders wait beyond that.
const READING_ORDERS: usize = 4;

/// The agent, ready to run. It holds the lock on its state directory.
pub struct Daemon {
    lock: Arc<DirLock>,
    settings: Settings,
    reconciler: Reconciler,
    handle: Handle,
    readings: mpsc::Receiver<ReadingOrder>,
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
    /// The state directory is on an unsuitable file system, or on several.
    #[error(transparent)]
    FileSystem(#[from] FileSystemError),
    /// The state directory cannot be used.
    #[error(transparent)]
    Disk(#[from] DurableError),
    /// No agent has been at work there.
    #[error("no agent answers, and none has kept its state in {} (another directory is named with --state-dir, another socket with --socket)", .0.display())]
    Absent(PathBuf),
    /// The configuration restricts access to a group that files cannot be given to.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The state directory is another now.
    #[error("{} is not the directory any more that this agent has locked: it was removed, or something was mounted or unmounted there; the next start makes it anew", .0.display())]
    Lost(PathBuf),
}

impl Classify for DaemonError {
    fn kind(&self) -> Kind {
        match self {
            Self::Lock(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::FileSystem(error) => error.kind(),
            Self::Disk(error) => error.kind(),
            Self::Absent(_) => Kind::StateAbsent,
            Self::Access(_) => Kind::ConfigInvalid,
            Self::Lost(_) => Kind::Io,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Lock(error) => error.retry(),
            Self::Store(error) => error.retry(),
            Self::FileSystem(error) => error.retry(),
            Self::Disk(error) => error.retry(),
            Self::Absent(_) | Self::Access(_) => Retry::Never,
            Self::Lost(_) => Retry::Later,
        }
    }
}

impl Daemon {
    /// Takes the state directory and restores what was. Blocks, briefly: no network, no hashing.
    pub fn open(settings: Settings) -> Result<Self, DaemonError> {
        let dir = &settings.state_dir;
        let store = Store::new(dir);
        // Before anything is touched: what a newer version has left is not ours to change.
        store.peek()?;
        let access = access::resolve(settings.cache.access)?;
        create_dir(dir, 0o755)?;
        let lock = Arc::new(DirLock::acquire(&dir.join("lock"))?);
        check_state_dir(dir)?;
        if lock.follows_unversioned() {
            Generations::count_directory_locks(dir)?;
        }
        let cache = Cache::open_for(dir, access)?;
        cache.set_reserve(settings.cache.reserve);
        let generations = Generations::open_for(dir, access)?;
        let links = Links::open(dir)?;
        check_mounts(&cache, dir)?;
        generations.sweep()?;
        links.mirror(&crate::desired::WorkloadName::default_name())?;
        let saved = store.load()?;
        let known = saved.as_ref().map(Saved::records).unwrap_or_default();
        let state = Arc::new(restore(saved, &generations, &links)?);
        // What was found and is trusted for what it says is noted at once.
        let is_noted = state.records() == known;
        // Links that were lost while no agent ran are set again. What else is not as it was, the state says already.
        if let Err(error) = differences(&state, &generations, &links) {
            tracing::warn!(%error, "what boots cannot be looked at now");
        }
        state.times().for_each(clock::note);
        for (name, _) in state.workloads.iter().filter(|(_, workload)| workload.retirement.is_some()) {
            tracing::warn!(workload = %name, "no longer named in the desired state: its retirement is pending");
        }
        let started = (Timestamp::now(), Instant::now());
        let journal = Journal::new(started.0);
        let wanted = Wanted::default();
        wanted.set(state.wants());
        let keep = settings.cache.keep;
        let collector = Collector::new(cache.clone(), generations.clone(), links.clone(), wanted, keep);
        let fsck = Fsck::new(dir, store.clone());
        let (requests, inbox) = mpsc::channel(INBOX);
        let window = settings.window.clone().map(Window::new);
        let (progress, trouble) = (BTreeMap::new(), None);
        let snapshot = Snapshot { state: Arc::clone(&state), progress, trouble, window: window.clone() };
        let snapshot = watch::Sender::new(snapshot);
        let (orders, readings) = mpsc::channel(READING_ORDERS);
        let handle = Handle {
            requests: requests.clone(),
            snapshot: snapshot.subscribe(),
            journal: journal.clone(),
            cache: cache.clone(),
            generations: generations.clone(),
            collector: collector.clone(),
            fsck: fsck.clone(),
            desired_path: Arc::new(settings.desired.path.clone()),
            started,
            reread: Arc::default(),
            config_error: Arc::default(),
            readings: orders,
        };
        let fetcher = Fetcher::new(cache, &settings.transfer);
        let keeper = Keeper::new(dir.clone(), Arc::clone(&lock), store, generations.clone(), links.clone(), is_noted);
        let reconciler = Reconciler {
            state,
            policy: Policy::new(&settings),
            window,
            workshop: Workshop::new(&settings, fetcher, generations, links, collector, fsck, requests),
            keeper,
            journal,
            requests: inbox,
            snapshot,
            is_lost: false,
            has_read: false,
        };
        Ok(Self { lock, settings, reconciler, handle, readings })
    }

    /// The way to it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until cancelled, or until the state directory is another. What is half done then is taken up by the next run.
    ///
    /// A directory that is lost ends the agent, and its process is to end with it: much of what is known in memory (which
    /// blobs are right, what is on its way) is not true of another directory, steps that take the disk may go on in it, and
    /// only a start that takes the lock first can be sure to be alone there.
    pub async fn run(self) -> DaemonError {
        let Self { lock, settings, reconciler, handle, readings } = self;
        // Never given back: when this is cancelled, a step that takes the disk goes on until the process ends, and until
        // then no other agent may have the directory.
        std::mem::forget(lock);
        watch_clock(handle.requests());
        let mut tasks = JoinSet::new();
        let dir = settings.state_dir.clone();
        let (cache, every) = (handle.cache.clone(), reconciler.workshop.scrub_interval());
        tasks.spawn(scrub(handle.fsck.clone(), cache, handle.requests(), every));
        let health = reconciler.workshop.health();
        tasks.spawn(check_up(health, handle.snapshot.clone(), handle.generations.clone(), handle.requests()));
        // Ends with the set.
        tasks.spawn(watch_desired(settings, handle.requests(), handle.reread, readings));
        let lost = DaemonError::Lost(dir);
        reconciler.run().await;
        lost
    }
}

/// Reads the desired-state file at the start, whenever it changes and by order, and tells the loop. No other task reads
/// it, so that the loop is never told of an older text after a newer one.
async fn watch_desired(
    settings: Settings,
    requests: mpsc::Sender<Request>,
    reread: Arc<Notify>,
    mut orders: mpsc::Receiver<ReadingOrder>,
) {
    let path = settings.desired.path.clone();
    let mut watcher = Watcher::new(&path, settings.desired.debounce);
    let mut order: Option<ReadingOrder> = None;
    loop {
        let file = path.clone();
        let reading = blocking::run(move || read(&file)).await;
        // A file that could not be read may well be readable again without a change that anyone would notice; and at
        // each poll it is looked at in any case, because a mount over it or its directory shows in no event.
        let again = match &reading {
            Err(DesiredError::Read { .. }) => Some(READ_AGAIN),
            _ => settings.desired.poll,
        };
        let reading = reading.map_err(Failure::from);
        let answer = reading.as_ref().map(|reading| reading.sha256).map_err(Failure::clone);
        if requests.send(Request::Event(Event::Desired(reading))).await.is_err() {
            return;
        }
        if let Some(order) = order.take() {
            // The client may have gone.
            let _ = order.send(answer);
        }
        tokio::select! {
            Some(next) = orders.recv() => {
                watcher.refresh();
                order = Some(next);
            }
            () = watcher.changed() => {}
            () = reread.notified() => watcher.refresh(),
            () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => watcher.refresh(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::FsckOrder;
    use crate::deploy::fsck::Pace;
    use tokio::sync::oneshot;

    struct Fixture {
        dir: tempfile::TempDir,
        settings: Settings,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let mut settings = Settings { state_dir: dir.path().join("state"), ..Settings::default() };
            settings.desired.path = dir.path().join("desired.toml");
            Self { dir, settings }
        }

        /// An agent whose state directory is another by now.
        fn lost(&self) -> Daemon {
            let daemon = Daemon::open(self.settings.clone()).unwrap();
            std::fs::rename(&self.settings.state_dir, self.dir.path().join("moved")).unwrap();
            std::fs::create_dir(&self.settings.state_dir).unwrap();
            daemon
        }

        fn is_empty(&self) -> bool {
            std::fs::read_dir(&self.settings.state_dir).unwrap().count() == 0
        }
    }

    #[tokio::test]
    async fn nothing_is_saved_or_repaired_in_a_directory_that_is_not_locked() {
        let order = FsckOrder { repair: true, pace: Pace::Fast };
        let mut touched = Vec::new();
        for is_save in [true, false] {
            let f = Fixture::new();
            let daemon = f.lost();
            let requests = daemon.handle().requests();
            let ((save, saved), (fsck, report)) = (oneshot::channel(), oneshot::channel());
            let request = if is_save { Request::Save(save) } else { Request::Fsck(order, fsck) };
            requests.send(request).await.unwrap();
            let run = async {
                assert!(matches!(daemon.run().await, DaemonError::Lost(_)));
                if is_save { saved.await.is_ok() } else { report.await.is_ok() }
            };
            // Of a directory that it takes for its own, the agent would not end.
            let is_answered = tokio::time::timeout(Duration::from_secs(30), run).await.unwrap_or(true);
            touched.push((is_answered, !f.is_empty()));
        }
        assert_eq!(touched, [(false, false); 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_that_is_lost_is_noticed_within_a_minute() {
        let f = Fixture::new();
        // Nothing happens, and nobody asks.
        let (Daemon { reconciler, .. }, begun) = (f.lost(), Instant::now());
        reconciler.run().await;
        let took = begun.elapsed();
        assert!((Duration::from_secs(60)..Duration::from_secs(61)).contains(&took), "{took:?}");
        assert!(f.is_empty());
    }

    #[tokio::test]
    async fn an_agent_that_was_stopped_keeps_its_directory_until_the_process_ends() {
        let Fixture { dir: _dir, settings } = Fixture::new();
        let running = tokio::spawn(Daemon::open(settings.clone()).unwrap().run());
        tokio::task::yield_now().await;
        running.abort();
        let _ = running.await;
        assert!(matches!(Daemon::open(settings), Err(DaemonError::Lock(LockError::Held { .. }))));
    }
}
