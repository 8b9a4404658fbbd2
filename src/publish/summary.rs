//! An inspection as one JSON document: every key is always there, and none changes its meaning.

use std::collections::BTreeMap;

use serde::Serialize;

use super::inspection::{IndexPart, Inspection, ManifestPart, NamedFile, Part};
use crate::oci::Digest;

/// The JSON document of `eci inspect --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Summary<'a> {
    /// The image, as it was asked for.
    reference: &'a str,
    /// The digest of the manifest; none where an index has none for this machine.
    digest: Option<Digest>,
    /// The manifest's media type.
    media_type: Option<&'a str>,
    /// Length in bytes of config and layers.
    size: Option<u64>,
    /// The digest of the index that the manifest was chosen from.
    index_digest: Option<Digest>,
    /// The manifest's platform, by its entry in the index, else by its config.
    platform: Option<String>,
    /// All platforms that there are images for.
    platforms: Vec<String>,
    /// The manifest's annotations.
    annotations: BTreeMap<&'a str, &'a str>,
    /// The config.
    config: Option<Config<'a>>,
    /// The files.
    files: Vec<File<'a>>,
    /// The index in full.
    index: Option<&'a IndexPart>,
    /// The manifest in full.
    manifest: Option<&'a ManifestPart>,
}

#[derive(Clone, Debug, Serialize)]
struct Config<'a> {
    digest: Digest,
    media_type: &'a str,
    size: u64,
    os: Option<&'a str>,
    architecture: Option<&'a str>,
    variant: Option<&'a str>,
    author: Option<&'a str>,
    labels: &'a BTreeMap<String, String>,
    /// The reason if the config could not be read.
    problem: Option<&'a str>,
}

/// A file. Size, digest and media type are those of its layer; a file that is named by its path has a path instead.
#[derive(Clone, Debug, Serialize)]
struct File<'a> {
    role: Option<&'a str>,
    name: Option<&'a str>,
    format: Option<&'a str>,
    size: Option<u64>,
    digest: Option<Digest>,
    media_type: Option<&'a str>,
    path: Option<&'a str>,
}

impl Inspection {
    /// The JSON document.
    pub fn summary(&self) -> Summary<'_> {
        let manifest = self.manifest.as_ref();
        let indexes = || std::iter::successors(self.index.as_ref(), |index| index.nested.as_deref());
        let stated = manifest.and_then(|manifest| manifest.stated.platform());
        let chosen = indexes().flat_map(|index| &index.entries).filter(|entry| entry.chosen);
        let chosen = chosen.filter_map(|entry| entry.platform.clone()).last();
        let mut platforms: Vec<String> = Vec::new();
        for platform in indexes().flat_map(|index| &index.entries).filter_map(|entry| entry.platform.clone()) {
            if !platforms.contains(&platform) {
                platforms.push(platform);
            }
        }
        if platforms.is_empty() {
            platforms.extend(stated.clone());
        }
        let annotations = manifest.into_iter().flat_map(|manifest| &manifest.annotations);
        Summary {
            reference: &self.reference,
            digest: manifest.map(|manifest| manifest.digest),
            media_type: manifest.map(|manifest| manifest.media_type.as_str()),
            size: manifest.map(|manifest| manifest.size),
            index_digest: self.index.as_ref().map(|index| index.digest),
            platform: chosen.or(stated),
            platforms,
            annotations: annotations.map(|(key, value)| (key.as_str(), value.as_str())).collect(),
            config: manifest.map(Config::of),
            files: manifest.map(files).unwrap_or_default(),
            index: self.index.as_ref(),
            manifest,
        }
    }
}

impl<'a> Config<'a> {
    fn of(manifest: &'a ManifestPart) -> Self {
        let (part, stated) = (&manifest.config, &manifest.stated);
        Self {
            digest: part.digest,
            media_type: &part.media_type,
            size: part.size,
            os: stated.os.as_deref(),
            architecture: stated.architecture.as_deref(),
            variant: stated.variant.as_deref(),
            author: stated.author.as_deref(),
            labels: &stated.labels,
            problem: stated.problem.as_deref(),
        }
    }
}

/// The files that a node would get; of an image that cannot be deployed, its layers.
fn files(manifest: &ManifestPart) -> Vec<File<'_>> {
    let is_file = |layer: &&Part| layer.format.is_some() || manifest.problem.is_some();
    let layers = manifest.layers.iter().filter(is_file).map(|layer| File {
        role: layer.role.as_deref(),
        name: layer.name.as_deref(),
        format: layer.format.as_deref(),
        size: Some(layer.size),
        digest: Some(layer.digest),
        media_type: Some(&layer.media_type),
        path: None,
    });
    let named = manifest.files.iter().map(|file: &NamedFile| File {
        role: Some(&file.role),
        name: Some(&file.name),
        format: Some(&file.format),
        size: None,
        digest: None,
        media_type: None,
        path: Some(&file.path),
    });
    layers.chain(named).collect()
}
