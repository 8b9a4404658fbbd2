//! What has to be fetched, decided before a byte is.

use super::{Target, TransferError};
use crate::blocking;
use crate::cache::Cache;
use crate::oci::Descriptor;

/// What an image needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The blobs that the cache does not have.
    pub missing: Vec<Descriptor>,
    /// Length of all blobs in bytes.
    pub bytes_total: u64,
    /// Length of those that the cache has already.
    pub bytes_present: u64,
}

impl Plan {
    /// Compares the image with the cache. No blob may be larger than `max_file_bytes`.
    pub async fn new(cache: &Cache, target: &Target, max_file_bytes: u64) -> Result<Self, TransferError> {
        let blobs: Vec<Descriptor> = target.blobs().into_iter().cloned().collect();
        if let Some(blob) = blobs.iter().find(|blob| blob.size > max_file_bytes) {
            return Err(TransferError::FileTooLarge { digest: blob.digest, size: blob.size, limit: max_file_bytes });
        }
        let cache = cache.clone();
        Ok(blocking::run(move || {
            let mut plan = Self::default();
            for blob in blobs {
                plan.bytes_total = plan.bytes_total.saturating_add(blob.size);
                if cache.contains(&blob) {
                    plan.bytes_present += blob.size;
                } else {
                    plan.missing.push(blob);
                }
            }
            plan
        })
        .await)
    }
}
