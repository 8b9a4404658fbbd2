//! The image that a reference turned out to be.

use super::TransferError;
use crate::cache::Cache;
use crate::eci::{Artifact, ArtifactError, DiskFormat, File, ImagePath, Source};
use crate::oci::{Descriptor, Digest, Platform};
use crate::unpack::{Content, Finding, Record, Want};

/// One image, resolved: its manifest is in the cache and was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The manifest.
    pub manifest: Descriptor,
    /// The index that it was chosen from, where there was one.
    pub index_digest: Option<Digest>,
    /// The platform that it was chosen for.
    pub platform: Platform,
    /// Its files.
    pub artifact: Artifact,
}

/// Something to be taken out of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The layer.
    pub layer: Descriptor,
    /// What is wanted of it.
    pub wants: Vec<Want>,
}

impl Target {
    /// The config, and the blobs that are files as they are; each once.
    pub fn blobs(&self) -> Vec<&Descriptor> {
        let mut seen = std::collections::BTreeSet::new();
        let plain = self.artifact.files.iter().filter_map(|file| match &file.source {
            Source::Blob(blob) => Some(blob),
            Source::Layer(_) | Source::Path(_) => None,
        });
        std::iter::once(&self.artifact.config).chain(plain).filter(|blob| seen.insert(blob.digest)).collect()
    }

    /// What is still to be taken out of layers, going by what is noted of them. Of files that are named by their paths it
    /// lists the topmost layer of which nothing is known: what is below matters only where that has no answer.
    pub fn packed(&self, cache: &Cache) -> Vec<Packed> {
        let mut packed: Vec<Packed> = Vec::new();
        for (layer, want) in self.artifact.files.iter().filter_map(single) {
            if Record::load(cache, &layer.digest).finding(cache, &want).is_none() {
                packed.push(Packed { layer: layer.clone(), wants: vec![want] });
            }
        }
        let (_, unknown) = self.search(cache);
        packed.extend(unknown);
        packed
    }

    /// The files, each with where its bytes are in the cache. All layers that matter were unpacked.
    pub fn files(&self, cache: &Cache, reference: &str) -> Result<Vec<(File, Content)>, TransferError> {
        let contents = self.contents(cache).map_err(|source| TransferError::Artifact {
            reference: reference.to_owned(),
            manifest: self.manifest.digest,
            source: Box::new(source),
        })?;
        Ok(self.artifact.files.iter().cloned().zip(contents).collect())
    }

    /// Whether the cache has the image as its manifest describes it, layers and all.
    pub fn is_whole(&self, cache: &Cache) -> bool {
        std::iter::once(&self.artifact.config).chain(&self.artifact.layers).all(|blob| cache.contains(blob))
    }

    fn contents(&self, cache: &Cache) -> Result<Vec<Content>, ArtifactError> {
        let (found, _) = self.search(cache);
        self.artifact
            .files
            .iter()
            .map(|file| match &file.source {
                Source::Blob(blob) => Ok(Content { digest: blob.digest, size: blob.size }),
                Source::Path(path) => found
                    .iter()
                    .find(|(other, _)| other == path)
                    .map(|(_, content)| *content)
                    .ok_or_else(|| ArtifactError::NoSuchFile(path.clone())),
                Source::Layer(layer) => {
                    let want = single(file).map(|(_, want)| want);
                    match want.and_then(|want| Record::load(cache, &layer.digest).finding(cache, &want)) {
                        Some(Finding::File(content)) => Ok(content),
                        _ => Err(ArtifactError::NotUnpacked(layer.digest)),
                    }
                }
            })
            .collect()
    }

    /// Looks for the files that are named by their paths, from the last layer down. What was found, and the first layer
    /// that has to be unpacked to know more.
    fn search(&self, cache: &Cache) -> (Vec<(ImagePath, Content)>, Option<Packed>) {
        let mut open: Vec<ImagePath> = self
            .artifact
            .files
            .iter()
            .filter_map(|file| match &file.source {
                Source::Path(path) => Some(path.clone()),
                _ => None,
            })
            .collect();
        open.sort();
        open.dedup();
        let mut found = Vec::new();
        for layer in self.artifact.layers.iter().rev() {
            if open.is_empty() {
                break;
            }
            let record = Record::load(cache, &layer.digest);
            let known = |path: &ImagePath| record.finding(cache, &Want::Path(path.clone()));
            let unknown: Vec<Want> =
                open.iter().filter(|path| known(path).is_none()).cloned().map(Want::Path).collect();
            if !unknown.is_empty() {
                return (found, Some(Packed { layer: layer.clone(), wants: unknown }));
            }
            open.retain(|path| match known(path) {
                Some(Finding::File(content)) => {
                    found.push((path.clone(), content));
                    false
                }
                Some(Finding::Gone) => false,
                Some(Finding::Nothing) | None => true,
            });
        }
        (found, None)
    }
}

/// The layer that is, or holds, one file, and what is wanted of it.
fn single(file: &File) -> Option<(&Descriptor, Want)> {
    match &file.source {
        Source::Layer(layer) if file.disk_format == Some(DiskFormat::Ova) => Some((layer, Want::OnlyOrArchive)),
        Source::Layer(layer) => Some((layer, Want::Only)),
        Source::Blob(_) | Source::Path(_) => None,
    }
}
