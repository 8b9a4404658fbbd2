//! Blobs by digest.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use nix::errno::Errno;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::in_use::InUse;
use super::measure::{measure, measure_while, pieces};
use super::stray::download;
use super::verified::{Verified, is_same};
use super::{Partial, PartialError, Usage};
use super::{index, staged};
use crate::durable::{
    Access, DurableError, FileSystemError, IoContext, Permission, check_rename, create_dir, create_user_dir,
    has_hard_links, new_file_mode, read_capped, remove_any, remove_file, repair_permissions, share_over,
    sweep_temporaries, sync_dir, write_atomic,
};
use crate::failure::full_text;
use crate::oci::{Descriptor, Digest};
use crate::registry::{LAYOUT_VERSION, LayoutMarker};

/// What the names of notes end with that say how much of the network an update has taken.
pub const WIRE: &str = ".wire";

/// Is there for as long as a look at everything is owed.
const OWED: &str = "look-owed";

/// Says which version of a layout it is; it is written once.
const MARKER: &str = "oci-layout";

/// Where in a layout the blobs are.
pub(super) const BLOBS: &str = "blobs/sha256";
/// How many read blobs at a stretch at a time.
const READERS: usize = 2;
/// Where it is noted what was found in layers; tools that read layouts pass over it.
const UNPACKED: &str = "unpacked";

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
    modes: Modes,
    verified: Verified,
    /// Whether there may be names that are not durable. Held while they are made so.
    is_unsettled: Mutex<bool>,
    /// Where it is noted that a look at everything is owed; nowhere in a layout that is somebody's own.
    owed: Option<PathBuf>,
    in_use: InUse,
    reserve: AtomicU64,
    /// Held while `index.json` is read, changed and written.
    index: Mutex<()>,
    /// Told when a damaged blob is come upon: a generation may have the same bytes.
    damage: Notify,
    readers: Arc<Semaphore>,
    /// Held while a document is stored: several images may have one in common, and a path has one writer at a time.
    documents: Mutex<()>,
}

/// Modes of what is made in a layout.
#[derive(Clone, Copy, Debug)]
struct Modes {
    /// None where the umask decides.
    dir: Option<Permission>,
    blob: Permission,
    file: Permission,
}

impl From<Access> for Modes {
    fn from(access: Access) -> Self {
        Self { dir: Some(access.dir()), blob: access.file(), file: access.document() }
    }
}

impl Cache {
    /// Opens the store of the state directory `state_dir`, making what is missing, and removing what nobody can take up.
    /// The directory has one user: whoever opens it holds its lock.
    pub fn open(state_dir: &Path) -> Result<Self, DurableError> {
        Self::open_for(state_dir, Access::default())
    }

    /// Opens the store as [`Self::open`] does. What is there, and what is made, is for those who have `access`.
    pub fn open_for(state_dir: &Path, access: Access) -> Result<Self, DurableError> {
        let root = state_dir.join("cache");
        for dir in [&root, &root.join("blobs"), &root.join(BLOBS)] {
            create_dir(dir, access.dir())?;
        }
        let cache = Self::new(&root, &state_dir.join("partial"), Some((root.join(OWED), access)))?;
        sweep_temporaries(&root, |_| false)?;
        sweep_temporaries(&cache.inner.blobs, |_| false)?;
        staged::sweep(cache.partial_dir())?;
        cache.repair_permissions()?;
        Ok(cache)
    }

    /// Gives all files the permissions that they are to have now.
    fn repair_permissions(&self) -> Result<(), DurableError> {
        let Modes { dir, blob, file } = self.inner.modes;
        let files = |dir: &Path, permission: Permission| {
            let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
            let is_file = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|found| found.is_file());
            entries.filter(is_file).map(move |entry| (entry.path(), permission))
        };
        let unpacked = self.unpacked_dir();
        let own = dir.filter(|_| unpacked.is_dir()).map(|permission| (unpacked.clone(), permission));
        let documents = files(&self.inner.root, file).chain(files(&unpacked, file)).chain(own);
        repair_permissions(documents.chain(files(&self.inner.blobs, blob)))
    }

    /// Opens the layout `root`, with downloads in flight in `partial`, which is in the same file system. The layout may
    /// be somebody's own: directories that are there keep their modes, and what is made gets the modes of the umask.
    pub fn at(root: &Path, partial: &Path) -> Result<Self, DurableError> {
        Self::new(root, partial, None)
    }

    /// `own` is of a store of the agent's: the path of the note on a look that is owed, and who has access.
    fn new(root: &Path, partial: &Path, own: Option<(PathBuf, Access)>) -> Result<Self, DurableError> {
        let blobs = root.join(BLOBS);
        let (owed, access) = own.unzip();
        for dir in [root, &root.join("blobs"), &blobs] {
            ensure_dir(dir, access.map(Access::dir))?;
        }
        create_dir(partial, 0o700)?;
        let modes = if let Some(access) = access {
            access.into()
        } else {
            let mode = new_file_mode(partial)?.into();
            Modes { dir: None, blob: mode, file: mode }
        };
        index::create(root, modes.file)?;
        let marker = root.join(MARKER);
        if !marker.exists() {
            let content = LayoutMarker { version: LAYOUT_VERSION.to_owned() };
            write_atomic(&marker, &serde_json::to_vec(&content).unwrap_or_default(), modes.file)?;
        }
        let inner = Inner {
            root: root.to_owned(),
            blobs,
            partial: partial.to_owned(),
            modes,
            verified: Verified::default(),
            is_unsettled: Mutex::new(true),
            owed,
            in_use: InUse::default(),
            reserve: AtomicU64::new(0),
            index: Mutex::new(()),
            damage: Notify::new(),
            readers: Arc::new(Semaphore::new(READERS)),
            documents: Mutex::new(()),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// When it was made, as far as the disk says.
    pub fn made_at(&self) -> SystemTime {
        let made = fs::metadata(self.inner.root.join(MARKER)).and_then(|found| found.modified());
        made.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// The layout's directory.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// So many bytes of the file system are never used from now on.
    pub fn set_reserve(&self, bytes: u64) {
        self.inner.reserve.store(bytes, Relaxed);
    }

    /// How much of the file system is never used, in bytes.
    pub fn reserve(&self) -> u64 {
        self.inner.reserve.load(Relaxed)
    }

    /// Which blobs running work has looked at.
    pub(super) fn in_use(&self) -> &InUse {
        &self.inner.in_use
    }

    /// Where what is on its way is.
    pub(super) fn partial_dir(&self) -> &Path {
        &self.inner.partial
    }

    /// Where it is noted what was found in layers.
    pub fn unpacked_dir(&self) -> PathBuf {
        self.inner.root.join(UNPACKED)
    }

    /// Makes names durable that may not be, before anything relies on what is there: an agent may have ended between giving
    /// a name and the sync, or the sync may have failed. Where neither can be, this costs nothing. A second sync counts for
    /// names, though it does not for bytes: those the kernel may have dropped, while names wait in the file system's journal,
    /// and where that cannot be written, nothing else can.
    pub fn keep_names(&self) -> Result<(), DurableError> {
        let mut is_unsettled = self.is_unsettled();
        if *is_unsettled {
            let dirs = [self.inner.blobs.clone(), self.unpacked_dir()];
            dirs.iter().filter(|dir| dir.is_dir()).try_for_each(|dir| sync_dir(dir))?;
            *is_unsettled = false;
        }
        Ok(())
    }

    /// Passes on what came of giving a name. Where that failed, the name may be there all the same.
    pub fn named(&self, named: Result<(), DurableError>) -> Result<(), DurableError> {
        named.inspect_err(|_| *self.is_unsettled() = true)
    }

    fn is_unsettled(&self) -> MutexGuard<'_, bool> {
        self.inner.is_unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the blob with `digest` is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.inner.blobs.join(digest.hex())
    }

    /// Makes the directories again, where somebody has removed them.
    fn ensure_dirs(&self) -> Result<(), DurableError> {
        ensure_dir(&self.inner.blobs, self.inner.modes.dir)?;
        ensure_dir(&self.inner.partial, Some(0o700.into()))
    }

    /// Mode and group of a blob that is complete.
    pub(super) fn blob_permission(&self) -> Permission {
        self.inner.modes.blob
    }

    /// Makes the directory of the notes on layers if it is not there, and writes a note there.
    pub fn write_unpacked(&self, path: &Path, bytes: &[u8]) -> Result<(), DurableError> {
        ensure_dir(&self.unpacked_dir(), self.inner.modes.dir)?;
        self.named(write_atomic(path, bytes, self.inner.modes.file))
    }

    /// Tries to rename a file from the downloads to the blobs, as each complete download is.
    pub fn check_file_system(&self) -> Result<(), FileSystemError> {
        check_rename(&self.inner.partial, &self.inner.blobs)
    }

    /// True if blobs can be hard-linked into `dir`, where they then take no more room.
    pub fn shares_with(&self, dir: &Path) -> bool {
        has_hard_links(&self.inner.blobs, dir)
    }

    /// Whether the blob is there and right. All of its bytes are read once in a process; a blob that is wrong is removed,
    /// so that it is fetched again.
    pub fn holds(&self, blob: &Descriptor) -> bool {
        match self.holds_while(blob, || true) {
            Ok(held) => held.unwrap_or(false),
            // What cannot be read is not there.
            Err(error) => {
                tracing::error!(blob = %blob.digest, error = full_text(&error), "a blob of the cache cannot be read");
                false
            }
        }
    }

    /// The same for who may be called off: `goes_on` is asked after each piece that is read; none where it says no. What
    /// cannot be read for another reason than that the disk has lost it is left as it is, and is an error.
    pub fn holds_while(&self, blob: &Descriptor, goes_on: impl FnMut() -> bool) -> Result<Option<bool>, DurableError> {
        self.inner.in_use.note(&blob.digest);
        let path = self.path(&blob.digest);
        let Ok(found) = fs::symlink_metadata(&path) else { return Ok(Some(false)) };
        if !found.is_file() {
            tracing::error!(blob = %blob.digest, "what has the name of a blob is no file, and is removed");
            self.remove(&blob.digest)?;
            return Ok(Some(false));
        }
        if found.len() != blob.size {
            self.owe_look();
            return Ok(Some(false));
        }
        if self.inner.verified.knows(&blob.digest, &found) {
            return Ok(Some(true));
        }
        match measure_while(&path, goes_on) {
            Ok(Some(digest)) if digest == blob.digest => {
                self.inner.verified.note(&blob.digest, &found);
                return Ok(Some(true));
            }
            Ok(Some(actual)) => {
                tracing::error!(blob = %blob.digest, %actual, "a blob of the cache is damaged; it is fetched again");
            }
            Ok(None) => return Ok(None),
            Err(error) if is_lost(error.io()) => {
                tracing::error!(blob = %blob.digest, error = full_text(&error), "the disk has lost a blob of the cache; it is fetched again");
            }
            Err(error) => return Err(error),
        }
        // Before nothing tells of the damage any more.
        self.owe_look();
        // While it was read, somebody else may have put the right one in its place.
        if fs::symlink_metadata(&path).is_ok_and(|now| is_same(&now, &found)) {
            self.remove(&blob.digest)?;
        }
        Ok(Some(false))
    }

    /// The turn of somebody who reads much at a stretch: more of them at a time would only fight over the disk, and leave no
    /// thread to others.
    pub async fn reader(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.inner.readers).acquire_owned().await.ok()
    }

    /// Waits until somebody has come upon a damaged blob.
    pub async fn damaged(&self) {
        self.inner.damage.notified().await;
    }

    /// A damaged blob was come upon: generations have the same bytes, and everything is to be looked at.
    pub fn owe_look(&self) {
        self.keep_look_owed();
        self.inner.damage.notify_one();
    }

    /// Has a restart know that everything is to be looked at.
    pub fn keep_look_owed(&self) {
        if let Some(path) = self.inner.owed.as_ref().filter(|path| !path.exists())
            && let Err(error) = write_atomic(path, b"", self.inner.modes.file)
        {
            tracing::warn!(error = full_text(&error), "a restart will not know that damage was come upon");
        }
    }

    /// Whether a look at everything is owed.
    pub fn is_look_owed(&self) -> bool {
        self.inner.owed.as_ref().is_some_and(|path| path.exists())
    }

    /// Everything was looked at, and is right.
    pub fn look_done(&self) -> Result<(), DurableError> {
        self.inner.owed.as_ref().map_or(Ok(()), |path| remove_file(path))
    }

    /// Removes a blob that was found damaged, unless it has been replaced since by one that was seen to be right.
    pub fn remove_damaged(&self, digest: &Digest) -> Result<(), DurableError> {
        let is_right = |found: fs::Metadata| self.inner.verified.knows(digest, &found);
        if fs::symlink_metadata(self.path(digest)).is_ok_and(is_right) { Ok(()) } else { self.remove(digest) }
    }

    /// Counts a blob as not seen to be right any more.
    pub fn doubt(&self, digest: &Digest) {
        self.inner.verified.forget(digest);
    }

    /// Notes that a blob was seen to be right when its file was `found` so.
    pub fn trust(&self, digest: &Digest, found: &fs::Metadata) {
        self.inner.verified.note(digest, found);
    }

    /// Notes that the file at `path`, which was hashed on its way here and is about to get the blob's name, is right: whoever
    /// has just found what was there before damaged is not to remove it.
    pub(super) fn note_verified(&self, digest: &Digest, path: &Path) {
        self.inner.in_use.note(digest);
        if let Ok(found) = fs::metadata(path) {
            self.inner.verified.note(digest, &found);
        }
    }

    /// Whether the blob is there, with its length. Its bytes may have been damaged since it came.
    pub fn contains(&self, blob: &Descriptor) -> bool {
        self.inner.in_use.note(&blob.digest);
        let Ok(found) = fs::metadata(self.path(&blob.digest)) else { return false };
        if found.is_file() && found.len() != blob.size {
            self.owe_look();
        }
        found.is_file() && found.len() == blob.size
    }

    /// The bytes of a small blob, verified; none where it is absent, longer than `limit` bytes, or damaged.
    pub fn read(&self, digest: &Digest, limit: usize) -> Option<Vec<u8>> {
        self.inner.in_use.note(digest);
        self.peek(digest, limit)
    }

    /// The same for who only looks, and whose looking keeps nothing in the cache.
    pub fn peek(&self, digest: &Digest, limit: usize) -> Option<Vec<u8>> {
        let bytes = read_capped(&self.path(digest), limit as u64).ok()?;
        (Digest::of(&bytes) == *digest).then_some(bytes)
    }

    /// Stores a document that is in memory already.
    pub fn insert(&self, bytes: &[u8]) -> Result<Digest, DurableError> {
        let digest = Digest::of(bytes);
        let path = self.path(&digest);
        let _storing = self.inner.documents.lock().unwrap_or_else(PoisonError::into_inner);
        if self.read(&digest, bytes.len()).is_none() {
            self.ensure_dirs()?;
            self.named(write_atomic(&path, bytes, self.blob_permission()))?;
        }
        Ok(digest)
    }

    /// Stores the file `source`, which `blob` describes. It is streamed, and checked as a download is; `on_piece` is told
    /// the length of each piece once it is written.
    pub fn insert_file(
        &self,
        blob: &Descriptor,
        source: &Path,
        mut on_piece: impl FnMut(u64),
    ) -> Result<(), PartialError> {
        // What an earlier attempt has left may be of a file that was another then.
        remove_file(&self.inner.partial.join(blob.digest.hex()))?;
        let mut partial = self.partial(blob)?;
        pieces(source, |piece| {
            partial.append(piece)?;
            on_piece(piece.len() as u64);
            Ok::<_, PartialError>(())
        })?;
        partial.finish()
    }

    /// Whether the blob is there and its bytes are right: all of them are read.
    pub fn verify(&self, blob: &Descriptor) -> bool {
        let whole = Some((blob.digest, blob.size));
        self.contains(blob) && measure(&self.path(&blob.digest)).ok() == whole
    }

    /// Starts or resumes the download of `blob`. One at a time for each blob: the caller sees to that.
    pub fn partial(&self, blob: &Descriptor) -> Result<Partial, PartialError> {
        let file = self.inner.partial.join(blob.digest.hex());
        self.ensure_dirs()?;
        Partial::open(&file, self, blob)
    }

    /// Removes a blob that is of no more use. Not durable by itself: after a crash it may be back.
    pub fn remove(&self, digest: &Digest) -> Result<(), DurableError> {
        remove_any(&self.path(digest))
    }

    /// How much of `blobs` earlier downloads have left, in bytes.
    pub fn partial_bytes(&self, blobs: &[Descriptor]) -> u64 {
        blobs.iter().map(|blob| Partial::bytes_at(&self.inner.partial.join(blob.digest.hex()))).sum()
    }

    /// Where it is noted what an update to the image with this manifest has taken of the network.
    pub fn wire_note(&self, manifest: &Digest) -> PathBuf {
        self.inner.partial.join(format!("{}{WIRE}", manifest.hex()))
    }

    /// Gives up the downloads that `keeps` does not want to keep, given a blob's digest in hexadecimal digits and what stands
    /// behind it in the file's name.
    pub fn abandon_partials(&self, keeps: impl Fn(&str, &str) -> bool) -> Result<(), DurableError> {
        let entries = fs::read_dir(&self.inner.partial).on("list", &self.inner.partial)?;
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            // What others have put there stays.
            let Some((hex, ending)) = name.to_str().and_then(download) else { continue };
            if !keeps(hex, ending) {
                tracing::info!(partial = %entry.path().display(), "a download that nobody goes on with is given up");
                remove_any(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Lists a manifest, all of whose blobs are there, in the layout's index under `name`.
    pub fn tag(&self, name: &str, manifest: &Descriptor) -> Result<(), DurableError> {
        self.tag_in_place_of(name, manifest, |_| false)
    }

    /// As [`Self::tag`], in place of all entries whose names `replaces` accepts.
    pub fn tag_in_place_of(
        &self,
        name: &str,
        manifest: &Descriptor,
        replaces: impl Fn(&str) -> bool,
    ) -> Result<(), DurableError> {
        let _changing = self.inner.index.lock().unwrap_or_else(PoisonError::into_inner);
        index::set(&self.inner.root, self.inner.modes.file, name, manifest, replaces)
    }

    /// Takes images off the layout's index whose manifests or indexes `keeps` does not want to keep.
    pub fn untag(&self, keeps: impl Fn(&Digest) -> bool) -> Result<(), DurableError> {
        let _changing = self.inner.index.lock().unwrap_or_else(PoisonError::into_inner);
        index::retain(&self.inner.root, self.inner.modes.file, keeps)
    }

    /// What has the name of a blob and is no file.
    pub fn misplaced(&self) -> Result<Vec<Digest>, DurableError> {
        let entries = fs::read_dir(&self.inner.blobs).on("list", &self.inner.blobs)?.filter_map(Result::ok);
        let others = entries.filter(|entry| entry.file_type().is_ok_and(|found| !found.is_file()));
        Ok(others.filter_map(|entry| format!("sha256:{}", entry.file_name().to_str()?).parse().ok()).collect())
    }

    /// Whether the layout's index can be read, and leads only to what is there.
    pub fn is_index_sound(&self) -> bool {
        index::is_sound(&self.inner.root, |digest| self.path(digest).exists())
    }

    /// Takes off the layout's index what is not there, and begins one anew that cannot be read.
    pub fn mend_index(&self) -> Result<(), DurableError> {
        let _changing = self.inner.index.lock().unwrap_or_else(PoisonError::into_inner);
        index::mend(&self.inner.root, self.inner.modes.file, |digest| self.path(digest).exists())
    }

    /// Takes a blob's bytes from the file at `sound`, where they are right, in place of what it has for them.
    pub fn adopt(&self, digest: &Digest, sound: &Path) -> Result<(), DurableError> {
        let _storing = self.inner.documents.lock().unwrap_or_else(PoisonError::into_inner);
        self.ensure_dirs()?;
        self.named(share_over(sound, &self.path(digest)))
    }

    /// The blobs that are there: their digests, what each takes on disk in bytes, holes left out, and when it came.
    pub fn blobs(&self) -> Result<Vec<(Digest, u64, SystemTime)>, DurableError> {
        let entries = fs::read_dir(&self.inner.blobs).on("list", &self.inner.blobs)?;
        let blob = |entry: fs::DirEntry| {
            let digest = format!("sha256:{}", entry.file_name().to_str()?).parse().ok()?;
            let found = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            Some((digest, found.blocks() * 512, found.modified().unwrap_or(SystemTime::UNIX_EPOCH)))
        };
        Ok(entries.filter_map(|entry| blob(entry.ok()?)).collect())
    }

    /// How much it holds.
    pub fn usage(&self) -> Result<Usage, DurableError> {
        Usage::of(&self.inner.root)
    }
}

/// Whether no later try will read it either.
fn is_lost(error: &io::Error) -> bool {
    let lost = [Errno::EIO, Errno::EBADMSG, Errno::EUCLEAN];
    error.raw_os_error().is_some_and(|code| lost.contains(&Errno::from_raw(code)))
}

/// Makes a directory where there is none.
fn ensure_dir(dir: &Path, permission: Option<Permission>) -> Result<(), DurableError> {
    match permission {
        _ if dir.is_dir() => Ok(()),
        Some(permission) => create_dir(dir, permission),
        None => create_user_dir(dir),
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

    #[test]
    fn a_document_that_several_store_at_once_is_stored() {
        const STORING: usize = 8;
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let together = std::sync::Barrier::new(STORING);
        std::thread::scope(|scope| {
            for _ in 0..STORING {
                scope.spawn(|| {
                    for n in 0..20 {
                        together.wait();
                        let document = format!("manifest {n}").into_bytes();
                        let digest = cache.insert(&document).unwrap();
                        assert_eq!(cache.read(&digest, 100), Some(document));
                    }
                });
            }
        });
    }

    #[test]
    fn a_file_is_stored_as_what_it_is_described() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let file = dir.path().join("root.raw");
        fs::write(&file, vec![7; 200_001]).unwrap();
        let (digest, size) = measure(&file).unwrap();
        let blob = Descriptor::new("x", digest, size);
        let mut told = 0;
        cache.insert_file(&blob, &file, |bytes| told += bytes).unwrap();
        assert_eq!((cache.verify(&blob), told), (true, size));
        fs::remove_file(cache.path(&digest)).unwrap();
        fs::write(cache.path(&digest), vec![8; 200_001]).unwrap();
        assert_eq!((cache.contains(&blob), cache.verify(&blob)), (true, false));
        assert!(matches!(
            cache.insert_file(&Descriptor::of("x", b"other"), &file, |_| ()),
            Err(PartialError::TooLong { .. })
        ));
    }

    #[test]
    fn a_blob_that_was_damaged_where_it_lies_is_not_held() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = vec![7; 1000];
        let blob = Descriptor::of("x", &bytes);
        let cache = Cache::open(dir.path()).unwrap();
        let mut partial = cache.partial(&blob).unwrap();
        partial.append(&bytes).unwrap();
        partial.finish().unwrap();
        assert!(cache.holds(&blob));
        let path = cache.path(&blob.digest);
        fs::remove_file(&path).unwrap();
        fs::write(&path, vec![8; 1000]).unwrap();
        for cache in [cache, Cache::open(dir.path()).unwrap()] {
            assert!(!cache.holds(&blob));
            assert!(!path.exists(), "it is fetched again");
        }
    }

    #[test]
    fn whoever_is_called_off_has_seen_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Cache::open(dir.path()).unwrap().insert(b"manifest").unwrap();
        let (cache, blob) = (Cache::open(dir.path()).unwrap(), Descriptor::new("x", digest, 8));
        assert_eq!(cache.holds_while(&blob, || false).unwrap(), None);
        fs::remove_file(cache.path(&digest)).unwrap();
        fs::write(cache.path(&digest), "manifold").unwrap();
        assert_eq!(cache.holds_while(&blob, || false).unwrap(), None);
        assert!(cache.path(&digest).exists(), "nobody knows that it is damaged");
        assert_eq!(cache.holds_while(&blob, || true).unwrap(), Some(false));
        assert!(!cache.path(&digest).exists());
    }

    #[test]
    fn what_is_come_upon_in_somebody_elses_layout_leaves_no_note_there() {
        let dir = tempfile::tempdir().unwrap();
        let (own, other) = (dir.path().join("own"), dir.path().join("other"));
        for (cache, is_owed) in
            [(Cache::open(&own).unwrap(), true), (Cache::at(&other, &dir.path().join("partial")).unwrap(), false)]
        {
            let digest = cache.insert(b"manifest").unwrap();
            assert!(!cache.contains(&Descriptor::new("x", digest, 9)));
            assert_eq!(cache.is_look_owed(), is_owed);
            cache.look_done().unwrap();
            assert!(!cache.is_look_owed());
        }
        assert!(!other.join(OWED).exists());
    }

    #[test]
    fn what_was_put_in_the_place_of_a_damaged_blob_while_that_was_read_stays() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Cache::open(dir.path()).unwrap().insert(b"manifest").unwrap();
        let (cache, blob) = (Cache::open(dir.path()).unwrap(), Descriptor::new("x", digest, 8));
        let path = cache.path(&digest);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "manifold").unwrap();
        let replace = || {
            fs::write(dir.path().join("new"), "manifest").unwrap();
            fs::rename(dir.path().join("new"), &path).unwrap();
            true
        };
        assert_eq!(cache.holds_while(&blob, replace).unwrap(), Some(false));
        assert_eq!(fs::read(&path).unwrap(), b"manifest");
        assert_eq!(cache.holds_while(&blob, || true).unwrap(), Some(true));
    }

    #[test]
    fn what_a_kill_has_left_of_files_out_of_layers_is_gone_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let blob = Descriptor::of("x", b"layer");
        cache.partial(&blob).unwrap().append(b"lay").unwrap();
        // A process that is killed drops nothing.
        std::mem::forget(super::super::Staged::create(&cache, &format!("{}.1", blob.digest.hex())).unwrap());
        let staged = dir.path().join("partial").join(format!("{}.1.staged", blob.digest.hex()));
        assert!(staged.exists());
        let cache = Cache::open(dir.path()).unwrap();
        assert!(!staged.exists());
        assert_eq!(cache.partial(&blob).unwrap().landed().total(), 3, "a download is taken up");
    }

    #[test]
    fn a_layout_of_somebody_elses_keeps_its_modes() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let mode = || fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Cache::at(dir.path(), &dir.path().join("partial")).unwrap();
        assert_eq!(mode(), 0o700);
    }
}
