//! From local files to an artifact: hashed blobs and the manifest that names them. The same files give the same digest:
//! nothing here depends on a clock, on a path's directories or on chance.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::Serialize;

use crate::cache::measure;
use crate::durable::DurableError;
use crate::eci::{Artifact, ArtifactError, DiskFormat, FileName, FileNameError, MEDIA_TYPE, ROLE, Role, media_type};
use crate::failure::{Classify, Kind, Retry};
use crate::oci::{self, Descriptor, Manifest, Platform, PlatformError, TITLE};

/// The config's file name.
const CONFIG_TITLE: &str = "config.json";

/// What an image is to be made of.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// The kernel.
    pub kernel: Option<PathBuf>,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The disk that holds the root file system.
    pub root: Option<Disk>,
    /// Further disks, in order.
    pub disks: Vec<Disk>,
    /// The config; one is made of the three below where there is none.
    pub config: Option<PathBuf>,
    /// Who made it.
    pub author: Option<String>,
    /// The operating system that it is for; the host's where not given.
    pub os: Option<String>,
    /// The architecture, with its variant after a slash; the host's where not given.
    pub arch: Option<String>,
}

/// A disk image in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The file.
    pub path: PathBuf,
    /// What it holds.
    pub format: DiskFormat,
}

/// An image, ready to be pushed.
#[derive(Clone, Debug)]
pub struct Built {
    /// Describes the manifest.
    pub manifest: Descriptor,
    /// The manifest.
    pub manifest_bytes: Bytes,
    /// The layers in order, then the config; each content once.
    pub blobs: Vec<Blob>,
}

/// Some content, and where it is.
#[derive(Clone, Debug)]
pub struct Blob {
    /// What it is called.
    pub title: String,
    /// What the manifest says of it.
    pub descriptor: Descriptor,
    /// Where its bytes are.
    pub content: Content,
}

/// Where a blob's bytes are.
#[derive(Clone, Debug)]
pub enum Content {
    /// In a file.
    File(PathBuf),
    /// In memory.
    Bytes(Bytes),
}

/// Why files make no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file that cannot be used.
    #[error("cannot use {}: {reason}", .path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
        /// The kind, told by the error's cause.
        kind: Kind,
    },
    /// A file's name cannot be that of a layer.
    #[error("{}", .path.display())]
    Name {
        /// The file.
        path: PathBuf,
        /// What is wrong with its name.
        #[source]
        source: FileNameError,
    },
    /// Operating system and architecture are none.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// The files together make no image.
    #[error(transparent)]
    Image(#[from] ArtifactError),
    /// A file cannot be read.
    #[error(transparent)]
    Disk(#[from] DurableError),
    /// The manifest cannot be written down.
    #[error("cannot write the manifest down")]
    Manifest(#[from] serde_json::Error),
}

impl Classify for BuildError {
    fn kind(&self) -> Kind {
        match self {
            Self::Input { kind, .. } => *kind,
            Self::Name { .. } | Self::Platform(_) | Self::Image(_) => Kind::Usage,
            Self::Disk(error) => error.kind(),
            Self::Manifest(_) => Kind::Internal,
        }
    }

    fn retry(&self) -> Retry {
        Retry::Never
    }
}

/// Hashes the files and writes the manifest. Blocks, for as long as it takes to read all files once.
pub fn build(image: &Image) -> Result<Built, BuildError> {
    let files = image.files()?;
    let config = image.config_source()?;
    for file in files.iter().map(|file| file.path).chain(image.config.as_deref()) {
        check_file(file)?;
    }
    let mut blobs = Vec::with_capacity(files.len() + 1);
    for file in &files {
        blobs.push(file.blob()?);
    }
    let config = config_blob(config)?;
    let layers = blobs.iter().map(|blob| blob.descriptor.clone()).collect();
    let manifest = Manifest::new(config.descriptor.clone(), layers);
    // What is pushed is what can be pulled: the reader's rules count.
    Artifact::from_manifest(&manifest)?;
    let manifest_bytes = serde_json::to_vec(&manifest)?;
    blobs.push(config);
    let mut seen = BTreeSet::new();
    blobs.retain(|blob| seen.insert(blob.descriptor.digest));
    Ok(Built {
        manifest: Descriptor::of(oci::media_type::MANIFEST, &manifest_bytes),
        manifest_bytes: manifest_bytes.into(),
        blobs,
    })
}

/// A file that becomes a layer.
struct Layer<'a> {
    path: &'a Path,
    role: Role,
    name: FileName,
    media_type: String,
}

impl Layer<'_> {
    fn blob(&self) -> Result<Blob, BuildError> {
        let (digest, size) = measure(self.path)?;
        let descriptor = Descriptor::new(&self.media_type, digest, size)
            .with(MEDIA_TYPE, &self.media_type)
            .with(ROLE, self.role.as_str())
            .with(TITLE, self.name.as_str());
        Ok(Blob { title: self.name.to_string(), descriptor, content: Content::File(self.path.to_owned()) })
    }
}

/// Where the config comes from.
enum ConfigSource<'a> {
    File(&'a Path),
    Generated(Vec<u8>),
}

impl Image {
    fn files(&self) -> Result<Vec<Layer<'_>>, BuildError> {
        let mut layers = Vec::new();
        if let Some(path) = &self.kernel {
            layers.push(layer(path, Role::Kernel, 0, None)?);
        }
        if let Some(path) = &self.initrd {
            layers.push(layer(path, Role::Initrd, 0, None)?);
        }
        if let Some(disk) = &self.root {
            layers.push(layer(&disk.path, Role::DiskRoot, 0, Some(disk.format))?);
        }
        for (index, disk) in self.disks.iter().enumerate() {
            layers.push(layer(&disk.path, Role::DiskAdditional, index, Some(disk.format))?);
        }
        Ok(layers)
    }

    fn config_source(&self) -> Result<ConfigSource<'_>, BuildError> {
        match &self.config {
            Some(path) => Ok(ConfigSource::File(path)),
            None => Ok(ConfigSource::Generated(serde_json::to_vec(&self.generated_config()?)?)),
        }
    }

    fn generated_config(&self) -> Result<Config<'_>, BuildError> {
        let host = Platform::host();
        let os = self.os.as_deref().unwrap_or(&host.os);
        let arch = self.arch.as_deref().unwrap_or(&host.architecture);
        let platform = format!("{os}/{arch}").parse()?;
        Ok(Config { author: self.author.as_deref(), platform })
    }
}

/// A config in the fields of the image specification.
#[derive(Serialize)]
struct Config<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<&'a str>,
    #[serde(flatten)]
    platform: Platform,
}

fn layer(path: &Path, role: Role, index: usize, format: Option<DiskFormat>) -> Result<Layer<'_>, BuildError> {
    let original = path.file_name().and_then(OsStr::to_str);
    let (title, media_type) = match (format, role) {
        (Some(format), _) => (original, media_type::disk(format)),
        (None, Role::Initrd) => (None, media_type::INITRD.to_owned()),
        (None, _) => (None, media_type::KERNEL.to_owned()),
    };
    if format.is_some() && original.is_none() {
        let reason = "its name is not text in UTF-8, and becomes part of the image".to_owned();
        return Err(BuildError::Input { path: path.to_owned(), reason, kind: Kind::Usage });
    }
    let name = FileName::canonical(role, index, title, format)
        .map_err(|source| BuildError::Name { path: path.to_owned(), source })?;
    Ok(Layer { path, role, name, media_type })
}

/// A mistyped path is told before anything large is hashed.
fn check_file(path: &Path) -> Result<(), BuildError> {
    let unusable = |reason: String, kind| BuildError::Input { path: path.to_owned(), reason, kind };
    // Opening what is no file, a pipe for one, could wait for ever.
    let found = fs::metadata(path).map_err(|error| unusable(error.to_string(), kind_of(&error)))?;
    if !found.is_file() {
        return Err(unusable("it is not a regular file".to_owned(), Kind::Usage));
    }
    fs::File::open(path).map(drop).map_err(|error| unusable(error.to_string(), kind_of(&error)))
}

fn kind_of(error: &io::Error) -> Kind {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Kind::Usage,
        io::ErrorKind::PermissionDenied => Kind::Forbidden,
        _ => Kind::Io,
    }
}

fn config_blob(source: ConfigSource<'_>) -> Result<Blob, BuildError> {
    let (descriptor, content) = match source {
        ConfigSource::File(path) => {
            let (digest, size) = measure(path)?;
            (Descriptor::new(media_type::CONFIG, digest, size), Content::File(path.to_owned()))
        }
        ConfigSource::Generated(bytes) => (Descriptor::of(media_type::CONFIG, &bytes), Content::Bytes(bytes.into())),
    };
    let descriptor = descriptor.with(MEDIA_TYPE, media_type::CONFIG).with(TITLE, CONFIG_TITLE);
    Ok(Blob { title: CONFIG_TITLE.to_owned(), descriptor, content })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Digest, Document};

    fn write(dir: &Path, name: &str, content: &str) -> PathBuf {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join(name), content).unwrap();
        dir.join(name)
    }

    fn image(dir: &Path) -> Image {
        let disk = |name: &str, format| Disk { path: write(dir, name, name), format };
        Image {
            kernel: Some(write(dir, "vmlinuz-6.1", "kernel")),
            initrd: Some(write(dir, "initrd.img", "initrd")),
            root: Some(disk("root.raw", DiskFormat::Raw)),
            disks: vec![disk("data.qcow2", DiskFormat::Qcow2), disk("root.raw", DiskFormat::Raw)],
            author: Some("A. Author".to_owned()),
            arch: Some("arm64/v8".to_owned()),
            ..Image::default()
        }
    }

    fn manifest(built: &Built) -> Manifest {
        match Document::parse(&built.manifest_bytes).unwrap() {
            Document::Manifest(manifest) => manifest,
            Document::Index(_) => panic!(),
        }
    }

    #[test]
    fn layers_have_order_types_roles_and_names() {
        let dir = tempfile::tempdir().unwrap();
        let built = build(&image(dir.path())).unwrap();
        let manifest = manifest(&built);
        let told: Vec<_> = manifest
            .layers
            .iter()
            .map(|layer| [layer.media_type.as_str(), layer.annotation(ROLE).unwrap(), layer.annotation(TITLE).unwrap()])
            .collect();
        let expected = [
            [media_type::KERNEL, "kernel", "kernel"],
            [media_type::INITRD, "initrd", "initrd"],
            ["application/vnd.lfedge.disk.layer.v1+raw", "disk-root", "disk-root-root.raw"],
            ["application/vnd.lfedge.disk.layer.v1+qcow2", "disk-additional", "disk-0-data.qcow2"],
            ["application/vnd.lfedge.disk.layer.v1+raw", "disk-additional", "disk-1-root.raw"],
        ];
        assert_eq!(told, expected);
        assert!(manifest.layers.iter().all(|layer| layer.annotation(MEDIA_TYPE) == Some(&layer.media_type)));
        assert_eq!(manifest.config.media_type, media_type::CONFIG);
        assert_eq!(manifest.config.annotation(TITLE), Some("config.json"));
        assert_eq!(manifest.layers[0].digest, Digest::of(b"kernel"));
        assert_eq!(built.manifest.digest, Digest::of(&built.manifest_bytes));
        assert_eq!(built.blobs.len(), 5, "the same disk twice is one blob; the config is the last");
        let Content::Bytes(config) = &built.blobs[4].content else { panic!() };
        let config: serde_json::Value = serde_json::from_slice(config).unwrap();
        let expected =
            serde_json::json!({"author": "A. Author", "os": "linux", "architecture": "arm64", "variant": "v8"});
        assert_eq!(config, expected);
    }

    #[test]
    fn the_same_files_make_the_same_image_wherever_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let digests = ["here", "there"].map(|name| build(&image(&dir.path().join(name))).unwrap().manifest.digest);
        assert_eq!(digests[0], digests[1]);
    }

    #[test]
    fn a_config_of_ones_own_is_taken_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let config = write(dir.path(), "my.json", "{ }");
        let built = build(&Image { config: Some(config), ..image(dir.path()) }).unwrap();
        assert_eq!(manifest(&built).config.digest, Digest::of(b"{ }"));
    }

    #[test]
    fn files_that_make_no_image_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let whole = image(dir.path());
        let kind = |image: Image| build(&image).unwrap_err().kind();
        assert_eq!(kind(Image { kernel: Some(dir.path().join("absent")), ..whole.clone() }), Kind::Usage);
        assert_eq!(kind(Image { initrd: Some(dir.path().to_owned()), ..whole.clone() }), Kind::Usage);
        assert_eq!(kind(Image { initrd: whole.initrd.clone(), ..Image::default() }), Kind::Usage);
        assert_eq!(kind(Image { arch: Some("not one".to_owned()), ..whole.clone() }), Kind::Usage);
        let odd = Disk { path: write(dir.path(), "a\nb.raw", ""), format: DiskFormat::Raw };
        assert_eq!(kind(Image { root: Some(odd), ..whole }), Kind::Usage);
    }
}
