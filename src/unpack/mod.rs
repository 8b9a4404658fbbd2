//! Files out of layers: the legacy format, in the three forms that are in the wild.
//!
//! A layer is unpacked only once it is in the cache, verified as a whole; what comes out of it is stored by the digest of
//! its own content. What was found in a layer is noted, so that the layer need not be kept, and a later image that wants
//! the same of it need not fetch it again. All functions block.
//!
//! The bytes are read by a worker, a confined child of the same program. This process starts it, writes down what it sends,
//! and hashes that. A program that uses this library calls [`work_if_asked`] first in its `main`; without that, nothing is
//! unpacked and no disk is checked.

mod allowance;
#[cfg(test)]
mod archive;
mod attributes;
mod cancel;
mod counted;
mod disk;
mod error;
mod file_ref;
mod gzip;
mod host;
mod layer;
mod limits;
mod members;
mod memory;
mod packing;
mod path_state;
mod pax;
mod receiver;
mod record;
mod refusal;
mod walk;
mod worker;
mod zstd_frames;
mod zstd_stream;

pub use cancel::{Cancel, CancelOnDrop};
pub use disk::{DiskReadError, DiskReport, read_disk};
pub use error::{Fault, UnpackError};
pub use layer::{Control, unpack, unpack_with};
pub use limits::Limits;
pub use memory::Memory;
pub use packing::says_compressed;
pub use pax::{PaxError, PaxRecord, pax_records};
pub use record::{Content, Finding, Record, Want};
pub use worker::{End, Worker, WorkerError, work_if_asked};
