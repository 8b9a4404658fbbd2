//! From a reference to an image: tag → digest → (index →) manifest → artifact.

use super::{Target, TransferError};
use crate::blocking;
use crate::cache::Cache;
use crate::eci::Artifact;
use crate::oci::{Descriptor, Digest, Document, MAX_DOCUMENT_BYTES, Manifest, Platform, media_type};
use crate::registry::Source;

/// Finds out what `reference` leads to for `platform`. Documents that the cache has are not fetched again: an unchanged tag
/// costs one HEAD.
pub async fn resolve(
    source: &Source,
    cache: &Cache,
    reference: &str,
    platform: &Platform,
) -> Result<Target, TransferError> {
    let top = source.resolve().await?;
    match document(source, cache, reference, &top).await? {
        (Document::Manifest(manifest), size) => target(reference, &top, size, None, platform, &manifest),
        (Document::Index(index), _) => {
            let chosen = index
                .choose(platform)
                .map_err(|source| TransferError::Document { reference: reference.to_owned(), source })?;
            match document(source, cache, reference, &chosen.digest).await? {
                (Document::Manifest(manifest), size) => {
                    target(reference, &chosen.digest, size, Some(top), platform, &manifest)
                }
                (Document::Index(_), _) => Err(TransferError::Document {
                    reference: reference.to_owned(),
                    source: crate::oci::DocumentError::NotOurs("the index leads to another index".to_owned()),
                }),
            }
        }
    }
}

fn target(
    reference: &str,
    digest: &Digest,
    size: u64,
    index_digest: Option<Digest>,
    platform: &Platform,
    manifest: &Manifest,
) -> Result<Target, TransferError> {
    let artifact = Artifact::from_manifest(manifest).map_err(|source| TransferError::Artifact {
        reference: reference.to_owned(),
        manifest: *digest,
        source: Box::new(source),
    })?;
    let media_type = manifest.media_type.as_deref().unwrap_or(media_type::MANIFEST);
    Ok(Target {
        manifest: Descriptor::new(media_type, *digest, size),
        index_digest,
        platform: platform.clone(),
        artifact,
    })
}

/// A document from the cache, else from the source and into the cache; with its size in bytes.
async fn document(
    source: &Source,
    cache: &Cache,
    reference: &str,
    digest: &Digest,
) -> Result<(Document, u64), TransferError> {
    let parse = |bytes: &[u8]| {
        let document = Document::parse(bytes)
            .map_err(|source| TransferError::Document { reference: reference.to_owned(), source })?;
        Ok::<_, TransferError>((document, bytes.len() as u64))
    };
    let (store, wanted) = (cache.clone(), *digest);
    if let Some(bytes) = blocking::run(move || store.read(&wanted, MAX_DOCUMENT_BYTES)).await {
        return parse(&bytes);
    }
    let bytes = source.document(digest).await?;
    let parsed = parse(&bytes)?;
    let store = cache.clone();
    blocking::run(move || store.insert(&bytes)).await?;
    Ok(parsed)
}
