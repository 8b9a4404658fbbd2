//! Files that a pull may replace: those that an earlier pull wrote, and those with the bytes that this one writes.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::PublishError;
use super::pick::{CONFIG, MANIFEST, Write, kind_of};
use crate::durable::{DurableError, open_file, read_capped};
use crate::eci::{Artifact, Source};
use crate::oci::{Descriptor, Digest, Document, Hasher, MAX_DOCUMENT_BYTES, Manifest};

/// Bytes that are read and hashed at a time.
const CHUNK: usize = 128 << 10;

/// Device, inode, length and time of the last change.
type FileState = (u64, u64, u64, i64, i64);

/// Files that were found to be replaceable, each as it was then. They are not read again unless they change.
#[derive(Clone, Debug, Default)]
pub(super) struct Replaceable(BTreeMap<PathBuf, FileState>);

/// The image that an earlier pull wrote into a directory.
struct Earlier {
    /// The manifest's own digest.
    manifest: Digest,
    /// Descriptors of its config and files by name. A file that came out of a layer has none: the manifest names the layer.
    named: BTreeMap<String, Option<Descriptor>>,
}

/// The result of a check of one file.
enum Verdict {
    Replaceable,
    /// Known once the layers are unpacked.
    Open,
    Refused(&'static str),
}

impl Replaceable {
    /// Refuses the pull if it would replace a file in `dir` that neither an earlier pull wrote nor has the same bytes.
    pub(super) fn check(&mut self, dir: &Path, writes: &[Write]) -> Result<(), PublishError> {
        let mut found = Vec::new();
        for (path, write) in writes {
            match path.symlink_metadata() {
                Ok(metadata) if metadata.is_file() => found.push((path, write.as_ref(), metadata)),
                Ok(metadata) => return Err(in_the_way(path, &format!("it is {}", kind_of(metadata.file_type())))),
                Err(_) => {}
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        let manifest = dir.join(MANIFEST);
        let earlier = Earlier::read(dir);
        let (mut has_proof, mut is_open) = (false, false);
        for (path, write, metadata) in found.iter().filter(|(path, ..)| **path != manifest) {
            match self.verdict(path, *write, metadata, earlier.as_ref())? {
                Verdict::Replaceable => has_proof = true,
                Verdict::Open => is_open = true,
                Verdict::Refused(reason) => return Err(in_the_way(path, reason)),
            }
        }
        let Some((path, write, _)) = found.iter().find(|(path, ..)| **path == manifest) else { return Ok(()) };
        // Anybody may call a file so. One that an earlier pull wrote has files of an image beside it.
        match earlier {
            Some(earlier) if has_proof || is_open || write.is_some_and(|write| write.digest == earlier.manifest) => {
                Ok(())
            }
            _ => Err(in_the_way(path, "it is not the manifest of files that an earlier pull wrote")),
        }
    }

    fn verdict(
        &mut self,
        path: &Path,
        write: Option<&Descriptor>,
        metadata: &Metadata,
        earlier: Option<&Earlier>,
    ) -> Result<Verdict, PublishError> {
        let state = state_of(metadata);
        if self.0.get(path) == Some(&state) {
            return Ok(Verdict::Replaceable);
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let named = earlier.and_then(|earlier| earlier.named.get(name));
        let candidates = [write, named.and_then(Option::as_ref)];
        let mut candidates = candidates.into_iter().flatten().filter(|blob| blob.size == metadata.len()).peekable();
        if candidates.peek().is_some() {
            let digest = digest_of(path).map_err(|error| DurableError::new("read", path, error))?;
            if candidates.any(|blob| blob.digest == digest) {
                self.0.insert(path.to_owned(), state);
                return Ok(Verdict::Replaceable);
            }
        }
        Ok(match named {
            _ if write.is_none() => Verdict::Open,
            None => Verdict::Refused("no earlier pull wrote it"),
            Some(Some(_)) => Verdict::Refused("it has changed since an earlier pull wrote it"),
            Some(None) => Verdict::Refused("it is another file, and the manifest beside it does not name its digest"),
        })
    }
}

impl Earlier {
    /// The image whose manifest is in `dir`; none if that is not the manifest of an image.
    fn read(dir: &Path) -> Option<Self> {
        let read = |name: &str| read_capped(&dir.join(name), MAX_DOCUMENT_BYTES as u64).ok();
        let bytes = read(MANIFEST)?;
        let Ok(Document::Manifest(manifest)) = Document::parse(&bytes) else { return None };
        let artifact = artifact(&manifest, || read(CONFIG))?;
        let files = artifact.files.into_iter().map(|file| match file.source {
            Source::Blob(blob) => (file.name.as_str().to_owned(), Some(blob)),
            Source::Layer(_) | Source::Path(_) => (file.name.as_str().to_owned(), None),
        });
        let config = (CONFIG.to_owned(), Some(artifact.config));
        Some(Self { manifest: Digest::of(&bytes), named: files.chain([config]).collect() })
    }
}

fn artifact(manifest: &Manifest, config: impl Fn() -> Option<Vec<u8>>) -> Option<Artifact> {
    match Artifact::from_manifest(manifest) {
        Ok(artifact) => Some(artifact),
        Err(_) => Artifact::from_config(manifest, &config()?).ok(),
    }
}

fn digest_of(path: &Path) -> io::Result<Digest> {
    let (mut file, mut hasher, mut chunk) = (open_file(path)?, Hasher::default(), vec![0; CHUNK]);
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(length) => hasher.update(chunk.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn state_of(found: &Metadata) -> FileState {
    (found.dev(), found.ino(), found.len(), found.ctime(), found.ctime_nsec())
}

fn in_the_way(path: &Path, reason: &str) -> PublishError {
    PublishError::NotOfPull { path: path.to_owned(), reason: reason.to_owned() }
}
