//! The loop: takes events one at a time, applies the transition, carries out its actions, publishes what came of it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sd_notify::NotifyState;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, sleep_until};

use super::context::{Context, HealthPolicy, Policy};
use super::handle::Request;
use super::journal::Journal;
use super::keeper::Keeper;
use super::state::{State, Trouble, Way};
use super::status::Snapshot;
use super::transition::{Action, Event, Reject, transition};
use super::workshop::Workshop;
use crate::clock;
use crate::config::{HealthSettings, Settings};
use crate::deploy::fsck::Pace;
use crate::deploy::{Opening, Window};
use crate::failure::Failure;

/// How soon a clock that cannot be right is looked at again, should nobody tell that it was set.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(60);

/// How long a desired-state file may take to be read that is on a disk which hangs.
const FIRST_READING: Duration = Duration::from_secs(5);

/// The owner of the state.
pub(super) struct Reconciler {
    pub(super) state: Arc<State>,
    pub(super) policy: Policy,
    /// When an image may be activated; none: at any time.
    pub(super) window: Option<Window>,
    pub(super) workshop: Workshop,
    pub(super) keeper: Keeper,
    pub(super) journal: Journal,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) snapshot: watch::Sender<Snapshot>,
    /// Whether the state directory is not the one any more that this agent has locked.
    pub(super) is_lost: bool,
    /// Whether the desired-state file was looked at.
    pub(super) has_read: bool,
}

impl Policy {
    /// What `settings` say about it.
    pub(super) fn new(settings: &Settings) -> Self {
        let HealthSettings { threshold, healthy_after, max_attempts, .. } = settings.health;
        let asks = settings.hooks.pre_activate.is_some();
        let announces = settings.hooks.post_activate.is_some() || settings.hooks.on_rollback.is_some();
        Self {
            poll: settings.desired.poll,
            retry: settings.retry,
            retire: settings.desired.retire,
            health: HealthPolicy { threshold, healthy_after, max_attempts },
            asks,
            announces,
        }
    }
}

impl Reconciler {
    /// Runs until the state directory is lost. Nothing happens here between events but the watchdog's feeding, which
    /// thereby shows that the loop goes round.
    pub(super) async fn run(mut self) {
        let mut watchdog = watchdog();
        let _ = self.apply(Event::Started).await;
        let first_reading = Instant::now() + FIRST_READING;
        while !self.is_lost {
            let had_trouble = self.keeper.trouble().is_some();
            let wake = self.state.next_wake().map(|at| Instant::now() + at.saturating_sub(clock::since_boot()));
            let next = wake.map_or(self.keeper.wake_at(), |at| at.min(self.keeper.wake_at()));
            // Nothing that waits goes on before it is known whether it is still desired.
            let next = if self.has_read { next } else { next.max(first_reading) };
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => self.take(request).await,
                    None => return,
                },
                () = sleep_until(next) => self.on_time().await,
                _ = tick(&mut watchdog), if watchdog.is_some() => {
                    let _ = sd_notify::notify(&[NotifyState::Watchdog]);
                }
            }
            // What failed for the same reason need not wait any longer.
            if had_trouble && self.keeper.trouble().is_none() {
                let _ = self.apply(Event::Reconcile(None)).await;
            }
        }
    }

    async fn take(&mut self, request: Request) {
        match request {
            Request::Event(event) => {
                self.has_read |= matches!(event, Event::Desired(_));
                if let Err(reject) = self.apply(event).await {
                    tracing::debug!(%reject, "an event changes nothing");
                }
            }
            Request::Ask(event, answer) => {
                // A person need not wait as long.
                self.workshop.rouse();
                self.look().await;
                let is_a_decision = !matches!(event, Event::Reconcile(_));
                let mut result = self.apply(event).await;
                if is_a_decision && result.is_ok() && self.keeper.is_behind() {
                    result = self.save().await.map_err(Reject::Unsaved);
                }
                // Whoever asked may have gone.
                let _ = answer.send(result);
            }
            // Nothing is repaired or written in a directory that another agent may have.
            Request::Fsck(..) | Request::Save(_) if self.has_lost_it().await => {}
            Request::Fsck(order, answer) => {
                if order.pace == Pace::Fast {
                    // A person need not wait as long.
                    self.workshop.rouse();
                }
                self.workshop.fsck(order, answer);
            }
            Request::Save(answer) => {
                let _ = answer.send(self.save().await.is_ok());
            }
            Request::Reload(settings) => {
                self.policy = Policy::new(&settings);
                self.window = settings.window.clone().map(Window::new);
                if self.workshop.reload(&settings) {
                    let _ = self.apply(Event::ChecksChanged).await;
                }
                let _ = self.apply(Event::Reconcile(None)).await;
            }
        }
    }

    async fn on_time(&mut self) {
        if self.keeper.save_is_due() && !self.has_lost_it().await {
            let _ = self.save().await;
        }
        if self.keeper.look_is_due() {
            self.look().await;
        }
        let _ = self.apply(Event::Tick).await;
    }

    /// Looks after what others may have done to the state directory.
    async fn look(&mut self) {
        if self.has_lost_it().await {
            return;
        }
        let before = self.keeper.trouble().cloned();
        let events = self.keeper.look(&self.state, &self.context()).await;
        self.report(before.as_ref());
        for event in events {
            let _ = self.apply(event).await;
        }
    }

    /// Looks whether the state directory is still the one that is locked: nothing is begun in one that another agent may have.
    async fn has_lost_it(&mut self) -> bool {
        self.is_lost = self.is_lost || self.keeper.is_lost().await;
        self.is_lost
    }

    async fn save(&mut self) -> Result<(), Failure> {
        let before = self.keeper.trouble().cloned();
        let saved = self.keeper.save(&self.state, &self.context()).await;
        self.report(before.as_ref());
        saved
    }

    fn context(&self) -> Context {
        let wall = Timestamp::now();
        Context {
            now: clock::since_boot(),
            boot: clock::boot_id(),
            wall,
            opens_in: self.window.as_ref().and_then(|window| opens_in(window, wall)),
            chance: fastrand::f64(),
            policy: self.policy,
        }
    }

    async fn apply(&mut self, event: Event) -> Result<(), Reject> {
        let context = self.context();
        let (next, actions) = transition(&self.state, event, &context)?;
        let before = std::mem::replace(&mut self.state, Arc::new(next));
        self.workshop.know(&self.state);
        self.carry_out(actions).await;
        // In this order: who is told of a change and asks for the status finds it there.
        self.publish();
        self.journal.note(&before, &self.state, context.wall);
        Ok(())
    }

    async fn carry_out(&mut self, actions: Vec<Action>) {
        if actions.is_empty() || self.has_lost_it().await {
            return;
        }
        let mut failure = None;
        let mut has_tried = false;
        for action in actions {
            let step = action.step().map(|(workload, job)| (workload.clone(), job));
            let waits = step.is_some() && self.keeper.is_behind();
            if action == Action::Save || (waits && !has_tried) {
                has_tried = true;
                failure = self.save().await.err();
            }
            match (step, &failure) {
                // The way back waits for nothing. What it is worth without a save: after a crash it is tried once more.
                (Some(_), Some(_)) if matches!(action, Action::Activate { way: Way::Back, .. }) => {
                    self.workshop.perform(action);
                }
                (Some((workload, job)), Some(failure)) => self.workshop.fail(workload, job, failure.clone()),
                _ => self.workshop.perform(action),
            }
        }
    }

    fn publish(&self) {
        let (state, progress) = (Arc::clone(&self.state), self.workshop.progress());
        let (trouble, window) = (self.keeper.trouble().cloned(), self.window.clone());
        self.snapshot.send_replace(Snapshot { state, progress, trouble, window });
    }

    /// Tells what is wrong with the state directory, where that was not told already.
    fn report(&self, before: Option<&Trouble>) {
        let said = |trouble: &Trouble| (trouble.kind, trouble.message.clone());
        match self.keeper.trouble() {
            Some(trouble) if before.map(said) != Some(said(trouble)) => {
                self.publish();
                self.journal.trouble(trouble, Timestamp::now());
            }
            None if before.is_some() => tracing::info!("the state directory can be written to again"),
            _ => {}
        }
    }
}

/// How long it is until the window opens; none while it is open. Under a clock that cannot be right it counts as closed.
fn opens_in(window: &Window, now: Timestamp) -> Option<Duration> {
    match window.at(now) {
        _ if clock::complaint().is_some() => Some(LOOK_AT_CLOCK),
        Opening::Open { .. } => None,
        Opening::Closed { opens_in } => Some(opens_in),
    }
}

/// Twice as often as systemd wants to hear of us; none where it does not want to.
fn watchdog() -> Option<Interval> {
    let mut interval = tokio::time::interval(sd_notify::watchdog_enabled()?.max(Duration::from_millis(2)) / 2);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(interval)
}

async fn tick(interval: &mut Option<Interval>) -> Option<Instant> {
    match interval {
        Some(interval) => Some(interval.tick().await),
        None => None,
    }
}
