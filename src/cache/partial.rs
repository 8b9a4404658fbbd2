//! A blob on its way in: written where it belongs in any order, hashed in order, named only when it is right.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::hashing::Hashing;
use super::ledger::{self, Ledger};
use super::{Cache, Ranges};
use crate::durable::{
    DurableError, IoContext, create_file, punch, remove_dir_all, remove_file, rename, set_len, set_mode, sync_file,
    write_sparse,
};
use crate::failure::{Classify, Kind, Retry};
use crate::oci::{Descriptor, Digest};
use crate::wording::exact_size;

/// How much of what is on disk is read at once to hash it, in bytes.
const PIECE: usize = 128 * 1024;
/// How much of what is on disk is hashed with each write, in bytes: so much more than is written that it is soon made up
/// for, so little that a source which waits for it does not hang up.
const CATCH_UP: u64 = 2 << 20;
/// How long it takes from one sync to the next: so much of a download a power cut costs.
const SAVE_EVERY: Duration = Duration::from_secs(2);

/// A download in flight. Dropping it keeps what was written, for the next one to resume.
pub struct Partial {
    file: Arc<File>,
    path: PathBuf,
    cache: Cache,
    expected: Digest,
    size: u64,
    /// Which bytes are in the file. The rest of it is a hole.
    landed: Ranges,
    /// How far it is hashed, which may be behind what has landed.
    front: u64,
    hashing: Hashing,
    ledger: Ledger,
    /// How much was written since it was last saved.
    unsaved: u64,
    /// How much was written since it was looked at whether there is room.
    unchecked: u64,
    saved_at: Instant,
    saving: Option<JoinHandle<Result<(), DurableError>>>,
}

/// Why bytes became no blob.
#[derive(Debug, thiserror::Error)]
pub enum PartialError {
    /// There are more bytes than the descriptor says.
    #[error("blob {expected} goes on after the {} that its manifest says", exact_size(*.size))]
    TooLong {
        /// The blob's digest.
        expected: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// There are fewer.
    #[error("blob {expected} ends after {} of {}", exact_size(*.written), exact_size(*.size))]
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
    /// Opens the download of `blob` at `path`. What an earlier one left there is hashed once more comes: a source that
    /// cannot be reached is not to cost a read of all of it.
    pub(super) fn open(path: &Path, cache: &Cache, blob: &Descriptor) -> Result<Self, PartialError> {
        let ledger = Ledger::of(path);
        for place in ledger.files().into_iter().chain([path]) {
            clear_away(place)?;
        }
        let (file, is_new) = open_writable(path)?;
        let mut partial = Self {
            file: Arc::new(file),
            path: path.to_owned(),
            cache: cache.clone(),
            expected: blob.digest,
            size: blob.size,
            landed: if is_new { Ranges::default() } else { ledger.read() },
            front: 0,
            hashing: Hashing::begin(blob.size),
            ledger,
            unsaved: 0,
            unchecked: 0,
            saved_at: Instant::now(),
            saving: None,
        };
        // A file that is shorter than what is said of it was damaged, and nobody knows how.
        let length = partial.file.metadata().on("read", path)?.len();
        if partial.landed.end() > blob.size.min(length) {
            partial.landed = Ranges::default();
        }
        partial.clear_gaps()?;
        set_len(&partial.file, path, blob.size)?;
        Ok(partial)
    }

    /// Sees to it that what did not land is a hole: something may have been written there that nobody noted.
    fn clear_gaps(&mut self) -> Result<(), PartialError> {
        let first = self.landed.run_from(0);
        let gaps: Vec<_> = self.landed.gaps(self.size).collect();
        for gap in gaps {
            match punch(&self.file, &self.path, gap) {
                Err(error) if error.io().kind() == io::ErrorKind::Unsupported => {
                    set_len(&self.file, &self.path, first)?;
                    self.ledger.remove()?;
                    self.landed = Ranges::default();
                    self.landed.insert(0..first);
                    break;
                }
                punched => punched?,
            }
        }
        Ok(())
    }

    /// Hashes what has landed from the front on, and no more of it than `most` bytes.
    fn advance(&mut self, most: u64) -> Result<(), PartialError> {
        let mut run = self.landed.run_from(self.front).min(most);
        while run > 0 {
            let mut piece = vec![0; PIECE.min(usize::try_from(run).unwrap_or(PIECE))];
            self.file.read_exact_at(&mut piece, self.front).on("read", &self.path)?;
            self.front += piece.len() as u64;
            run -= piece.len() as u64;
            self.hashing.update(piece.into());
        }
        Ok(())
    }

    /// Which bytes are there.
    pub fn landed(&self) -> &Ranges {
        &self.landed
    }

    /// Whether all bytes are there.
    pub fn is_full(&self) -> bool {
        self.landed.total() == self.size
    }

    /// Writes bytes that belong at `offset`. Not one more is written than the descriptor says; those that are there
    /// already are not written again, for what is on disk is what is hashed.
    pub fn write(&mut self, offset: u64, bytes: &Bytes) -> Result<(), PartialError> {
        let end = offset.saturating_add(bytes.len() as u64);
        if end > self.size {
            self.discard();
            return Err(PartialError::TooLong { expected: self.expected, size: self.size });
        }
        while let Some(gap) = self.landed.gap_from(offset, end) {
            let [from, to] = [gap.start, gap.end].map(|at| usize::try_from(at - offset).unwrap_or(usize::MAX));
            let piece = bytes.slice(from..to);
            self.cache.keep_reserve(&self.path, &mut self.unchecked, gap.end - gap.start)?;
            write_sparse(&self.file, &self.path, gap.start, &piece)?;
            if gap.start == self.front {
                self.hashing.update(piece);
                self.front = gap.end;
            }
            self.unsaved += gap.end - gap.start;
            self.landed.insert(gap);
        }
        self.advance(CATCH_UP)?;
        self.keep_books()
    }

    /// Writes the next bytes.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), PartialError> {
        self.write(self.landed.run_from(0), &Bytes::copy_from_slice(bytes))
    }

    /// Notes how far it is, and has it synced now and then, beside what goes on.
    fn keep_books(&mut self) -> Result<(), PartialError> {
        if self.is_full() {
            return Ok(());
        }
        self.ledger.note(&self.landed);
        if self.saving.as_ref().is_some_and(JoinHandle::is_finished) {
            self.settle()?;
        }
        if self.unsaved > 0 && self.saving.is_none() && self.saved_at.elapsed() >= SAVE_EVERY {
            self.unsaved = 0;
            self.saved_at = Instant::now();
            let (file, path) = (Arc::clone(&self.file), self.path.clone());
            let (synced, landed) = (self.ledger.synced().to_owned(), self.landed.clone());
            let save = move || ledger::save(&file, &path, &synced, &landed);
            // Without a thread it is saved the next time.
            self.saving = std::thread::Builder::new().name("sync".to_owned()).spawn(save).ok();
        }
        Ok(())
    }

    /// Waits for a sync that is under way. Where it failed, everything is given up: the kernel tells of pages that it could
    /// not write once, and forgets which they were, so that the next sync would succeed without them.
    fn settle(&mut self) -> Result<(), PartialError> {
        let Some(saving) = self.saving.take() else { return Ok(()) };
        let saved = saving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        saved.inspect_err(|_| self.discard()).map_err(PartialError::from)
    }

    /// Checks length and digest, and if they are right makes the bytes durable and gives them the blob's name. Bytes
    /// that are too few are kept to be resumed, wrong ones are removed.
    pub fn finish(mut self) -> Result<(), PartialError> {
        if !self.is_full() {
            let written = self.landed.total();
            return Err(PartialError::TooShort { expected: self.expected, size: self.size, written });
        }
        self.advance(self.size)?;
        let actual = std::mem::replace(&mut self.hashing, Hashing::begin(0)).finish();
        if actual != self.expected {
            self.discard();
            return Err(PartialError::Digest { expected: self.expected, actual });
        }
        self.settle()?;
        set_mode(&self.path, self.cache.blob_permission())?;
        // After a sync that failed, the kernel forgets which pages it could not write, and the next sync succeeds: what
        // is read back then may be in memory only.
        sync_file(&self.file, &self.path).inspect_err(|_| self.discard())?;
        self.cache.note_verified(&self.expected, &self.path);
        self.cache.named(rename(&self.path, &self.cache.path(&self.expected)))?;
        self.unsaved = 0;
        // Only now: without them, all of it would be fetched once more after a crash in between.
        Ok(self.ledger.remove()?)
    }

    /// Removes what was written. A file that stays is only a worse start for the next attempt.
    fn discard(&mut self) {
        if let Some(saving) = self.saving.take() {
            let _ = saving.join();
        }
        self.unsaved = 0;
        let _ = self.ledger.remove();
        let _ = set_len(&self.file, &self.path, 0);
        let _ = remove_file(&self.path);
    }

    /// How much of the download at `path` is there, in bytes.
    pub(super) fn bytes_at(path: &Path) -> u64 {
        if path.exists() { Ledger::of(path).read().total() } else { 0 }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Err(error) = self.settle() {
            tracing::warn!(%error, "a download is given up");
        }
        if self.unsaved > 0 {
            self.ledger.note(&self.landed);
            if let Err(error) = ledger::save(&self.file, &self.path, self.ledger.synced(), &self.landed) {
                tracing::warn!(%error, "a download is given up");
                self.discard();
            }
        }
    }
}

/// Removes what is no plain file: it would lead elsewhere, or keep whoever opens it waiting.
pub(super) fn clear_away(path: &Path) -> Result<(), DurableError> {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => remove_dir_all(path),
        Ok(found) if !found.is_file() => remove_file(path),
        _ => Ok(()),
    }
}

/// Opens a file to be read and written, and says whether it is new. A download that was ended between its last byte and
/// its name is read-only already, to us as well.
fn open_writable(path: &Path) -> Result<(File, bool), DurableError> {
    let open = || OpenOptions::new().read(true).write(true).open(path);
    match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((create_file(path, 0o600)?, true)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            set_mode(path, 0o600)?;
            Ok((open().on("open", path)?, false))
        }
        opened => Ok((opened.on("open", path)?, false)),
    }
}

impl std::fmt::Debug for Partial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Partial({}, {} of {})", self.expected, self.landed.total(), self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

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
        assert_eq!(partial.landed().run_from(0), 3);
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
        assert_eq!(f.cache.partial_bytes(&[blob(b"kernel")]), 3, "too few are kept to be resumed");
    }

    #[test]
    fn pieces_land_in_any_order_and_none_twice() {
        let f = fixture();
        let mut partial = f.cache.partial(&blob(b"kernel and initrd")).unwrap();
        partial.write(6, &Bytes::from_static(b" and ")).unwrap();
        partial.write(13, &Bytes::from_static(b"itrd")).unwrap();
        // Wrong ones in a place that is taken do no harm.
        partial.write(4, &Bytes::from_static(b"elXXX")).unwrap();
        assert_eq!(partial.landed().gaps(17).collect::<Vec<_>>(), [0..4, 11..13]);
        drop(partial);
        let mut partial = f.cache.partial(&blob(b"kernel and initrd")).unwrap();
        assert_eq!(partial.landed().gaps(17).collect::<Vec<_>>(), [0..4, 11..13]);
        partial.write(0, &Bytes::from_static(b"kernXX and in")).unwrap();
        assert!(partial.is_full());
        partial.finish().unwrap();
        assert_eq!(fs::read(f.cache.path(&blob(b"kernel and initrd").digest)).unwrap(), b"kernel and initrd");
        assert_eq!(f.partials(), 0);
    }

    #[test]
    fn what_has_landed_is_hashed_bit_by_bit() {
        let f = fixture();
        let bytes = Bytes::from(vec![7; usize::try_from(CATCH_UP).unwrap() * 3]);
        let mut partial = f.cache.partial(&blob(&bytes)).unwrap();
        partial.write(1, &bytes.slice(1..)).unwrap();
        drop(partial);
        let mut partial = f.cache.partial(&blob(&bytes)).unwrap();
        assert_eq!(partial.front, 0, "nothing came yet");
        partial.write(0, &bytes.slice(..1)).unwrap();
        assert_eq!(partial.front, 1 + CATCH_UP);
        partial.finish().unwrap();
        assert!(f.cache.verify(&blob(&bytes)));
    }

    #[test]
    fn what_nobody_noted_is_not_there() {
        let f = fixture();
        let whole = blob(b"kernel");
        f.cache.partial(&whole).unwrap().append(b"ker").unwrap();
        let path = f.dir.path().join("partial").join(whole.digest.hex());
        fs::write(&path, b"kerXXX").unwrap();
        let mut partial = f.cache.partial(&whole).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"ker\0\0\0");
        partial.append(b"nel").unwrap();
        partial.finish().unwrap();
        // Nor is anything once the bytes are gone and only the word of them is left.
        fs::remove_file(f.cache.path(&whole.digest)).unwrap();
        f.cache.partial(&whole).unwrap().append(b"ker").unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(f.cache.partial(&whole).unwrap().landed().total(), 0);
    }

    #[test]
    fn what_is_no_file_is_cleared_away_and_a_file_that_is_too_short_forgotten() {
        let f = fixture();
        let whole = blob(b"kernel");
        let path = f.dir.path().join("partial").join(whole.digest.hex());
        let elsewhere = f.dir.path().join("elsewhere");
        fs::write(&elsewhere, "mine").unwrap();
        fs::create_dir_all(&path).unwrap();
        for name in ["written", "synced"] {
            std::os::unix::fs::symlink(&elsewhere, path.with_extension(name)).unwrap();
        }
        f.cache.partial(&whole).unwrap().append(b"kern").unwrap();
        assert_eq!(fs::read(&elsewhere).unwrap(), b"mine");
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(2).unwrap();
        assert_eq!(f.cache.partial(&whole).unwrap().landed().total(), 0);
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
