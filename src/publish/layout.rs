//! A push into an OCI image layout on disk: blobs, the manifests, and last the entry in its index.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::build::{Blob, Built, Content, Sheet};
use super::{Moved, Observer, PublishError};
use crate::blocking;
use crate::cache::{Cache, PartialError};
use crate::durable::{DirLock, DurableError, create_user_dir, private_dir, remove_locked_dir};
use crate::oci::{LayoutReference, is_tag_of};
use crate::registry::{LAYOUT_INDEX, LayoutSource};
use crate::transfer::Progress;

/// Where blobs on their way in are, in the layout itself: renaming needs one file system. Tools that read layouts pass
/// over it, and it is gone when nobody pushes.
const WORK_DIR: &str = ".eci-push";

/// A layout that nobody else pushes into.
pub(super) struct Open {
    dir: PathBuf,
    /// The repository whose tags are set, if the layout stands in for a registry.
    repository: Option<String>,
    cache: Cache,
    work: PathBuf,
    /// None where the file system has no locks.
    lock: Option<DirLock>,
}

/// Refuses a directory of whose path only `/` is there: a mistyped path, or a medium that is not mounted.
fn check_parent(dir: &Path) -> Result<(), DurableError> {
    let whole = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let root = Path::new("/");
    let Some(parent) = whole.parent().filter(|parent| *parent != root) else { return Ok(()) };
    if parent.ancestors().find(|ancestor| ancestor.is_dir()) != Some(root) {
        return Ok(());
    }
    let advice = format!("there is no directory {}: create it, or mount what belongs there", parent.display());
    Err(DurableError::new("make the layout", dir, io::Error::new(io::ErrorKind::NotFound, advice)))
}

impl Open {
    /// Opens the layout of `target`, which is made where it does not exist. What is something else is refused.
    pub(super) async fn new(target: &LayoutReference) -> Result<Self, PublishError> {
        let (dir, repository) = (target.dir.as_path(), target.repository.clone());
        let root = dir.to_owned();
        if blocking::run(move || is_layout(&root)).await? {
            source(dir).index().await?;
        }
        let dir = dir.to_owned();
        blocking::run(move || {
            let work = dir.join(WORK_DIR);
            if !dir.is_dir() {
                check_parent(&dir)?;
                create_user_dir(&dir)?;
            }
            private_dir(&work)?;
            let lock =
                DirLock::acquire_if_supported(&work.join("lock")).map_err(|error| PublishError::lock(&dir, error))?;
            let cache = Cache::at(&dir, &work.join("partial"))?;
            Ok(Self { dir, repository, cache, work, lock })
        })
        .await
    }

    /// What is pushed into.
    pub(super) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Stores blobs and manifests. No name leads to them yet.
    pub(super) async fn send(&self, built: &Built, observer: &dyn Observer) -> Result<Moved, PublishError> {
        let mut moved = Moved::default();
        for blob in &built.blobs {
            let progress = Arc::new(Progress::new(blob.descriptor.size, 0));
            observer.begin(&blob.title, &progress);
            let (cache, stored, counted) = (self.cache.clone(), blob.clone(), Arc::clone(&progress));
            let stored = blocking::run(move || store(&cache, &stored, &counted)).await;
            observer.end();
            stored?;
            let now = progress.now();
            moved.add(now.bytes_total, now.reused_bytes);
            let (reused, title) = (now.reused_bytes, &blob.title);
            tracing::debug!("{title}: {reused} of {} bytes were there already", now.bytes_total);
        }
        for sheet in &built.manifests {
            let (cache, bytes) = (self.cache.clone(), sheet.bytes.clone());
            blocking::run(move || cache.insert(&bytes)).await?;
        }
        Ok(moved)
    }

    /// The document that `tag` leads to now, if it leads to one.
    pub(super) async fn tagged(&self, tag: &str) -> Result<Option<Bytes>, PublishError> {
        let source = source(&self.dir);
        let index = source.index().await?;
        let entries = match &self.repository {
            Some(repository) => index.tagged(repository, tag),
            None => index.named(tag),
        };
        match entries.first() {
            Some(entry) => Ok(Some(source.document(&entry.digest).await?)),
            None => Ok(None),
        }
    }

    /// Lets `tag` lead to `top`.
    pub(super) async fn tag(&self, tag: &str, top: &Sheet) -> Result<(), PublishError> {
        let (cache, tag, top) = (self.cache.clone(), tag.to_owned(), top.clone());
        let repository = self.repository.clone();
        blocking::run(move || {
            cache.insert(&top.bytes)?;
            // Other tools name an entry by the whole reference; it would win over ours.
            let replaces = |name: &str| repository.as_ref().is_some_and(|it| is_tag_of(name, it, &tag));
            Ok(cache.tag_in_place_of(&tag, &top.descriptor, replaces)?)
        })
        .await
    }

    /// What is left of a push that failed is of no use to another one.
    pub(super) async fn close(self) -> Result<(), PublishError> {
        Ok(blocking::run(move || remove_locked_dir(&self.work, self.lock)).await?)
    }
}

/// Whether `dir` is a layout. What is neither that nor a place for one is refused.
fn is_layout(dir: &Path) -> Result<bool, PublishError> {
    // lf-edge/edge-containers writes layouts without the marker; a push completes them.
    if dir.join(LAYOUT_INDEX).exists() {
        return Ok(true);
    }
    let is_free = fs::read_dir(dir).map_or(!dir.exists(), |mut entries| entries.next().is_none());
    // A push that was killed at its very beginning has left a layout half made.
    if is_free || dir.join(WORK_DIR).exists() { Ok(false) } else { Err(PublishError::NoLayout(dir.to_owned())) }
}

fn source(dir: &Path) -> LayoutSource {
    LayoutSource::new(LayoutReference { dir: dir.to_owned(), repository: None, tag: None, digest: None })
}

/// Stores one blob. One that is there is read and checked: what this push lists, it vouches for.
fn store(cache: &Cache, blob: &Blob, progress: &Progress) -> Result<(), PublishError> {
    // What was packed just now went straight to its place.
    if matches!(blob.content, Content::Stored) || cache.verify(&blob.descriptor) {
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
        // What was packed for a registry is in no layout.
        Content::Stored | Content::Unnamed(_) => {
            let gone = std::io::ErrorKind::NotFound.into();
            Err(DurableError::new("find", &cache.path(&blob.descriptor.digest), gone).into())
        }
    }
}
