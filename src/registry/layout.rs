//! An OCI image layout on disk as a source: `oci:DIR[:TAG][@DIGEST]`.

use std::fmt;
use std::io::{self, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::{BlobStream, RegistryError, Resolved};
use crate::blocking;
use crate::durable::{DurableError, IoContext, open_file};
use crate::oci::{
    Descriptor, Digest, Document, DocumentError, Hasher, Index, LayoutReference, MAX_DOCUMENT_BYTES, REF_NAME,
};
use crate::wording::{exact_size, short_list};

/// The version of the layout that the image specification describes.
pub const LAYOUT_VERSION: &str = "1.0.0";
/// The file that says that a directory is a layout.
pub const LAYOUT_MARKER: &str = "oci-layout";
/// The file that names the images of a layout.
pub const LAYOUT_INDEX: &str = "index.json";
/// Names of images that a message lists.
const MAX_NAMES: usize = 20;
/// How much is read from disk at once, in bytes.
const PIECE: usize = 128 * 1024;

/// The content of the file `oci-layout`.
#[derive(Debug, Serialize, Deserialize)]
pub struct LayoutMarker {
    /// Always [`LAYOUT_VERSION`].
    #[serde(rename = "imageLayoutVersion")]
    pub version: String,
}

/// A blob that a layout should have, and what it is to its image.
#[derive(Clone, Debug)]
pub struct LayoutPart {
    /// The blob.
    pub blob: Descriptor,
    /// What a person knows it by.
    pub title: String,
}

/// What is wrong with one blob of a layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutFault {
    title: String,
    digest: Digest,
    reason: String,
}

impl fmt::Display for LayoutFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) {}", self.title, self.digest, self.reason)
    }
}

/// An image in a layout.
#[derive(Clone, Debug)]
pub struct LayoutSource {
    reference: LayoutReference,
}

impl LayoutSource {
    /// The image that `reference` names. Nothing is read yet: the directory may be on a stick that comes later.
    pub fn new(reference: LayoutReference) -> Self {
        Self { reference }
    }

    pub(super) async fn resolve(&self) -> Result<Resolved, RegistryError> {
        let index = self.index().await?;
        if let Some(digest) = self.reference.digest {
            return Ok(Resolved::One(digest));
        }
        let entries = match (&self.reference.tag, &self.reference.repository) {
            (Some(tag), Some(repository)) => index.tagged(repository, tag),
            (Some(tag), None) => index.named(tag),
            (None, _) => index.untold(),
        };
        match entries.as_slice() {
            [] => Err(self.nothing_named(&index)),
            [first, others @ ..] if others.iter().all(|other| other.digest == first.digest) => {
                Ok(Resolved::One(first.digest))
            }
            _ => Ok(Resolved::SameName(entries.into_iter().cloned().collect())),
        }
    }

    fn nothing_named(&self, index: &Index) -> RegistryError {
        let names: Vec<_> = index.manifests.iter().filter_map(|entry| entry.annotation(REF_NAME)).collect();
        let names = if names.is_empty() { "none with a name".to_owned() } else { short_list(&names, MAX_NAMES) };
        match (&self.reference.tag, index.manifests.len()) {
            (Some(tag), _) => self.absent(format!("there is no image {tag:?}; there are {names}")),
            (None, 0) => self.absent("it has no images".to_owned()),
            (None, count) => self.fault(format!("it has {count} images: choose one by its name; there are {names}")),
        }
    }

    /// Where the layout is.
    pub fn dir(&self) -> &Path {
        &self.reference.dir
    }

    /// Where the layout keeps a blob.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.reference.dir.join("blobs/sha256").join(digest.hex())
    }

    /// The manifest or index that has `digest`, verified against it.
    pub async fn document(&self, digest: &Digest) -> Result<Bytes, RegistryError> {
        let path = self.blob_path(digest);
        let size =
            tokio::fs::metadata(&path).await.map_or(0, |found| usize::try_from(found.len()).unwrap_or(usize::MAX));
        if size > MAX_DOCUMENT_BYTES {
            let source = DocumentError::TooLarge(size);
            return Err(RegistryError::Document { url: self.reference.to_string(), source });
        }
        let bytes = self.read(&path).await?;
        let actual = Digest::of(&bytes);
        if actual == *digest {
            Ok(bytes)
        } else {
            Err(RegistryError::Digest { url: self.reference.to_string(), expected: *digest, actual })
        }
    }

    pub(super) async fn blob(&self, blob: &Descriptor, part: Range<u64>) -> Result<BlobStream, RegistryError> {
        let path = self.blob_path(&blob.digest);
        let mut file = self.open(&path).await?;
        let actual = file.metadata().await.on("read", &path)?.len();
        if actual != blob.size {
            return Err(RegistryError::Size { url: path.display().to_string(), expected: blob.size, actual });
        }
        file.seek(SeekFrom::Start(part.start)).await.on("read", &path)?;
        let length = part.end - part.start;
        let bytes =
            ReaderStream::with_capacity(file.take(length), PIECE).map(move |piece| Ok(piece.on("read", &path)?));
        Ok(BlobStream { part, mirror: None, bytes: bytes.boxed() })
    }

    /// Looks whether all of `parts` are there, in their length. Where one is not, all of them are examined.
    pub async fn check(&self, parts: &[LayoutPart]) -> Result<(), RegistryError> {
        for part in parts {
            if self.wrong_length(part).await.is_some() {
                return self.examine(parts).await;
            }
        }
        Ok(())
    }

    /// Reads all of `parts`; the error names every one that is missing or damaged. Slow, and only for a layout of which
    /// something is known to be damaged.
    pub async fn examine(&self, parts: &[LayoutPart]) -> Result<(), RegistryError> {
        let mut faults = Vec::new();
        for part in parts {
            match self.wrong_length(part).await {
                Some(fault) => faults.push(fault),
                None => faults.extend(self.wrong_digest(part).await),
            }
        }
        self.report(faults)
    }

    async fn wrong_length(&self, part: &LayoutPart) -> Option<LayoutFault> {
        match tokio::fs::metadata(self.blob_path(&part.blob.digest)).await {
            Ok(found) if found.is_file() && found.len() == part.blob.size => None,
            Ok(found) if found.is_file() => {
                Some(part.fault(format!("has {} instead of {}", exact_size(found.len()), exact_size(part.blob.size))))
            }
            Ok(_) => Some(part.fault("is no file".to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(part.fault("is missing".to_owned())),
            Err(error) => Some(part.fault(format!("cannot be read: {error}"))),
        }
    }

    async fn wrong_digest(&self, part: &LayoutPart) -> Option<LayoutFault> {
        match digest_of(&self.blob_path(&part.blob.digest)).await {
            Ok(actual) if actual == part.blob.digest => None,
            Ok(_) => Some(part.fault("is damaged: it has another digest".to_owned())),
            Err(error) => Some(part.fault(format!("cannot be read: {error}"))),
        }
    }

    fn report(&self, faults: Vec<LayoutFault>) -> Result<(), RegistryError> {
        if faults.is_empty() {
            return Ok(());
        }
        Err(RegistryError::LayoutBlobs { dir: self.reference.dir.clone(), faults })
    }

    /// The layout's index, read anew each time.
    ///
    /// The file `oci-layout` may be absent: lf-edge/edge-containers writes layouts without it.
    pub async fn index(&self) -> Result<Index, RegistryError> {
        let (marker, index) = (self.reference.dir.join(LAYOUT_MARKER), self.reference.dir.join(LAYOUT_INDEX));
        match self.read(&marker).await {
            Ok(text) => self.check_marker(&text)?,
            Err(_) if self.is_without_marker(&marker, &index).await => {}
            Err(error) => return Err(error),
        }
        match Document::parse(&self.read(&index).await?) {
            Ok(Document::Index(index)) => Ok(index),
            Ok(Document::Manifest(_)) => Err(self.fault("index.json is a manifest, not an index".to_owned())),
            Err(DocumentError::Malformed(error)) => Err(self.fault(format!("index.json is damaged: {error}"))),
            Err(error) => Err(self.fault(format!("index.json is damaged: {}", crate::failure::full_text(&error)))),
        }
    }

    fn check_marker(&self, text: &[u8]) -> Result<(), RegistryError> {
        match serde_json::from_slice::<LayoutMarker>(text) {
            Ok(marker) if marker.version == LAYOUT_VERSION => Ok(()),
            Ok(marker) => Err(self.fault(format!("layout version {:?} is not known", marker.version))),
            Err(error) => Err(self.fault(format!("the file oci-layout is damaged: {error}"))),
        }
    }

    async fn is_without_marker(&self, marker: &Path, index: &Path) -> bool {
        let (marker, index) = (marker.to_owned(), index.to_owned());
        blocking::run(move || {
            let is_absent = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
            marker.symlink_metadata().is_err_and(is_absent) && index.is_file()
        })
        .await
    }

    async fn read(&self, path: &Path) -> Result<Bytes, RegistryError> {
        let file = self.open(path).await?;
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT_BYTES as u64 + 1).read_to_end(&mut bytes).await.on("read", path)?;
        if bytes.len() > MAX_DOCUMENT_BYTES {
            return Err(self.fault(format!("{} is larger than 4 MiB", path.display())));
        }
        Ok(bytes.into())
    }

    async fn open(&self, path: &Path) -> Result<tokio::fs::File, RegistryError> {
        let (wanted, dir) = (path.to_owned(), self.reference.dir.clone());
        let opened = blocking::run(move || open_file(&wanted).map_err(|error| (error, dir.exists()))).await;
        Ok(tokio::fs::File::from_std(opened.map_err(|(error, has_dir)| self.missing(path, &error, has_dir))?))
    }

    fn missing(&self, path: &Path, error: &io::Error, has_dir: bool) -> RegistryError {
        if !has_dir && error.kind() == io::ErrorKind::NotFound {
            return self.absent("there is no such directory (is what it is on plugged in and mounted?)".to_owned());
        }
        let name = path.strip_prefix(&self.reference.dir).unwrap_or(path);
        let no_layout = |reason| RegistryError::NoLayout { dir: self.reference.dir.clone(), reason };
        match error.kind() {
            io::ErrorKind::PermissionDenied => DurableError::new("read", path, error.kind().into()).into(),
            io::ErrorKind::NotFound if name == Path::new(LAYOUT_MARKER) => no_layout("no oci-layout file"),
            io::ErrorKind::NotADirectory => no_layout("it is a file; name the directory with the file oci-layout"),
            io::ErrorKind::NotFound => self.fault(format!("it has no file {}", name.display())),
            _ => self.fault(format!("cannot read {}: {error}", name.display())),
        }
    }

    fn absent(&self, reason: String) -> RegistryError {
        RegistryError::NotInLayout { dir: self.reference.dir.clone(), reason }
    }

    fn fault(&self, reason: String) -> RegistryError {
        RegistryError::Layout { dir: self.reference.dir.clone(), reason }
    }
}

impl LayoutPart {
    fn fault(&self, reason: String) -> LayoutFault {
        LayoutFault { title: self.title.clone(), digest: self.blob.digest, reason }
    }
}

async fn digest_of(path: &Path) -> io::Result<Digest> {
    let mut pieces = ReaderStream::with_capacity(tokio::fs::File::open(path).await?, PIECE);
    let mut hasher = Hasher::default();
    while let Some(piece) = pieces.next().await {
        hasher.update(&piece?);
    }
    Ok(hasher.finish())
}
