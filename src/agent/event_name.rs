//! The names of events, as the event stream and the API's document have them.

use std::fmt;

use serde::Serialize;

/// The name of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "docs/commands.md explains each name")]
pub enum EventName {
    DesiredAccepted,
    DesiredRejected,
    Phase,
    Activated,
    Confirmed,
    RolledBack,
    Healthy,
    Unhealthy,
    Failed,
    RetirementPending,
    RetirementCancelled,
    Retired,
}

impl EventName {
    /// Every name, in the order of the API's document.
    pub const ALL: [Self; 12] = [
        Self::DesiredAccepted,
        Self::DesiredRejected,
        Self::Phase,
        Self::Activated,
        Self::Confirmed,
        Self::RolledBack,
        Self::Healthy,
        Self::Unhealthy,
        Self::Failed,
        Self::RetirementPending,
        Self::RetirementCancelled,
        Self::Retired,
    ];

    /// The name in the stream.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DesiredAccepted => "desired-accepted",
            Self::DesiredRejected => "desired-rejected",
            Self::Phase => "phase",
            Self::Activated => "activated",
            Self::Confirmed => "confirmed",
            Self::RolledBack => "rolled-back",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Failed => "failed",
            Self::RetirementPending => "retirement-pending",
            Self::RetirementCancelled => "retirement-cancelled",
            Self::Retired => "retired",
        }
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
