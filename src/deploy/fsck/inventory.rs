//! What there is to be on disk, by what generations, links and the cache say of themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::report::MAX_STRAYS;
use super::{Damage, Fault, Part};
use crate::cache::Cache;
use crate::deploy::generation::{CONFIG_FILE, MANIFEST_FILE, document};
use crate::deploy::launch::LAUNCH_FILE;
use crate::deploy::{Generations, Launch, Links};
use crate::durable::DurableError;
use crate::eci::{Artifact, File, Source};
use crate::oci::{Digest, Document, Manifest};
use crate::wording::without_error_numbers;

/// Everything that is to be verified, and what is seen to be broken without reading it.
#[derive(Debug, Default)]
pub struct Inventory {
    pub(super) files: BTreeMap<(u64, u64), OneFile>,
    pub(super) damage: Vec<Damage>,
    pub(super) strays: Vec<String>,
    pub(super) blobs: u64,
    pub(super) generations: u64,
}

/// A file, whatever its names.
#[derive(Debug)]
pub(super) struct OneFile {
    /// Device and inode.
    pub(super) id: (u64, u64),
    pub(super) size: u64,
    pub(super) names: Vec<Name>,
}

/// A name of a file, and what its bytes are to be.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) part: Part,
    pub(super) path: PathBuf,
    pub(super) digest: Digest,
}

impl Inventory {
    /// Lists what the state directory of `cache`, `generations` and `links` is to have. Blocks, and reads small files only.
    pub fn take(cache: &Cache, generations: &Generations, links: &Links) -> Result<Self, DurableError> {
        let mut inventory = Self::default();
        for (digest, ..) in cache.blobs()? {
            inventory.blobs += 1;
            inventory.add(Name { part: Part::Blob { digest }, path: cache.path(&digest), digest }, None);
        }
        for digest in cache.misplaced()? {
            inventory.damage.push(Damage::found(Part::Blob { digest }, Fault::Senseless));
        }
        inventory.strays = strays(cache)?;
        let mut needed = BTreeSet::new();
        for (workload, number) in generations.all()? {
            inventory.generations += 1;
            let dir = generations.dir(&workload, number);
            match generations.launch(&workload, number) {
                Some(launch) => inventory.add_generation(cache, &dir, &launch, &mut needed),
                // It may be gone by now.
                None if !dir.exists() => {}
                None => inventory.damage.push(match generations.altered(&workload, number) {
                    Some(digest) => {
                        let part = Part::File { workload, generation: number, name: LAUNCH_FILE.to_owned() };
                        Damage::found(part, Fault::OtherBytes { digest: Some(digest) })
                    }
                    None => Damage::found(Part::Generation { workload, generation: number }, Fault::Senseless),
                }),
            }
        }
        for digest in needed {
            if !cache.path(&digest).exists() {
                inventory.damage.push(Damage::found(Part::Blob { digest }, Fault::Missing));
            }
        }
        inventory.look_at_links(generations, links)?;
        if !cache.is_index_sound() {
            inventory.damage.push(Damage::found(Part::Index, Fault::Senseless));
        }
        Ok(inventory)
    }

    /// How much there is to read, in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.size).sum()
    }

    /// Takes note of something broken that somebody else came upon.
    pub fn note(&mut self, part: Part, fault: Fault) {
        self.damage.push(Damage::found(part, fault));
    }

    fn add_generation(&mut self, cache: &Cache, dir: &Path, launch: &Launch, needed: &mut BTreeSet<Digest>) {
        let part = |name: &str| Part::File {
            workload: launch.workload.clone(),
            generation: launch.generation,
            name: name.to_owned(),
        };
        let mut add = |name: &str, digest, size| {
            needed.insert(digest);
            self.add(Name { part: part(name), path: dir.join(name), digest }, size);
        };
        for (name, file) in launch.fixed() {
            add(name, file.digest, Some(file.size));
        }
        add(MANIFEST_FILE, launch.digest, None);
        let manifest = manifest(cache, dir, &launch.digest);
        if let Some(manifest) = &manifest {
            add(CONFIG_FILE, manifest.config.digest, Some(manifest.config.size));
        }
        // What a guest writes to is the guest's; it only has to be there.
        for (name, _) in launch.names().filter(|(_, file)| file.writable) {
            match fs::symlink_metadata(dir.join(name)) {
                Ok(found) if found.is_file() => {}
                Ok(_) => self.damage.push(Damage::found(part(name), Fault::OtherBytes { digest: None })),
                Err(error) => {
                    self.damage.extend(fault(&dir.join(name), &error).map(|fault| Damage::found(part(name), fault)));
                }
            }
        }
        let Some(artifact) = manifest.and_then(|manifest| artifact(cache, dir, &manifest)) else { return };
        if !fits(launch, &artifact) {
            let part = Part::Generation { workload: launch.workload.clone(), generation: launch.generation };
            self.damage.push(Damage::found(part, Fault::Senseless));
        }
        for file in &artifact.files {
            if let Some(stable) = file.stable_name()
                && fs::read_link(dir.join(&stable)).ok().as_deref() != linked(launch, file).map(Path::new)
                && dir.is_dir()
            {
                self.damage.push(Damage::found(part(&stable), Fault::Senseless));
            }
        }
    }

    fn add(&mut self, name: Name, size: Option<u64>) {
        match fs::symlink_metadata(&name.path) {
            Ok(found) if size.is_none_or(|size| size == found.len()) && found.is_file() => self.insert(name, &found),
            Ok(found) => {
                let damage = Damage::found(name.part, Fault::OtherBytes { digest: None });
                self.damage.push(damage.of_inode(found.ino()));
            }
            Err(error) => self.damage.extend(fault(&name.path, &error).map(|fault| Damage::found(name.part, fault))),
        }
    }

    fn insert(&mut self, name: Name, found: &Metadata) {
        let id = (found.dev(), found.ino());
        let file = self.files.entry(id);
        file.or_insert_with(|| OneFile { id, size: found.len(), names: Vec::new() }).names.push(name);
    }

    fn look_at_links(&mut self, generations: &Generations, links: &Links) -> Result<(), DurableError> {
        for workload in links.workloads() {
            for (name, number) in [("current", links.current(&workload)?), ("previous", links.previous(&workload)?)] {
                if number.is_some_and(|number| !generations.dir(&workload, number).is_dir()) {
                    let path = format!("workloads/{workload}/{name}");
                    self.damage.push(Damage::found(Part::Link { path }, Fault::Senseless));
                }
            }
        }
        if !links.is_mirrored()? {
            self.damage.push(Damage::found(Part::Link { path: "current".to_owned() }, Fault::Senseless));
        }
        Ok(())
    }
}

/// What is wrong with a file that cannot be looked at; nothing where all that it belonged to has been removed meanwhile.
pub(super) fn fault(path: &Path, error: &std::io::Error) -> Option<Fault> {
    if error.kind() != std::io::ErrorKind::NotFound {
        return Some(Fault::Unreadable { error: without_error_numbers(&error.to_string()).into_owned() });
    }
    // A blob that is listed and gone was collected, and so was a generation; a file of a generation never goes by itself.
    let dir = path.parent()?;
    (dir.join(LAUNCH_FILE).exists()).then_some(Fault::Missing)
}

/// What has no name of ours, as the report has it.
fn strays(cache: &Cache) -> Result<Vec<String>, DurableError> {
    let state_dir = cache.root().parent().unwrap_or(cache.root());
    let name = |path: PathBuf| path.strip_prefix(state_dir).unwrap_or(&path).to_string_lossy().into_owned();
    let mut strays: Vec<String> = cache.strays()?.into_iter().map(name).collect();
    strays.sort();
    strays.truncate(MAX_STRAYS);
    Ok(strays)
}

/// The manifest of a generation.
fn manifest(cache: &Cache, dir: &Path, digest: &Digest) -> Option<Manifest> {
    match Document::parse(&document(cache, dir, MANIFEST_FILE, digest)) {
        Ok(Document::Manifest(manifest)) => Some(manifest),
        _ => None,
    }
}

/// The files of an image, as far as its documents are right.
fn artifact(cache: &Cache, dir: &Path, manifest: &Manifest) -> Option<Artifact> {
    match Artifact::from_manifest(manifest) {
        Err(_) if Artifact::has_container_layers(manifest) => {
            Artifact::from_config(manifest, &document(cache, dir, CONFIG_FILE, &manifest.config.digest)).ok()
        }
        artifact => artifact.ok(),
    }
}

/// Where the stable name of a disk leads to: to the overlay on it where there is one.
pub(super) fn linked<'a>(launch: &'a Launch, file: &File) -> Option<&'a str> {
    launch.files.iter().find(|said| said.origin().0.file_name() == Some(file.name.as_str().as_ref()))?.name()
}

/// Whether a generation says of its files what its manifest says. What came out of layers has digests of its own.
fn fits(launch: &Launch, artifact: &Artifact) -> bool {
    let is_said = |file: &File| {
        launch.files.iter().any(|said| {
            let is_blob = match &file.source {
                Source::Blob(blob) => (said.digest, said.size) == (blob.digest, blob.size),
                Source::Layer(_) | Source::Path(_) => true,
            };
            let (path, format) = said.origin();
            path.file_name() == Some(file.name.as_str().as_ref())
                && said.role == file.role
                && format == file.format()
                && is_blob
        })
    };
    launch.files.len() == artifact.files.len() && artifact.files.iter().all(is_said)
}
