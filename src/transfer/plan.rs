//! What has to be fetched, decided before a byte is.

use std::collections::BTreeSet;

use super::{Target, TransferError};
use crate::blocking;
use crate::cache::Cache;
use crate::eci::Source;
use crate::oci::Descriptor;

/// What an image needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The blobs that are files as they are, and that the cache does not have.
    pub missing: Vec<Descriptor>,
    /// Whether something has to be taken out of layers, which may have to be fetched for it.
    pub unpack: bool,
    /// Length of all blobs that matter in bytes: files as they are, and layers that files come out of.
    pub bytes_total: u64,
    /// Length of those that need not be fetched.
    pub bytes_present: u64,
}

impl Plan {
    /// Compares the image with the cache. No blob may be larger than `max_file_bytes`.
    pub async fn new(cache: &Cache, target: &Target, max_file_bytes: u64) -> Result<Self, TransferError> {
        let (cache, target) = (cache.clone(), target.clone());
        blocking::run(move || {
            let mut plan = Self::default();
            for blob in target.blobs() {
                check_size(blob, max_file_bytes)?;
                plan.count(blob, cache.contains(blob));
                if !cache.contains(blob) {
                    plan.missing.push(blob.clone());
                }
            }
            let packed: BTreeSet<_> = target.packed(&cache).into_iter().map(|packed| packed.layer.digest).collect();
            plan.unpack = !packed.is_empty();
            for layer in layers(&target) {
                check_size(layer, max_file_bytes)?;
                plan.count(layer, !packed.contains(&layer.digest) || cache.contains(layer));
            }
            Ok::<_, TransferError>(plan)
        })
        .await
    }

    /// Whether the cache has all that the image needs.
    pub fn is_done(&self) -> bool {
        self.missing.is_empty() && !self.unpack
    }

    fn count(&mut self, blob: &Descriptor, present: bool) {
        self.bytes_total = self.bytes_total.saturating_add(blob.size);
        if present {
            self.bytes_present = self.bytes_present.saturating_add(blob.size);
        }
    }
}

/// The layers that files come out of, each once.
fn layers(target: &Target) -> Vec<&Descriptor> {
    let files = &target.artifact.files;
    let by_path = files.iter().any(|file| matches!(file.source, Source::Path(_)));
    let all = if by_path { target.artifact.layers.as_slice() } else { &[] };
    let single =
        files.iter().filter_map(|file| if let Source::Layer(layer) = &file.source { Some(layer) } else { None });
    let mut seen = BTreeSet::new();
    single.chain(all).filter(|layer| seen.insert(layer.digest)).collect()
}

fn check_size(blob: &Descriptor, limit: u64) -> Result<(), TransferError> {
    if blob.size > limit {
        return Err(TransferError::FileTooLarge { digest: blob.digest, size: blob.size, limit });
    }
    Ok(())
}
