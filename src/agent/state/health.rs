//! How the checks of what runs have gone. Pure.

use std::time::Duration;

use jiff::Timestamp;

use crate::agent::context::Context;

/// How the checks of `current` have gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Whether it is healthy; none where it is too soon to say.
    pub is_healthy: Option<bool>,
    /// Since when no check has failed, on the boot clock; none where the last one has.
    pub passing_since: Option<Duration>,
    /// How many checks in a row have failed.
    pub failures: u32,
    /// When it was checked last.
    pub checked_at: Option<Timestamp>,
    /// Why the last check failed.
    pub message: Option<String>,
}

impl Health {
    /// After another check.
    pub(in crate::agent) fn after(&self, result: Result<(), String>, context: &Context) -> Self {
        let checked_at = Some(context.wall);
        match result {
            Ok(()) => {
                let passing_since = self.passing_since.or(Some(context.now));
                Self { is_healthy: Some(true), passing_since, checked_at, ..Self::default() }
            }
            Err(message) => {
                let failures = self.failures.saturating_add(1);
                let is_too_many = failures >= context.policy.health.threshold;
                let is_healthy = if is_too_many { Some(false) } else { self.is_healthy };
                Self { is_healthy, passing_since: None, failures, checked_at, message: Some(message) }
            }
        }
    }

    /// Whether no check has failed for long enough for it to be relied upon: one that comes and goes is not.
    pub(in crate::agent) fn is_proven(&self, context: &Context) -> bool {
        let passing_for = self.passing_since.map(|since| context.now.saturating_sub(since));
        passing_for.is_some_and(|time| time >= context.policy.health.healthy_after)
    }
}
