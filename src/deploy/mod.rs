//! What a node boots: generations, the links that point at them, and `launch.json`; when that may change, who is
//! asked and told of it, and whether what runs is healthy.
//!
//! A generation is one immutable directory. It is complete and durable before any link points at it. All functions
//! block but those of hooks and checks.

mod admission;
mod collect;
mod disk;
pub mod fsck;
mod generation;
mod guest_group;
mod health;
mod hook;
mod launch;
mod lease;
mod lease_files;
mod links;
mod order;
mod record;
mod window;

pub use admission::{Admission, Room};
pub use collect::{Aim, Collector, Keep, Kept, Reason, Removed, Report, Standing, Wanted, Wants};
pub use disk::{DiskError, qemu_format};
pub use generation::Generations;
pub use guest_group::{GUEST_GROUP, GuestGroupError, guest_group};
pub use health::{Check, CheckError, check};
pub use hook::{HookError, Output, hook_environment, run_hook};
pub use launch::{Base, Launch, LaunchFile};
pub use lease::Lease;
pub use links::Links;
pub use order::Order;
pub use record::GenerationName;
pub use window::{Opening, Window};
