//! The image that a reference turned out to be.

use std::collections::{BTreeMap, BTreeSet};

use super::TransferError;
use super::disk_check::check_disks;
use super::path_lookup::{Outcome, PathLookup};
use crate::cache::Cache;
use crate::durable::DurableError;
use crate::eci::{Artifact, ArtifactError, DiskFormat, File, ImagePath, Source};
use crate::oci::{Descriptor, Digest, Platform};
use crate::unpack::{Content, Finding, Record, Want, says_compressed};

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

/// Results of the lookups of files that are named by their paths.
type Outcomes = BTreeMap<ImagePath, Outcome>;

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

    /// The layers that files come out of, each once.
    pub fn layers(&self) -> Vec<&Descriptor> {
        let files = &self.artifact.files;
        let by_path = files.iter().any(|file| matches!(file.source, Source::Path(_)));
        let all = if by_path { self.artifact.layers.as_slice() } else { &[] };
        let mut seen = std::collections::BTreeSet::new();
        let single = files.iter().filter_map(|file| Some(single(file)?.0));
        single.chain(all).filter(|layer| seen.insert(layer.digest)).collect()
    }

    /// What is still to be taken out of layers, going by what is noted of them. Of files that are named by their paths it
    /// lists all layers of which something is not known, the topmost first: what is below that one matters only where it
    /// has no answer.
    pub fn packed(&self, cache: &Cache) -> Vec<Packed> {
        let mut packed: Vec<Packed> = Vec::new();
        for (layer, want) in self.artifact.files.iter().filter_map(single) {
            if Record::load(cache, layer).finding(cache, &want).is_none() {
                packed.push(Packed { layer: layer.clone(), wants: vec![want] });
            }
        }
        let (_, unknown) = self.search(cache);
        packed.extend(unknown);
        packed
    }

    /// Whether the image has the blob with `digest` as a file: as it is, or out of one of its layers.
    pub fn uses(&self, cache: &Cache, digest: &Digest) -> bool {
        self.blobs().iter().any(|blob| blob.digest == *digest)
            || self.layers().iter().any(|layer| Record::load(cache, layer).names(digest))
    }

    /// The layers that the cache still has, though all that the image wants of them was taken out.
    pub fn spent(&self, cache: &Cache) -> Vec<Descriptor> {
        let packed = self.packed(cache);
        let mut opened = self.opened(cache);
        opened.retain(|layer| !packed.iter().any(|packed| packed.layer.digest == layer.digest));
        opened
    }

    /// The files, each with where its bytes are in the cache, and they are right: they have their digests, and disks are what
    /// their formats say. All that was fetched for them is still there, or this says what is not.
    pub fn files(&self, cache: &Cache, reference: &str) -> Result<Vec<(File, Content)>, TransferError> {
        let files = self.contents(cache, reference)?;
        match files.iter().find(|(_, content)| !cache.holds(&content.blob())) {
            Some((_, content)) => Err(TransferError::Gone(content.digest)),
            None => check_disks(cache, reference, &files).map(|()| files),
        }
    }

    /// The same, by names and lengths: nothing of it is read.
    pub fn contents(&self, cache: &Cache, reference: &str) -> Result<Vec<(File, Content)>, TransferError> {
        if let Some(packed) = self.packed(cache).first() {
            return Err(TransferError::Gone(packed.missing(cache)));
        }
        let (by_path, _) = self.search(cache);
        let content = |file: &File| {
            content(cache, &by_path, file).ok_or_else(|| match &file.source {
                Source::Blob(blob) => TransferError::Gone(blob.digest),
                Source::Layer(layer) => TransferError::Gone(layer.digest),
                Source::Path(path) => self.lacks(reference, path, by_path.get(path)),
            })
        };
        self.artifact.files.iter().map(|file| Ok((named_by_target(file, &by_path), content(file)?))).collect()
    }

    /// What would have to be fetched, or taken out of layers, by names and lengths. What is there is there to stay.
    pub fn missing(&self, cache: &Cache) -> Result<Vec<Digest>, DurableError> {
        cache.keep_names()?;
        let blobs = self.blobs().into_iter().filter(|blob| !cache.contains(blob)).map(|blob| blob.digest);
        Ok(blobs.chain(self.packed(cache).iter().map(|packed| packed.missing(cache))).collect())
    }

    /// What the cache has of the config and the files, by names and lengths; each once.
    pub(super) fn present(&self, cache: &Cache) -> Vec<Descriptor> {
        let mut seen = std::collections::BTreeSet::new();
        let (by_path, _) = self.search(cache);
        let files = self.artifact.files.iter().filter_map(|file| Some(content(cache, &by_path, file)?.blob()));
        let config = Some(self.artifact.config.clone()).filter(|config| cache.contains(config));
        config.into_iter().chain(files).filter(|blob| seen.insert(blob.digest)).collect()
    }

    /// The error for a path that has no file.
    fn lacks(&self, reference: &str, path: &ImagePath, outcome: Option<&Outcome>) -> TransferError {
        let path = path.clone();
        let source = match outcome {
            Some(Outcome::Refused(reason)) => ArtifactError::Link { path, reason: reason.clone() },
            Some(Outcome::Missing(target)) if *target != path => {
                ArtifactError::NoSuchTarget { path, target: target.clone() }
            }
            _ => ArtifactError::NoSuchFile(path),
        };
        TransferError::Artifact {
            reference: reference.to_owned(),
            manifest: self.manifest.digest,
            source: Box::new(source),
        }
    }

    /// Whether the cache has the image as its manifest describes it, layers and all.
    pub fn is_whole(&self, cache: &Cache) -> bool {
        std::iter::once(&self.artifact.config).chain(&self.artifact.layers).all(|blob| cache.contains(blob))
    }

    /// Looks for the files that are named by their paths. Returns the result for each, and the layers that may have to be
    /// unpacked to know all, the topmost first.
    fn search(&self, cache: &Cache) -> (Outcomes, Vec<Packed>) {
        let paths = self.artifact.files.iter().filter_map(|file| match &file.source {
            Source::Path(path) => Some(path),
            Source::Blob(_) | Source::Layer(_) => None,
        });
        let mut lookup = PathLookup::new(cache, &self.artifact.layers);
        let (mut outcomes, mut unknown) = (Outcomes::new(), BTreeMap::<usize, BTreeSet<Want>>::new());
        for path in paths {
            let outcome = lookup.find(path, &mut |place, path| {
                unknown.entry(place).or_default().insert(Want::Path(path.clone()));
            });
            outcomes.insert(path.clone(), outcome);
        }
        let layers = unknown.into_iter().rev().filter_map(|(place, wants)| {
            let layer = self.artifact.layers.get(place)?.clone();
            Some(Packed { layer, wants: wants.into_iter().collect() })
        });
        (outcomes, layers.collect())
    }

    /// True if the lookup of each file that is named by its path has a result: no layer has to be unpacked again for it.
    pub(super) fn is_settled(&self, cache: &Cache) -> bool {
        self.search(cache).1.is_empty()
    }

    /// The layers that were unpacked and are still in the cache.
    pub(super) fn opened(&self, cache: &Cache) -> Vec<Descriptor> {
        let is_opened = |layer: &Descriptor| {
            cache.contains(layer) && !Record::load(cache, layer).is_empty() && !self.uses(cache, &layer.digest)
        };
        self.layers().into_iter().filter(|layer| is_opened(layer)).cloned().collect()
    }
}

impl Packed {
    /// Whether the layer is an archive for all that can be told before it is here: one that is said to be a plain tar, and
    /// is to be one file, may as well be that file.
    pub fn is_archive(&self) -> bool {
        says_compressed(&self.layer.media_type) || self.wants.iter().any(|want| matches!(want, Want::Path(_)))
    }

    /// The blob that is not there: a file that was taken out before and has been lost, else the layer.
    fn missing(&self, cache: &Cache) -> Digest {
        let record = Record::load(cache, &self.layer);
        let lost = self.wants.iter().find_map(|want| match record.noted(want) {
            Some(Finding::File(content)) => Some(content.digest),
            _ => None,
        });
        lost.unwrap_or(self.layer.digest)
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

/// Where a file's bytes are in the cache, by names and lengths; `by_path` are those that were found in layers by their paths.
fn content(cache: &Cache, by_path: &Outcomes, file: &File) -> Option<Content> {
    match &file.source {
        Source::Blob(blob) => cache.contains(blob).then_some(Content { digest: blob.digest, size: blob.size }),
        Source::Path(path) => match by_path.get(path)? {
            Outcome::Found(content, _) => Some(*content),
            Outcome::Missing(_) | Outcome::Refused(_) | Outcome::Unknown => None,
        },
        Source::Layer(layer) => match Record::load(cache, layer).finding(cache, &single(file)?.1)? {
            Finding::File(content) => Some(content),
            _ => None,
        },
    }
}

/// The file, with a disk's format by the ending of the path that links lead to where its own path has none.
fn named_by_target(file: &File, by_path: &Outcomes) -> File {
    let mut file = file.clone();
    if let (Source::Path(path), Some(format)) = (&file.source, &mut file.disk_format)
        && DiskFormat::of_file_name(path.file_name()).is_none()
        && let Some(Outcome::Found(_, target)) = by_path.get(path)
    {
        *format = DiskFormat::of_file_name(target.file_name()).unwrap_or(*format);
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eci::Role;
    use crate::oci::{Manifest, media_type};
    use crate::unpack::{Limits, unpack};
    use proptest::prelude::*;

    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// Paths that are looked for. What is above them may also be a file.
    const WANTED: [&str; 4] = ["a/x", "a/y", "b/x", "a/b/x"];

    /// What a layer does to the files below it.
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Change {
        Remove(&'static str),
        Empty(&'static str),
        Put(&'static str, u8),
    }

    fn changes() -> impl Strategy<Value = Change> {
        let paths = prop::sample::select(vec!["a", "b", "a/b", "a/x", "a/y", "b/x", "a/b/x"]);
        let dirs = prop::sample::select(vec!["a", "b", "a/b"]);
        prop_oneof![
            paths.clone().prop_map(Change::Remove),
            dirs.prop_map(Change::Empty),
            (paths, any::<u8>()).prop_map(|(path, content)| Change::Put(path, content)),
        ]
    }

    /// Layers without contradictions: a path is put once, and is not both a file and a directory.
    fn layers() -> impl Strategy<Value = Vec<Vec<Change>>> {
        let layer = proptest::collection::vec(changes(), 1..5).prop_map(|changes| {
            let mut put: Vec<&str> = Vec::new();
            let mut layer: Vec<Change> = Vec::new();
            for change in changes {
                let Change::Put(path, _) = change else {
                    layer.push(change);
                    continue;
                };
                let is_free = |other: &&str| *other != path && !is_below(other, path) && !is_below(path, other);
                if put.iter().all(is_free) {
                    put.push(path);
                    layer.push(change);
                }
            }
            // An opaque directory is one: nothing is a file there in the same layer.
            let is_file = |dir: &str| put.contains(&dir) || put.iter().any(|path| is_below(dir, path));
            layer.retain(|change| !matches!(change, Change::Empty(dir) if is_file(dir)));
            layer
        });
        proptest::collection::vec(layer, 1..5)
    }

    fn is_below(path: &str, dir: &str) -> bool {
        path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
    }

    /// The files, as a layered file system has them.
    fn model(layers: &[Vec<Change>]) -> BTreeMap<&'static str, u8> {
        let mut files: BTreeMap<&str, u8> = BTreeMap::new();
        for layer in layers {
            for change in layer {
                files.retain(|path, _| match change {
                    Change::Remove(removed) => path != removed && !is_below(path, removed),
                    Change::Empty(dir) => !is_below(path, dir),
                    Change::Put(..) => true,
                });
            }
            for change in layer {
                if let Change::Put(put, content) = change {
                    files.retain(|path, _| !is_below(path, put) && !is_below(put, path));
                    files.insert(put, *content);
                }
            }
        }
        files
    }

    fn tar(layer: &[Change]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for change in layer {
            let (path, content) = match change {
                Change::Remove(path) => match path.rsplit_once('/') {
                    Some((dir, name)) => (format!("{dir}/.wh.{name}"), vec![]),
                    None => (format!(".wh.{path}"), vec![]),
                },
                Change::Empty(dir) => (format!("{dir}/.wh..wh..opq"), vec![]),
                Change::Put(path, content) => ((*path).to_owned(), vec![*content]),
            };
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, path, &content[..]).unwrap();
        }
        builder.into_inner().unwrap()
    }

    proptest! {
        // Each writes to disk, and waits for it.
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn layers_are_what_a_layered_file_system_makes_of_them(layers in layers()) {
            let dir = tempfile::tempdir().unwrap();
            let cache = Cache::open(dir.path()).unwrap();
            let described: Vec<_> = layers
                .iter()
                .map(|layer| {
                    let bytes = tar(layer);
                    cache.insert(&bytes).unwrap();
                    Descriptor::of(LAYER, &bytes)
                })
                .collect();
            let wanted: BTreeSet<ImagePath> = WANTED.iter().map(|path| path.parse().unwrap()).collect();
            let files = wanted.iter().enumerate().map(|(index, path)| File {
                role: Role::DiskAdditional,
                index,
                name: crate::eci::FileName::new(&format!("disk-{index}")).unwrap(),
                disk_format: Some(DiskFormat::Raw),
                source: Source::Path(path.clone()),
            });
            let manifest = Manifest::new(Descriptor::of("x", b"{}"), described.clone());
            let target = Target {
                manifest: Descriptor::of(media_type::MANIFEST, &serde_json::to_vec(&manifest).unwrap()),
                index_digest: None,
                platform: Platform::host(),
                artifact: Artifact { config: manifest.config, layers: described, files: files.collect() },
            };
            // As a transfer does it: the topmost layer of which something is not known, until all is.
            while let Some(Packed { layer, wants }) = target.packed(&cache).into_iter().next() {
                unpack(&cache, &layer, &wants, Limits::new(1 << 20)).unwrap();
            }
            let (found, _) = target.search(&cache);
            let found: BTreeMap<_, _> = found
                .into_iter()
                .filter_map(|(path, outcome)| match outcome {
                    Outcome::Found(content, _) => Some((path.as_str().to_owned(), cache.read(&content.digest, 10).unwrap()[0])),
                    _ => None,
                })
                .collect();
            let expected: BTreeMap<_, _> = model(&layers)
                .into_iter()
                .filter(|(path, _)| WANTED.contains(path))
                .map(|(path, content)| (path.to_owned(), content))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
