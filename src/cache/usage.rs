//! How much the store holds, and how much it could.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statvfs::statvfs;
use serde::Serialize;

use super::Cache;
use super::store::BLOBS;
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
    /// What the agent could still write to the cache's file system, in bytes.
    pub fn free_bytes(&self) -> Result<u64, DurableError> {
        free_bytes(self.root())
    }
}

fn free_bytes(dir: &Path) -> Result<u64, DurableError> {
    let vfs = statvfs(dir).map_err(Into::into).on("look at the file system of", dir)?;
    Ok(vfs.blocks_available().saturating_mul(vfs.fragment_size()))
}

impl Usage {
    /// Counts what the layout `root` holds now.
    pub fn of(root: &Path) -> Result<Self, DurableError> {
        let blobs = root.join(BLOBS);
        let mut usage = Self { free_bytes: free_bytes(root)?, ..Self::default() };
        let entries = std::fs::read_dir(&blobs).on("list", &blobs)?;
        let found = entries.filter_map(|entry| entry.ok()?.metadata().ok());
        for blob in found.filter(std::fs::Metadata::is_file) {
            usage.blobs += 1;
            usage.bytes += blob.len();
            usage.allocated_bytes += blob.blocks() * 512;
        }
        Ok(usage)
    }
}
