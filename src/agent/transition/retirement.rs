//! The part of a transition that retires workloads: at once, or once their time is up.

use std::time::Duration;

use super::Transition;
use super::event::{Action, Reject};
use super::turn::Turn;
use crate::agent::context::Context;
use crate::agent::state::{Activity, Retirement, Workload};
use crate::oci::Digest;

impl Transition {
    /// Retires the workloads whose time is up.
    pub(super) fn retire_due(&mut self) {
        let context = self.context;
        // A file that is rejected changes nothing on the node; it may be about to name the workload again.
        if self.state.rejected.is_none() {
            self.retire_those(|retirement| retirement.is_over(&context));
        }
    }

    /// Ends the time of every pending retirement, if the desired state `sha256` is in force.
    pub(super) fn retire_all(&mut self, sha256: Digest) -> Result<(), Reject> {
        if self.state.accepted.is_none_or(|accepted| accepted.sha256 != sha256) {
            return Err(Reject::OtherDesired(sha256));
        }
        self.retire_those(|_| true);
        Ok(())
    }

    fn retire_those(&mut self, is_due: impl Fn(&Retirement) -> bool) {
        let due = self.those(|workload| workload.retirement.as_ref().is_some_and(&is_due));
        if due.is_empty() {
            return;
        }
        for name in &due {
            if let Some(workload) = self.state.workloads.get_mut(name) {
                workload.retire();
            }
        }
        // The state is on disk before a link is removed.
        self.actions.push(Action::Save);
        for name in &due {
            if let Ok(mut turn) = self.turn(name) {
                turn.respecify();
            }
        }
    }
}

impl Workload {
    /// Marks the workload as no longer desired. The job that follows removes its links.
    pub(super) fn retire(&mut self) {
        self.supersede(None);
        (self.spec, self.retirement) = (None, None);
    }

    /// Marks the workload as no longer named by the desired state. True if it is retired at once, and not after a time.
    /// `was_decided`: a desired state was in force before.
    pub(super) fn lose_name(&mut self, context: &Context, was_decided: bool) -> bool {
        let length = context.policy.retire;
        // Its links are being removed, or were in part.
        let is_retired = self.spec.is_none() && self.retirement.is_none() && was_decided;
        let has_no_links = matches!(self.activity, Activity::Retiring(_));
        if is_retired || has_no_links || length == Some(Duration::ZERO) {
            self.retire();
            return true;
        }
        if self.retirement.is_none() {
            self.retirement = Some(Retirement::new(length, context));
        }
        false
    }
}

impl Turn<'_> {
    /// Continues a pending retirement after a start of the agent.
    pub(super) fn resume_retirement(&mut self) {
        if let Some(retirement) = &mut self.workload.retirement {
            *retirement = retirement.restarted(self.context);
        }
    }
}
