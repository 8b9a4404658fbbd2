//! Content whose digest is known only once all of it was seen: files that come out of a layer.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::Cache;
use super::store::BLOB_MODE;
use crate::durable::{DurableError, IoContext, remove_file, rename, sync_file};
use crate::oci::{Digest, Hasher};

/// A run of zeros of this length, in bytes, becomes a hole: it is the block of the file systems that matter.
const HOLE: usize = 4096;
/// What the names of such files end with.
const ENDING: &str = "staged";

/// Removes what an ended process has left in `dir`. Nothing of it can be taken up: how far it got is not known.
pub(super) fn sweep(dir: &Path) -> Result<(), DurableError> {
    let entries = std::fs::read_dir(dir).on("list", dir)?;
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|ending| ending == ENDING)).try_for_each(|path| remove_file(&path))
}

/// A file on its way into the cache. Dropped before [`Staged::finish`], it leaves nothing.
pub struct Staged {
    cache: Cache,
    path: PathBuf,
    file: File,
    size: u64,
    hasher: Hasher,
    finished: bool,
}

impl Staged {
    /// Begins a file. `name` tells it from others that are on their way; one of the same name is replaced.
    pub fn create(cache: &Cache, name: &str) -> Result<Self, DurableError> {
        let path = cache.partial_dir().join(format!("{name}.{ENDING}"));
        let file = File::create(&path).on("create", &path)?;
        Ok(Self { cache: cache.clone(), path, file, size: 0, hasher: Hasher::default(), finished: false })
    }

    /// Adds the next bytes. Blocks of zeros are passed over, and become holes.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), DurableError> {
        self.hasher.update(bytes);
        for block in bytes.chunks(HOLE) {
            if block.len() == HOLE && block.iter().all(|byte| *byte == 0) {
                let ahead = i64::try_from(block.len()).unwrap_or_default();
                self.file.seek(SeekFrom::Current(ahead)).on("write", &self.path)?;
            } else {
                self.file.write_all(block).on("write", &self.path)?;
            }
        }
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Makes the file durable and gives it the name of its content; its digest and length in bytes.
    pub fn finish(mut self) -> Result<(Digest, u64), DurableError> {
        use std::os::unix::fs::PermissionsExt;
        let digest = std::mem::take(&mut self.hasher).finish();
        // A hole at the end is not there until the length says so.
        self.file.set_len(self.size).on("write", &self.path)?;
        self.file.set_permissions(std::fs::Permissions::from_mode(BLOB_MODE)).on("set the mode of", &self.path)?;
        sync_file(&self.file, &self.path)?;
        rename(&self.path, &self.cache.path(&digest))?;
        self.cache.note_verified(&digest);
        self.finished = true;
        Ok((digest, self.size))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.finished {
            // What stays is replaced by the next of its name.
            let _ = remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn holes_are_kept_and_the_content_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let mut bytes = vec![0; 1 << 20];
        bytes[500_000] = 1;
        let mut staged = Staged::create(&cache, "x").unwrap();
        bytes.chunks(100_000).for_each(|piece| staged.append(piece).unwrap());
        let (digest, size) = staged.finish().unwrap();
        assert_eq!((digest, size), (Digest::of(&bytes), bytes.len() as u64));
        assert!(fs::read(cache.path(&digest)).unwrap() == bytes);
        assert!(fs::metadata(cache.path(&digest)).unwrap().blocks() * 512 < 600_000);
    }

    #[test]
    fn what_is_given_up_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        Staged::create(&cache, "x").unwrap().append(b"half").unwrap();
        assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
    }
}
