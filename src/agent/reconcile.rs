//! The loop: takes events one at a time, applies the transition, carries out its actions, publishes what came of it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sd_notify::NotifyState;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, sleep_until};

use super::event::{Action, Event, Reject};
use super::handle::Request;
use super::journal::Journal;
use super::state::State;
use super::status::Snapshot;
use super::store::Store;
use super::transition::{Context, Policy, transition};
use super::workshop::Workshop;
use crate::blocking;
use crate::config::Settings;

/// How soon a state that could not be saved is saved again.
const SAVE_AGAIN: Duration = Duration::from_secs(5);

/// The owner of the state.
pub(super) struct Reconciler {
    pub(super) state: Arc<State>,
    pub(super) policy: Policy,
    pub(super) workshop: Workshop,
    pub(super) store: Store,
    pub(super) journal: Journal,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) snapshot: watch::Sender<Snapshot>,
    pub(super) started: Instant,
    /// When to try again to save; none while what is on disk is right.
    pub(super) save_at: Option<Instant>,
}

impl Policy {
    /// What `settings` say about it.
    pub(super) fn new(settings: &Settings) -> Self {
        Self { poll: settings.desired.poll, retry: settings.retry }
    }
}

impl Reconciler {
    /// Runs for as long as the process does. Nothing happens here between events but the watchdog's feeding, which
    /// thereby shows that the loop goes round.
    pub(super) async fn run(mut self) {
        let mut watchdog = watchdog();
        loop {
            let wake = self.state.next_wake().map(|at| self.started + at);
            let next = wake.into_iter().chain(self.save_at).min();
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => self.take(request).await,
                    None => return,
                },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => self.on_time().await,
                _ = tick(&mut watchdog), if watchdog.is_some() => {
                    let _ = sd_notify::notify(&[NotifyState::Watchdog]);
                }
            }
        }
    }

    async fn take(&mut self, request: Request) {
        match request {
            Request::Event(event) => {
                if let Err(reject) = self.apply(event).await {
                    tracing::debug!(%reject, "an event changes nothing");
                }
            }
            Request::Ask(event, answer) => {
                // A person need not wait as long.
                self.workshop.rouse();
                let result = self.apply(event).await;
                // Whoever asked may have gone.
                let _ = answer.send(result);
            }
            Request::Fsck(order, answer) => self.workshop.fsck(order, answer),
            Request::Save(answer) => {
                self.save().await;
                let _ = answer.send(self.save_at.is_none());
            }
            Request::Reload(settings) => {
                self.policy = Policy::new(&settings);
                self.workshop.reload(&settings);
                let _ = self.apply(Event::Reconcile(None)).await;
            }
        }
    }

    async fn on_time(&mut self) {
        if self.save_at.is_some_and(|at| at <= Instant::now()) {
            self.save().await;
        }
        let _ = self.apply(Event::Tick).await;
    }

    async fn apply(&mut self, event: Event) -> Result<(), Reject> {
        let wall = Timestamp::now();
        let context = Context { now: self.started.elapsed(), wall, chance: fastrand::f64(), policy: self.policy };
        let (next, actions) = transition(&self.state, event, &context)?;
        let before = std::mem::replace(&mut self.state, Arc::new(next));
        self.workshop.know(&self.state);
        for action in actions {
            match action {
                Action::Save => self.save().await,
                action => self.workshop.perform(action),
            }
        }
        // In this order: who is told of a change and asks for the status finds it there.
        self.snapshot.send_replace(Snapshot { state: Arc::clone(&self.state), progress: self.workshop.progress() });
        self.journal.note(&before, &self.state, wall);
        Ok(())
    }

    async fn save(&mut self) {
        let (store, state) = (self.store.clone(), Arc::clone(&self.state));
        let saved = blocking::run(move || store.save(&state)).await;
        self.save_at = saved.err().map(|error| {
            tracing::error!(%error, "the state is not saved; what runs is not affected");
            Instant::now() + SAVE_AGAIN
        });
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
