//! The time in which a new generation has to be confirmed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agent::context::Context;
use crate::clock::BootId;

/// The time in which a generation has to be confirmed, else it is rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probation {
    /// How long it has, from its activation or from a reboot on.
    pub length: Duration,
    /// Which boot `ends_at` is of.
    pub boot: Option<BootId>,
    /// When the time is up, on the boot clock; none once it was, and there was nothing to go back to.
    pub ends_at: Option<Duration>,
    /// How often the agent, or the machine, has started meanwhile.
    pub restarts: u32,
}

impl Probation {
    /// That of a generation of which it is not known whether it was confirmed: nothing ends it by itself.
    pub(in crate::agent) const UNKNOWN: Self = Self { length: Duration::ZERO, boot: None, ends_at: None, restarts: 0 };

    /// Begins now.
    pub(in crate::agent) fn new(length: Duration, context: &Context) -> Self {
        Self { length, boot: context.boot, ends_at: Some(context.now + length), restarts: 0 }
    }

    /// The same after a start of the agent. How long a machine was off, its boot clock does not tell, and the other clock
    /// may be wrong: after a reboot the time begins anew, and how often that may be is bounded.
    pub(in crate::agent) fn restarted(self, context: &Context) -> Self {
        let is_same_boot = self.boot.is_some() && self.boot == context.boot;
        let ends_at = self.ends_at.map(|at| if is_same_boot { at } else { context.now + self.length });
        Self { boot: context.boot, ends_at, restarts: self.restarts.saturating_add(1), ..self }
    }

    /// Whether the time is up.
    pub(in crate::agent) fn is_over(&self, context: &Context) -> bool {
        self.ends_at.is_some_and(|at| at <= context.now)
    }
}
