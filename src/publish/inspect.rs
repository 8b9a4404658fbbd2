//! What a reference leads to, without fetching more than its documents.

use bytes::Bytes;
use futures_util::StreamExt;
use serde::Serialize;

use crate::cache::PartialError;
use crate::eci::{self, Artifact, ArtifactError, File, MEDIA_TYPE, ROLE};
use crate::oci::{
    Descriptor, Digest, Document, DocumentError, Index, Manifest, Platform, Reference, TITLE, media_type,
};
use crate::registry::{Registries, Resolved, Source};
use crate::transfer::{Found, Library, TransferError, check_config, search};

/// What an image is made of.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The image, as it was asked for.
    pub reference: String,
    /// The index that the manifest was chosen from, where there is one.
    pub index: Option<IndexPart>,
    /// The manifest; none where the index has none for this machine and no platform was asked for.
    pub manifest: Option<ManifestPart>,
}

/// An index.
#[derive(Clone, Debug, Serialize)]
pub struct IndexPart {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its entries, in order.
    pub entries: Vec<IndexEntry>,
    /// The index that the chosen entry leads to, where it leads to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nested: Option<Box<IndexPart>>,
}

/// One image of an index.
#[derive(Clone, Debug, Serialize)]
pub struct IndexEntry {
    /// What it is for, where it says so.
    pub platform: Option<String>,
    /// Its manifest's digest.
    pub digest: Digest,
    /// Whether it is the one that is shown.
    pub chosen: bool,
}

/// A manifest.
#[derive(Clone, Debug, Serialize)]
pub struct ManifestPart {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Length in bytes of config and layers.
    pub size: u64,
    /// The config.
    pub config: Part,
    /// The layers, in order.
    pub layers: Vec<Part>,
    /// The files that labels or annotations name by their paths in the image's file system.
    pub files: Vec<NamedFile>,
    /// Why it cannot be deployed, where it cannot.
    pub problem: Option<String>,
}

/// A file that is named by its path: which layer has it, only fetching them would tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NamedFile {
    /// What it is for.
    pub role: String,
    /// Its name in a generation and after a pull.
    pub name: String,
    /// `raw`, `qcow2`, `iso`, `kernel`, `cpio` and so on.
    pub format: String,
    /// Its path in the image.
    pub path: String,
}

/// A config or a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// What it is for; none where it is no part of an ECI.
    pub role: Option<String>,
    /// The file's name in a generation and after a pull, else its title.
    pub name: Option<String>,
    /// `raw`, `qcow2`, `iso`, `kernel`, `cpio` and so on.
    pub format: Option<String>,
    /// Its media type; where an annotation says another, that.
    pub media_type: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its digest.
    pub digest: Digest,
}

/// Looks at the image `reference`. Of an index, the manifest for `platform` is chosen, or the one for this machine.
pub async fn inspect(
    registries: &Registries,
    reference: &Reference,
    platform: Option<&Platform>,
) -> Result<Inspection, TransferError> {
    let (source, name) = (registries.source(reference).await?, reference.to_string());
    let (top, library) = (source.resolve().await?, Direct { source: &source, reference: &name });
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

/// What a manifest says; where it says nothing, what the labels in its config do.
async fn look(library: &Direct<'_>, digest: Digest, manifest: &Manifest) -> Result<ManifestPart, TransferError> {
    let artifact = match Artifact::from_manifest(manifest) {
        Err(ArtifactError::NothingToBoot(_)) if Artifact::has_container_layers(manifest) => {
            Artifact::from_config(manifest, &library.config(&manifest.config).await?)
        }
        artifact => artifact,
    };
    Ok(ManifestPart::new(digest, manifest, artifact))
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

/// The config of the image `reference`, verified.
pub(super) async fn read_config(
    source: &Source,
    reference: &str,
    config: &Descriptor,
) -> Result<Vec<u8>, TransferError> {
    Direct { source, reference }.config(config).await
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

impl IndexPart {
    fn new(digest: Digest, index: &Index, chosen: Option<Digest>) -> Self {
        let entries = index.manifests.iter().map(|entry| IndexEntry {
            platform: entry.platform.as_ref().map(ToString::to_string),
            digest: entry.digest,
            chosen: Some(entry.digest) == chosen,
        });
        let media_type = index.media_type.as_deref().unwrap_or(media_type::INDEX).to_owned();
        Self { digest, media_type, entries: entries.collect(), nested: None }
    }
}

impl ManifestPart {
    fn new(digest: Digest, manifest: &Manifest, artifact: Result<Artifact, ArtifactError>) -> Self {
        let problem = artifact.as_ref().err().map(ToString::to_string);
        let files = artifact.map(|artifact| artifact.files).unwrap_or_default();
        let named = files.iter().filter_map(NamedFile::of).collect();
        // Two layers may be of one blob: files stand in the order of their layers.
        let mut files = files.into_iter().peekable();
        let layers = manifest.layers.iter().map(|layer| {
            let part = Part::of(layer);
            match files.next_if(|file| file.layer() == Some(layer)) {
                None => part,
                Some(file) => Part {
                    role: Some(file.role.to_string()),
                    name: Some(file.name.to_string()),
                    format: Some(file.format().to_owned()),
                    ..part
                },
            }
        });
        let layers = layers.collect();
        Self {
            digest,
            media_type: manifest.media_type.as_deref().unwrap_or(media_type::MANIFEST).to_owned(),
            size: manifest.blobs().fold(0, |sum: u64, blob| sum.saturating_add(blob.size)),
            config: Part { role: Some("config".to_owned()), ..Part::of(&manifest.config) },
            layers,
            files: named,
            problem,
        }
    }
}

impl NamedFile {
    fn of(file: &File) -> Option<Self> {
        let eci::Source::Path(path) = &file.source else { return None };
        Some(Self {
            role: file.role.to_string(),
            name: file.name.to_string(),
            format: file.format().to_owned(),
            path: path.to_string(),
        })
    }
}

impl Part {
    /// What a descriptor says of itself.
    fn of(blob: &Descriptor) -> Self {
        Self {
            role: blob.annotation(ROLE).map(ToOwned::to_owned),
            name: blob.annotation(TITLE).map(ToOwned::to_owned),
            format: None,
            media_type: blob.annotation(MEDIA_TYPE).unwrap_or(&blob.media_type).to_owned(),
            size: blob.size,
            digest: blob.digest,
        }
    }
}
