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
use super::inspect::read_config;
use super::layout::Open;
use super::{Image, Moved, Observer, PublishError, index};
use crate::blocking;
use crate::config::Settings;
use crate::failure::{Classify, Kind};
use crate::oci::{DEFAULT_TAG, Descriptor, Digest, Document, Manifest, Platform, Reference, media_type};
use crate::registry::{ByteStream, Caller, Registries, Sent, Uploader};
use crate::transfer::{Progress, stated_platform};

/// How much of a file is read at once, in bytes: over the slowest link a piece goes out before that link counts as dead.
const PIECE: usize = 64 * 1024;

/// What was pushed, and where to. Displayed as a reference with its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The target, with its tag.
    pub reference: Reference,
    /// The digest of the manifest, or of the index.
    pub digest: Digest,
    /// Bytes of its blobs, and those that were there already.
    pub moved: Moved,
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
    let (digest, moved) = match &reference {
        Reference::Registry(registry) => {
            let uploader = Uploader::new(settings, registry, mount_from.to_vec()).await?;
            if replaces_index(image) {
                check_index(&reference, uploader.tagged(&tag).await?.as_ref(), image)?;
            }
            let built = build(image, parts, &Shelf::Temporary, observer).await?;
            upload(&uploader, &Place { settings, reference: &reference, tag: &tag }, &built, observer).await?
        }
        Reference::Layout(layout) => {
            let open = Open::new(layout).await?;
            let place = Place { settings, reference: &reference, tag: &tag };
            let stored = store(&open, &place, image, parts, observer).await;
            let closed = open.close().await;
            stored.and_then(|stored| closed.map(|()| stored))?
        }
    };
    Ok(Pushed { reference, digest, moved })
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

/// True if `image` would replace an index, and nobody has allowed it.
fn replaces_index(image: &Image) -> bool {
    image.platforms.is_empty() && !image.force
}

/// Refuses a push of one image in place of an index. Another push may put an index there before this one ends.
fn check_index(reference: &Reference, existing: Option<&Bytes>, image: &Image) -> Result<(), PublishError> {
    let Some(Ok(Document::Index(index))) = existing.map(|bytes| Document::parse(bytes)) else { return Ok(()) };
    if index.manifests.is_empty() && index.unsupported.is_empty() {
        return Ok(());
    }
    let platform = image.targets()?.first().map(ToString::to_string).unwrap_or_default();
    Err(PublishError::ReplacesIndex { reference: reference.to_string(), has: index.offers(), platform })
}

/// Where an image goes to.
struct Place<'a> {
    settings: &'a Settings,
    reference: &'a Reference,
    tag: &'a str,
}

async fn store(
    open: &Open,
    place: &Place<'_>,
    image: &Image,
    parts: Vec<Part>,
    observer: &dyn Observer,
) -> Result<(Digest, Moved), PublishError> {
    if replaces_index(image) {
        check_index(place.reference, open.tagged(place.tag).await?.as_ref(), image)?;
    }
    let built = build(image, parts, &Shelf::Layout(open.cache().clone()), observer).await?;
    let moved = open.send(&built, observer).await?;
    let top = match plain(&built) {
        Some(manifest) => manifest.clone(),
        None => listing(place, open.tagged(place.tag).await?.as_ref(), &built).await?,
    };
    open.tag(place.tag, &top).await?;
    Ok((top.descriptor.digest, moved))
}

async fn upload(
    uploader: &Uploader,
    place: &Place<'_>,
    built: &Built,
    observer: &dyn Observer,
) -> Result<(Digest, Moved), PublishError> {
    let mut moved = Moved::default();
    for blob in &built.blobs {
        let progress = Arc::new(Progress::new(blob.descriptor.size, 0));
        observer.begin(&blob.title, &progress);
        let sent = send(uploader, blob, &progress).await;
        observer.end();
        let size = blob.descriptor.size;
        let sent = sent?;
        log_blob(blob, sent);
        moved.add(size, if sent == Sent::Uploaded { 0 } else { size });
    }
    let top = if let Some(manifest) = plain(built) {
        manifest.clone()
    } else {
        for manifest in &built.manifests {
            uploader.document(&manifest.descriptor, &manifest.bytes, None).await?;
        }
        listing(place, uploader.tagged(place.tag).await?.as_ref(), built).await?
    };
    uploader.document(&top.descriptor, &top.bytes, Some(place.tag)).await?;
    Ok((top.descriptor.digest, moved))
}

fn log_blob(blob: &Blob, sent: Sent) {
    let Blob { title, descriptor, .. } = blob;
    let how = match sent {
        Sent::Present => "it was there already",
        Sent::Mounted => "taken over from another repository",
        Sent::Uploaded => "sent",
    };
    tracing::debug!("{title} ({}, {} bytes): {how}", descriptor.digest, descriptor.size);
}

/// The manifest, where it is to stand for itself.
fn plain(built: &Built) -> Option<&Sheet> {
    match built.manifests.as_slice() {
        [manifest] if manifest.descriptor.platform.is_none() => Some(manifest),
        _ => None,
    }
}

/// The index with what is built in it, beside what the tag leads to already.
async fn listing(place: &Place<'_>, existing: Option<&Bytes>, built: &Built) -> Result<Sheet, PublishError> {
    let mut ours: Vec<Descriptor> = built.manifests.iter().map(|manifest| manifest.descriptor.clone()).collect();
    if let Some(bytes) = existing {
        match Document::parse(bytes) {
            Ok(Document::Index(_)) => {}
            Ok(Document::Manifest(manifest)) => ours.extend(lone(place, bytes, &manifest, &ours).await?),
            Err(error) => tracing::warn!(%error, "what was there is no image, and is replaced"),
        }
    }
    let bytes: Bytes = index::merge(existing.map(Bytes::as_ref), &ours)?.into();
    Ok(Sheet { descriptor: Descriptor::of(media_type::INDEX, &bytes), bytes })
}

/// The manifest that a tag leads to by itself, as an entry beside `ours`, for the platform that its config names. Where it
/// is replaced, that is said.
async fn lone(
    place: &Place<'_>,
    bytes: &Bytes,
    manifest: &Manifest,
    ours: &[Descriptor],
) -> Result<Option<Descriptor>, PublishError> {
    let mut entry = Descriptor::of(manifest.media_type.as_deref().unwrap_or(media_type::MANIFEST), bytes);
    if ours.iter().any(|other| other.digest == entry.digest) {
        return Ok(None);
    }
    let source = Registries::new(place.settings, Caller::User).source(place.reference).await?;
    let config = match read_config(&source, place.settings.retry, &place.reference.to_string(), &manifest.config).await
    {
        Ok(config) => config,
        Err(error) if is_no_config(error.kind()) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let platform = stated_platform(&config);
    let is_taken = |platform: &Platform| {
        ours.iter().filter_map(|entry| entry.platform.as_ref()).any(|other| other.is_same(platform))
    };
    match platform {
        Some(platform) if !is_taken(&platform) => {
            entry.platform = Some(platform);
            return Ok(Some(entry));
        }
        Some(platform) => {
            tracing::warn!(manifest = %entry.digest, "the image for {platform} that was there is replaced");
        }
        None => tracing::warn!(
            manifest = %entry.digest,
            "the image that was there is replaced: its config names no platform to keep it under"
        ),
    }
    Ok(None)
}

/// Whether that is wrong with a config itself, and would be the next time as well.
fn is_no_config(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::NotFound | Kind::LayoutInvalid | Kind::DigestMismatch | Kind::SizeMismatch | Kind::FileTooLarge
    )
}

async fn send(uploader: &Uploader, blob: &Blob, progress: &Arc<Progress>) -> Result<Sent, PublishError> {
    let size = blob.descriptor.size;
    let sent = uploader.blob(&blob.descriptor, |offset| bytes(blob, offset, Arc::clone(progress))).await;
    match (sent, &blob.content) {
        (Ok(Sent::Uploaded), _) => Ok(Sent::Uploaded),
        (Ok(there @ (Sent::Present | Sent::Mounted)), _) => {
            progress.restart_at(size);
            Ok(there)
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
