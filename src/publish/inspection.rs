//! An image without the contents of its layers: the values that `eci inspect` shows.

use std::collections::BTreeMap;

use serde::Serialize;

use super::stated::StatedConfig;
use crate::eci::{self, Artifact, ArtifactError, File, MEDIA_TYPE, ROLE};
use crate::oci::{Descriptor, Digest, Index, Manifest, TITLE, media_type};

/// The parts of an image.
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
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its entries, in order.
    pub entries: Vec<IndexEntry>,
    /// The index that the chosen entry leads to, where it leads to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nested: Option<Box<IndexPart>>,
}

/// One image of an index.
#[derive(Clone, Debug, Serialize)]
pub struct IndexEntry {
    /// Its platform, if the entry names one.
    pub platform: Option<String>,
    /// Its manifest's digest.
    pub digest: Digest,
    /// True for the entry that is shown.
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
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// The config.
    pub config: Part,
    /// The config's content.
    #[serde(skip)]
    pub stated: StatedConfig,
    /// The layers, in order.
    pub layers: Vec<Part>,
    /// The files that labels or annotations name by their paths in the image's file system.
    pub files: Vec<NamedFile>,
    /// The reason if the image cannot be deployed.
    pub problem: Option<String>,
}

/// A file that is named by its path. Its layer is not known without fetching the layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NamedFile {
    /// Its role.
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
    /// Its role; none if it is not part of an ECI.
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

impl IndexPart {
    pub(super) fn new(digest: Digest, index: &Index, chosen: Option<Digest>) -> Self {
        let entries = index.manifests.iter().map(|entry| IndexEntry {
            platform: entry.platform.as_ref().map(ToString::to_string),
            digest: entry.digest,
            chosen: Some(entry.digest) == chosen,
        });
        let media_type = index.media_type.as_deref().unwrap_or(media_type::INDEX).to_owned();
        let annotations = index.annotations.clone();
        Self { digest, media_type, annotations, entries: entries.collect(), nested: None }
    }
}

impl ManifestPart {
    pub(super) fn new(
        digest: Digest,
        manifest: &Manifest,
        artifact: Result<Artifact, ArtifactError>,
        stated: StatedConfig,
    ) -> Self {
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
            annotations: manifest.annotations.clone(),
            stated,
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
    /// The part that a descriptor describes.
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
