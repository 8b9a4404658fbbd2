//! One workload's part in a transition: the way to what is desired. What becomes of a generation that is ready stands in
//! `activation`.

use std::sync::Arc;
use std::time::Duration;

use super::backoff::{delay, next_poll};
use super::event::{Action, Outcome, Reject};
use crate::agent::context::Context;
use crate::agent::state::{Activity, Generation, Job, Quarantined, Trouble, Workload};
use crate::desired::WorkloadName;
use crate::failure::{Failure, Kind, Retry};
use crate::oci::Digest;
use crate::transfer::{Plan, Target};

/// How long after a repair the next one is tried.
const REPAIR_AGAIN: Duration = Duration::from_secs(600);

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
        self.restart();
    }

    /// Begins anew, in place of what goes on. What changes the disk is short and local: it is left to end, and what comes
    /// next is decided then.
    pub(super) fn restart(&mut self) {
        if self.workload.is_changing_the_disk() {
            return;
        }
        self.give_up_job();
        self.start();
    }

    /// Ends what goes on, if something does that may be ended.
    pub(super) fn give_up_job(&mut self) {
        if let Some(job) = self.workload.activity.job() {
            self.actions.push(Action::Cancel { job: job.id });
        }
    }

    /// It is time to go on.
    pub(super) fn wake(&mut self) {
        let waits = matches!(self.workload.activity, Activity::Staged | Activity::Idle);
        match self.released().filter(|_| waits && self.way_back().is_none()) {
            Some(generation) => {
                let job = self.new_job();
                self.activate(job, generation);
            }
            None => self.start(),
        }
    }

    /// A new job, towards what is desired now.
    pub(super) fn new_job(&mut self) -> Job {
        (self.workload.wake_at, self.workload.poll_at) = (None, None);
        *self.last_job += 1;
        Job { id: *self.last_job, spec: self.workload.spec.clone(), mends: false }
    }

    /// Begins a new job: back from what was given up, else towards what is desired now.
    pub(super) fn start(&mut self) {
        if self.workload.spec.is_none() && self.workload.retirement.is_some() {
            // Until it is retired, its links stay as they are; what it should run is not known.
            (self.workload.wake_at, self.workload.poll_at) = (None, None);
            return;
        }
        if let Some(previous) = self.way_back() {
            return self.go_back(previous);
        }
        self.stay_where_there_is_no_way_back();
        let was_settled = matches!(self.workload.activity, Activity::Active | Activity::Staged);
        let (workload, job) = (self.name.clone(), self.new_job());
        let id = job.id;
        match job.spec.clone() {
            None => {
                self.workload.activity = Activity::Retiring(job);
                self.actions.push(Action::Retire { workload, job: id });
            }
            Some(spec) => {
                let polls = was_settled && self.workload.target.is_some();
                self.workload.activity = if polls { Activity::Polling(job) } else { Activity::Resolving(job) };
                self.actions.push(Action::Resolve { workload, job: id, spec });
            }
        }
    }

    pub(super) fn advance(&mut self, job: Job, outcome: Outcome, gone: &mut bool) -> Result<(), Reject> {
        let desired = self.workload.spec == job.spec;
        let phase = self.workload.phase().as_str();
        let out_of_place = Reject::OutOfPlace { workload: self.name.clone(), phase, event: outcome.name() };
        match (self.workload.activity.clone(), outcome) {
            (Activity::Resolving(_) | Activity::Polling(_), Outcome::Resolved(target)) => self.resolved(job, target),
            (Activity::Planning(_), Outcome::Planned(plan)) => self.planned(job, plan),
            (Activity::Fetching(_), Outcome::Fetched) => self.verify(job),
            (Activity::Verifying(_), Outcome::Verified) => self.materialize(job),
            (Activity::Verifying(_), Outcome::Missing(blobs)) => self.mend(job, &blobs),
            (Activity::Materializing(_), Outcome::Materialized(launch)) => {
                self.workload.last_generation = self.workload.last_generation.max(launch.generation);
                self.workload.staged = Some(Generation::new(&launch, None));
                if desired && self.way_back().is_none() {
                    if self.released().is_none() {
                        // A restart has to find it again.
                        self.actions.push(Action::Save);
                    }
                    self.stage_or_activate(job);
                } else {
                    self.start();
                }
            }
            (Activity::Asking(_, asked), Outcome::Agreed) if desired => self.agreed(job, asked),
            (Activity::Activating(_, activation), Outcome::Activated) => self.activated(job, *activation),
            (Activity::Retiring(_), Outcome::Retired) if desired => *gone = true,
            (Activity::Retiring(_), Outcome::Retired) => {
                // Named again meanwhile: it begins like a new one, but its numbers go on.
                let Workload { spec, last_generation, .. } = std::mem::take(self.workload);
                *self.workload = Workload { spec, last_generation, ..Workload::default() };
                self.start();
            }
            _ => return Err(out_of_place),
        }
        Ok(())
    }

    pub(super) fn resolved(&mut self, job: Job, target: Arc<Target>) {
        self.workload.target = Some(Arc::clone(&target));
        let satisfies =
            |generation: &Generation| job.spec.as_ref().is_some_and(|spec| generation.satisfies(spec, &target));
        if let Some(current) = self.workload.current.clone().filter(satisfies) {
            return if self.workload.links_in_doubt { self.activate(job, current) } else { self.settle() };
        }
        if let Some(quarantined) = self.workload.quarantine.find(&target.manifest.digest) {
            let failure = refusal(quarantined, self.name);
            self.unstage();
            if self.workload.is_damaged && self.workload.repair_after.is_none_or(|at| at <= self.context.now) {
                // What is to boot in its place may not be: so that which boots is mended as it is.
                self.workload.repair_after = Some(self.context.now + REPAIR_AGAIN);
                self.actions.push(Action::Repair);
            }
            return self.fail(&job, &failure);
        }
        // Where only the links failed, the generation is there: another one at each try would fill the disk.
        if self.workload.staged.as_ref().is_some_and(satisfies) {
            return self.stage_or_activate(job);
        }
        self.workload.staged = None;
        // The state is on disk before a byte of the image is.
        if self.workload.after.replace(target.manifest.digest) != Some(target.manifest.digest) {
            self.actions.push(Action::Save);
        }
        self.plan(job, target);
    }

    fn plan(&mut self, job: Job, target: Arc<Target>) {
        self.actions.push(Action::Plan { workload: self.name.clone(), job: job.id, target });
        self.workload.activity = Activity::Planning(job);
    }

    fn planned(&mut self, job: Job, plan: Plan) {
        if plan.is_done() {
            return self.verify(job);
        }
        // Both are there in this activity; were one not, beginning anew is right.
        let (Some(spec), Some(target)) = (job.spec.clone(), self.workload.target.clone()) else { return self.start() };
        self.actions.push(Action::Fetch { workload: self.name.clone(), job: job.id, spec, target, plan });
        self.workload.activity = Activity::Fetching(job);
    }

    fn verify(&mut self, job: Job) {
        // It is there in these activities; were it not, beginning anew is right.
        let Some(target) = self.workload.target.clone() else { return self.start() };
        self.actions.push(Action::Verify { workload: self.name.clone(), job: job.id, target });
        self.workload.activity = Activity::Verifying(job);
    }

    /// Has blobs fetched again that were found damaged, or have gone. Once: what else comes to light then waits as after any
    /// failure, so that nothing is paid for over and over.
    fn mend(&mut self, job: Job, blobs: &[Digest]) {
        if job.mends {
            return self.fail(&job, &dwindling(blobs));
        }
        let Some(target) = self.workload.target.clone() else { return self.start() };
        self.plan(Job { mends: true, ..job }, target);
    }

    fn materialize(&mut self, job: Job) {
        // Both are there in these activities; were one not, beginning anew is right.
        let (Some(spec), Some(target)) = (job.spec.clone(), self.workload.target.clone()) else { return self.start() };
        let (workload, after) = (self.name.clone(), self.workload.last_generation);
        self.actions.push(Action::Materialize { workload, job: job.id, spec, target, after });
        self.workload.activity = Activity::Materializing(job);
    }

    /// What runs is what is desired.
    pub(super) fn settle(&mut self) {
        self.workload.activity = Activity::Active;
        self.workload.trouble = self.overdue();
        self.workload.after = None;
        self.unstage();
        self.sleep(self.next_poll());
    }

    /// Forgets what waited: it is not desired any more. A restart has to know.
    pub(super) fn unstage(&mut self) {
        if self.workload.staged.take().is_some() {
            self.actions.push(Action::Save);
        }
    }

    /// When the reference is looked up again, if anything can have changed by then.
    pub(super) fn next_poll(&self) -> Option<Duration> {
        let pinned = self.workload.spec.as_ref().is_some_and(|spec| spec.reference.digest().is_some());
        if pinned { None } else { next_poll(self.context) }
    }

    /// Goes on at `at`, or as soon as a generation that is ready may be activated.
    pub(super) fn sleep(&mut self, at: Option<Duration>) {
        self.workload.poll_at = at;
        self.workload.wake_at = [at, self.release_at()].into_iter().flatten().min();
    }

    pub(super) fn fail(&mut self, job: &Job, failure: &Failure) {
        let was_looking = matches!(self.workload.activity, Activity::Resolving(_) | Activity::Polling(_));
        match &self.workload.activity {
            // Nothing was begun.
            Activity::Activating(_, activation) if failure.kind == Kind::Damaged => {
                let number = activation.generation.number;
                self.discard(number);
            }
            Activity::Activating(..) | Activity::Retiring(_) => self.workload.links_in_doubt = true,
            _ => {}
        }
        if self.workload.spec != job.spec {
            // It failed at something that nobody wants any more.
            return self.start();
        }
        if was_looking
            && failure.retry != Retry::Never
            && let Some(generation) = self.released()
        {
            // What is ready does not wait for a registry.
            return self.activate(job.clone(), generation);
        }
        if was_looking && failure.retry == Retry::Never {
            // It was withdrawn.
            self.unstage();
        }
        if self.workload.is_damaged
            && let Some(previous) = self.workload.previous.clone()
        {
            // What was damaged cannot be made again now; what ran before can boot.
            return self.go_back(previous);
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
        (self.workload.wake_at, self.workload.poll_at) = (wake_at, wake_at);
        if was_looking && self.workload.activity == Activity::Backoff {
            // Nor does it sleep over the window.
            self.sleep(wake_at);
        }
    }
}

/// Why blobs are not fetched again at once.
fn dwindling(blobs: &[Digest]) -> Failure {
    let short: Vec<_> = blobs.iter().map(Digest::short).collect();
    let message = format!(
        "blobs of the cache turned out damaged, or went, although others had just been fetched again for that: {}",
        short.join(", ")
    );
    Failure { kind: Kind::Damaged, message, retry: Retry::Later }
}

/// Why an image is not tried again.
fn refusal(quarantined: &Quarantined, workload: &WorkloadName) -> Failure {
    let Quarantined { digest, generation, why, .. } = quarantined;
    let message = format!(
        "{} was rolled back as generation {generation} ({why}), and is not tried again: name another image, or run \"eci activate {workload}\"",
        digest.short()
    );
    Failure { kind: Kind::Quarantined, message, retry: Retry::Never }
}
