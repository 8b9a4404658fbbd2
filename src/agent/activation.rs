//! One workload's part in a transition: what becomes of a generation once its bytes are right. It waits for whoever is to
//! let it pass, becomes `current`, is confirmed or rolled back.

use std::time::Duration;

use super::event::{Action, Reject, Way};
use super::probation::Probation;
use super::quarantine::Quarantined;
use super::state::{Activation, Activity, Generation, Job, Trouble, Workload};
use super::turn::Turn;
use crate::desired::{Activate, Spec};
use crate::failure::{Failure, Kind, Retry};

impl Workload {
    /// Lets go of what counts only for as long as the same generation is desired; `spec` is what is desired from now on.
    pub(super) fn supersede(&mut self, spec: Option<&Spec>) {
        let makes_the_same = matches!((&self.spec, spec), (Some(before), Some(spec)) if before.makes_the_same(spec));
        if !makes_the_same {
            self.quarantine.clear();
            (self.staged, self.approved) = (None, None);
        } else if spec.is_some_and(|spec| spec.confirm.is_none()) && !self.is_to_leave_current() {
            // Nobody has to confirm it any more.
            self.probations.clear();
        }
    }

    /// The staged generation, if it is what is desired.
    pub(super) fn ready(&self) -> Option<&Generation> {
        let spec = self.spec.as_ref()?;
        let is_refused = |staged: &&Generation| self.quarantine.find(&staged.digest).is_some();
        self.staged.as_ref().filter(|staged| staged.suits(spec) && !is_refused(staged))
    }

    /// Whether something runs that may be given up.
    pub(super) fn is_on_trial(&self) -> bool {
        self.spec.is_some() && self.current.is_some() && !self.is_to_leave_current() && !self.is_changing_the_disk()
    }

    /// Whether a person has to let the staged generation pass.
    pub(super) fn waits_for_approval(&self) -> bool {
        let is_to_wait = self.spec.as_ref().is_some_and(|spec| spec.activate == Activate::Staged);
        let may_pass = |staged: &Generation| self.approved == Some(staged.number) || self.is_repaired_by(staged);
        is_to_wait && !self.staged.as_ref().is_some_and(may_pass)
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
            workload.health = super::health::Health::default();
            workload.approved = None;
        }
        if workload.staged.as_ref().is_some_and(|staged| staged.number == generation.number) {
            workload.staged = None;
        }
        let number = generation.number;
        workload.current = Some(Generation { activated_at: Some(self.context.wall), ..generation });
        workload.previous = previous;
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

    fn runs(&self, generation: u64) -> bool {
        self.workload.current.as_ref().is_some_and(|current| current.number == generation)
    }

    fn announce(&mut self, generation: u64, replaced: Option<u64>, way: Way) {
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

    /// The agent has started, and found what an earlier one has left.
    pub(super) fn started(&mut self) {
        // The links have the last word, also on whose probation it is.
        let current = self.workload.current.as_ref().map(|current| current.number);
        self.workload.probations.retain(|number, _| self.workload.is_damaged || Some(*number) == current);
        for probation in self.workload.probations.values_mut() {
            *probation = probation.restarted(self.context);
        }
        if let Some(probation) = self.workload.probation() {
            let attempts = self.context.policy.health.max_attempts;
            if probation.ends_at.is_some() && probation.restarts >= attempts && self.workload.is_on_trial() {
                self.give_up(&format!("the agent or the machine started {attempts} times before it was confirmed"));
            }
        }
        if current != self.workload.announced
            && let Some(current) = current.filter(|_| !self.workload.is_to_leave_current())
        {
            let given_up = self.workload.quarantine.generations().filter(|number| *number > current).max();
            let previous = self.workload.previous.as_ref().map(|previous| previous.number);
            let way = if given_up.is_some() { Way::Back } else { Way::Forth };
            self.announce(current, given_up.or(previous), way);
        }
    }

    /// The time to confirm what runs is up.
    pub(super) fn expire(&mut self) {
        let length = self.workload.probation().map(|probation| probation.length).unwrap_or_default();
        self.give_up(&format!("it was not confirmed within {} s", length.as_secs()));
    }

    /// Goes back from `current`, and does not try it again. Where there is nothing to go back to it stays: what boots badly
    /// is better than nothing.
    fn give_up(&mut self, why: &str) {
        let Some(current) = self.workload.current.clone() else { return };
        if self.workload.previous.is_none() {
            if let Some(probation) = self.workload.probations.get_mut(&current.number) {
                probation.ends_at = None;
            }
            if !matches!(self.workload.activity, Activity::Backoff | Activity::Blocked) {
                self.workload.trouble = self.overdue();
            }
            self.actions.push(Action::Save);
            return;
        }
        let (digest, generation) = (current.digest, current.number);
        let quarantined = Quarantined { digest, generation, why: why.to_owned(), at: self.context.wall };
        self.workload.quarantine.add(quarantined);
        if self.workload.staged.as_ref().is_some_and(|staged| staged.digest == digest) {
            self.unstage();
        }
        // It is on disk before the links are swapped: a crash in between does not keep what was given up.
        self.actions.push(Action::Save);
        self.restart();
    }

    /// What is wrong with a generation that nobody confirms, and that nothing is behind.
    pub(super) fn overdue(&self) -> Option<Trouble> {
        self.workload.probation().filter(|probation| probation.ends_at.is_none())?;
        let why = if self.workload.previous.is_none() {
            "it was not confirmed in time, and there is no generation to go back to"
        } else {
            "whether it was confirmed is not known, since state.json was lost"
        };
        let name = self.name;
        let message = format!(
            "{why}: run \"eci confirm {name}\" if it is right, \"eci rollback {name}\" or another image if not"
        );
        let failure = Failure { kind: Kind::Unconfirmed, message, retry: Retry::Never };
        let before = self.workload.trouble.as_ref().filter(|before| before.kind == failure.kind);
        Some(before.cloned().unwrap_or_else(|| Trouble::after(None, &failure, self.context.wall, None)))
    }

    /// What runs was checked.
    pub(super) fn checked(&mut self, generation: u64, result: Result<(), String>) {
        if !self.runs(generation) {
            return;
        }
        self.workload.health = self.workload.health.after(result, self.context);
        if self.workload.probation().is_some() && self.workload.health.is_proven(self.context) {
            // It is refused where something else is about to run.
            let _ = self.confirm();
        }
    }

    fn refusal(&self, why: impl Into<String>) -> Reject {
        Reject::Refused { workload: self.name.clone(), why: why.into() }
    }

    /// Someone says that what runs is right.
    pub(super) fn confirm(&mut self) -> Result<(), Reject> {
        let Some(current) = self.workload.current.as_ref().map(|current| current.number) else {
            return Err(self.refusal("nothing runs that could be confirmed"));
        };
        if self.workload.is_to_leave_current() {
            return Err(self.refusal("what runs was given up, and is being rolled back"));
        }
        if matches!(&self.workload.activity, Activity::Activating(..)) {
            return Err(self.refusal("another generation is just being activated: ask again"));
        }
        if self.workload.probations.remove(&current).is_some() {
            self.workload.trouble.take_if(|trouble| trouble.kind == Kind::Unconfirmed);
            self.actions.push(Action::Save);
        }
        Ok(())
    }

    /// Someone lets the staged generation pass, or has another try at what was rolled back.
    pub(super) fn approve(&mut self) -> Result<(), Reject> {
        let Some(spec) = self.workload.spec.clone() else { return Err(self.refusal("it is no longer desired")) };
        if self.workload.is_to_leave_current() {
            return Err(self.refusal("what runs was given up, and is being rolled back"));
        }
        if let Some(number) = self.workload.ready().map(|staged| staged.number) {
            self.workload.approved = Some(number);
            self.actions.push(Action::Save);
            if self.workload.activity.job().is_none() {
                match self.released() {
                    Some(generation) => {
                        let job = self.new_job();
                        self.activate(job, generation);
                    }
                    // The window decides from now on.
                    None => self.sleep(self.workload.wake_at),
                }
            }
            return Ok(());
        }
        let desired = self.workload.target.as_ref().map(|target| target.manifest.digest);
        if let Some(desired) = desired.filter(|desired| self.workload.quarantine.find(desired).is_some()) {
            self.workload.quarantine.remove(&desired);
            self.workload.trouble = None;
            self.actions.push(Action::Save);
            self.restart();
            return Ok(());
        }
        let is_coming = matches!(
            self.workload.activity,
            Activity::Planning(_) | Activity::Fetching(_) | Activity::Materializing(_)
        );
        if !is_coming && self.workload.current.as_ref().is_some_and(|current| current.suits(&spec)) {
            // It has been let pass.
            return Ok(());
        }
        Err(self.refusal(format!("nothing is ready to be activated: it is {}", self.workload.phase())))
    }

    /// Someone wants back what ran before.
    pub(super) fn roll_back(&mut self) -> Result<(), Reject> {
        if self.workload.spec.is_none() {
            return Err(self.refusal("it is no longer desired"));
        }
        let Some(current) = self.workload.current.as_ref() else {
            let is_free = !self.workload.is_changing_the_disk();
            let Some(previous) = self.workload.previous.clone().filter(|_| self.workload.is_damaged && is_free) else {
                return Err(self.refusal("nothing runs that could be rolled back"));
            };
            // What is damaged is left as it is.
            self.give_up_job();
            self.go_back(previous);
            return Ok(());
        };
        let last = self.workload.quarantine.last().map(|quarantined| quarantined.generation);
        if last.is_some_and(|last| last >= current.number) {
            // It was, or just is.
            return Ok(());
        }
        if self.workload.previous.is_none() {
            return Err(self.refusal(format!("there is no generation before {} to go back to", current.number)));
        }
        if matches!(self.workload.activity, Activity::Activating(..) | Activity::Retiring(_)) {
            return Err(self.refusal("its links are just being changed: ask again"));
        }
        self.give_up("a person asked for it");
        Ok(())
    }
}
