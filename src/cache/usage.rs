//! How much the store holds, and how much it could.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statvfs::statvfs;
use serde::Serialize;

use super::Cache;
use super::store::BLOBS;
use crate::durable::{DurableError, IoContext};
use crate::oci::Digest;
use crate::wording::size;

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

/// How much is written before it is looked at again whether the reserve is untouched, in bytes.
const LOOK_AFTER: u64 = 16 << 20;

impl Cache {
    /// What may still be written to the cache's file system without touching the reserve, in bytes.
    pub fn free_bytes(&self) -> Result<u64, DurableError> {
        Ok(free_bytes(self.root())?.saturating_sub(self.reserve()))
    }

    /// Free bytes of the cache's file system, the reserve included.
    pub fn free_bytes_with_reserve(&self) -> Result<u64, DurableError> {
        free_bytes(self.root())
    }

    /// What a blob takes on disk, holes left out, in bytes; none where it is not there.
    pub fn allocated_bytes(&self, digest: &Digest) -> Option<u64> {
        Some(std::fs::metadata(self.path(digest)).ok()?.blocks() * 512)
    }

    /// Refuses to go on writing `path` once only the reserve is left. How much is written is not always known before: what
    /// comes out of a layer, and what others write to the same file system. `unchecked` counts the bytes since the last
    /// look.
    pub(super) fn keep_reserve(&self, path: &Path, unchecked: &mut u64, written: u64) -> Result<(), DurableError> {
        *unchecked += written;
        if *unchecked < LOOK_AFTER || self.reserve() == 0 {
            return Ok(());
        }
        *unchecked = 0;
        if self.free_bytes()? > 0 {
            return Ok(());
        }
        let text = format!("only the {} of [cache] reserve are left free", size(self.reserve()));
        Err(io::Error::new(io::ErrorKind::StorageFull, text)).on("write", path)
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
