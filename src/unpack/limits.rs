//! Limits on what comes out of a layer, and on what that takes.

use serde::{Deserialize, Serialize};

/// Limits on what comes out of a layer, and on what that takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The largest file, in bytes.
    pub max_file_bytes: u64,
    /// The largest window of zstd, in bytes.
    pub max_window: u64,
    /// Memory of all decompression together, in bytes.
    pub memory: u64,
}

impl Limits {
    /// Files of up to `max_file_bytes`, and windows and memory as without settings.
    pub const fn new(max_file_bytes: u64) -> Self {
        Self { max_file_bytes, max_window: 32 << 20, memory: 64 << 20 }
    }
}
