//! How much the store holds, and how much it could.

use std::os::unix::fs::MetadataExt;

use nix::sys::statvfs::statvfs;
use serde::Serialize;

use super::Cache;
use crate::durable::{DurableError, IoContext};

/// Bytes and blobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// How many blobs there are.
    pub blobs: u64,
    /// The sum of their lengths in bytes.
    pub bytes: u64,
    /// What they take on disk, holes left out, in bytes.
    pub allocated_bytes: u64,
    /// What the agent could still write to their file system, in bytes.
    pub free_bytes: u64,
}

impl Cache {
    /// Counts what is there now.
    pub fn usage(&self) -> Result<Usage, DurableError> {
        let vfs = statvfs(self.root()).map_err(Into::into).on("look at the file system of", self.root())?;
        let mut usage = Usage { free_bytes: vfs.blocks_available().saturating_mul(vfs.fragment_size()), ..Usage::default() };
        for found in self.blobs()?.filter_map(|entry| entry.metadata().ok()).filter(std::fs::Metadata::is_file) {
            usage.blobs += 1;
            usage.bytes += found.len();
            usage.allocated_bytes += found.blocks() * 512;
        }
        Ok(usage)
    }
}
