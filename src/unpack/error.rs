//! Why nothing came out of a layer.

use serde::{Deserialize, Serialize};

use super::WorkerError;
use crate::durable::DurableError;
use crate::failure::{Classify, Kind, Retry};
use crate::oci::Digest;
use crate::wording::exact_size;

/// Why nothing came out of a layer.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The layer is at fault.
    #[error("layer {layer} is {fault}")]
    Layer {
        /// The layer's digest.
        layer: Digest,
        /// What is wrong with it.
        fault: Fault,
    },
    /// Nobody waits for it any more.
    #[error("unpacking was cancelled")]
    Cancelled,
    /// The worker failed that unpacks it.
    #[error("layer {layer} is not unpacked")]
    Worker {
        /// The layer's digest.
        layer: Digest,
        /// The failure.
        #[source]
        source: WorkerError,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DurableError),
}

/// What is wrong with a layer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The archive or its compression is broken off or damaged.
    #[error("damaged: {0}")]
    Damaged(String),
    /// There is an entry that must not be.
    #[error("refused: {0}")]
    Refused(String),
    /// A file, or the archive as a whole, is larger than it may be.
    #[error("refused: {what} is larger than {}", exact_size(*.limit))]
    TooLarge {
        /// What is too large.
        what: String,
        /// How large it may be, in bytes.
        limit: u64,
    },
}

/// Longest text from a worker that is stored and shown, in characters.
const MAX_TEXT: usize = 1024;

/// Cuts a text from a worker to a bounded length.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

impl Fault {
    /// The fault, with texts of bounded length.
    pub(super) fn cut(self) -> Self {
        match self {
            Self::Damaged(text) => Self::Damaged(cut(&text)),
            Self::Refused(text) => Self::Refused(cut(&text)),
            Self::TooLarge { what, limit } => Self::TooLarge { what: cut(&what), limit },
        }
    }
}

impl Classify for UnpackError {
    fn kind(&self) -> Kind {
        match self {
            Self::Layer { fault, .. } => match fault {
                Fault::Damaged(_) => Kind::ArchiveDamaged,
                Fault::Refused(_) => Kind::ArchiveRefused,
                Fault::TooLarge { .. } => Kind::FileTooLarge,
            },
            Self::Cancelled => Kind::Internal,
            Self::Worker { source, .. } => source.kind(),
            Self::Disk(error) => error.kind(),
        }
    }

    /// The layer has the digest that its manifest names: the same bytes come again.
    fn retry(&self) -> Retry {
        match self {
            Self::Disk(error) => error.retry(),
            Self::Cancelled => Retry::Later,
            Self::Worker { source, .. } => source.retry(),
            Self::Layer { .. } => Retry::Never,
        }
    }
}
