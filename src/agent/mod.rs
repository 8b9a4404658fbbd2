//! The daemon: one task owns the state and is the only one to change it; everything else sends it events and reads a
//! snapshot.
//!
//! The heart is [`transition`], a pure function from a state and an event to a new state and the actions to take, so
//! that every path, crash and retry is tested without a clock, a disk or a network. Its diagram is
//! `docs/development/states.md`.

mod access;
mod checkup;
mod clock_watch;
mod context;
mod daemon;
mod event_name;
mod fsck;
mod handle;
mod hooks;
mod journal;
mod keeper;
mod offline;
mod reconcile;
mod restore;
mod state;
mod status;
mod store;
mod suitability;
mod summary;
mod transition;
mod workshop;

pub use context::{Context, HealthPolicy, Policy};
pub use daemon::{Daemon, DaemonError};
pub use event_name::EventName;
pub use fsck::{FsckOrder, FsckStatus};
pub use handle::{Handle, Request};
pub use journal::{Entry, EntryId, Journal, Subscription};
pub use offline::{offline_collect, offline_fsck, offline_status};
pub use state::{
    Accepted, Activation, Activity, Generation, Health, Job, Phase, Probation, Quarantine, Quarantined, Retirement,
    State, Trouble, Way, Workload,
};
pub use status::{
    AgentStatus, CacheStatus, DesiredImage, DesiredStatus, GenerationStatus, HealthStatus, ProbationStatus,
    ProblemStatus, RetirementStatus, Status, WaitStatus, WorkloadStatus,
};
pub use store::{Store, StoreError};
pub use summary::Summary;
pub use transition::{Action, Event, Outcome, Reject, transition};
