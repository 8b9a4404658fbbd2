//! Moving one image into the cache: resolve it, plan what is missing, fetch that.

mod bandwidth;
mod blob;
mod budget;
mod damage;
mod error;
mod fetch;
mod plan;
mod progress;
mod resolve;
mod search;
mod segments;
mod target;

pub use budget::Budget;
pub use damage::explain;
pub use error::TransferError;
pub use fetch::{Fetcher, Unpacking};
pub use plan::Plan;
pub use progress::{Progress, ProgressNow};
pub use resolve::resolve;
pub use search::{Found, Library, search};
pub use target::{Packed, Target};
