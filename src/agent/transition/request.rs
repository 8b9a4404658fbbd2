//! One workload's part in a transition: what a person asks for, who may be refused. Asking twice is asking once.

use super::event::{Action, Reject};
use super::turn::Turn;
use crate::agent::state::Activity;
use crate::failure::Kind;

impl Turn<'_> {
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
            Activity::Planning(_) | Activity::Fetching(_) | Activity::Verifying(_) | Activity::Materializing(_)
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
        self.give_up("an operator asked for it");
        Ok(())
    }
}
