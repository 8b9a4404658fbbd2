//! The pure heart: (state, event) → (state, actions).

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::event::{Action, Event, Outcome, Reject};
use super::state::{Accepted, Activity, Generation, Job, State, Trouble, Workload};
use crate::config::RetrySettings;
use crate::desired::{Reading, WorkloadName};
use crate::failure::{Failure, Retry};
use crate::transfer::{Plan, Target};

/// How far a poll may be from its interval, in parts of it: nodes that were started together drift apart.
const POLL_JITTER: f64 = 0.1;
/// The longest wait, whatever settings or a registry ask for: a clock that runs over would end the agent.
const LONGEST_WAIT: Duration = Duration::from_secs(366 * 24 * 3600);

/// What the settings say about when to try and to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How often tags are resolved again.
    pub poll: Option<Duration>,
    /// How long to wait after a failure.
    pub retry: RetrySettings,
}

/// What a transition needs besides state and event.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The monotonic clock since the agent's start.
    pub now: Duration,
    /// The wall clock, for what people read.
    pub wall: Timestamp,
    /// A random number from 0 up to 1.
    pub chance: f64,
    /// The settings.
    pub policy: Policy,
}

/// What follows from `event` in `state`. Never panics; an event that is out of place changes nothing.
pub fn transition(state: &State, event: Event, context: &Context) -> Result<(State, Vec<Action>), Reject> {
    let mut next = Transition { state: state.clone(), actions: Vec::new(), context: *context };
    match event {
        Event::Desired(Ok(reading)) => next.accept(reading),
        Event::Desired(Err(failure)) => next.reject(&failure),
        Event::Tick => next.wake(),
        Event::Reconcile(workload) => next.reconcile(workload)?,
        Event::Step { workload, job, outcome } => next.step(&workload, job, outcome)?,
    }
    Ok((next.state, next.actions))
}

struct Transition {
    state: State,
    actions: Vec<Action>,
    context: Context,
}

impl Transition {
    fn accept(&mut self, reading: Reading) {
        self.state.rejected = None;
        if self.state.accepted.is_some_and(|accepted| accepted.sha256 == reading.sha256) {
            return;
        }
        self.state.accepted = Some(Accepted { sha256: reading.sha256, at: self.context.wall });
        let mut wanted = reading.desired.workloads;
        let mut changed = Vec::new();
        for (name, workload) in &mut self.state.workloads {
            let spec = wanted.remove(name);
            if workload.spec != spec || spec.is_none() {
                workload.spec = spec;
                changed.push(name.clone());
            }
        }
        changed.extend(wanted.keys().cloned());
        let new = |spec| Workload { spec: Some(spec), ..Workload::default() };
        self.state.workloads.extend(wanted.into_iter().map(|(name, spec)| (name, new(spec))));
        // The state is on disk before anything is done about it.
        self.actions.push(Action::Save);
        for name in &changed {
            if let Some(mut turn) = self.turn(name) {
                turn.respecify();
            }
        }
    }

    fn reject(&mut self, failure: &Failure) {
        let before = self.state.rejected.as_ref();
        if before.is_none_or(|before| before.message != failure.message) {
            self.state.rejected = Some(Trouble::after(before, failure, self.context.wall, None));
        }
    }

    fn wake(&mut self) {
        let due = |workload: &Workload| workload.wake_at.is_some_and(|at| at <= self.context.now);
        let names: Vec<_> =
            self.state.workloads.iter().filter(|(_, workload)| due(workload)).map(|(name, _)| name.clone()).collect();
        for name in &names {
            if let Some(mut turn) = self.turn(name) {
                turn.start();
            }
        }
    }

    fn reconcile(&mut self, workload: Option<WorkloadName>) -> Result<(), Reject> {
        let names = match workload {
            Some(name) if self.state.workloads.contains_key(&name) => vec![name],
            Some(name) => return Err(Reject::UnknownWorkload(name)),
            None => self.state.workloads.keys().cloned().collect(),
        };
        // Without an accepted desired state, what has links stays as it is.
        let decided = self.state.accepted.is_some();
        for name in &names {
            if let Some(mut turn) = self.turn(name)
                && turn.workload.activity.job().is_none()
                && (decided || turn.workload.spec.is_some())
            {
                turn.start();
            }
        }
        Ok(())
    }

    fn step(&mut self, name: &WorkloadName, job: u64, outcome: Result<Outcome, Failure>) -> Result<(), Reject> {
        let mut turn = self.turn(name).ok_or_else(|| Reject::UnknownWorkload(name.clone()))?;
        let running =
            turn.workload.activity.job().filter(|running| running.id == job).ok_or(Reject::Stale(job))?.clone();
        let mut gone = false;
        match outcome {
            Ok(outcome) => turn.advance(running, outcome, &mut gone)?,
            Err(failure) => turn.fail(&running, &failure),
        }
        if gone {
            self.state.workloads.remove(name);
            self.actions.push(Action::Save);
        }
        Ok(())
    }

    fn turn<'a>(&'a mut self, name: &'a WorkloadName) -> Option<Turn<'a>> {
        let Self { state: State { workloads, last_job, .. }, actions, context } = self;
        Some(Turn { name, workload: workloads.get_mut(name)?, last_job, actions, context })
    }
}

/// One workload's part in a transition.
struct Turn<'a> {
    name: &'a WorkloadName,
    workload: &'a mut Workload,
    last_job: &'a mut u64,
    actions: &'a mut Vec<Action>,
    context: &'a Context,
}

impl Turn<'_> {
    /// Something else is desired than before.
    fn respecify(&mut self) {
        self.workload.target = None;
        self.workload.trouble = None;
        match &self.workload.activity {
            // Short and local: it is left to end, and what comes next is decided then.
            Activity::Materializing(_) | Activity::Activating(..) | Activity::Retiring(_) => {}
            Activity::Resolving(job) | Activity::Planning(job) | Activity::Fetching(job) | Activity::Polling(job) => {
                self.actions.push(Action::Cancel { job: job.id });
                self.start();
            }
            Activity::Idle | Activity::Active | Activity::Backoff | Activity::Blocked => self.start(),
        }
    }

    /// Begins a new job towards what is desired now.
    fn start(&mut self) {
        self.workload.wake_at = None;
        let was_active = matches!(self.workload.activity, Activity::Active);
        let (workload, spec) = (self.name.clone(), self.workload.spec.clone());
        *self.last_job += 1;
        let job = Job { id: *self.last_job, spec: spec.clone() };
        let id = job.id;
        match spec {
            None => {
                self.workload.activity = Activity::Retiring(job);
                self.actions.push(Action::Retire { workload, job: id });
            }
            Some(spec) => {
                let polls = was_active && self.workload.target.is_some();
                self.workload.activity = if polls { Activity::Polling(job) } else { Activity::Resolving(job) };
                self.actions.push(Action::Resolve { workload, job: id, spec });
            }
        }
    }

    fn advance(&mut self, job: Job, outcome: Outcome, gone: &mut bool) -> Result<(), Reject> {
        let desired = self.workload.spec == job.spec;
        let phase = self.workload.activity.phase().as_str();
        let out_of_place = Reject::OutOfPlace { workload: self.name.clone(), phase, event: outcome.name() };
        match (self.workload.activity.clone(), outcome) {
            (Activity::Resolving(_) | Activity::Polling(_), Outcome::Resolved(target)) => self.resolved(job, target),
            (Activity::Planning(_), Outcome::Planned(plan)) => self.planned(job, plan),
            (Activity::Fetching(_), Outcome::Fetched) => self.materialize(job),
            (Activity::Materializing(_), Outcome::Materialized(launch)) => {
                self.workload.last_generation = self.workload.last_generation.max(launch.generation);
                let generation = Generation::new(&launch, None);
                self.workload.laid_out = Some(generation.clone());
                if desired { self.activate(job, generation) } else { self.start() }
            }
            (Activity::Activating(_, generation), Outcome::Activated) => {
                self.activated(*generation);
                // A change that was taken back meanwhile has left it unknown what the reference leads to.
                if !desired || self.workload.target.is_none() {
                    self.start();
                }
            }
            (Activity::Retiring(_), Outcome::Retired) if desired => *gone = true,
            (Activity::Retiring(_), Outcome::Retired) => {
                // Named again meanwhile: it begins like a new one, but its numbers go on.
                (self.workload.current, self.workload.previous) = (None, None);
                self.start();
            }
            _ => return Err(out_of_place),
        }
        Ok(())
    }

    fn resolved(&mut self, job: Job, target: Arc<Target>) {
        self.workload.target = Some(Arc::clone(&target));
        let satisfies =
            |generation: &Generation| job.spec.as_ref().is_some_and(|spec| generation.satisfies(spec, &target));
        if let Some(current) = self.workload.current.clone().filter(satisfies) {
            return if self.workload.links_in_doubt { self.activate(job, current) } else { self.settle() };
        }
        // Where only the links failed, the generation is there: another one at each try would fill the disk.
        if let Some(laid_out) = self.workload.laid_out.clone().filter(satisfies) {
            return self.activate(job, laid_out);
        }
        self.actions.push(Action::Plan { workload: self.name.clone(), job: job.id, target });
        self.workload.activity = Activity::Planning(job);
    }

    fn planned(&mut self, job: Job, plan: Plan) {
        if plan.is_done() {
            return self.materialize(job);
        }
        // Both are there in this activity; were one not, beginning anew is right.
        let (Some(spec), Some(target)) = (job.spec.clone(), self.workload.target.clone()) else { return self.start() };
        self.actions.push(Action::Fetch { workload: self.name.clone(), job: job.id, spec, target, plan });
        self.workload.activity = Activity::Fetching(job);
    }

    fn materialize(&mut self, job: Job) {
        // Both are there in these activities; were one not, beginning anew is right.
        let (Some(spec), Some(target)) = (job.spec.clone(), self.workload.target.clone()) else { return self.start() };
        let (workload, after) = (self.name.clone(), self.workload.last_generation);
        self.actions.push(Action::Materialize { workload, job: job.id, spec, target, after });
        self.workload.activity = Activity::Materializing(job);
    }

    fn activate(&mut self, job: Job, generation: Generation) {
        let previous = self.replaced_by(&generation).map(|replaced| replaced.number);
        let (workload, number) = (self.name.clone(), generation.number);
        self.actions.push(Action::Activate { workload, job: job.id, generation: number, previous });
        self.workload.activity = Activity::Activating(job, Box::new(generation));
    }

    /// What is `previous` once `generation` is `current`. A generation that was found incomplete never is: the state does
    /// not have it, whatever the link says.
    fn replaced_by(&self, generation: &Generation) -> Option<&Generation> {
        let current = self.workload.current.as_ref().filter(|current| current.number != generation.number);
        current.or(self.workload.previous.as_ref())
    }

    fn activated(&mut self, generation: Generation) {
        let activated = Generation { activated_at: Some(self.context.wall), ..generation };
        self.workload.previous = self.replaced_by(&activated).cloned();
        self.workload.current = Some(activated);
        self.workload.links_in_doubt = false;
        self.workload.laid_out = None;
        self.actions.push(Action::Save);
        self.settle();
    }

    /// What runs is what is desired.
    fn settle(&mut self) {
        self.workload.activity = Activity::Active;
        self.workload.trouble = None;
        let pinned = self.workload.spec.as_ref().is_some_and(|spec| spec.reference.digest().is_some());
        self.workload.wake_at = if pinned { None } else { self.next_poll() };
    }

    fn next_poll(&self) -> Option<Duration> {
        let spread = 1.0 + POLL_JITTER * (2.0 * self.context.chance - 1.0);
        self.context.policy.poll.map(|poll| self.context.now + poll.min(LONGEST_WAIT).mul_f64(spread))
    }

    fn fail(&mut self, job: &Job, failure: &Failure) {
        if matches!(self.workload.activity, Activity::Activating(..) | Activity::Retiring(_)) {
            self.workload.links_in_doubt = true;
        }
        if self.workload.spec != job.spec {
            // It failed at something that nobody wants any more.
            return self.start();
        }
        let attempts = self.workload.trouble.as_ref().map_or(0, |trouble| trouble.attempts);
        let (activity, wake_at) = match failure.retry {
            Retry::Never => (Activity::Blocked, self.next_poll()),
            retry => (Activity::Backoff, Some(self.context.now + delay(retry, attempts, self.context))),
        };
        let wait = wake_at.map(|at| at.saturating_sub(self.context.now));
        let retry_at = wait.and_then(|wait| self.context.wall.checked_add(wait).ok());
        self.workload.trouble =
            Some(Trouble::after(self.workload.trouble.as_ref(), failure, self.context.wall, retry_at));
        self.workload.activity = activity;
        self.workload.wake_at = wake_at;
    }
}

/// How long to wait after a failure that followed `attempts` others: exponential with full jitter, which spreads the
/// retries of many nodes best (the analysis is "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
fn delay(retry: Retry, attempts: u32, context: &Context) -> Duration {
    let RetrySettings { initial, max } = context.policy.retry;
    let longest = initial.saturating_mul(2_u32.saturating_pow(attempts)).min(max);
    let jittered = longest.min(LONGEST_WAIT).mul_f64(context.chance);
    match retry {
        // What the registry asked for is the least. It may be nothing, which is no leave to ask without end.
        Retry::After(asked) => asked.min(LONGEST_WAIT) + jittered,
        Retry::Never | Retry::Later => jittered,
    }
}
