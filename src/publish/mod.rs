//! The workstation's side: an image is built from files, pushed, pulled back into files, looked at and served.

mod build;
mod error;
mod inspect;
mod layout;
mod observe;
mod pull;
mod push;
pub mod serve;

pub use build::{Blob, BuildError, Built, Content, Disk, Image, build};
pub use error::PublishError;
pub use inspect::{IndexEntry, IndexPart, Inspection, ManifestPart, Part, inspect};
pub use observe::{Observer, Silent};
pub use pull::{Pulled, pull};
pub use push::{Pushed, push};
