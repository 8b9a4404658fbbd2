//! From a reference to an image: tag → digest → (index →) manifest → artifact.

use bytes::Bytes;

use super::search::{Found, Library, check_config, search};
use super::{Fetcher, Progress, Target, TransferError, damage};
use crate::blocking;
use crate::eci::{Artifact, ArtifactError};
use crate::failure::{Classify, Kind, full_text};
use crate::oci::{Descriptor, Digest, MAX_DOCUMENT_BYTES, Platform, media_type};
use crate::registry::{Resolved, Source};

/// Finds out what `reference` leads to for `platform`. Documents that the cache has are not fetched again: an unchanged tag
/// costs one HEAD.
pub async fn resolve(
    source: &Source,
    fetcher: &Fetcher,
    reference: &str,
    platform: &Platform,
) -> Result<Target, TransferError> {
    resolve_first(source, |top| whole(source, fetcher, reference, platform, top)).await
}

/// Resolves `source` and goes on with `attempt`. If a mirror resolved the tag and what it named is not an image for us,
/// or is nowhere to be had, that counts against the mirror, and the registry itself is asked.
pub async fn resolve_first<T, F: Future<Output = Result<T, TransferError>>>(
    source: &Source,
    attempt: impl Fn(Resolved) -> F,
) -> Result<T, TransferError> {
    let top = source.resolve().await?;
    match (attempt(top.clone()).await, top) {
        (Err(error), Resolved::ByMirror(digest, mirror)) if error.is_of_image() || error.kind() == Kind::NotFound => {
            tracing::warn!(%digest, error = full_text(&error), "a mirror's tag leads to no image; asking the registry");
            mirror.failed();
            attempt(source.resolve_at_origin().await?).await
        }
        (outcome, _) => outcome,
    }
}

/// As [`resolve`], for who knows the digest of the manifest, or of an index before it.
pub async fn resolve_at(
    source: &Source,
    fetcher: &Fetcher,
    reference: &str,
    platform: &Platform,
    top: Digest,
) -> Result<Target, TransferError> {
    whole(source, fetcher, reference, platform, Resolved::One(top)).await
}

/// The image, whose blobs a layout has to have all of.
async fn whole(
    source: &Source,
    fetcher: &Fetcher,
    reference: &str,
    platform: &Platform,
    top: Resolved,
) -> Result<Target, TransferError> {
    let target = find_at(source, fetcher, reference, platform, top).await?;
    damage::check(source, fetcher.cache(), damage::parts(&target.artifact)).await?;
    Ok(target)
}

/// As [`resolve`], for who does not want all of the image: whether a layout has what is wanted of it is not looked at.
pub async fn find(
    source: &Source,
    fetcher: &Fetcher,
    reference: &str,
    platform: &Platform,
) -> Result<Target, TransferError> {
    resolve_first(source, |top| find_at(source, fetcher, reference, platform, top)).await
}

async fn find_at(
    source: &Source,
    fetcher: &Fetcher,
    reference: &str,
    platform: &Platform,
    top: Resolved,
) -> Result<Target, TransferError> {
    let (library, cache) = (Cached { source, fetcher, reference }, fetcher.cache());
    let found = search(&library, reference, platform, top).await?;
    let index_digest = Some(found.top()).filter(|top| *top != found.digest);
    let Found { digest, size, manifest, .. } = found;
    let fault = |source| TransferError::Artifact {
        reference: reference.to_owned(),
        manifest: digest,
        source: Box::new(source),
    };
    let artifact = match Artifact::from_manifest(&manifest) {
        // An image by ordinary container tools says what it is in its config.
        Err(ArtifactError::NothingToBoot(_)) if Artifact::has_container_layers(&manifest) => {
            damage::check(source, cache, damage::all(&manifest)).await?;
            let config = library.config(&manifest.config).await?;
            Artifact::from_config(&manifest, &config).map_err(fault)?
        }
        artifact => artifact.map_err(fault)?,
    };
    let media_type = manifest.media_type.as_deref().unwrap_or(media_type::MANIFEST);
    Ok(Target {
        manifest: Descriptor::new(media_type, digest, size),
        index_digest,
        platform: platform.clone(),
        artifact,
    })
}

/// The cache, and behind it the source.
struct Cached<'a> {
    source: &'a Source,
    fetcher: &'a Fetcher,
    reference: &'a str,
}

impl Library for Cached<'_> {
    async fn document(&self, digest: &Digest) -> Result<Bytes, TransferError> {
        let (store, wanted) = (self.fetcher.cache().clone(), *digest);
        if let Some(bytes) = blocking::run(move || store.read(&wanted, MAX_DOCUMENT_BYTES)).await {
            return Ok(bytes.into());
        }
        let bytes = self.source.document(digest).await?;
        // Kept whatever it says: what is wrong with it need not be fetched again to be found out.
        let (store, kept) = (self.fetcher.cache().clone(), bytes.clone());
        blocking::run(move || store.insert(&kept)).await?;
        Ok(bytes)
    }

    async fn config(&self, config: &Descriptor) -> Result<Vec<u8>, TransferError> {
        check_config(self.reference, config)?;
        let progress = Progress::new(config.size, 0);
        self.fetcher.fetch(self.source, self.reference, std::slice::from_ref(config), &progress).await?;
        let (cache, digest) = (self.fetcher.cache().clone(), config.digest);
        let bytes = blocking::run(move || cache.read(&digest, MAX_DOCUMENT_BYTES)).await;
        bytes.ok_or(TransferError::Gone(digest))
    }
}
