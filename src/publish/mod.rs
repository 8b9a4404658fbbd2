//! The workstation's side: an image is built from files, pushed, pulled back into files, looked at and served.

mod build;
mod build_error;
mod config;
mod error;
mod image;
mod index;
mod inspect;
mod inspection;
mod layout;
mod observe;
mod pack;
mod pick;
mod pull;
mod push;
mod replace;
pub mod serve;
mod stated;
mod summary;

pub use build_error::BuildError;
pub use error::PublishError;
pub use image::{Disk, Format, Image};
pub use inspect::{inspect, raw_config, raw_document};
pub use inspection::{IndexEntry, IndexPart, Inspection, ManifestPart, NamedFile, Part};
pub use observe::{Moved, Observer, Silent};
pub use pick::Files;
pub use pull::{Pulled, pull, pull_files};
pub use push::{Pushed, push};
pub use stated::StatedConfig;
pub use summary::Summary;
