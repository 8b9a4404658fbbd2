//! Why an image did not come.

use crate::cache::PartialError;
use crate::durable::DurableError;
use crate::eci::{ArtifactError, DiskMismatch, FileName, UnsafeDisk};
use crate::failure::{Classify, Kind, Retry};
use crate::oci::{Digest, DocumentError};
use crate::registry::RegistryError;
use crate::unpack::{UnpackError, WorkerError};
use crate::wording::{exact_size, size, two_sizes};

/// Why an image did not come.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The source failed.
    #[error(transparent)]
    Source(#[from] RegistryError),
    /// A document is none, or an index has nothing for us.
    #[error("{reference}")]
    Document {
        /// The image.
        reference: String,
        /// What is wrong.
        #[source]
        source: DocumentError,
    },
    /// The manifest describes no image that can be deployed.
    #[error("{reference} (manifest {manifest})")]
    Artifact {
        /// The image.
        reference: String,
        /// The manifest's digest.
        manifest: Digest,
        /// What is wrong.
        #[source]
        source: Box<ArtifactError>,
    },
    /// A file is larger than is allowed.
    #[error("blob {digest} has {}", over(*.size, *.limit, "[transfer] max_file_bytes"))]
    FileTooLarge {
        /// The blob's digest.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A disk image that names other files, or may.
    #[error("{reference}: disk {name} ({digest})")]
    UnsafeDisk {
        /// The image.
        reference: String,
        /// The disk's name in the image.
        name: FileName,
        /// The disk's digest.
        digest: Digest,
        /// The reason.
        #[source]
        source: Box<UnsafeDisk>,
    },
    /// An image's config is larger than any is, and is not read.
    #[error("{reference}: the config {digest} has {}, more than the 4 MiB that are read of one", exact_size(*.size))]
    ConfigTooLarge {
        /// The image.
        reference: String,
        /// The config's digest.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// The bytes are not those of the blob, or cannot be written.
    #[error("{reference}")]
    Blob {
        /// The image.
        reference: String,
        /// What is wrong.
        #[source]
        source: PartialError,
    },
    /// A blob that was fetched is not there, or not what it was.
    #[error("blob {0} went away while it was used")]
    Gone(Digest),
    /// A layer cannot be unpacked.
    #[error("{reference}")]
    Unpack {
        /// The image.
        reference: String,
        /// What is wrong.
        #[source]
        source: UnpackError,
    },
    /// A disk's bytes contradict its format.
    #[error("{reference}: the disk {name} ({digest}) is refused")]
    DiskFormat {
        /// The image.
        reference: String,
        /// The disk's name.
        name: FileName,
        /// The digest of its bytes.
        digest: Digest,
        /// The contradiction.
        #[source]
        source: DiskMismatch,
    },
    /// The worker failed that reads the headers of a disk.
    #[error("{reference}: disk {name} ({digest}) is not checked")]
    DiskUnread {
        /// The image.
        reference: String,
        /// The disk's name in the image.
        name: FileName,
        /// The disk's digest.
        digest: Digest,
        /// The failure.
        #[source]
        source: WorkerError,
    },
    /// The image does not fit on the disk.
    #[error("{reference} needs {}: make room", room(*.needed, *.free, *.reserve))]
    NoRoom {
        /// The image.
        reference: String,
        /// What has to be fetched and taken out of layers, in bytes.
        needed: u64,
        /// Free bytes of the file system, the reserve included.
        free: u64,
        /// What is never used, in bytes.
        reserve: u64,
    },
    /// The update would take more of the network than it may.
    #[error(
        "{reference} takes more of the network than [transfer] max_wire_bytes = {} allows; what came is kept: allow \
         more to go on",
        size(*.limit)
    )]
    OverBudget {
        /// The image.
        reference: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DurableError),
}

/// A size that is over the limit that a key of the configuration sets.
fn over(found: u64, limit: u64, key: &str) -> String {
    let (found, limit) = two_sizes(found, limit);
    format!("{found}, more than {key} = {limit} allows")
}

/// The space that is needed, free and reserved.
fn room(needed: u64, free: u64, reserve: u64) -> String {
    let (needed, free) = two_sizes(needed, free);
    match reserve {
        0 => format!("{needed}; {free} free"),
        _ => format!("{needed}; {free} free, of which {} are reserved ([cache] reserve)", size(reserve)),
    }
}

impl TransferError {
    /// True if the image itself is wrong, whoever serves it: not a manifest, not for the platform, or not bootable.
    pub fn is_of_image(&self) -> bool {
        matches!(self, Self::Document { .. } | Self::Artifact { .. } | Self::ConfigTooLarge { .. })
    }

    /// The registry's error, if it is one.
    pub fn of_registry(&self) -> Option<&RegistryError> {
        if let Self::Source(error) = self { Some(error) } else { None }
    }
}

impl Classify for TransferError {
    fn kind(&self) -> Kind {
        match self {
            Self::Source(error) => error.kind(),
            Self::Document { source, .. } => source.kind(),
            Self::Artifact { source, .. } => source.kind(),
            Self::DiskFormat { .. } => Kind::MediaTypeMismatch,
            Self::UnsafeDisk { .. } => Kind::UnsafeDisk,
            Self::DiskUnread { source, .. } => source.kind(),
            Self::Gone(_) => Kind::Io,
            Self::NoRoom { .. } => Kind::DiskFull,
            Self::OverBudget { .. } => Kind::OverBudget,
            Self::Unpack { source, .. } => source.kind(),
            Self::FileTooLarge { .. } | Self::ConfigTooLarge { .. } => Kind::FileTooLarge,
            Self::Blob { source, .. } => source.kind(),
            Self::Disk(error) => error.kind(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Source(error) => error.retry(),
            Self::Document { source, .. } => source.retry(),
            Self::Artifact { .. }
            | Self::DiskFormat { .. }
            | Self::UnsafeDisk { .. }
            | Self::FileTooLarge { .. }
            | Self::ConfigTooLarge { .. }
            | Self::OverBudget { .. }
            | Self::NoRoom { .. } => Retry::Never,
            Self::Gone(_) => Retry::Later,
            Self::Unpack { source, .. } => source.retry(),
            Self::DiskUnread { source, .. } => source.retry(),
            Self::Blob { source, .. } => source.retry(),
            Self::Disk(error) => error.retry(),
        }
    }
}
