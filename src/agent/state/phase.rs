//! What a workload is at, by the name that the status gives it.

use serde::{Deserialize, Serialize};

use super::{Activity, Workload};

/// The name of what is being done, as the status gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the variants of Activity are explained there")]
pub enum Phase {
    Idle,
    Resolving,
    Planning,
    Fetching,
    Verifying,
    Materializing,
    Staged,
    Activating,
    Probation,
    Active,
    Backoff,
    Blocked,
    Retiring,
}

impl Phase {
    /// All of them, in the order in which a workload goes through them.
    pub const ALL: [Self; 13] = [
        Self::Idle,
        Self::Resolving,
        Self::Planning,
        Self::Fetching,
        Self::Verifying,
        Self::Materializing,
        Self::Staged,
        Self::Activating,
        Self::Probation,
        Self::Active,
        Self::Backoff,
        Self::Blocked,
        Self::Retiring,
    ];

    /// The name in status, events and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Resolving => "resolving",
            Self::Planning => "planning",
            Self::Fetching => "fetching",
            Self::Verifying => "verifying",
            Self::Materializing => "materializing",
            Self::Staged => "staged",
            Self::Activating => "activating",
            Self::Probation => "probation",
            Self::Active => "active",
            Self::Backoff => "backoff",
            Self::Blocked => "blocked",
            Self::Retiring => "retiring",
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl Workload {
    /// The name of what is being done. That a tag is looked at again changes nothing about what waits or runs; nor does a
    /// failure to look, and the retry after it, while `current` is what is desired.
    pub fn phase(&self) -> Phase {
        let is_settled = match self.activity {
            Activity::Active | Activity::Polling(_) => true,
            Activity::Backoff => self.runs_desired(),
            Activity::Resolving(_) => self.trouble.is_some() && self.runs_desired(),
            _ => false,
        };
        match self.activity {
            _ if is_settled && self.staged.is_some() => Phase::Staged,
            _ if is_settled && self.probation().is_some() => Phase::Probation,
            _ if is_settled => Phase::Active,
            Activity::Idle => Phase::Idle,
            Activity::Resolving(_) => Phase::Resolving,
            Activity::Planning(_) => Phase::Planning,
            Activity::Fetching(_) => Phase::Fetching,
            Activity::Verifying(_) => Phase::Verifying,
            Activity::Materializing(_) => Phase::Materializing,
            Activity::Asking(..) | Activity::Activating(..) => Phase::Activating,
            Activity::Staged => Phase::Staged,
            Activity::Active | Activity::Polling(_) => Phase::Active,
            Activity::Backoff => Phase::Backoff,
            Activity::Blocked => Phase::Blocked,
            Activity::Retiring(_) => Phase::Retiring,
        }
    }
}
