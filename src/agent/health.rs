//! How the checks of what runs have gone. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::transition::Context;

/// How the checks of `current` have gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Since when it is healthy, on the boot clock; none where it is not, or not known to be.
    pub healthy_since: Option<Duration>,
    /// How many checks in a row have failed.
    pub failures: u32,
    /// When it was checked last.
    pub checked_at: Option<Timestamp>,
    /// Why the last check failed.
    pub message: Option<String>,
    /// Whether so many have failed in a row that it is not healthy.
    pub is_unhealthy: bool,
}

impl Health {
    /// After another check.
    pub(super) fn after(&self, result: Result<(), String>, context: &Context) -> Self {
        let checked_at = Some(context.wall);
        match result {
            Ok(()) => {
                let healthy_since = self.healthy_since.or(Some(context.now));
                Self { healthy_since, checked_at, ..Self::default() }
            }
            Err(message) => {
                let failures = self.failures.saturating_add(1);
                let is_unhealthy = failures >= context.policy.health.threshold;
                let healthy_since = self.healthy_since.filter(|_| !is_unhealthy);
                Self { healthy_since, failures, checked_at, message: Some(message), is_unhealthy }
            }
        }
    }

    /// Whether it is healthy; none where it is too soon to say.
    pub(super) fn is_healthy(&self) -> Option<bool> {
        if self.is_unhealthy { Some(false) } else { self.healthy_since.map(|_| true) }
    }

    /// Whether it has been healthy for long enough to be relied upon.
    pub(super) fn is_proven(&self, context: &Context) -> bool {
        let healthy_for = self.healthy_since.map(|since| context.now.saturating_sub(since));
        self.failures == 0 && healthy_for.is_some_and(|time| time >= context.policy.health.healthy_after)
    }
}
