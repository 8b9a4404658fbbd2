//! Making room: which generations and blobs nothing leads to any more, and their removal.
//!
//! Everything is found from its roots each time, as `git gc` does; nothing is counted as it comes and goes, so nothing can be
//! miscounted. The roots are the links, what workloads want, what running work has looked at, and the locks of those who
//! boot a generation. A collection that is interrupted anywhere leaves rubbish, which the next one takes.

mod collector;
mod decide;
mod reach;
mod report;
mod wanted;
mod weigh;

pub use collector::Collector;
pub use decide::{Aim, Keep, Reason};
pub use report::{Kept, Removed, Report};
pub use wanted::{Standing, Wanted, Wants};
