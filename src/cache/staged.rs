//! Content whose digest is known only once all of it was seen: files that come out of a layer.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::Cache;
use super::partial::clear_away;
use super::stray::download;
use crate::durable::{
    DurableError, IoContext, create_file, remove_any, remove_file, rename, set_len, set_mode, sync_file, write_sparse,
};
use crate::oci::{Digest, Hasher};

/// What the names of such files end with.
const ENDING: &str = "staged";

/// Removes what an ended process has left in `dir`. Nothing of it can be taken up: how far it got is not known.
pub(super) fn sweep(dir: &Path) -> Result<(), DurableError> {
    let mut entries = std::fs::read_dir(dir).on("list", dir)?.filter_map(Result::ok);
    entries.try_for_each(|entry| match entry.file_name().to_str().and_then(download) {
        Some((_, ending)) if ending.ends_with(ENDING) => remove_any(&entry.path()),
        _ => Ok(()),
    })
}

/// A file on its way into the cache. Dropped before it is kept, it leaves nothing.
pub struct Staged {
    waiting: Waiting,
    file: File,
    size: u64,
    unchecked: u64,
    hasher: Hasher,
}

/// A file that is whole and durable, and has no name in the cache yet. Dropped before it is kept, it leaves nothing.
pub struct Sealed {
    waiting: Waiting,
    digest: Digest,
    size: u64,
}

/// Where such a file is until it is kept.
struct Waiting {
    cache: Cache,
    path: PathBuf,
    is_kept: bool,
}

impl Staged {
    /// Begins a file. `name` tells it from others that are on their way; one of the same name is replaced.
    pub fn create(cache: &Cache, name: &str) -> Result<Self, DurableError> {
        let path = cache.partial_dir().join(format!("{name}.{ENDING}"));
        remove_file(&path)?;
        let file = create_file(&path, 0o600)?;
        let waiting = Waiting { cache: cache.clone(), path, is_kept: false };
        Ok(Self { waiting, file, size: 0, unchecked: 0, hasher: Hasher::default() })
    }

    /// Adds the next bytes. Blocks of zeros are passed over, and become holes.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), DurableError> {
        self.hasher.update(bytes);
        let waiting = &self.waiting;
        waiting.cache.keep_reserve(&waiting.path, &mut self.unchecked, bytes.len() as u64)?;
        write_sparse(&self.file, &waiting.path, self.size, bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// No more bytes come: makes the file durable, and finds out its digest.
    pub fn seal(self) -> Result<Sealed, DurableError> {
        let Self { waiting, file, size, hasher, .. } = self;
        let path = &waiting.path;
        // A hole at the end is not there until the length says so.
        set_len(&file, path, size)?;
        set_mode(path, waiting.cache.blob_permission())?;
        sync_file(&file, path)?;
        let digest = hasher.finish();
        // Before it has its name: a collection beside this that found it there would take it for one that nobody wants.
        waiting.cache.in_use().note(&digest);
        Ok(Sealed { waiting, digest, size })
    }

    /// Makes the file durable and gives it the name of its content; its digest and length in bytes.
    pub fn finish(self) -> Result<(Digest, u64), DurableError> {
        let sealed = self.seal()?;
        let content = sealed.content();
        sealed.keep()?;
        Ok(content)
    }
}

impl Sealed {
    /// Its digest and length in bytes.
    pub fn content(&self) -> (Digest, u64) {
        (self.digest, self.size)
    }

    /// Gives the file the name of its content.
    pub fn keep(mut self) -> Result<(), DurableError> {
        let cache = &self.waiting.cache;
        clear_away(&cache.path(&self.digest))?;
        cache.note_verified(&self.digest, &self.waiting.path);
        cache.named(rename(&self.waiting.path, &cache.path(&self.digest)))?;
        self.waiting.is_kept = true;
        Ok(())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.is_kept {
            // What stays is removed at the next start.
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
    fn a_collection_leaves_a_file_alone_from_the_moment_that_it_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let _work = cache.begin_work();
        let mut staged = Staged::create(&cache, "x").unwrap();
        staged.append(b"disk").unwrap();
        let sealed = staged.seal().unwrap();
        // As a rename that waits for the disk leaves it.
        let digest = sealed.content().0;
        fs::hard_link(&sealed.waiting.path, cache.path(&digest)).unwrap();
        assert!(!cache.remove_unused(&digest).unwrap());
        sealed.keep().unwrap();
        assert_eq!(cache.read(&digest, 10).unwrap(), b"disk");
    }

    #[test]
    fn what_is_no_file_is_not_in_the_way_of_one() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let mut staged = Staged::create(&cache, "x").unwrap();
        staged.append(b"disk").unwrap();
        let sealed = staged.seal().unwrap();
        let path = cache.path(&sealed.content().0);
        fs::create_dir_all(path.join("full")).unwrap();
        sealed.keep().unwrap();
        assert_eq!(fs::read(path).unwrap(), b"disk");
    }

    #[test]
    fn what_is_given_up_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        Staged::create(&cache, "x").unwrap().append(b"half").unwrap();
        Staged::create(&cache, "x").unwrap().seal().unwrap();
        assert_eq!(cache.usage().unwrap().blobs, 0);
        assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
    }
}
