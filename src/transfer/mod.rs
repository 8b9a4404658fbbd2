//! Moving one image into the cache: resolve it, plan what is missing, fetch that, verify what was there.

mod bandwidth;
mod blob;
mod budget;
mod damage;
mod disk_check;
mod error;
mod fetch;
mod pace;
mod path_lookup;
mod plan;
mod progress;
mod resolve;
mod room;
mod search;
mod segments;
mod target;
mod turns;
mod unpacking;
mod verify;

pub use budget::Budget;
pub use damage::{check as check_layout, explain, parts as layout_parts};
pub use error::TransferError;
pub use fetch::Fetcher;
pub use plan::Plan;
pub use progress::{Progress, ProgressNow};
pub use resolve::{find, resolve, resolve_at, resolve_first};
pub use search::{Found, Library, check_config, search, stated_platform};
pub use target::{Packed, Target};
pub use unpacking::Unpacking;
pub use verify::clear_damaged;
