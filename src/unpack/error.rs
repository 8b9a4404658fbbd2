//! Why nothing came out of a layer.

use crate::durable::DurableError;
use crate::failure::{Classify, Kind, Retry};
use crate::oci::Digest;

/// Why nothing came out of a layer. Each names the layer.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive or its compression is broken off or damaged.
    #[error("layer {layer} is damaged: {reason}")]
    Damaged {
        /// The layer's digest.
        layer: Digest,
        /// What is wrong.
        reason: String,
    },
    /// An entry that must not be.
    #[error("layer {layer} is refused: {reason}")]
    Refused {
        /// The layer's digest.
        layer: Digest,
        /// What is wrong.
        reason: String,
    },
    /// A file, or the archive as a whole, is larger than it may be.
    #[error("layer {layer} is refused: {what} has more than {limit} bytes")]
    TooLarge {
        /// The layer's digest.
        layer: Digest,
        /// What is too large.
        what: String,
        /// How large it may be, in bytes.
        limit: u64,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DurableError),
}

impl Classify for UnpackError {
    fn kind(&self) -> Kind {
        match self {
            Self::Damaged { .. } => Kind::ArchiveDamaged,
            Self::Refused { .. } => Kind::ArchiveRefused,
            Self::TooLarge { .. } => Kind::FileTooLarge,
            Self::Disk(error) => error.kind(),
        }
    }

    /// The layer has the digest that its manifest names: the same bytes come again.
    fn retry(&self) -> Retry {
        match self {
            Self::Disk(error) => error.retry(),
            _ => Retry::Never,
        }
    }
}
