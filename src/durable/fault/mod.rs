//! Fault points: every change of the disk is announced before and after it is made. The other end may copy the disk at
//! that moment, have the change fail, or leave it out. Tests of power cuts and of failing disks use them. They exist
//! only in builds with the Cargo feature `fault-points`. A release has none of it: arming them can leave syncs out.
//!
//! The environment variable `ECI_FAULT_POINTS`, which names a Unix socket, arms them. Over the socket goes a line for
//! each point, `before` or `after`, the operation and the path, with tabs between them, and a line comes back for each.
//! One change is made at a time then: when a line goes out, no other change is under way, and none begins before the
//! answer.
//!
//! | answer | what becomes of the change |
//! | --- | --- |
//! | `go` | it is made |
//! | `skip` | it is not made, and counts as made; for what has no result, as a sync |
//! | `short` | half of a write is made, then the disk is full; anything else fails at once |
//! | a number | it fails with this errno |

#[cfg(feature = "fault-points")]
mod armed;
#[cfg(not(feature = "fault-points"))]
mod unarmed;

#[cfg(feature = "fault-points")]
pub(super) use armed::{change, make, write};
#[cfg(not(feature = "fault-points"))]
pub(super) use unarmed::{change, make, write};
