//! `desired.toml`: what a node should run. Parsing is pure; the watcher says when to read again.

mod error;
mod parse;
mod places;
mod read;
mod spec;
mod watch;

pub use error::DesiredError;
pub use parse::parse;
pub use read::{MAX_FILE_BYTES, Reading, read, read_bytes};
pub use spec::{Activate, DesiredState, Disks, Spec, WorkloadName, WorkloadNameError};
pub use watch::Watcher;
