//! The content-addressed store: an OCI image layout that other tools can read, and the downloads on their way into it.
//!
//! A blob gets its name only after its bytes were counted, hashed and synced; what has a name is whole. All functions
//! block.

mod hashing;
mod in_use;
mod index;
mod ledger;
mod measure;
mod partial;
mod ranges;
mod staged;
mod store;
mod stray;
mod usage;
mod verified;

pub use in_use::Work;
pub use measure::{measure, measure_disk, measure_with};
pub use partial::{Partial, PartialError};
pub use ranges::Ranges;
pub use staged::{Sealed, Staged};
pub use store::{Cache, WIRE};
pub use usage::Usage;
