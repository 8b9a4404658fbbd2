//! Whether the disk still has what was put there, and mending what it has not.
//!
//! [`Inventory::take`] finds out what there is to be, [`Inventory::verify`] reads all of it, [`Mender::mend`] brings back
//! what is broken, and no more.

mod inventory;
mod mend;
mod report;
mod verify;

pub use inventory::Inventory;
pub use mend::Mender;
pub use report::{Damage, Fault, Outcome, Part, Report};
pub use verify::{Checked, Pace};
