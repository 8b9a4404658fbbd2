//! One workload's part in a transition: the steps of its life.

use std::sync::Arc;

use super::backoff::{delay, next_poll};
use super::event::{Action, Outcome, Reject};
use super::state::{Activity, Generation, Job, Trouble, Workload};
use super::transition::Context;
use crate::desired::WorkloadName;
use crate::failure::{Failure, Retry};
use crate::transfer::{Plan, Target};

/// One workload's part in a transition.
pub(super) struct Turn<'a> {
    pub(super) name: &'a WorkloadName,
    pub(super) workload: &'a mut Workload,
    pub(super) last_job: &'a mut u64,
    pub(super) actions: &'a mut Vec<Action>,
    pub(super) context: &'a Context,
}

impl Turn<'_> {
    /// Something else is desired than before.
    pub(super) fn respecify(&mut self) {
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
    pub(super) fn start(&mut self) {
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

    pub(super) fn advance(&mut self, job: Job, outcome: Outcome, gone: &mut bool) -> Result<(), Reject> {
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
        // The state is on disk before a byte of the image is.
        if self.workload.after.replace(target.manifest.digest) != Some(target.manifest.digest) {
            self.actions.push(Action::Save);
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
        self.workload.after = None;
        let pinned = self.workload.spec.as_ref().is_some_and(|spec| spec.reference.digest().is_some());
        self.workload.wake_at = if pinned { None } else { next_poll(self.context) };
    }

    pub(super) fn fail(&mut self, job: &Job, failure: &Failure) {
        if matches!(self.workload.activity, Activity::Activating(..) | Activity::Retiring(_)) {
            self.workload.links_in_doubt = true;
        }
        if self.workload.spec != job.spec {
            // It failed at something that nobody wants any more.
            return self.start();
        }
        let attempts = self.workload.trouble.as_ref().map_or(0, |trouble| trouble.attempts);
        let (activity, wake_at) = match failure.retry {
            Retry::Never => (Activity::Blocked, next_poll(self.context)),
            retry => {
                let wait = delay(failure.kind, retry, attempts, self.context);
                (Activity::Backoff, Some(self.context.now + wait))
            }
        };
        let wait = wake_at.map(|at| at.saturating_sub(self.context.now));
        let retry_at = wait.and_then(|wait| self.context.wall.checked_add(wait).ok());
        self.workload.trouble =
            Some(Trouble::after(self.workload.trouble.as_ref(), failure, self.context.wall, retry_at));
        self.workload.activity = activity;
        self.workload.wake_at = wake_at;
    }
}
