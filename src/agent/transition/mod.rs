//! The pure heart: (state, event) → (state, actions).

mod activation;
mod backoff;
mod event;
mod request;
mod retirement;
mod trial;
mod turn;

pub(super) use backoff::delay;
pub use event::{Action, Event, Outcome, Reject};

use super::context::Context;
use super::state::{Accepted, Activity, Generation, Health, State, Trouble, Workload};
use crate::desired::{Reading, WorkloadName};
use crate::failure::{Failure, Kind};
use turn::Turn;

/// What follows from `event` in `state`. Never panics; an event that is out of place changes nothing.
pub fn transition(state: &State, event: Event, context: &Context) -> Result<(State, Vec<Action>), Reject> {
    let mut next = Transition { state: state.clone(), actions: Vec::new(), context: *context };
    match event {
        Event::Desired(Ok(reading)) => next.accept(reading),
        Event::Desired(Err(failure)) => next.reject(&failure),
        Event::Started => next.started(),
        Event::Tick => next.tick(),
        Event::ChecksChanged => next.state.workloads.values_mut().for_each(|vm| vm.health = Health::default()),
        Event::ClockSet => next.wake(Workload::waits_for_the_clock),
        Event::Found { workload, current, previous } => {
            next.found(&workload, current.map(|current| *current), previous.map(|previous| *previous))?;
        }
        Event::Reconcile(workload) => next.reconcile(workload)?,
        Event::Retire(sha256) => next.retire_all(sha256)?,
        Event::Activate(workload) => next.turn(&workload)?.approve()?,
        Event::Confirm(workload) => next.turn(&workload)?.confirm()?,
        Event::RollBack(workload) => next.turn(&workload)?.roll_back()?,
        Event::Checked { workload, generation, result } => next.turn(&workload)?.checked(generation, result),
        Event::Announced { workload, generation, result } => next.turn(&workload)?.announced(generation, result),
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
        let was_decided = self.state.accepted.is_some();
        self.state.accepted = Some(Accepted { sha256: reading.sha256, at: self.context.wall });
        let mut wanted = reading.desired.workloads;
        let mut changed = Vec::new();
        for (name, workload) in &mut self.state.workloads {
            let Some(spec) = wanted.remove(name) else {
                if workload.lose_name(&self.context, was_decided) {
                    changed.push(name.clone());
                }
                continue;
            };
            workload.retirement = None;
            if workload.spec.as_ref() != Some(&spec) {
                workload.supersede(Some(&spec));
                if workload.spec.is_none() && spec.confirm.is_none() {
                    // As after the loss of the state: nobody has to confirm what is found.
                    workload.probations.clear();
                }
                workload.spec = Some(spec);
                changed.push(name.clone());
            }
        }
        changed.extend(wanted.keys().cloned());
        for (name, spec) in wanted {
            let last_generation = self.state.last_generation_of(&name);
            self.state.retired.remove(&name);
            self.state.workloads.insert(name, Workload { spec: Some(spec), last_generation, ..Workload::default() });
        }
        // The state is on disk before anything is done about it.
        self.actions.push(Action::Save);
        for name in &changed {
            if let Ok(mut turn) = self.turn(name) {
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

    fn wake(&mut self, due: impl Fn(&Workload) -> bool) {
        for name in self.those(due) {
            if let Ok(mut turn) = self.turn(&name) {
                turn.wake();
            }
        }
    }

    fn tick(&mut self) {
        let context = self.context;
        let is_over = |workload: &Workload| workload.probation().is_some_and(|probation| probation.is_over(&context));
        for name in self.those(|workload| workload.is_on_trial() && is_over(workload)) {
            if let Ok(mut turn) = self.turn(&name) {
                turn.expire();
            }
        }
        self.retire_due();
        self.wake(|workload| workload.wake_at.is_some_and(|at| at <= context.now));
    }

    /// A probation goes on over a start, which it counts, and what the hooks were not run for is made up for.
    fn started(&mut self) {
        let has_times = |workload: &Workload| !workload.probations.is_empty() || workload.retirement.is_some();
        if self.state.workloads.values().any(has_times) {
            self.actions.push(Action::Save);
        }
        for name in self.those(|_| true) {
            if let Ok(mut turn) = self.turn(&name) {
                turn.resume_retirement();
                turn.started();
            }
        }
    }

    fn those(&self, due: impl Fn(&Workload) -> bool) -> Vec<WorkloadName> {
        let is_due = |(name, workload): (&WorkloadName, &Workload)| due(workload).then(|| name.clone());
        self.state.workloads.iter().filter_map(is_due).collect()
    }

    fn found(
        &mut self,
        name: &WorkloadName,
        current: Option<Generation>,
        previous: Option<Generation>,
    ) -> Result<(), Reject> {
        let decided = self.state.accepted.is_some();
        let mut turn = self.turn(name)?;
        // A step may be changing just this.
        if let Some(job) = turn.workload.activity.job() {
            return Err(Reject::Stale(job.id));
        }
        // What one of them said stays known, whatever is found of it.
        turn.workload.lost_records = turn.workload.records();
        let is_news = |found: &Generation| {
            found.record.is_some() && turn.workload.lost_records.get(&found.number) != found.record.as_ref()
        };
        if [&current, &previous].into_iter().flatten().any(is_news) {
            turn.actions.push(Action::Save);
        }
        turn.workload.previous = previous;
        if turn.workload.is_to_leave_current() && turn.workload.previous.is_some() {
            // The way back is there again.
            turn.start();
            return Ok(());
        }
        if !Generation::is_same(turn.workload.current.as_ref(), current.as_ref()) {
            // One that says something else than it did is as good as incomplete.
            let known = turn.workload.current.take();
            let is_other = |current: &Generation| known.as_ref().is_none_or(|known| known.number != current.number);
            turn.workload.current = current.filter(is_other);
            turn.workload.is_damaged = turn.workload.current.is_none();
            turn.workload.lost = known.map(|known| known.digest).or(turn.workload.lost);
            if decided || turn.workload.spec.is_some() {
                // As for a new one, not as for one that is only looked at again.
                turn.workload.target = None;
                turn.start();
            }
        }
        Ok(())
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
            if let Ok(mut turn) = self.turn(name)
                && turn.workload.activity.job().is_none()
                && (decided || turn.workload.spec.is_some())
            {
                turn.start();
            }
        }
        Ok(())
    }

    fn step(&mut self, name: &WorkloadName, job: u64, outcome: Result<Outcome, Failure>) -> Result<(), Reject> {
        let mut turn = self.turn(name)?;
        let running =
            turn.workload.activity.job().filter(|running| running.id == job).ok_or(Reject::Stale(job))?.clone();
        let mut gone = false;
        // A poll that finds nothing new changes nothing about what is wanted.
        let is_a_change = !matches!(turn.workload.activity, Activity::Polling(_));
        match outcome {
            Ok(outcome) => turn.advance(running, outcome, &mut gone)?,
            Err(failure) => turn.fail(&running, &failure),
        }
        if gone {
            self.state.retire(name);
            self.actions.push(Action::Save);
        }
        // Each time a job has ended, well or not: what another workload waits for, or fails at, is no reason to keep what
        // nobody wants.
        let settled = is_a_change
            && self.state.workloads.get(name).is_none_or(|w| matches!(w.activity, Activity::Active | Activity::Staged));
        if settled {
            self.wake_for_room();
        }
        let has_ended = self.state.workloads.get(name).is_none_or(|workload| workload.activity.job().is_none());
        if is_a_change
            && has_ended
            && let Some(wanted) = self.state.wanted()
        {
            self.actions.push(Action::Sweep { wanted });
        }
        Ok(())
    }

    /// What one workload has come by may be what another lacked room for: the collection that follows frees what it left.
    fn wake_for_room(&mut self) {
        let lacks_room = |workload: &&mut Workload| {
            let kind = workload.trouble.as_ref().map(|trouble| trouble.kind);
            workload.activity == Activity::Blocked && kind == Some(Kind::DiskFull)
        };
        self.state
            .workloads
            .values_mut()
            .filter(lacks_room)
            .for_each(|workload| workload.wake_at = Some(self.context.now));
    }

    fn turn<'a>(&'a mut self, name: &'a WorkloadName) -> Result<Turn<'a>, Reject> {
        let Self { state: State { workloads, last_job, .. }, actions, context } = self;
        let workload = workloads.get_mut(name).ok_or_else(|| Reject::UnknownWorkload(name.clone()))?;
        Ok(Turn { name, workload, last_job, actions, context })
    }
}
