//! One workload's part in a transition: whether what runs stays. It is confirmed, or given up for what ran before.

use super::event::Action;
use super::turn::Turn;
use crate::agent::state::{Activity, Quarantined, Trouble, Way};
use crate::failure::{Failure, Kind, Retry};

impl Turn<'_> {
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
    pub(super) fn give_up(&mut self, why: &str) {
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
        let why = self.with_evidence(why);
        let quarantined = Quarantined { digest, generation, why, at: self.context.wall };
        self.workload.quarantine.add(quarantined);
        if self.workload.staged.as_ref().is_some_and(|staged| staged.digest == digest) {
            self.unstage();
        }
        // It is on disk before the links are swapped: a crash in between does not keep what was given up.
        self.actions.push(Action::Save);
        self.restart();
    }

    /// A reason to give `current` up, and the failure of its last health check if that failed.
    fn with_evidence(&self, why: &str) -> String {
        let health = &self.workload.health;
        match health.message.as_deref().map(str::trim_end) {
            None => why.to_owned(),
            Some(message) => {
                let failures = if health.failures == 1 {
                    "the last health check failed".to_owned()
                } else {
                    format!("the last {} health checks failed", health.failures)
                };
                format!("{why}; {failures}: {message}")
            }
        }
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
}
