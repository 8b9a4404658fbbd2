//! One workload's part in a transition: the way of a generation to `current` once its bytes are right. It waits for whoever
//! is to let it pass, and the links are swapped to it, or back. Whether it stays stands in `trial`, what persons ask for in
//! `request`.

use std::time::Duration;

use super::event::Action;
use super::turn::Turn;
use crate::agent::state::{Activation, Activity, Generation, Health, Job, Probation, Trouble, Way, Workload};
use crate::desired::Spec;
use crate::failure::Failure;

impl Workload {
    /// Lets go of what counts only for as long as the same generation is desired; `spec` is what is desired from now on.
    pub(super) fn supersede(&mut self, spec: Option<&Spec>) {
        let makes_the_same = matches!((&self.spec, spec), (Some(before), Some(spec)) if before.makes_the_same(spec));
        if !makes_the_same {
            self.quarantine.clear();
            (self.staged, self.approved) = (None, None);
        } else if spec.is_some_and(|spec| spec.confirm.is_none())
            && !self.is_to_leave_current()
            && let Some(current) = &self.current
        {
            // Nobody has to confirm it any more.
            self.probations.remove(&current.number);
        }
    }
}

impl Turn<'_> {
    /// The staged generation is what is desired: it waits, or is activated.
    pub(super) fn stage_or_activate(&mut self, job: Job) {
        if let Some(generation) = self.released() {
            return self.activate(job, generation);
        }
        self.workload.activity = Activity::Staged;
        self.workload.trouble = self.overdue();
        self.sleep(self.next_poll());
    }

    /// The staged generation, if it waits for nothing any more.
    pub(super) fn released(&self) -> Option<Generation> {
        let is_released = self.release_at().is_some_and(|at| at <= self.context.now);
        self.workload.ready().filter(|_| is_released).cloned()
    }

    /// When the staged generation may be activated, on the boot clock; none where there is none, or where it waits for a
    /// person.
    pub(super) fn release_at(&self) -> Option<Duration> {
        let ready = self.workload.ready().filter(|_| !self.workload.waits_for_approval())?;
        // What is put in the place of a damaged generation is a repair, and no news.
        let opens_in = self.context.opens_in.filter(|_| !self.workload.is_repaired_by(ready));
        Some(self.context.now + opens_in.unwrap_or_default())
    }

    /// Has `generation` become `current`, once a hook agrees where one is to be asked.
    pub(super) fn activate(&mut self, job: Job, generation: Generation) {
        let is_news = !self.runs(generation.number) && !self.workload.is_repaired_by(&generation);
        if !(is_news && self.context.policy.asks) {
            return self.swap_to(job, generation);
        }
        let (workload, number) = (self.name.clone(), generation.number);
        let replaces = self.workload.current.as_ref().map(|current| current.number);
        // A restart is to ask for the same generation, and not for another one each time.
        self.actions.push(Action::Save);
        self.actions.push(Action::Ask { workload, job: job.id, generation: number, replaces });
        self.workload.activity = Activity::Asking(job, number);
    }

    /// The hook has agreed. That may have taken it long: the window may have closed.
    pub(super) fn agreed(&mut self, job: Job, number: u64) {
        match self.released().filter(|generation| generation.number == number) {
            Some(generation) => self.swap_to(job, generation),
            None => self.stage_or_activate(job),
        }
    }

    /// Swaps the links to `generation`.
    fn swap_to(&mut self, job: Job, generation: Generation) {
        if self.runs(generation.number) {
            let previous = self.workload.previous.clone();
            return self.swap(job, Activation { generation, previous, way: Way::Forth });
        }
        let length = job.spec.as_ref().and_then(|spec| spec.confirm);
        let probation = if self.workload.is_repaired_by(&generation) {
            // A repair of what was final is final, and one of what was not has the time that was left.
            self.workload.probations.values().next().copied()
        } else {
            length.map(|length| Probation::new(length, self.context))
        };
        self.workload.probations.remove(&generation.number);
        if let Some(probation) = probation {
            self.workload.probations.insert(generation.number, probation);
            // Before the links are swapped: a crash in between does not make it final.
            self.actions.push(Action::Save);
        }
        let previous = self.fallback().cloned();
        self.swap(job, Activation { generation, previous, way: Way::Forth });
    }

    /// A generation was found not to be whole when it was to become `current`.
    pub(super) fn discard(&mut self, number: u64) {
        // A link may point at it still.
        self.workload.lost_records = self.workload.records();
        let is = |generation: &Option<Generation>| generation.as_ref().is_some_and(|one| one.number == number);
        if is(&self.workload.previous) {
            self.workload.previous = None;
        }
        if is(&self.workload.staged) {
            self.unstage();
        }
    }

    /// What was given up stays, where what was to be gone back to is not there any more: what boots badly is better than
    /// nothing.
    pub(super) fn stay_where_there_is_no_way_back(&mut self) {
        let Some(current) = self.workload.current.as_ref().map(|current| current.number) else { return };
        if self.workload.previous.is_some() || !self.workload.is_to_leave_current() {
            return;
        }
        self.workload.quarantine.forgive(current);
        if let Some(probation) = self.workload.probations.get_mut(&current) {
            probation.ends_at = None;
        }
        self.actions.push(Action::Save);
    }

    /// What `previous` is once another generation is `current`: the last one that was confirmed. A generation that was
    /// found incomplete never is: the state does not have it, whatever the link says.
    fn fallback(&self) -> Option<&Generation> {
        let confirmed = self.workload.current.as_ref().filter(|_| self.workload.probation().is_none());
        confirmed.or(self.workload.previous.as_ref())
    }

    /// What to go back to from a `current` that was given up.
    pub(super) fn way_back(&self) -> Option<Generation> {
        let is_to_leave = self.workload.spec.is_some() && self.workload.is_to_leave_current();
        self.workload.previous.clone().filter(|_| is_to_leave)
    }

    /// Swaps the links back. Nothing waits for that: no window, no person, no network.
    pub(super) fn go_back(&mut self, previous: Generation) {
        let job = self.new_job();
        self.swap(job, Activation { generation: previous, previous: None, way: Way::Back });
    }

    fn swap(&mut self, job: Job, activation: Activation) {
        let previous = activation.previous.as_ref().map(|previous| previous.number);
        let (workload, generation, way) = (self.name.clone(), activation.generation.number, activation.way);
        self.actions.push(Action::Activate { workload, job: job.id, generation, previous, way });
        self.workload.activity = Activity::Activating(job, Box::new(activation));
    }

    /// The links are swapped.
    pub(super) fn activated(&mut self, job: Job, activation: Activation) {
        let Activation { generation, previous, way } = activation;
        let workload = &mut *self.workload;
        workload.activity = Activity::Active;
        let replaced = workload.current.as_ref().map(|current| current.number);
        let is_another = replaced != Some(generation.number);
        workload.probations.retain(|number, _| *number == generation.number);
        if is_another && !workload.is_repaired_by(&generation) {
            for probation in workload.probations.values_mut() {
                *probation = Probation::new(probation.length, self.context);
            }
        }
        if is_another {
            workload.health = Health::default();
            workload.approved = None;
        }
        if workload.staged.as_ref().is_some_and(|staged| staged.number == generation.number) {
            workload.staged = None;
        }
        let number = generation.number;
        workload.current = Some(Generation { activated_at: Some(self.context.wall), ..generation });
        workload.previous = previous;
        workload.lost_records.clear();
        (workload.links_in_doubt, workload.is_damaged, workload.lost) = (false, false, None);
        self.actions.push(Action::Save);
        if is_another {
            self.announce(number, replaced, way);
        }
        let target = self.workload.target.clone();
        match target {
            // It is known what was found wrong with what is desired; no network is needed to say so.
            Some(target) if self.workload.spec == job.spec => self.resolved(job, target),
            // A change that was taken back meanwhile has left it unknown what the reference leads to.
            _ => self.start(),
        }
    }

    pub(super) fn runs(&self, generation: u64) -> bool {
        self.workload.current.as_ref().is_some_and(|current| current.number == generation)
    }

    pub(super) fn announce(&mut self, generation: u64, replaced: Option<u64>, way: Way) {
        if self.context.policy.announces {
            self.actions.push(Action::Announce { workload: self.name.clone(), generation, replaced, way });
        } else {
            self.workload.announced = Some(generation);
        }
    }

    /// The hook after an activation has been run. That it failed is said, and changes nothing.
    pub(super) fn announced(&mut self, generation: u64, result: Result<(), Failure>) {
        if !self.runs(generation) {
            return;
        }
        self.workload.announced = Some(generation);
        self.actions.push(Action::Save);
        if let Err(failure) = result
            && self.workload.trouble.is_none()
        {
            self.workload.trouble = Some(Trouble::after(None, &failure, self.context.wall, None));
        }
    }
}
