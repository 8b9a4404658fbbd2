//! Why a push or a pull came to nothing.

use std::path::PathBuf;

use super::BuildError;
use crate::cache::PartialError;
use crate::durable::{DurableError, LockError};
use crate::failure::{Classify, Kind, Retry};
use crate::registry::RegistryError;
use crate::transfer::TransferError;
use crate::wording::list;

/// Why a push or a pull came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The target of a push names a digest.
    #[error("{0} names a digest; a push goes to a tag, and the digest is that of what is pushed")]
    PinnedTarget(String),
    /// The tag leads to an index, which a push of one image would replace.
    #[error(
        "{reference} is an index{}, and this push would replace it by one image; \
         add --platform {platform} to change that entry only, or --force to replace the index",
        if .has.is_empty() { String::new() } else { format!(" with {}", .has.join(", ")) }
    )]
    ReplacesIndex {
        /// The target.
        reference: String,
        /// The platforms of its entries.
        has: Vec<String>,
        /// The platform that the pushed image is for.
        platform: String,
    },
    /// A file changed between its hashing and its sending.
    #[error("{} changed while it was pushed; nothing was tagged", .path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What is wrong with its bytes now.
        #[source]
        source: PartialError,
    },
    /// A push into a directory that is something else.
    #[error("{} is neither an OCI image layout nor empty; nothing was written", .0.display())]
    NoLayout(PathBuf),
    /// Something that is no file has the name that a file should get.
    #[error("{} is in the way: it is {what}", .path.display())]
    InTheWay {
        /// Where it is.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A file that no pull wrote has the name that a file should get.
    #[error(
        "{} is in the way: {reason}; nothing was placed; choose another directory with --dir, or replace it with --force",
        .path.display()
    )]
    NotOfPull {
        /// The file.
        path: PathBuf,
        /// Why it may not be replaced.
        reason: String,
    },
    /// A path that no file can be at.
    #[error("{} is no path of a file", .0.display())]
    NoFilePath(PathBuf),
    /// Two files are wanted at one path.
    #[error("{} is named for two files", .0.display())]
    SamePath(PathBuf),
    /// A file is wanted that the image does not have.
    #[error("the image has no {what}; it has {}", list(.has))]
    NotInImage {
        /// What is wanted.
        what: String,
        /// The names of its files.
        has: Vec<String>,
    },
    /// Another push or pull works in the same directory.
    #[error("another push or pull is at work in {}{}", .dir.display(), .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Busy {
        /// The directory.
        dir: PathBuf,
        /// Who it is, if known.
        pid: Option<u32>,
    },
    /// The files make no image.
    #[error(transparent)]
    Build(Box<BuildError>),
    /// The index cannot be written down.
    #[error("cannot write the index down")]
    Index(#[from] serde_json::Error),
    /// The registry, or the layout, failed.
    #[error(transparent)]
    Source(#[from] RegistryError),
    /// The image did not come.
    #[error(transparent)]
    Transfer(Box<TransferError>),
    /// The disk is full, and some of what is on it is ours.
    #[error("what pulls have fetched so far is kept in {}, which may be removed", .work.display())]
    Full {
        /// The work directory.
        work: PathBuf,
        /// What did not fit.
        #[source]
        source: Box<TransferError>,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DurableError),
}

impl From<TransferError> for PublishError {
    fn from(error: TransferError) -> Self {
        Self::Transfer(Box::new(error))
    }
}

impl From<BuildError> for PublishError {
    fn from(error: BuildError) -> Self {
        Self::Build(Box::new(error))
    }
}

impl PublishError {
    /// The registry's error, if it is one.
    pub(super) fn of_registry(&self) -> Option<&RegistryError> {
        match self {
            Self::Source(error) => Some(error),
            Self::Transfer(error) => error.of_registry(),
            _ => None,
        }
    }

    /// A lock on `dir` that was not had.
    pub(super) fn lock(dir: &std::path::Path, error: LockError) -> Self {
        match error {
            LockError::Held { pid, .. } => Self::Busy { dir: dir.to_owned(), pid },
            LockError::Unsupported { path, source } => Self::Disk(DurableError::new("lock", &path, source)),
            LockError::Disk(error) => Self::Disk(error),
        }
    }
}

impl Classify for PublishError {
    fn kind(&self) -> Kind {
        match self {
            Self::PinnedTarget(_) | Self::ReplacesIndex { .. } | Self::SamePath(_) | Self::NoFilePath(_) => Kind::Usage,
            Self::NotInImage { .. } => Kind::FileMissing,
            Self::Changed { source, .. } => source.kind(),
            Self::NoLayout(_) => Kind::LayoutInvalid,
            Self::InTheWay { .. } | Self::NotOfPull { .. } => Kind::Io,
            Self::Full { source, .. } => source.kind(),
            Self::Busy { .. } => Kind::Locked,
            Self::Source(error) => error.kind(),
            Self::Transfer(error) => error.kind(),
            Self::Disk(error) => error.kind(),
            Self::Build(error) => error.kind(),
            Self::Index(_) => Kind::Internal,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::PinnedTarget(_)
            | Self::ReplacesIndex { .. }
            | Self::SamePath(_)
            | Self::NotInImage { .. }
            | Self::NoLayout(_)
            | Self::InTheWay { .. }
            | Self::NotOfPull { .. }
            | Self::NoFilePath(_)
            | Self::Index(_) => Retry::Never,
            Self::Build(error) => error.retry(),
            Self::Changed { .. } | Self::Busy { .. } => Retry::Later,
            Self::Source(error) => error.retry(),
            Self::Transfer(error) | Self::Full { source: error, .. } => error.retry(),
            Self::Disk(error) => error.retry(),
        }
    }
}
