//! The daemon: one task owns the state and is the only one to change it; everything else sends it events and reads a
//! snapshot.
//!
//! The heart is [`transition`], a pure function from a state and an event to a new state and the actions to take, so
//! that every path, crash and retry is tested without a clock, a disk or a network. Its diagram is
//! `docs/development/states.md`.

mod activation;
mod backoff;
mod checkup;
mod clock_watch;
mod daemon;
mod event;
mod fsck;
mod handle;
mod health;
mod hooks;
mod journal;
mod keeper;
mod offline;
mod phase;
mod probation;
mod quarantine;
mod reconcile;
mod request;
mod restore;
mod state;
mod status;
mod store;
mod summary;
mod transition;
mod trial;
mod turn;
mod workshop;

pub use daemon::{Daemon, DaemonError};
pub use event::{Action, Event, Outcome, Reject, Way};
pub use fsck::{FsckOrder, FsckStatus};
pub use handle::{Handle, Request};
pub use health::Health;
pub use journal::{Entry, EntryId, Journal, Subscription};
pub use offline::{offline_collect, offline_fsck, offline_status};
pub use phase::Phase;
pub use probation::Probation;
pub use quarantine::{Quarantine, Quarantined};
pub use state::{Accepted, Activation, Activity, Generation, Job, State, Trouble, Workload};
pub use status::{
    AgentStatus, CacheStatus, DesiredStatus, GenerationStatus, HealthStatus, ProbationStatus, ProblemStatus, Status,
    WaitStatus, WorkloadStatus,
};
pub use store::{Store, StoreError};
pub use summary::Summary;
pub use transition::{Context, HealthPolicy, Policy, transition};
