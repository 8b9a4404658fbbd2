//! What must hold of a disk after a power cut, before the agent starts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::story::{Blob, Story};
use super::tree::{Entry, Tree};
use crate::common::registry::digest;

/// A state directory, and the digests of what was read of it.
pub struct Disk<'a> {
    dir: &'a Path,
    story: &'a Story,
    /// By inode: generations and blobs have files in common.
    digests: BTreeMap<u64, String>,
}

impl<'a> Disk<'a> {
    pub fn new(dir: &'a Path, story: &'a Story) -> Self {
        Self { dir, story, digests: BTreeMap::new() }
    }

    /// What is wrong, whatever moment it is.
    pub fn violations(&mut self, tree: &Tree) -> Vec<String> {
        let mut found = Vec::new();
        for (path, entry) in tree {
            let parts: Vec<_> = path.iter().map(|part| part.to_str().unwrap()).collect();
            let wrong = match (parts.as_slice(), entry) {
                (["cache", "blobs", "sha256", hex], _) => self.blob(hex, path),
                (["current" | "previous"] | ["workloads", _, "current" | "previous"], Entry::Link(target)) => {
                    self.link(path, target)
                }
                (["generations", workload, number], Entry::Directory) => self.generation(path, workload, number).err(),
                (["partial", name], _) if name.ends_with(".synced") => self.synced(path),
                (["state.json"], _) => {
                    let text = fs::read(self.dir.join(path)).unwrap();
                    serde_json::from_slice::<Value>(&text).err().map(|error| error.to_string())
                }
                _ => None,
            };
            found.extend(wrong.map(|wrong| format!("{}: {wrong}", path.display())));
        }
        found
    }

    /// The image that `link` leads to, by its manifest's digest.
    pub fn image_at(&mut self, link: &str) -> Result<String, String> {
        let target = fs::canonicalize(self.dir.join(link)).map_err(|error| error.to_string())?;
        let path = target.strip_prefix(self.dir).unwrap().to_owned();
        let parts: Vec<_> = path.iter().map(|part| part.to_str().unwrap()).collect();
        let ["generations", workload, number] = parts.as_slice() else { return Err(format!("{}", path.display())) };
        self.generation(&path, workload, number)
    }

    fn blob(&mut self, hex: &str, path: &Path) -> Option<String> {
        let is = self.digest(path).unwrap();
        (is != format!("sha256:{hex}")).then(|| format!("its content is {is}"))
    }

    /// Whether what a note says to be there of a large blob is right.
    fn synced(&self, note: &Path) -> Option<String> {
        let hex = note.file_stem().unwrap().to_str().unwrap();
        let (right, found) =
            (self.story.large(&format!("sha256:{hex}"))?, fs::read(self.dir.join(note).with_extension("")).ok()?);
        let ranges: Vec<(usize, usize)> = serde_json::from_slice(&fs::read(self.dir.join(note)).unwrap()).ok()?;
        let is_wrong = |(from, to): &(usize, usize)| *to <= found.len() && found[*from..*to] != right[*from..*to];
        ranges.iter().any(is_wrong).then(|| format!("what it says to be there is not: {ranges:?}"))
    }

    /// All generations that are there are checked, so only that it is there.
    fn link(&self, path: &Path, target: &Path) -> Option<String> {
        let dir = self.dir.join(path).with_file_name(target);
        (!dir.join("launch.json").is_file()).then(|| format!("nothing is at {}", target.display()))
    }

    /// The digest of the manifest of a generation that is whole.
    fn generation(&mut self, path: &Path, workload: &str, number: &str) -> Result<String, String> {
        let manifest = self.digest(&path.join("manifest.json"))?;
        let story = self.story;
        let image = story.known.iter().find(|known| known.digest == manifest).ok_or("its manifest is none of ours")?;
        for (name, expected) in &image.files {
            if self.digest(&path.join(name))? != *expected {
                return Err(format!("{name} is not that of {}", image.reference));
            }
        }
        let root =
            fs::read_link(self.dir.join(path).join("disk-root")).map_err(|error| format!("disk-root: {error}"))?;
        let text =
            fs::read(self.dir.join(path).join("launch.json")).map_err(|error| format!("launch.json: {error}"))?;
        let launch: Value = serde_json::from_slice(&text).map_err(|error| format!("launch.json: {error}"))?;
        let describes = launch["digest"] == manifest
            && launch["workload"] == workload
            && launch["generation"].as_u64() == number.parse().ok()
            && launch["files"].as_array().unwrap().iter().all(|file| {
                let at = Path::new(file["path"].as_str().unwrap()).strip_prefix(self.dir.join(path)).unwrap();
                file["digest"] == image.files[at.to_str().unwrap()]
            });
        let names: BTreeSet<_> = image.files.keys().map(PathBuf::from).collect();
        let mut found: BTreeSet<PathBuf> =
            fs::read_dir(self.dir.join(path)).unwrap().map(|entry| PathBuf::from(entry.unwrap().file_name())).collect();
        let is_all = found.remove(Path::new("launch.json")) && found.remove(Path::new("disk-root")) && found == names;
        if describes && is_all && root == Path::new("disk-root-root.raw") {
            Ok(manifest)
        } else {
            Err(format!("it has {found:?}, and disk-root leads to {}; {launch}", root.display()))
        }
    }

    /// How much of `blob` has to be fetched, in bytes, at most.
    pub fn lacks(&self, blob: &Blob) -> u64 {
        let at = |digest: &str| self.dir.join("cache/blobs").join(digest.replace(':', "/"));
        let hex = blob.digest.trim_start_matches("sha256:");
        let note = fs::read_to_string(self.dir.join("cache/unpacked").join(format!("{hex}.json"))).unwrap_or_default();
        let is_unpacked = blob.packed.as_ref().is_some_and(|packed| at(packed).exists() && note.contains(packed));
        if at(&blob.digest).exists() || is_unpacked {
            return 0;
        }
        let partial = self.dir.join("partial").join(hex);
        let synced = fs::read(partial.with_extension("synced")).unwrap_or_default();
        let synced: Vec<(u64, u64)> = serde_json::from_slice(&synced).unwrap_or_default();
        let length = fs::metadata(&partial).map_or(0, |found| found.len());
        let is_there = synced.iter().all(|(_, end)| *end <= length);
        blob.size - if is_there { synced.iter().map(|(start, end)| end - start).sum() } else { 0 }
    }

    fn digest(&mut self, path: &Path) -> Result<String, String> {
        let path = self.dir.join(path);
        let name = path.file_name().unwrap().display().to_string();
        let inode = fs::metadata(&path).map_err(|error| format!("{name}: {error}"))?.ino();
        if let Some(known) = self.digests.get(&inode) {
            return Ok(known.clone());
        }
        let digest = digest(&fs::read(&path).map_err(|error| format!("{name}: {error}"))?);
        self.digests.insert(inode, digest.clone());
        Ok(digest)
    }
}
