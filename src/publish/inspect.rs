//! What a reference leads to, without fetching more than its documents.

use serde::Serialize;

use crate::eci::{Artifact, MEDIA_TYPE, ROLE};
use crate::oci::{
    Descriptor, Digest, Document, DocumentError, Index, Manifest, Platform, Reference, TITLE, media_type,
};
use crate::registry::{Registries, Source};
use crate::transfer::TransferError;

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
    /// Why it cannot be deployed, where it cannot.
    pub problem: Option<String>,
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
    let top = source.resolve().await?;
    let (index, manifest) = match document(&source, &name, &top).await? {
        Document::Manifest(manifest) => (None, Some(ManifestPart::new(top, &manifest))),
        Document::Index(index) => {
            let chosen = match (index.choose(platform.unwrap_or(&Platform::host())), platform) {
                (Ok(entry), _) => Some(entry.digest),
                (Err(_), None) => None,
                (Err(source), Some(_)) => return Err(TransferError::Document { reference: name, source }),
            };
            let manifest = match chosen {
                Some(digest) => Some(manifest(&source, &name, digest).await?),
                None => None,
            };
            (Some(IndexPart::new(top, &index, chosen)), manifest)
        }
    };
    Ok(Inspection { reference: name, index, manifest })
}

async fn manifest(source: &Source, name: &str, digest: Digest) -> Result<ManifestPart, TransferError> {
    match document(source, name, &digest).await? {
        Document::Manifest(manifest) => Ok(ManifestPart::new(digest, &manifest)),
        Document::Index(_) => Err(TransferError::Document {
            reference: name.to_owned(),
            source: DocumentError::NotOurs("the index leads to another index".to_owned()),
        }),
    }
}

async fn document(source: &Source, name: &str, digest: &Digest) -> Result<Document, TransferError> {
    let bytes = source.document(digest).await?;
    Document::parse(&bytes).map_err(|source| TransferError::Document { reference: name.to_owned(), source })
}

impl IndexPart {
    fn new(digest: Digest, index: &Index, chosen: Option<Digest>) -> Self {
        let entries = index.manifests.iter().map(|entry| IndexEntry {
            platform: entry.platform.as_ref().map(ToString::to_string),
            digest: entry.digest,
            chosen: Some(entry.digest) == chosen,
        });
        let media_type = index.media_type.as_deref().unwrap_or(media_type::INDEX).to_owned();
        Self { digest, media_type, entries: entries.collect() }
    }
}

impl ManifestPart {
    fn new(digest: Digest, manifest: &Manifest) -> Self {
        let artifact = Artifact::from_manifest(manifest);
        let problem = artifact.as_ref().err().map(ToString::to_string);
        let files = artifact.map(|artifact| artifact.files).unwrap_or_default();
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
            problem,
        }
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
