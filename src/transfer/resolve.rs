//! From a reference to an image: tag → digest → (index →) manifest → artifact.

use super::{Fetcher, Progress, Target, TransferError, damage};
use crate::blocking;
use crate::cache::Cache;
use crate::eci::{Artifact, ArtifactError};
use crate::oci::{Descriptor, Digest, Document, DocumentError, MAX_DOCUMENT_BYTES, Manifest, Platform, media_type};
use crate::registry::Source;

/// As many indexes as lead one to another; two are common, more are a mistake or an attack.
const MAX_DEPTH: usize = 4;

/// Finds out what `reference` leads to for `platform`. Documents that the cache has are not fetched again: an unchanged tag
/// costs one HEAD.
pub async fn resolve(
    source: &Source,
    cache: &Cache,
    reference: &str,
    platform: &Platform,
) -> Result<Target, TransferError> {
    let top = source.resolve().await?;
    let found = find(source, cache, reference, platform, top, MAX_DEPTH).await?;
    let Found { digest, size, manifest } = found.ok_or_else(|| TransferError::Document {
        reference: reference.to_owned(),
        source: DocumentError::Nested(MAX_DEPTH),
    })?;
    let fault = |source| TransferError::Artifact {
        reference: reference.to_owned(),
        manifest: digest,
        source: Box::new(source),
    };
    let artifact = match Artifact::from_manifest(&manifest) {
        // An image by ordinary container tools says what it is in its config.
        Err(ArtifactError::NothingToBoot(_)) if Artifact::has_container_layers(&manifest) => {
            damage::check(source, cache, damage::all(&manifest)).await?;
            let config = config(source, cache, reference, &manifest.config).await?;
            Artifact::from_config(&manifest, &config).map_err(fault)?
        }
        artifact => {
            let artifact = artifact.map_err(fault)?;
            damage::check(source, cache, damage::parts(&artifact)).await?;
            artifact
        }
    };
    let media_type = manifest.media_type.as_deref().unwrap_or(media_type::MANIFEST);
    let index_digest = (digest != top).then_some(top);
    Ok(Target {
        manifest: Descriptor::new(media_type, digest, size),
        index_digest,
        platform: platform.clone(),
        artifact,
    })
}

struct Found {
    digest: Digest,
    size: u64,
    manifest: Manifest,
}

/// Follows `digest` to the manifest for `platform`, through at most `depth` indexes; none where there are more.
async fn find(
    source: &Source,
    cache: &Cache,
    reference: &str,
    platform: &Platform,
    mut digest: Digest,
    depth: usize,
) -> Result<Option<Found>, TransferError> {
    for _ in 0..=depth {
        match document(source, cache, reference, &digest).await? {
            (Document::Manifest(manifest), size) => return Ok(Some(Found { digest, size, manifest })),
            (Document::Index(index), _) => {
                let chosen = index.choose(platform);
                digest = chosen
                    .map_err(|source| TransferError::Document { reference: reference.to_owned(), source })?
                    .digest;
            }
        }
    }
    Ok(None)
}

/// The image's config, from the cache or the source.
async fn config(
    source: &Source,
    cache: &Cache,
    reference: &str,
    config: &Descriptor,
) -> Result<Vec<u8>, TransferError> {
    let limit = MAX_DOCUMENT_BYTES as u64;
    if config.size > limit {
        return Err(TransferError::FileTooLarge { digest: config.digest, size: config.size, limit });
    }
    let fetcher = Fetcher::new(cache.clone());
    fetcher.fetch(source, reference, std::slice::from_ref(config), &Progress::new(config.size, 0)).await?;
    let (cache, digest) = (cache.clone(), config.digest);
    let bytes = blocking::run(move || cache.read(&digest, MAX_DOCUMENT_BYTES)).await;
    bytes.ok_or(TransferError::Gone(digest))
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
    // Kept whatever it says: what is wrong with it need not be fetched again to be found out.
    let (store, kept) = (cache.clone(), bytes.clone());
    blocking::run(move || store.insert(&kept)).await?;
    parse(&bytes)
}
