//! The image that a reference turned out to be.

use crate::eci::Artifact;
use crate::oci::{Descriptor, Digest, Platform};

/// One image, resolved: its manifest is in the cache and was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The manifest.
    pub manifest: Descriptor,
    /// The index that it was chosen from, where there was one.
    pub index_digest: Option<Digest>,
    /// The platform that it was chosen for.
    pub platform: Platform,
    /// Its files.
    pub artifact: Artifact,
}

impl Target {
    /// The config and the files' blobs, each once.
    pub fn blobs(&self) -> Vec<&Descriptor> {
        let mut seen = std::collections::BTreeSet::new();
        let all = std::iter::once(&self.artifact.config).chain(self.artifact.files.iter().map(|file| &file.blob));
        all.filter(|blob| seen.insert(blob.digest)).collect()
    }
}
