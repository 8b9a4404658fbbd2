//! The time between the loss of a workload's name in the desired state and its retirement.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agent::context::Context;
use crate::clock::BootId;

/// A retirement that is pending: the desired state no longer names the workload, which runs on until the time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retirement {
    /// `[desired] retire` as it was when the desired state was accepted; none: only an operator ends the time.
    pub length: Option<Duration>,
    /// The boot that `ends_at` belongs to.
    pub boot: Option<BootId>,
    /// The end of the time, on the boot clock; none: only an operator ends the time.
    pub ends_at: Option<Duration>,
}

impl Retirement {
    /// A retirement whose time starts now.
    pub(in crate::agent) fn new(length: Option<Duration>, context: &Context) -> Self {
        let ends_at = length.map(|length| context.now.saturating_add(length));
        Self { length, boot: context.boot, ends_at }
    }

    /// The same retirement after a start of the agent. The boot clock does not tell how long a machine was off, and the
    /// wall clock may be wrong: after a reboot the time starts anew, so that no workload is retired early.
    pub(in crate::agent) fn restarted(self, context: &Context) -> Self {
        let is_same_boot = self.boot.is_some() && self.boot == context.boot;
        if is_same_boot { self } else { Self::new(self.length, context) }
    }

    /// True if the time is up.
    pub(in crate::agent) fn is_over(&self, context: &Context) -> bool {
        self.ends_at.is_some_and(|at| at <= context.now)
    }

    /// The time that is left at `now` of `boot`; none: only an operator ends it.
    pub(in crate::agent) fn left(&self, now: Duration, boot: Option<BootId>) -> Option<Duration> {
        let is_same_boot = self.boot.is_some() && self.boot == boot;
        if is_same_boot { self.ends_at.map(|at| at.saturating_sub(now)) } else { self.length }
    }
}
