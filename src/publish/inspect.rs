//! A look at what a reference leads to, without fetching more than manifests and the config.

use bytes::Bytes;
use futures_util::StreamExt;

use super::inspection::{IndexPart, Inspection, ManifestPart};
use super::stated::StatedConfig;
use crate::cache::PartialError;
use crate::config::RetrySettings;
use crate::eci::{Artifact, ArtifactError};
use crate::failure::full_text;
use crate::oci::{Descriptor, Digest, Document, DocumentError, Index, Manifest, Platform, Reference};
use crate::registry::{Attempts, Registries, Resolved, Source};
use crate::transfer::{Found, Library, TransferError, check_config, resolve_first, search};

/// Looks at the image `reference`, with retries as `retry` says. Of an index, the manifest for `platform` is chosen, or the
/// one for this machine.
pub async fn inspect(
    registries: &Registries,
    retry: RetrySettings,
    reference: &Reference,
    platform: Option<&Platform>,
) -> Result<Inspection, TransferError> {
    retried(retry, || inspect_once(registries, reference, platform)).await
}

/// Repeats `attempt` while its error may pass.
async fn retried<T, F: Future<Output = Result<T, TransferError>>>(
    retry: RetrySettings,
    attempt: impl Fn() -> F,
) -> Result<T, TransferError> {
    let mut attempts = Attempts::new(retry);
    loop {
        match attempt().await {
            Err(error) if attempts.wait_after(error.of_registry()).await => {}
            outcome => return outcome,
        }
    }
}

async fn inspect_once(
    registries: &Registries,
    reference: &Reference,
    platform: Option<&Platform>,
) -> Result<Inspection, TransferError> {
    let source = registries.source(reference).await?;
    resolve_first(&source, |top| inspect_at(&source, reference.to_string(), platform, top)).await
}

async fn inspect_at(
    source: &Source,
    name: String,
    platform: Option<&Platform>,
    top: Resolved,
) -> Result<Inspection, TransferError> {
    let library = Direct { source, reference: &name };
    let (indexes, manifest) = match search(&library, &name, platform.unwrap_or(&Platform::host()), top.clone()).await {
        Ok(Found { indexes, digest, manifest, .. }) => {
            (indexes, Some((digest, look(&library, digest, &manifest).await?)))
        }
        // Somebody who did not ask for a platform is shown what there is.
        Err(TransferError::Document { source: DocumentError::NoPlatformMatch { .. }, .. })
            if platform.is_none() && matches!(top, Resolved::One(_)) =>
        {
            (library.index(&top).await?, None)
        }
        Err(error) => return Err(error),
    };
    let mut chosen = manifest.as_ref().map(|(digest, _)| *digest);
    let index = indexes.into_iter().rev().fold(None, |nested: Option<IndexPart>, (digest, index)| {
        let part = IndexPart::new(digest, &index, chosen.replace(digest));
        Some(IndexPart { nested: nested.map(Box::new), ..part })
    });
    Ok(Inspection { reference: name, index, manifest: manifest.map(|(_, part)| part) })
}

/// Reads the config, and describes the image. Only files that labels name need the config: another image is shown without
/// it.
async fn look(library: &Direct<'_>, digest: Digest, manifest: &Manifest) -> Result<ManifestPart, TransferError> {
    let config = library.config(&manifest.config).await;
    let stated = match &config {
        Ok(bytes) => StatedConfig::read(bytes),
        Err(error) => StatedConfig { problem: Some(full_text(error)), ..StatedConfig::default() },
    };
    let artifact = match Artifact::from_manifest(manifest) {
        Err(ArtifactError::NothingToBoot(_)) if Artifact::has_container_layers(manifest) => {
            Artifact::from_config(manifest, &config?)
        }
        artifact => artifact,
    };
    Ok(ManifestPart::new(digest, manifest, artifact, stated))
}

/// The manifest or index that `reference` leads to, as its bytes came; with `platform`, the manifest chosen for it.
pub async fn raw_document(
    registries: &Registries,
    retry: RetrySettings,
    reference: &Reference,
    platform: Option<&Platform>,
) -> Result<Bytes, TransferError> {
    retried(retry, || raw_document_once(registries, reference, platform)).await
}

async fn raw_document_once(
    registries: &Registries,
    reference: &Reference,
    platform: Option<&Platform>,
) -> Result<Bytes, TransferError> {
    let (source, name) = (registries.source(reference).await?, reference.to_string());
    let top = source.resolve().await?;
    let library = Direct { source: &source, reference: &name };
    let digest = match (platform, top.digest()) {
        (None, Some(digest)) => digest,
        _ => search(&library, &name, &platform.cloned().unwrap_or_else(Platform::host), top).await?.digest,
    };
    library.document(&digest).await
}

/// The config of the image `reference`, as its bytes came; of an index, that of the image for `platform`.
pub async fn raw_config(
    registries: &Registries,
    retry: RetrySettings,
    reference: &Reference,
    platform: &Platform,
) -> Result<Vec<u8>, TransferError> {
    retried(retry, || raw_config_once(registries, reference, platform)).await
}

async fn raw_config_once(
    registries: &Registries,
    reference: &Reference,
    platform: &Platform,
) -> Result<Vec<u8>, TransferError> {
    let (source, name) = (registries.source(reference).await?, reference.to_string());
    let library = Direct { source: &source, reference: &name };
    let found = resolve_first(&source, |top| search(&library, &name, platform, top)).await?;
    library.config(&found.manifest.config).await
}

/// The source alone: what is looked at is not kept.
struct Direct<'a> {
    source: &'a Source,
    reference: &'a str,
}

impl Direct<'_> {
    /// The index that a reference leads to, by itself.
    async fn index(&self, top: &Resolved) -> Result<Vec<(Digest, Index)>, TransferError> {
        let Resolved::One(digest) = top else { return Ok(Vec::new()) };
        match Document::parse(&self.document(digest).await?) {
            Ok(Document::Index(index)) => Ok(vec![(*digest, index)]),
            Ok(Document::Manifest(_)) => Ok(Vec::new()),
            Err(source) => Err(TransferError::Document { reference: self.reference.to_owned(), source }),
        }
    }

    fn fault(&self, source: PartialError) -> TransferError {
        TransferError::Blob { reference: self.reference.to_owned(), source }
    }
}

/// The config of the image `reference`, verified; what may pass is tried again as `retry` says.
pub(super) async fn read_config(
    source: &Source,
    retry: RetrySettings,
    reference: &str,
    config: &Descriptor,
) -> Result<Vec<u8>, TransferError> {
    let direct = Direct { source, reference };
    retried(retry, || direct.config(config)).await
}

impl Library for Direct<'_> {
    async fn document(&self, digest: &Digest) -> Result<Bytes, TransferError> {
        Ok(self.source.document(digest).await?)
    }

    async fn config(&self, config: &Descriptor) -> Result<Vec<u8>, TransferError> {
        check_config(self.reference, config)?;
        let mut bytes = Vec::new();
        if config.size > 0 {
            let mut stream = self.source.blob(config, 0..config.size).await?.bytes;
            while let Some(piece) = stream.next().await {
                bytes.extend_from_slice(&piece?);
                if bytes.len() as u64 > config.size {
                    return Err(self.fault(PartialError::TooLong { expected: config.digest, size: config.size }));
                }
            }
        }
        let actual = Digest::of(&bytes);
        if actual == config.digest {
            Ok(bytes)
        } else {
            Err(self.fault(PartialError::Digest { expected: config.digest, actual }))
        }
    }
}
