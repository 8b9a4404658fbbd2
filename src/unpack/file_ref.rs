//! Files that a worker found.

use serde::{Deserialize, Serialize};

/// A file that a worker found. It does not know the file's digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum FileRef {
    /// The layer itself.
    Layer,
    /// A file that was sent, by its number.
    Sent(u32),
}
