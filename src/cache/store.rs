//! Blobs by digest.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::index;
use super::{Partial, PartialError, Usage};
use crate::durable::{DurableError, create_dir, write_atomic};
use crate::oci::{Descriptor, Digest};
use crate::registry::{LAYOUT_VERSION, LayoutMarker};

/// Everybody may read blobs: a hypervisor under another uid boots from them. Nobody may write them.
const BLOB_MODE: u32 = 0o444;

/// Where in a layout the blobs are.
pub(super) const BLOBS: &str = "blobs/sha256";

/// The store. Cheap to clone; clones are the same store.
#[derive(Clone, Debug)]
pub struct Cache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    blobs: PathBuf,
    partial: PathBuf,
    /// Held while `index.json` is read, changed and written.
    index: Mutex<()>,
}

impl Cache {
    /// Opens the store of the state directory `state_dir`, making what is missing.
    pub fn open(state_dir: &Path) -> Result<Self, DurableError> {
        Self::at(&state_dir.join("cache"), &state_dir.join("partial"))
    }

    /// Opens the layout `root`, with downloads in flight in `partial`, which is in the same file system.
    pub fn at(root: &Path, partial: &Path) -> Result<Self, DurableError> {
        let blobs = root.join(BLOBS);
        create_dir(root, 0o755)?;
        create_dir(&root.join("blobs"), 0o755)?;
        create_dir(&blobs, 0o755)?;
        create_dir(partial, 0o700)?;
        index::create(root)?;
        let marker = root.join("oci-layout");
        if !marker.exists() {
            let content = LayoutMarker { version: LAYOUT_VERSION.to_owned() };
            write_atomic(&marker, &serde_json::to_vec(&content).unwrap_or_default(), 0o644)?;
        }
        let inner = Inner { root: root.to_owned(), blobs, partial: partial.to_owned(), index: Mutex::new(()) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Where the blob with `digest` is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.inner.blobs.join(digest.hex())
    }

    /// Whether the blob is there, with its length.
    pub fn contains(&self, blob: &Descriptor) -> bool {
        fs::metadata(self.path(&blob.digest)).is_ok_and(|found| found.is_file() && found.len() == blob.size)
    }

    /// The bytes of a small blob, verified; none where it is absent, longer than `limit` bytes, or damaged.
    pub fn read(&self, digest: &Digest, limit: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = fs::File::open(self.path(digest)).ok()?;
        file.take(limit as u64 + 1).read_to_end(&mut bytes).ok()?;
        (bytes.len() <= limit && Digest::of(&bytes) == *digest).then_some(bytes)
    }

    /// Stores a document that is in memory already.
    pub fn insert(&self, bytes: &[u8]) -> Result<Digest, DurableError> {
        let digest = Digest::of(bytes);
        let path = self.path(&digest);
        if self.read(&digest, bytes.len()).is_none() {
            write_atomic(&path, bytes, BLOB_MODE)?;
        }
        Ok(digest)
    }

    /// Starts or resumes the download of `blob`. One at a time for each blob: the caller sees to that.
    pub fn partial(&self, blob: &Descriptor) -> Result<Partial, PartialError> {
        let file = self.inner.partial.join(blob.digest.hex());
        Partial::open(&file, &self.path(&blob.digest), blob, BLOB_MODE)
    }

    /// Lists a manifest, all of whose blobs are there, in the layout's index under `name`.
    pub fn tag(&self, name: &str, manifest: &Descriptor) -> Result<(), DurableError> {
        let _changing = self.inner.index.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        index::set(&self.inner.root, name, manifest)
    }

    /// How much it holds.
    pub fn usage(&self) -> Result<Usage, DurableError> {
        Usage::of(&self.inner.root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inserted_blob_is_found_and_a_damaged_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let digest = cache.insert(b"manifest").unwrap();
        assert!(cache.contains(&Descriptor::new("x", digest, 8)));
        assert!(!cache.contains(&Descriptor::new("x", digest, 9)));
        assert_eq!(cache.read(&digest, 7), None, "over the limit");
        fs::remove_file(cache.path(&digest)).unwrap();
        fs::write(cache.path(&digest), "manifold").unwrap();
        assert_eq!(cache.read(&digest, 100), None, "damaged");
        cache.insert(b"manifest").unwrap();
        assert_eq!(cache.read(&digest, 100).unwrap(), b"manifest");
    }
}
