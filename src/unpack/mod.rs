//! Files out of layers: the legacy format, in the three forms that are in the wild.
//!
//! A layer is unpacked only once it is in the cache, verified as a whole; what comes out of it is stored by the digest of
//! its own content. What was found in a layer is noted, so that the layer need not be kept, and a later image that wants
//! the same of it need not fetch it again. All functions block.

mod allowance;
#[cfg(test)]
mod archive;
mod attributes;
mod cancel;
mod counted;
mod error;
mod gzip;
mod layer;
mod members;
mod memory;
mod packing;
mod path_state;
mod pax;
mod record;
mod refusal;
mod walk;
mod zstd_frames;
mod zstd_stream;

pub use cancel::{Cancel, CancelOnDrop};
pub use error::{Fault, UnpackError};
pub use layer::{Control, Limits, unpack, unpack_with};
pub use memory::Memory;
pub use packing::says_compressed;
pub use pax::{PaxError, PaxRecord, pax_records};
pub use record::{Content, Finding, Record, Want};
