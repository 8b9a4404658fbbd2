//! A blob on its way in: counted and hashed as it is written, named only when it is right.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::durable::{DurableError, IoContext, remove_file, rename, sync_file};
use crate::failure::{Classify, Kind, Retry};
use crate::oci::{Descriptor, Digest, Hasher};

/// How much of an earlier download is read at once to hash it, in bytes.
const PIECE: usize = 128 * 1024;

/// A download in flight. Dropping it keeps what was written, for the next one to resume.
pub struct Partial {
    file: File,
    path: PathBuf,
    blob_path: PathBuf,
    mode: u32,
    expected: Digest,
    size: u64,
    written: u64,
    hasher: Hasher,
}

/// Why bytes became no blob.
#[derive(Debug, thiserror::Error)]
pub enum PartialError {
    /// There are more bytes than the descriptor says.
    #[error("blob {expected} goes on after the {size} bytes that its manifest says")]
    TooLong {
        /// The blob's digest.
        expected: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// There are fewer.
    #[error("blob {expected} ends after {written} of {size} bytes")]
    TooShort {
        /// The blob's digest.
        expected: Digest,
        /// Its size in bytes.
        size: u64,
        /// How many there are.
        written: u64,
    },
    /// The bytes are others.
    #[error("blob {expected} has the digest {actual}: it was damaged on its way, or the registry serves wrong bytes")]
    Digest {
        /// The digest that it should have.
        expected: Digest,
        /// The digest that it has.
        actual: Digest,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DurableError),
}

impl Classify for PartialError {
    fn kind(&self) -> Kind {
        match self {
            Self::TooLong { .. } | Self::TooShort { .. } => Kind::SizeMismatch,
            Self::Digest { .. } => Kind::DigestMismatch,
            Self::Disk(error) => error.kind(),
        }
    }

    fn retry(&self) -> Retry {
        Retry::Later
    }
}

impl Partial {
    /// Opens the download of `blob` at `path`, and hashes what an earlier one left there.
    pub(super) fn open(path: &Path, blob_path: &Path, blob: &Descriptor, mode: u32) -> Result<Self, PartialError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .on("open", path)?;
        let mut partial = Self {
            file,
            path: path.to_owned(),
            blob_path: blob_path.to_owned(),
            mode,
            expected: blob.digest,
            size: blob.size,
            written: 0,
            hasher: Hasher::default(),
        };
        let left = partial.file.metadata().on("read", path)?.len();
        if left > blob.size {
            partial.restart()?;
        } else {
            partial.hash_what_is_there()?;
        }
        Ok(partial)
    }

    fn hash_what_is_there(&mut self) -> Result<(), PartialError> {
        let mut piece = vec![0; PIECE];
        loop {
            match self.file.read(&mut piece).on("read", &self.path)? {
                0 => return Ok(()),
                count => {
                    self.hasher.update(piece.get(..count).unwrap_or_default());
                    self.written += count as u64;
                }
            }
        }
    }

    /// How many bytes are there: where the next one belongs.
    pub fn offset(&self) -> u64 {
        self.written
    }

    /// Whether all bytes are there.
    pub fn is_full(&self) -> bool {
        self.written == self.size
    }

    /// Forgets what is there.
    pub fn restart(&mut self) -> Result<(), PartialError> {
        use std::io::Seek;
        self.file.set_len(0).on("empty", &self.path)?;
        self.file.rewind().on("rewind", &self.path)?;
        self.written = 0;
        self.hasher = Hasher::default();
        Ok(())
    }

    /// Adds the next bytes. Not one more is written than the descriptor says.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), PartialError> {
        if bytes.len() as u64 > self.size - self.written {
            self.discard();
            return Err(PartialError::TooLong { expected: self.expected, size: self.size });
        }
        self.file.write_all(bytes).on("write", &self.path)?;
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Checks length and digest, and if they are right makes the bytes durable and gives them the blob's name. Bytes
    /// that are too few are kept to be resumed, wrong ones are removed.
    pub fn finish(self) -> Result<(), PartialError> {
        if !self.is_full() {
            return Err(PartialError::TooShort { expected: self.expected, size: self.size, written: self.written });
        }
        let actual = self.hasher.clone().finish();
        if actual != self.expected {
            self.discard();
            return Err(PartialError::Digest { expected: self.expected, actual });
        }
        self.file.set_permissions(Permissions::from_mode(self.mode)).on("set the mode of", &self.path)?;
        // After a sync that failed, the kernel forgets which pages it could not write, and the next sync succeeds: what
        // is read back then may be in memory only.
        sync_file(&self.file, &self.path).inspect_err(|_| self.discard())?;
        Ok(rename(&self.path, &self.blob_path)?)
    }

    /// Removes what was written. A file that stays is only a worse start for the next attempt.
    fn discard(&self) {
        let _ = self.file.set_len(0);
        let _ = remove_file(&self.path);
    }
}

impl std::fmt::Debug for Partial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Partial({}, {} of {})", self.expected, self.written, self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Cache;
    use super::*;
    use std::fs;

    struct Fixture {
        dir: tempfile::TempDir,
        cache: Cache,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        Fixture { dir, cache }
    }

    impl Fixture {
        fn partials(&self) -> usize {
            fs::read_dir(self.dir.path().join("partial")).unwrap().count()
        }
    }

    fn blob(bytes: &[u8]) -> Descriptor {
        Descriptor::of("x", bytes)
    }

    #[test]
    fn right_bytes_get_their_name_and_are_read_only() {
        let f = fixture();
        let mut partial = f.cache.partial(&blob(b"kernel")).unwrap();
        partial.append(b"ker").unwrap();
        assert!(!f.cache.contains(&blob(b"kernel")));
        partial.append(b"nel").unwrap();
        partial.finish().unwrap();
        assert!(f.cache.contains(&blob(b"kernel")));
        let mode = fs::metadata(f.cache.path(&blob(b"kernel").digest)).unwrap().permissions().mode();
        assert_eq!((mode & 0o777, f.partials()), (0o444, 0));
    }

    #[test]
    fn a_download_is_resumed_where_it_stopped() {
        let f = fixture();
        f.cache.partial(&blob(b"kernel")).unwrap().append(b"ker").unwrap();
        let mut partial = f.cache.partial(&blob(b"kernel")).unwrap();
        assert_eq!(partial.offset(), 3);
        partial.append(b"nel").unwrap();
        partial.finish().unwrap();
    }

    #[test]
    fn wrong_bytes_are_refused_and_removed() {
        let f = fixture();
        let mut partial = f.cache.partial(&blob(b"kernel")).unwrap();
        partial.append(b"kernal").unwrap();
        assert!(matches!(partial.finish(), Err(PartialError::Digest { .. })));
        assert!(!f.cache.contains(&blob(b"kernel")));
        assert_eq!(f.partials(), 0);
    }

    #[test]
    fn a_wrong_length_is_refused_before_it_is_written() {
        let f = fixture();
        let mut partial = f.cache.partial(&blob(b"kernel")).unwrap();
        assert!(matches!(partial.append(b"kernel and more"), Err(PartialError::TooLong { .. })));
        let mut partial = f.cache.partial(&blob(b"kernel")).unwrap();
        partial.append(b"ker").unwrap();
        assert!(matches!(partial.finish(), Err(PartialError::TooShort { .. })));
        assert_eq!(f.partials(), 1, "too few are kept to be resumed");
    }

    #[test]
    fn the_empty_blob_is_a_blob() {
        let f = fixture();
        let partial = f.cache.partial(&blob(b"")).unwrap();
        assert!(partial.is_full());
        partial.finish().unwrap();
        assert!(f.cache.contains(&blob(b"")));
    }
}
