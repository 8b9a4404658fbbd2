//! A push into an OCI image layout on disk: blobs, the manifest, and last the entry in its index.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Blob, Built, Content, Observer, PublishError};
use crate::blocking;
use crate::cache::{Cache, PartialError};
use crate::durable::{DirLock, create_dir, remove_dir_all};
use crate::oci::LayoutReference;
use crate::registry::LayoutSource;
use crate::transfer::Progress;

/// Where blobs on their way in are, in the layout itself: renaming needs one file system. Tools that read layouts pass
/// over it, and it is gone when nobody pushes.
const WORK_DIR: &str = ".eci-push";

/// Pushes `built` under `tag` into the layout `dir`, which is made where it does not exist.
pub(super) async fn push(dir: &Path, tag: &str, built: &Built, observer: &dyn Observer) -> Result<(), PublishError> {
    let root = dir.to_owned();
    if blocking::run(move || is_layout(&root)).await? {
        LayoutSource::new(LayoutReference { dir: dir.to_owned(), tag: None }).index().await?;
    }
    let root = dir.to_owned();
    let open = blocking::run(move || Open::new(&root)).await?;
    let sent = send(&open, tag, built, observer).await;
    let closed = blocking::run(move || open.close()).await;
    sent.and(closed)
}

/// Whether `dir` is a layout. What is neither that nor a place for one is refused.
fn is_layout(dir: &Path) -> Result<bool, PublishError> {
    if dir.join("oci-layout").exists() && dir.join("index.json").exists() {
        return Ok(true);
    }
    let is_free = fs::read_dir(dir).map_or(!dir.exists(), |mut entries| entries.next().is_none());
    // A push that was killed at its very beginning has left a layout half made.
    if is_free || dir.join(WORK_DIR).exists() { Ok(false) } else { Err(PublishError::NoLayout(dir.to_owned())) }
}

/// A layout that nobody else pushes into.
struct Open {
    cache: Cache,
    work: PathBuf,
    _lock: DirLock,
}

impl Open {
    fn new(root: &Path) -> Result<Self, PublishError> {
        let work = root.join(WORK_DIR);
        if !root.is_dir() {
            create_dir(root, 0o755)?;
        }
        create_dir(&work, 0o700)?;
        let lock = DirLock::acquire(&work.join("lock")).map_err(|error| PublishError::lock(root, error))?;
        let cache = Cache::at(root, &work.join("partial"))?;
        Ok(Self { cache, work, _lock: lock })
    }

    /// What is left of a push that failed is of no use to another one.
    fn close(self) -> Result<(), PublishError> {
        Ok(remove_dir_all(&self.work)?)
    }
}

async fn send(open: &Open, tag: &str, built: &Built, observer: &dyn Observer) -> Result<(), PublishError> {
    for blob in &built.blobs {
        let progress = Arc::new(Progress::new(blob.descriptor.size, 0));
        observer.begin(&blob.title, &progress);
        let (cache, blob) = (open.cache.clone(), blob.clone());
        let stored = blocking::run(move || store(&cache, &blob, &progress)).await;
        observer.end();
        stored?;
    }
    let (cache, tag, built) = (open.cache.clone(), tag.to_owned(), built.clone());
    blocking::run(move || {
        cache.insert(&built.manifest_bytes)?;
        Ok(cache.tag(&tag, &built.manifest)?)
    })
    .await
}

/// Stores one blob. One that is there is read and checked: what this push lists, it vouches for.
fn store(cache: &Cache, blob: &Blob, progress: &Progress) -> Result<(), PublishError> {
    if cache.verify(&blob.descriptor) {
        progress.reuse(blob.descriptor.size);
        return Ok(());
    }
    match &blob.content {
        Content::Bytes(bytes) => {
            cache.insert(bytes)?;
            progress.receive(bytes.len() as u64);
            Ok(())
        }
        Content::File(path) => {
            cache.insert_file(&blob.descriptor, path, |bytes| progress.receive(bytes)).map_err(|error| match error {
                PartialError::Disk(error) => PublishError::Disk(error),
                source => PublishError::Changed { path: path.clone(), source },
            })
        }
    }
}
