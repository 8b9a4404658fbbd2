//! Looking at everything on disk, one look at a time: when somebody asks, and by itself every `[cache] scrub`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Event;
use super::handle::Request;
use super::store::Store;
use crate::cache::Cache;
use crate::deploy::fsck::{Fault, Inventory, Mender, Outcome, Pace, Part, Report};
use crate::durable::{DurableError, read_capped, write_atomic};
use crate::failure::{Failure, Kind, Retry};
use crate::transfer::Progress;
use crate::{blocking, clock};

/// How long what could not be repaired is left alone.
const AGAIN: Duration = Duration::from_secs(3600);
/// How long the clock is not looked at: it may be set meanwhile.
const LOOK_AFTER: Duration = Duration::from_secs(3600);
/// Where it is noted what the last look found, in the state directory.
const NOTE: &str = "fsck.json";
/// A note is a few numbers.
const MAX_NOTE: u64 = 4096;

/// What is known of the looks at everything on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckStatus {
    /// Whether one goes on.
    pub running: bool,
    /// How much that one has to read, in bytes; 0 where none goes on.
    pub bytes_total: u64,
    /// How much of it it has read.
    pub bytes_done: u64,
    /// When the last one ended; none where there was none.
    pub finished_at: Option<Timestamp>,
    /// How much that one found broken.
    pub damaged: u64,
    /// How much of it is broken still.
    pub left: u64,
}

/// How everything is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FsckOrder {
    /// Whether what is broken is repaired.
    pub repair: bool,
    /// How hard to work.
    pub pace: Pace,
}

/// The looks at one state directory. Cheap to clone; clones take turns.
#[derive(Clone, Debug)]
pub(super) struct Fsck(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    note: PathBuf,
    turn: AsyncMutex<()>,
    last: Mutex<FsckStatus>,
    running: Mutex<Option<Arc<Progress>>>,
    /// How many looks in a row have left something broken.
    vain: AtomicU32,
}

/// What the last look found, as it is noted in `state_dir`. What cannot be read says nothing.
pub(super) fn last(state_dir: &Path) -> FsckStatus {
    let path = state_dir.join(NOTE);
    serde_json::from_slice(&read_capped(&path, MAX_NOTE).unwrap_or_default()).unwrap_or_default()
}

/// Looks at everything, and repairs it where `order` says so. `begun` is told how far it is.
pub(super) async fn look(
    mender: &Mender,
    store: &Store,
    order: FsckOrder,
    stop: &CancellationToken,
    begun: impl FnOnce(&Arc<Progress>) + Send + 'static,
) -> Result<Report, Failure> {
    let stop = stop.child_token();
    // When the process ends, what blocks is to notice.
    let _stopped = stop.clone().drop_guard();
    let (with, store) = (mender.clone(), store.clone());
    let checked = blocking::run(move || {
        let cache = with.fetcher.cache();
        let mut inventory = Inventory::take(cache, &with.generations, &with.links)?;
        if !store.is_whole() {
            inventory.note(Part::State, Fault::Senseless);
        }
        let progress = Arc::new(Progress::new(inventory.bytes(), 0));
        begun(&progress);
        Ok::<_, DurableError>(inventory.verify(cache, order.pace, &progress, &stop))
    });
    let stopped = || Failure { kind: Kind::Timeout, message: "the look was stopped".to_owned(), retry: Retry::Later };
    let checked = checked.await?.ok_or_else(stopped)?;
    let is_to_mend = order.repair && !checked.report.damage.is_empty();
    let report = if is_to_mend { mender.mend(checked).await } else { checked.report };
    if report.left() == 0 {
        let cache = mender.fetcher.cache().clone();
        blocking::run(move || cache.look_done()).await?;
    }
    Ok(report)
}

impl Fsck {
    /// For the state directory that `store` is in.
    pub(super) fn new(state_dir: &Path, store: Store) -> Self {
        let (last, note) = (Mutex::new(last(state_dir)), state_dir.join(NOTE));
        Self(Arc::new(Inner {
            store,
            note,
            turn: AsyncMutex::default(),
            last,
            running: Mutex::default(),
            vain: 0.into(),
        }))
    }

    /// What is known now.
    pub(super) fn status(&self) -> FsckStatus {
        let last = *lock(&self.0.last);
        match lock(&self.0.running).as_ref().map(|progress| progress.now()) {
            Some(now) => FsckStatus { running: true, bytes_total: now.bytes_total, bytes_done: now.bytes_done, ..last },
            None => last,
        }
    }

    /// Looks at everything once those who came before have.
    pub(super) async fn run(
        &self,
        mender: &Mender,
        order: FsckOrder,
        requests: &mpsc::Sender<Request>,
        stop: &CancellationToken,
    ) -> Result<Report, Failure> {
        let _turn = self.0.turn.lock().await;
        let running = Running(Arc::clone(&self.0));
        let shown = Arc::clone(&self.0);
        let begun = move |progress: &Arc<Progress>| *lock(&shown.running) = Some(Arc::clone(progress));
        let mut report = look(mender, &self.0.store, order, stop, begun).await;
        drop(running);
        if let Ok(report) = &mut report
            && order.repair
        {
            finish(report, requests).await;
        }
        // A look that was stopped says nothing.
        if !stop.is_cancelled() || report.is_ok() {
            let status = found(report.as_ref().ok());
            let vain = if status.left > 0 { self.0.vain.load(Relaxed).saturating_add(1) } else { 0 };
            self.0.vain.store(vain, Relaxed);
            *lock(&self.0.last) = status;
            note(self.0.note.clone(), status).await;
        }
        report
    }

    /// How long it is until everything is looked at again. A cache that never was counts from when it was made.
    fn due_in(&self, every: Duration, cache: &Cache) -> Duration {
        let last = *lock(&self.0.last);
        let since = last.finished_at.or_else(|| cache.made_at().try_into().ok());
        let vain = if last.left > 0 { self.0.vain.load(Relaxed).max(1) } else { 0 };
        wait(every, vain, since.unwrap_or(Timestamp::UNIX_EPOCH), Timestamp::now())
    }
}

/// How much is left of the time between two looks. What could not be repaired is looked at sooner, and in vain more rarely.
fn wait(every: Duration, vain: u32, since: Timestamp, now: Timestamp) -> Duration {
    let wait = match vain.checked_sub(1) {
        None => every,
        Some(before) => AGAIN.saturating_mul(2_u32.saturating_pow(before)).min(every),
    };
    // If that is in the future, the clock was wrong then, or is now.
    Duration::try_from(now.duration_since(since)).map_or(Duration::ZERO, |since| wait.saturating_sub(since))
}

/// What is noted of a look that found this; none where it failed.
fn found(report: Option<&Report>) -> FsckStatus {
    let (damaged, left) = report.map_or((0, 1), |report| (report.damaged() as u64, report.left() as u64));
    FsckStatus { finished_at: Some(Timestamp::now()), damaged, left, ..FsckStatus::default() }
}

async fn note(path: PathBuf, status: FsckStatus) {
    let text = serde_json::to_vec(&status).unwrap_or_default();
    if let Err(error) = blocking::run(move || write_atomic(&path, &text, 0o644)).await {
        tracing::warn!(%error, "what fsck found is not noted");
    }
}

/// Notes what a look without an agent has found.
pub(super) async fn note_in(state_dir: &Path, report: &Report) {
    note(state_dir.join(NOTE), found(Some(report))).await;
}

/// What only the loop can do about what is broken: it knows the state, and lays out what is not there.
async fn finish(report: &mut Report, requests: &mpsc::Sender<Request>) {
    for damage in report.damage.iter_mut().filter(|damage| damage.part == Part::State) {
        let (answer, saved) = oneshot::channel();
        let _ = requests.send(Request::Save(answer)).await;
        if saved.await.unwrap_or(false) {
            damage.outcome = Outcome::Repaired;
        }
    }
    for damage in &report.damage {
        tracing::error!(part = %damage.part, fault = %damage.fault, outcome = %damage.outcome, "found damaged");
    }
    if report.left() > 0 {
        // Before it looks at what is desired, it looks at what boots.
        let (answer, _) = oneshot::channel();
        let _ = requests.send(Request::Ask(Event::Reconcile(None), answer)).await;
    }
}

/// Has everything looked at and repaired, `every` so often, and where a damaged blob is come upon. What is come upon over and
/// over, because it cannot be repaired or is no damage, is no reason to read the whole disk each time.
pub(super) async fn scrub(
    fsck: Fsck,
    cache: Cache,
    requests: mpsc::Sender<Request>,
    mut every: watch::Receiver<Option<Duration>>,
) {
    if cache.is_look_owed() {
        // An agent came upon damage, and ended before everything was looked at.
        cache.owe_look();
    }
    let mut calm_until = Instant::now();
    loop {
        let due = every.borrow_and_update().map(|every| fsck.due_in(every, &cache));
        // A clock that is wrong says nothing of when it was.
        let due = if clock::complaint().is_some() { due.map(|_| LOOK_AFTER * 2) } else { due };
        tokio::select! {
            () = sleep(due.unwrap_or_default().min(LOOK_AFTER)), if due.is_some() => {
                if due.is_some_and(|due| due > LOOK_AFTER) {
                    continue;
                }
            }
            () = async { sleep_until(calm_until).await; cache.damaged().await } => {
                // It may have been come upon while everything was looked at, of which the end forgets it.
                cache.keep_look_owed();
            }
            changed = every.changed() => {
                if changed.is_err() {
                    return;
                }
                continue;
            }
        }
        let (answer, report) = oneshot::channel();
        let order = FsckOrder { repair: true, pace: Pace::Background };
        if requests.send(Request::Fsck(order, answer)).await.is_err() {
            return;
        }
        match report.await {
            Ok(Ok(report)) => {
                let (bytes, damaged, left) = (report.bytes, report.damaged(), report.left());
                tracing::info!(bytes, damaged, left, "looked at everything on disk");
                if damaged == 0 || left > 0 {
                    calm_until = Instant::now() + AGAIN;
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "not everything on disk could be looked at"),
            // The loop has ended, or lost its directory.
            Err(_) => sleep(LOOK_AFTER).await,
        }
    }
}

/// One goes on for as long as this lives.
struct Running(Arc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        *lock(&self.0.running) = None;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_due_after_its_time_and_what_is_broken_sooner() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let (month, hour) = (hours(720), hours(1));
        let since: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let after = |wait: Duration| since.checked_add(wait).unwrap();
        assert_eq!(super::wait(month, 0, since, since), month);
        assert_eq!(super::wait(month, 0, since, after(hours(719))), hour);
        assert_eq!(super::wait(month, 0, since, after(hours(721))), Duration::ZERO);
        assert_eq!(super::wait(month, 1, since, since), AGAIN);
        assert_eq!(super::wait(month, 3, since, since), hours(4), "it was in vain before");
        assert_eq!(super::wait(month, 99, since, since), month);
        assert_eq!(super::wait(month, 0, after(hour), since), Duration::ZERO, "the clock was set back");
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_repaired_does_not_have_everything_read_each_time_that_it_is_come_upon() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let fsck = Fsck::new(dir.path(), Store::new(dir.path()));
        let ((requests, mut asked), (_settings, every)) = (mpsc::channel(1), watch::channel(None));
        // An agent before this one came upon it.
        cache.keep_look_owed();
        tokio::spawn(scrub(fsck, cache.clone(), requests, every));
        let mut begun = Vec::new();
        for _ in 0..3 {
            let Some(Request::Fsck(_, answer)) = asked.recv().await else { panic!("nothing is looked at") };
            begun.push(Instant::now());
            cache.owe_look();
            answer.send(Ok(Report::default())).unwrap();
        }
        let waits: Vec<_> = begun.windows(2).map(|two| two[1] - two[0]).collect();
        assert_eq!(waits, [AGAIN, AGAIN]);
    }
}
