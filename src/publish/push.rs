//! Sending an image: what the other side lacks of its blobs, then the manifest, which makes it visible.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::{Blob, Built, Content, Observer, PublishError, layout};
use crate::config::Settings;
use crate::oci::{Digest, Reference, RegistryReference};
use crate::registry::{ByteStream, Uploader};
use crate::transfer::Progress;

/// The tag of a target that names none, as everywhere in this field.
const DEFAULT_TAG: &str = "latest";
/// How much of a file is read at once, in bytes.
const PIECE: usize = 128 * 1024;

/// What was pushed, and where to. Displayed as a reference with its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The target, with its tag.
    pub reference: Reference,
    /// The manifest's digest.
    pub digest: Digest,
}

impl fmt::Display for Pushed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.reference, self.digest)
    }
}

/// Pushes `built` to `target`, a registry or an image layout. Where it fails, no tag has moved.
pub async fn push(
    settings: &Settings,
    target: &Reference,
    built: &Built,
    observer: &dyn Observer,
) -> Result<Pushed, PublishError> {
    let reference = with_tag(target)?;
    match &reference {
        Reference::Registry(reference) => upload(settings, reference, built, observer).await?,
        Reference::Layout(reference) => {
            let tag = reference.tag.as_deref().unwrap_or(DEFAULT_TAG);
            layout::push(&reference.dir, tag, built, observer).await?;
        }
    }
    Ok(Pushed { reference, digest: built.manifest.digest })
}

/// The target as it will be written.
fn with_tag(target: &Reference) -> Result<Reference, PublishError> {
    if target.digest().is_some() {
        return Err(PublishError::PinnedTarget(target.to_string()));
    }
    let mut target = target.clone();
    let tag = match &mut target {
        Reference::Registry(reference) => &mut reference.tag,
        Reference::Layout(reference) => &mut reference.tag,
    };
    tag.get_or_insert_with(|| DEFAULT_TAG.to_owned());
    Ok(target)
}

async fn upload(
    settings: &Settings,
    reference: &RegistryReference,
    built: &Built,
    observer: &dyn Observer,
) -> Result<(), PublishError> {
    let uploader = Uploader::connect(settings, reference).await?;
    for blob in &built.blobs {
        let progress = Arc::new(Progress::new(blob.descriptor.size, 0));
        observer.begin(&blob.title, &progress);
        let sent = send(&uploader, blob, &progress).await;
        observer.end();
        sent?;
    }
    Ok(uploader.manifest(&built.manifest, &built.manifest_bytes).await?)
}

async fn send(uploader: &Uploader, blob: &Blob, progress: &Arc<Progress>) -> Result<(), PublishError> {
    if uploader.has(&blob.descriptor).await? {
        progress.reuse(blob.descriptor.size);
        return Ok(());
    }
    Ok(uploader.blob(&blob.descriptor, || bytes(blob, Arc::clone(progress))).await?)
}

/// The bytes of a blob in pieces. A file that has changed since it was hashed gives other bytes, which the registry
/// refuses.
fn bytes(blob: &Blob, progress: Arc<Progress>) -> ByteStream {
    match &blob.content {
        Content::Bytes(bytes) => {
            let bytes = bytes.clone();
            futures_util::stream::once(async move {
                progress.receive(bytes.len() as u64);
                Ok(bytes)
            })
            .boxed()
        }
        Content::File(path) => file_bytes(path, blob.descriptor.size, progress),
    }
}

fn file_bytes(path: &Path, size: u64, progress: Arc<Progress>) -> ByteStream {
    let path = path.to_owned();
    let opened = async move {
        let file = tokio::fs::File::open(&path).await?;
        Ok(ReaderStream::with_capacity(file.take(size), PIECE).inspect(move |piece| {
            progress.receive(piece.as_ref().map_or(0, bytes::Bytes::len) as u64);
        }))
    };
    futures_util::stream::once(opened)
        .flat_map(|opened| match opened {
            Ok(pieces) => pieces.boxed(),
            Err(error) => futures_util::stream::once(async move { Err(error) }).boxed(),
        })
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Classify, Kind};

    #[test]
    fn a_target_gets_a_tag_and_must_not_name_a_digest() {
        let with = |text: &str| with_tag(&text.parse().unwrap());
        assert_eq!(with("a.example/b").unwrap().to_string(), "a.example/b:latest");
        assert_eq!(with("a.example/b:c").unwrap().to_string(), "a.example/b:c");
        assert_eq!(with("oci:dir").unwrap().to_string(), "oci:dir:latest");
        let pinned = with(&format!("a.example/b@{}", Digest::of(b""))).unwrap_err();
        assert_eq!(pinned.kind(), Kind::Usage);
    }
}
