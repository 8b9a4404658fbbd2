//! Why files make no image.

use std::path::PathBuf;

use crate::durable::DurableError;
use crate::eci::{ArtifactError, DiskMismatch, FileNameError, UnsafeDisk};
use crate::failure::{Classify, Kind, Retry};
use crate::oci::PlatformError;
use crate::unpack::DiskReadError;

/// Why files make no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file that cannot be used.
    #[error("cannot use {}: {reason}", .path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
        /// The kind, told by the error's cause.
        kind: Kind,
    },
    /// A file's name cannot be that of a layer.
    #[error("{}", .path.display())]
    Name {
        /// The file.
        path: PathBuf,
        /// What is wrong with its name.
        #[source]
        source: FileNameError,
    },
    /// A disk's bytes contradict its type.
    #[error("cannot push {}; name its type, or push it as it is with --force", .path.display())]
    DiskFormat {
        /// The file.
        path: PathBuf,
        /// The contradiction.
        #[source]
        source: DiskMismatch,
    },
    /// A disk that names other files.
    #[error("cannot push {}, which nodes refuse; push it as it is with --force", .path.display())]
    UnsafeDisk {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: UnsafeDisk,
    },
    /// A disk without a byte.
    #[error("cannot push {}: it is empty", .0.display())]
    EmptyDisk(PathBuf),
    /// A kernel or an initrd without a byte.
    #[error("cannot push {}: it is empty", .0.display())]
    EmptyFile(PathBuf),
    /// The config is not one.
    #[error("cannot push {} as the config: {reason}", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A platform that does not exist.
    #[error("platform {platform} does not exist: {reason}")]
    UnknownPlatform {
        /// The platform.
        platform: String,
        /// The part that is not known.
        reason: String,
    },
    /// Operating system and architecture are none.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// The files together make no image.
    #[error(transparent)]
    Image(#[from] ArtifactError),
    /// A packed file cannot be written.
    #[error("cannot pack {}", .path.display())]
    Pack {
        /// The file that is packed.
        path: PathBuf,
        /// Where it was to be written, and why it was not.
        #[source]
        source: DurableError,
    },
    /// A file became shorter or longer while it was read.
    #[error("{} changed while it was read", .0.display())]
    Changed(PathBuf),
    /// A file cannot be read.
    #[error(transparent)]
    Disk(#[from] DurableError),
    /// The headers of a disk cannot be read.
    #[error(transparent)]
    Unread(#[from] DiskReadError),
    /// The manifest cannot be written down.
    #[error("cannot write the manifest down")]
    Manifest(#[from] serde_json::Error),
}

impl Classify for BuildError {
    fn kind(&self) -> Kind {
        match self {
            Self::Input { kind, .. } => *kind,
            Self::Name { .. } | Self::Platform(_) | Self::UnknownPlatform { .. } | Self::Image(_) => Kind::Usage,
            Self::Config { .. } => Kind::ConfigDamaged,
            Self::Changed(_) => Kind::SizeMismatch,
            Self::DiskFormat { .. } | Self::EmptyDisk(_) | Self::EmptyFile(_) => Kind::MediaTypeMismatch,
            Self::UnsafeDisk { .. } => Kind::UnsafeDisk,
            Self::Pack { source: error, .. } | Self::Disk(error) => error.kind(),
            Self::Unread(error) => error.kind(),
            Self::Manifest(_) => Kind::Internal,
        }
    }

    fn retry(&self) -> Retry {
        Retry::Never
    }
}
