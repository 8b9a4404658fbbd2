//! Sending an image: what the other side lacks of its blobs, then the manifests, and last the tag, which makes it visible.

use std::fmt;
use std::io::SeekFrom;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::build::{Blob, Built, Content, Sheet, Shelf, build, has_length};
use super::image::Part;
use super::layout::Open;
use super::{Image, Observer, PublishError, index};
use crate::blocking;
use crate::config::Settings;
use crate::oci::{DEFAULT_TAG, Descriptor, Digest, Reference, RegistryReference, media_type};
use crate::registry::{ByteStream, Sent, Uploader};
use crate::transfer::Progress;

/// How much of a file is read at once, in bytes: over the slowest link a piece goes out before that link counts as dead.
const PIECE: usize = 64 * 1024;

/// What was pushed, and where to. Displayed as a reference with its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The target, with its tag.
    pub reference: Reference,
    /// The digest of the manifest, or of the index.
    pub digest: Digest,
}

impl fmt::Display for Pushed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.reference, self.digest)
    }
}

/// Pushes `image` to `target`, a registry or an image layout. Where it fails, no tag has moved. In a registry, blobs that
/// the repositories `mount_from` have are taken over from there.
pub async fn push(
    settings: &Settings,
    target: &Reference,
    image: &Image,
    mount_from: &[String],
    observer: &dyn Observer,
) -> Result<Pushed, PublishError> {
    let (reference, tag) = with_tag(target)?;
    let wanted = image.clone();
    let parts = blocking::run(move || {
        wanted.targets()?;
        wanted.parts()
    })
    .await?;
    let top = match &reference {
        Reference::Registry(registry) => {
            let built = build(image, parts, &Shelf::Temporary, observer).await?;
            upload(settings, registry, &tag, &built, mount_from, observer).await?
        }
        Reference::Layout(layout) => {
            let open = Open::new(&layout.dir).await?;
            let stored = store(&open, &tag, image, parts, observer).await;
            let closed = open.close().await;
            stored.and_then(|top| closed.map(|()| top))?
        }
    };
    Ok(Pushed { reference, digest: top })
}

/// The target as it will be written, and its tag.
fn with_tag(target: &Reference) -> Result<(Reference, String), PublishError> {
    if target.digest().is_some() {
        return Err(PublishError::PinnedTarget(target.to_string()));
    }
    let mut target = target.clone();
    let tag = match &mut target {
        Reference::Registry(reference) => &mut reference.tag,
        Reference::Layout(reference) => &mut reference.tag,
    };
    let tag = tag.get_or_insert_with(|| DEFAULT_TAG.to_owned()).clone();
    Ok((target, tag))
}

async fn store(
    open: &Open,
    tag: &str,
    image: &Image,
    parts: Vec<Part>,
    observer: &dyn Observer,
) -> Result<Digest, PublishError> {
    let built = build(image, parts, &Shelf::Layout(open.cache().clone()), observer).await?;
    open.send(&built, observer).await?;
    let top = match plain(&built) {
        Some(manifest) => manifest.clone(),
        None => listing(open.tagged(tag).await?.as_ref(), &built)?,
    };
    open.tag(tag, &top).await?;
    Ok(top.descriptor.digest)
}

async fn upload(
    settings: &Settings,
    reference: &RegistryReference,
    tag: &str,
    built: &Built,
    mount_from: &[String],
    observer: &dyn Observer,
) -> Result<Digest, PublishError> {
    let uploader = Uploader::new(settings, reference, mount_from.to_vec()).await?;
    for blob in &built.blobs {
        let progress = Arc::new(Progress::new(blob.descriptor.size, 0));
        observer.begin(&blob.title, &progress);
        let sent = send(&uploader, blob, &progress).await;
        observer.end();
        sent?;
    }
    let top = if let Some(manifest) = plain(built) {
        manifest.clone()
    } else {
        for manifest in &built.manifests {
            uploader.document(&manifest.descriptor, &manifest.bytes, None).await?;
        }
        listing(uploader.tagged(tag).await?.as_ref(), built)?
    };
    uploader.document(&top.descriptor, &top.bytes, Some(tag)).await?;
    Ok(top.descriptor.digest)
}

/// The manifest, where it is to stand for itself.
fn plain(built: &Built) -> Option<&Sheet> {
    match built.manifests.as_slice() {
        [manifest] if manifest.descriptor.platform.is_none() => Some(manifest),
        _ => None,
    }
}

/// The index with what is built in it, beside what the tag leads to already.
fn listing(existing: Option<&Bytes>, built: &Built) -> Result<Sheet, PublishError> {
    let ours: Vec<Descriptor> = built.manifests.iter().map(|manifest| manifest.descriptor.clone()).collect();
    let bytes: Bytes = index::merge(existing.map(Bytes::as_ref), &ours)?.into();
    Ok(Sheet { descriptor: Descriptor::of(media_type::INDEX, &bytes), bytes })
}

async fn send(uploader: &Uploader, blob: &Blob, progress: &Arc<Progress>) -> Result<(), PublishError> {
    let size = blob.descriptor.size;
    let sent = uploader.blob(&blob.descriptor, |offset| bytes(blob, offset, Arc::clone(progress))).await;
    match (sent, &blob.content) {
        (Ok(Sent::Uploaded), _) => Ok(()),
        (Ok(Sent::Present | Sent::Mounted), _) => {
            progress.restart_at(size);
            Ok(())
        }
        // A file that shrinks looks like a connection that breaks.
        (Err(error), Content::File(path)) if has_length(path, size).unwrap_or(true) => Err(error.into()),
        (Err(_), Content::File(path)) => Err(super::BuildError::Changed(path.clone()).into()),
        (Err(error), _) => Err(error.into()),
    }
}

/// The bytes of a blob from `offset`, in pieces. A file that has changed since it was hashed gives other bytes, which the
/// registry refuses.
fn bytes(blob: &Blob, offset: u64, progress: Arc<Progress>) -> ByteStream {
    progress.restart_at(offset);
    let left = blob.descriptor.size.saturating_sub(offset);
    let pieces = match &blob.content {
        Content::Bytes(bytes) => {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            let rest = bytes.slice(start..);
            futures_util::stream::once(async move { Ok(rest) }).boxed()
        }
        Content::File(path) => {
            let path = path.clone();
            pieces(async move { tokio::fs::File::open(&path).await }, offset, left)
        }
        Content::Unnamed(file) => {
            let file = Arc::clone(file);
            pieces(async move { Ok(tokio::fs::File::from_std(file.try_clone()?)) }, offset, left)
        }
        // It is in a layout, and this goes to a registry.
        Content::Stored => futures_util::stream::empty().boxed(),
    };
    pieces.inspect_ok(move |piece| progress.receive(piece.len() as u64)).boxed()
}

fn pieces(
    open: impl Future<Output = std::io::Result<tokio::fs::File>> + Send + 'static,
    offset: u64,
    left: u64,
) -> ByteStream {
    let opened = async move {
        let mut file = open.await?;
        file.seek(SeekFrom::Start(offset)).await?;
        Ok::<_, std::io::Error>(ReaderStream::with_capacity(file.take(left), PIECE))
    };
    futures_util::stream::once(opened).try_flatten().boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Classify, Kind};

    #[test]
    fn a_target_gets_a_tag_and_must_not_name_a_digest() {
        let with = |text: &str| with_tag(&text.parse().unwrap()).map(|(reference, _)| reference);
        assert_eq!(with("a.example/b").unwrap().to_string(), "a.example/b:latest");
        assert_eq!(with("a.example/b:c").unwrap().to_string(), "a.example/b:c");
        assert_eq!(with("oci:dir").unwrap().to_string(), "oci:dir:latest");
        for text in ["a.example/b", "oci:dir"] {
            let pinned = with(&format!("{text}@{}", Digest::of(b""))).unwrap_err();
            assert_eq!(pinned.kind(), Kind::Usage);
        }
    }
}
