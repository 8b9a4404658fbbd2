//! The way to the loop for everything outside it: send events, read the status, follow the journal.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::fsck::{Fsck, FsckOrder};
use super::journal::Journal;
use super::state::Trouble;
use super::status::{AgentStatus, Snapshot, Status};
use super::summary::Summary;
use super::transition::Reject;
use super::{EntryId, Event, Subscription};
use crate::blocking;
use crate::cache::Cache;
use crate::config::Settings;
use crate::deploy::{Aim, Collector, Generations, Report, fsck};
use crate::desired::WorkloadName;
use crate::durable::DurableError;
use crate::failure::{Failure, Kind, Retry};
use crate::oci::Digest;

/// What the loop is sent.
#[derive(Debug)]
pub enum Request {
    /// Something happened.
    Event(Event),
    /// Someone asks for something and wants to know whether it was done.
    Ask(Event, oneshot::Sender<Result<(), Reject>>),
    /// The settings were read again.
    Reload(Box<Settings>),
    /// Everything on disk is to be looked at.
    Fsck(FsckOrder, oneshot::Sender<Result<fsck::Report, Failure>>),
    /// The state is to be written anew; whether it was.
    Save(oneshot::Sender<bool>),
}

/// A way to the loop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) snapshot: watch::Receiver<Snapshot>,
    pub(super) journal: Journal,
    pub(super) cache: Cache,
    pub(super) generations: Generations,
    pub(super) collector: Collector,
    pub(super) fsck: Fsck,
    pub(super) desired_path: Arc<PathBuf>,
    pub(super) started: (Timestamp, Instant),
    pub(super) reread: Arc<Notify>,
    /// The error of the last reload of the configuration.
    pub(super) config_error: Arc<Mutex<Option<Trouble>>>,
    pub(super) readings: mpsc::Sender<ReadingOrder>,
}

/// An order to read the desired-state file, which is answered with its digest, or with why it is rejected. The answer
/// comes after the loop was sent what the file says.
pub(super) type ReadingOrder = oneshot::Sender<Result<Digest, Failure>>;

impl Handle {
    /// The status now.
    pub async fn status(&self) -> Status {
        let (cache, generations) = (self.cache.clone(), self.generations.clone());
        // Where counting fails, the rest of the status is worth having.
        let found = move || (cache.usage().unwrap_or_default(), generations.in_use().unwrap_or_default());
        let (usage, in_use) = blocking::run(found).await;
        let (at, since) = self.started;
        let snapshot = self.snapshot.borrow().clone();
        let config_error = self.config_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let agent = AgentStatus::this(at, since.elapsed(), snapshot.trouble.as_ref(), config_error.as_ref());
        Status::new(&snapshot, Some(agent), &self.desired_path, usage, &in_use, self.fsck.status())
    }

    /// The agent has a workload of that name.
    pub fn has_workload(&self, name: &WorkloadName) -> bool {
        self.snapshot.borrow().state.workloads.contains_key(name)
    }

    /// Records that the configuration was not reloaded; none after a reload that succeeded.
    pub fn set_config_error(&self, failure: Option<&Failure>) {
        let mut error = self.config_error.lock().unwrap_or_else(PoisonError::into_inner);
        *error = failure.map(|failure| Trouble::after(error.as_ref(), failure, Timestamp::now(), None));
    }

    /// Follows what the workloads are at, in one line.
    pub fn summary(&self) -> Summary {
        Summary::new(self.snapshot.clone())
    }

    /// Makes the agent read the desired-state file again.
    pub fn reread(&self) {
        self.reread.notify_one();
    }

    /// Has the agent read the desired-state file now: the digest of what it read, or why it rejects that. What is asked
    /// of the agent after this comes after what the file says.
    pub async fn read_desired(&self) -> Result<Digest, Failure> {
        let ending =
            || Failure { kind: Kind::AgentUnreachable, message: Reject::Ending.to_string(), retry: Retry::Later };
        let (answer, read) = oneshot::channel();
        self.readings.send(answer).await.map_err(|_| ending())?;
        read.await.unwrap_or_else(|_| Err(ending()))
    }

    /// Asks the agent to look again now, at the desired-state file and at one workload or all.
    pub async fn reconcile(&self, workload: Option<WorkloadName>) -> Result<(), Reject> {
        self.reread();
        self.ask(Event::Reconcile(workload)).await
    }

    /// Asks for what only a person decides.
    pub async fn ask(&self, event: Event) -> Result<(), Reject> {
        let (answer, answered) = oneshot::channel();
        if self.requests.send(Request::Ask(event, answer)).await.is_err() {
            return Err(Reject::Ending);
        }
        answered.await.unwrap_or(Err(Reject::Ending))
    }

    /// Removes what nothing leads to any more, or only says what that would be.
    pub async fn collect(&self, dry_run: bool) -> Result<Report, DurableError> {
        let collector = self.collector.clone();
        blocking::run(move || if dry_run { collector.look(Aim::Tidy) } else { collector.collect(Aim::Tidy) }).await
    }

    /// Looks at everything on disk, and repairs it where `order` says so.
    pub async fn fsck(&self, order: FsckOrder) -> Result<fsck::Report, Failure> {
        let (answer, report) = oneshot::channel();
        let _ = self.requests.send(Request::Fsck(order, answer)).await;
        report.await.unwrap_or_else(|_| Err(Failure::internal("the agent is ending")))
    }

    /// Follows what happens.
    pub fn subscribe(&self, after: Option<EntryId>) -> Subscription {
        self.journal.subscribe(after)
    }

    /// The loop's inbox.
    pub fn requests(&self) -> mpsc::Sender<Request> {
        self.requests.clone()
    }
}
