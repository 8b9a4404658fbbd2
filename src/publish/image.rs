//! What an image is to be made of: files, their roles and names, and what is said of the whole.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::BuildError;
use crate::durable::{IoContext, read_capped};
use crate::eci::{Artifact, DiskCheck, DiskFormat, DiskMismatch, FileName, MEDIA_TYPE, ROLE, Role, media_type};
use crate::failure::Kind;
use crate::oci::{self, Descriptor, MAX_DOCUMENT_BYTES, Manifest, Platform, TITLE};
use crate::unpack::{Worker, read_disk};

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
    /// Files that are carried along.
    pub others: Vec<PathBuf>,
    /// The config; one is made of author and platform where there is none.
    pub config: Option<PathBuf>,
    /// Who made it.
    pub author: Option<String>,
    /// The operating system that it is for; the host's where not given.
    pub os: Option<String>,
    /// The architecture, with its variant after a slash; the host's where not given.
    pub arch: Option<String>,
    /// How files become layers.
    pub format: Format,
    /// What it is for, where it is to stand in an index: a manifest each. Operating system and architecture above say
    /// nothing then.
    pub platforms: Vec<Platform>,
    /// Notes on the manifest.
    pub annotations: BTreeMap<String, String>,
    /// True to push disks whose bytes contradict their formats, and to replace an index by one image.
    pub force: bool,
}

/// A disk image in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The file.
    pub path: PathBuf,
    /// What it holds.
    pub format: DiskFormat,
}

/// How files become layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A layer is the file, and its media type says what it is.
    #[default]
    Artifacts,
    /// A layer is a gzipped tar of the file, as older tools want it.
    Legacy,
}

/// A file that becomes a layer.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) role: Role,
    pub(super) index: usize,
    pub(super) name: FileName,
    media_type: String,
}

impl Part {
    fn new(path: &Path, role: Role, index: usize, format: Option<DiskFormat>) -> Result<Self, BuildError> {
        let original = path.file_name().and_then(OsStr::to_str);
        let (title, media_type) = match (format, role) {
            (Some(format), _) => (original, media_type::disk(format)),
            (None, Role::Other) => (original, media_type::OTHER.to_owned()),
            (None, Role::Initrd) => (None, media_type::INITRD.to_owned()),
            (None, _) => (None, media_type::KERNEL.to_owned()),
        };
        if original.is_none() && !matches!(role, Role::Kernel | Role::Initrd) {
            let reason = "its name is not text in UTF-8, and becomes part of the image".to_owned();
            return Err(BuildError::Input { path: path.to_owned(), reason, kind: Kind::Usage });
        }
        let name = FileName::canonical(role, index, title, format)
            .map_err(|source| BuildError::Name { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), role, index, name, media_type })
    }

    /// Adds to a layer of this part what it is for. Other files have no role: the format's tools know of none.
    pub(super) fn describe(&self, format: Format, mut layer: Descriptor) -> Descriptor {
        let packed = format == Format::Legacy;
        layer.media_type = if packed { oci::media_type::LAYER_GZIP.to_owned() } else { self.media_type.clone() };
        let layer = layer.with(MEDIA_TYPE, &self.media_type).with(TITLE, self.name.as_str());
        if self.role == Role::Other { layer } else { layer.with(ROLE, self.role.as_str()) }
    }
}

impl Image {
    /// The layers to be, in order. All that can be told without reading a file is checked: a mistyped path is told before
    /// anything large is hashed, and before anything is written.
    pub(super) fn parts(&self) -> Result<Vec<Part>, BuildError> {
        let mut parts = Vec::new();
        for (path, role) in [(&self.kernel, Role::Kernel), (&self.initrd, Role::Initrd)] {
            if let Some(path) = path {
                parts.push(Part::new(path, role, 0, None)?);
            }
        }
        if let Some(disk) = &self.root {
            parts.push(Part::new(&disk.path, Role::DiskRoot, 0, Some(disk.format))?);
        }
        for (index, disk) in self.disks.iter().enumerate() {
            parts.push(Part::new(&disk.path, Role::DiskAdditional, index, Some(disk.format))?);
        }
        for (index, path) in self.others.iter().enumerate() {
            parts.push(Part::new(path, Role::Other, index, None)?);
        }
        for path in parts.iter().map(|part| part.path.as_path()).chain(self.config.as_deref()) {
            check_file(path)?;
        }
        for path in self.kernel.iter().chain(&self.initrd) {
            if fs::metadata(path).on("read", path)?.len() == 0 {
                return Err(BuildError::EmptyFile(path.clone()));
            }
        }
        self.config.as_deref().map_or(Ok(()), check_config)?;
        self.root.iter().chain(&self.disks).try_for_each(|disk| check_disk(disk, self.force))?;
        // What is pushed is what can be pulled: the reader's rules count.
        let draft = |part: &Part| part.describe(self.format, Descriptor::of("", part.name.as_str().as_bytes()));
        Artifact::from_manifest(&Manifest::new(Descriptor::of("", b""), parts.iter().map(draft).collect()))?;
        Ok(parts)
    }

    /// The platforms that a manifest is made for each.
    pub(super) fn targets(&self) -> Result<Vec<Platform>, BuildError> {
        if !self.platforms.is_empty() {
            let mut platforms: Vec<Platform> = Vec::new();
            for platform in &self.platforms {
                check_platform(platform)?;
                if !platforms.iter().any(|other| other.is_same(platform)) {
                    platforms.push(platform.clone());
                }
            }
            return Ok(platforms);
        }
        let host = Platform::host();
        let os = self.os.as_deref().unwrap_or(&host.os);
        let arch = self.arch.as_deref().unwrap_or(&host.architecture);
        let platform: Platform = format!("{os}/{arch}").parse()?;
        if self.os.is_some() || self.arch.is_some() {
            check_platform(&platform)?;
        }
        Ok(vec![platform])
    }
}

fn check_platform(platform: &Platform) -> Result<(), BuildError> {
    let unknown = |reason| BuildError::UnknownPlatform { platform: platform.to_string(), reason };
    platform.unknown_part().map_or(Ok(()), |reason| Err(unknown(reason)))
}

/// Refuses a config that is not a JSON object, and one that is larger than any tool reads.
fn check_config(path: &Path) -> Result<(), BuildError> {
    let invalid = |reason: String| BuildError::Config { path: path.to_owned(), reason };
    if fs::metadata(path).on("read", path)?.len() > MAX_DOCUMENT_BYTES as u64 {
        return Err(invalid("it is larger than 4 MiB, the most that a node reads".to_owned()));
    }
    let bytes = read_capped(path, MAX_DOCUMENT_BYTES as u64).on("read", path)?;
    match serde_json::from_slice::<serde_json::Value>(&bytes) {
        Ok(serde_json::Value::Object(_)) => Ok(()),
        Ok(_) => Err(invalid("it is JSON, but not an object in braces".to_owned())),
        Err(_) if bytes.trim_ascii().is_empty() => Err(invalid("it is empty".to_owned())),
        Err(error) => Err(invalid(format!("it is not JSON: {error}"))),
    }
}

fn check_file(path: &Path) -> Result<(), BuildError> {
    let unusable = |reason: String, kind| BuildError::Input { path: path.to_owned(), reason, kind };
    // Opening what is no file, a pipe for one, could wait for ever.
    let found = fs::metadata(path).map_err(|error| unusable(error.to_string(), kind_of(&error)))?;
    if !found.is_file() {
        return Err(unusable("it is not a regular file".to_owned(), Kind::Usage));
    }
    fs::File::open(path).map(drop).map_err(|error| unusable(error.to_string(), kind_of(&error)))
}

/// Refuses a disk that is empty. Unless `force` is given, refuses also one whose bytes contradict its format, and one that
/// names other files.
fn check_disk(disk: &Disk, force: bool) -> Result<(), BuildError> {
    let path = disk.path.clone();
    if fs::metadata(&path).on("read", &path)?.len() == 0 {
        return Err(BuildError::EmptyDisk(path));
    }
    if force {
        return Ok(());
    }
    let report = read_disk(&Worker::of_process(), &path)?;
    match report.header.check(disk.format, DiskCheck::Push) {
        Err(DiskMismatch::Empty) => Err(BuildError::EmptyDisk(path)),
        Err(source) => Err(BuildError::DiskFormat { path, source }),
        Ok(()) => report.image.map(drop).map_err(|source| BuildError::UnsafeDisk { path, source }),
    }
}

fn kind_of(error: &io::Error) -> Kind {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Kind::Usage,
        io::ErrorKind::PermissionDenied => Kind::Forbidden,
        _ => Kind::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Classify;

    #[test]
    fn files_that_make_no_image_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            fs::write(dir.path().join(name), name).unwrap();
            dir.path().join(name)
        };
        let disk = |name: &str| Disk { path: file(name), format: DiskFormat::Raw };
        let whole = Image { kernel: Some(file("vmlinuz")), root: Some(disk("root.raw")), ..Image::default() };
        assert_eq!(whole.parts().unwrap().len(), 2);
        let refused = |image: Image| image.parts().map(drop).unwrap_err().kind();
        assert_eq!(refused(Image { kernel: Some(dir.path().join("absent")), ..whole.clone() }), Kind::Usage);
        assert_eq!(refused(Image { initrd: Some(dir.path().to_owned()), ..whole.clone() }), Kind::Usage);
        assert_eq!(refused(Image { initrd: Some(file("initrd")), ..Image::default() }), Kind::Usage);
        assert_eq!(refused(Image { root: Some(disk("a\nb.raw")), ..whole.clone() }), Kind::Usage);
        assert_eq!(refused(Image { others: vec![file("launch.json")], ..whole.clone() }), Kind::Usage);
        assert_eq!(refused(Image { others: vec![file(".eci-pull")], ..whole.clone() }), Kind::Usage);
        assert_eq!(refused(Image { others: vec![file("disk-root-root.raw")], ..whole.clone() }), Kind::Usage);
        assert!(Image { arch: Some("not one".to_owned()), ..whole }.targets().is_err());
    }

    #[test]
    fn disks_are_what_their_types_say_unless_forced() {
        let dir = tempfile::tempdir().unwrap();
        let image = |bytes: &[u8], format, force| {
            let path = dir.path().join("root.img");
            fs::write(&path, bytes).unwrap();
            Image { root: Some(Disk { path, format }), force, ..Image::default() }.parts().map(drop)
        };
        let qcow2 = b"QFI\xfb\0\0\0\x03";
        image(qcow2, DiskFormat::Qcow2, false).unwrap();
        image(b"raw", DiskFormat::Raw, false).unwrap();
        for (bytes, format) in [(&qcow2[..], DiskFormat::Raw), (b"raw", DiskFormat::Vhdx)] {
            let error = image(bytes, format, false).unwrap_err();
            assert_eq!(error.kind(), Kind::MediaTypeMismatch);
            let said = crate::failure::full_text(&error);
            assert!(["root.img", format.as_str(), "--force"].iter().all(|part| said.contains(part)), "{said}");
            image(bytes, format, true).unwrap();
        }
        for force in [false, true] {
            assert!(matches!(image(b"", DiskFormat::Raw, force), Err(BuildError::EmptyDisk(_))));
        }
    }

    #[test]
    fn empty_boot_files_and_configs_that_are_not_objects_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            fs::write(dir.path().join(name), bytes).unwrap();
            Some(dir.path().join(name))
        };
        let whole = Image { kernel: file("vmlinuz", b"k"), config: file("ok.json", b"{}"), ..Image::default() };
        whole.parts().unwrap();
        for empty in [
            Image { kernel: file("empty", b""), ..whole.clone() },
            Image { initrd: file("empty", b""), ..whole.clone() },
        ] {
            assert_eq!(empty.parts().map(drop).unwrap_err().kind(), Kind::MediaTypeMismatch);
        }
        for bytes in [&b""[..], b"x", b"\n", b"[]", b"\"text\"", b"null", b"{\"a\":", b"{} {}", b"{\"a\": \xff}"] {
            let image = Image { config: file("bad.json", bytes), force: true, ..whole.clone() };
            let error = image.parts().map(drop).unwrap_err();
            assert_eq!(error.kind(), Kind::ConfigDamaged, "{bytes:?}");
            assert!(error.to_string().contains("bad.json"), "{error}");
        }
    }

    #[test]
    fn platforms_that_do_not_exist_are_refused() {
        let named = |text: &str| Image { platforms: vec![text.parse().unwrap()], ..Image::default() };
        let parts = |os: Option<&str>, arch: Option<&str>| Image {
            os: os.map(ToOwned::to_owned),
            arch: arch.map(ToOwned::to_owned),
            ..Image::default()
        };
        for image in [named("linux/arm64"), parts(None, Some("arm/v7")), parts(Some("linux"), None), parts(None, None)]
        {
            image.targets().unwrap();
        }
        for image in [named("foo/bar"), parts(None, Some("bar")), parts(Some("foo"), None), named("linux/arm64/v7")] {
            assert_eq!(image.targets().unwrap_err().kind(), Kind::Usage);
        }
    }

    #[test]
    fn a_platform_that_is_named_twice_is_one() {
        let platforms = ["linux/arm64", "linux/amd64", "linux/arm64/v8"].map(|text| text.parse().unwrap()).to_vec();
        let targets = Image { platforms, ..Image::default() }.targets().unwrap();
        assert_eq!(targets.iter().map(ToString::to_string).collect::<Vec<_>>(), ["linux/arm64", "linux/amd64"]);
    }
}
