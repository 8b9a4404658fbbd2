//! What of an image is pulled, and where to: all of it into a directory, or some files to where each is wanted.

use std::collections::BTreeSet;
use std::fs::FileType;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::PublishError;
use crate::eci::{File, Role, Source};
use crate::oci::Descriptor;
use crate::transfer::Target;

/// What config and manifest are called.
pub(super) const CONFIG: &str = "config.json";
pub(super) const MANIFEST: &str = "manifest.json";

/// A path that a pull writes, with the bytes that it gets: none while a layer has to be unpacked to know them.
pub(super) type Write = (PathBuf, Option<Descriptor>);

/// Files of an image, each with the path that it is wanted at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// The kernel.
    pub kernel: Option<PathBuf>,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The disk that holds the root file system.
    pub root: Option<PathBuf>,
    /// The config.
    pub config: Option<PathBuf>,
    /// Further disks: as many as are wanted, from the first on.
    pub disks: Vec<PathBuf>,
}

/// What is wanted of an image.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// All of it, in a directory.
    All {
        /// The directory.
        dir: PathBuf,
        /// True to replace files there that no pull wrote.
        force: bool,
    },
    /// Some of its files.
    Some(Files),
}

/// What is taken of an image.
#[derive(Clone, Debug)]
pub(super) struct Pick {
    /// The image, with no more files than are taken.
    pub(super) target: Target,
    /// Where they go, in their order.
    pub(super) paths: Vec<PathBuf>,
    /// Where config and manifest go, if they are taken.
    pub(super) config: Option<PathBuf>,
    pub(super) manifest: Option<PathBuf>,
    /// True if files that no pull wrote are not replaced.
    pub(super) guards_files: bool,
}

impl Files {
    fn wants(&self) -> Vec<(Role, usize, &Path)> {
        let mut wants = Vec::new();
        for (role, path) in [(Role::Kernel, &self.kernel), (Role::Initrd, &self.initrd), (Role::DiskRoot, &self.root)] {
            wants.extend(path.as_deref().map(|path| (role, 0, path)));
        }
        wants.extend(self.disks.iter().enumerate().map(|(index, path)| (Role::DiskAdditional, index, path.as_path())));
        wants
    }

    /// The paths, in order.
    pub fn paths(&self) -> Vec<&Path> {
        self.wants().into_iter().map(|(_, _, path)| path).chain(self.config.as_deref()).collect()
    }
}

impl Wanted {
    /// The directory that the work is done in: the one that the first file goes to.
    pub(super) fn dir(&self) -> PathBuf {
        match self {
            Self::All { dir, .. } => dir.clone(),
            Self::Some(files) => parent(files.paths().first().copied().unwrap_or(Path::new("."))),
        }
    }

    /// Refuses what cannot be, whatever the image is. Two spellings of one path are one path.
    pub(super) fn check(&self) -> Result<(), PublishError> {
        let Self::Some(files) = self else { return Ok(()) };
        for path in files.paths() {
            check_place(path)?;
            // As a path of a file, `x/` would be `x` here and a directory to the system.
            if path.file_name().is_none() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
                return Err(PublishError::NoFilePath(path.to_owned()));
            }
        }
        let mut seen = BTreeSet::new();
        match files.paths().into_iter().find(|path| !seen.insert(place(path))) {
            Some(path) => Err(PublishError::SamePath(path.to_owned())),
            None => Ok(()),
        }
    }

    /// Finds what is wanted in an image.
    pub(super) fn pick(&self, mut target: Target) -> Result<Pick, PublishError> {
        let pick = match self {
            Self::All { dir, force } => {
                let paths = target.artifact.files.iter().map(|file| dir.join(&file.name)).collect();
                let [config, manifest] = [CONFIG, MANIFEST].map(|name| Some(dir.join(name)));
                Pick { target, paths, config, manifest, guards_files: !force }
            }
            Self::Some(files) => {
                let (mut chosen, mut paths) = (Vec::new(), Vec::new());
                for (role, index, path) in files.wants() {
                    chosen.push(find(&target.artifact.files, role, index)?);
                    paths.push(path.to_owned());
                }
                target.artifact.files = chosen;
                Pick { target, paths, config: files.config.clone(), manifest: None, guards_files: false }
            }
        };
        pick.paths.iter().chain(&pick.config).chain(&pick.manifest).try_for_each(|path| check_place(path))?;
        Ok(pick)
    }
}

/// Refuses a path that has something other than a file, or a link to one: whoever names `/dev/null` does not want it
/// replaced. A link that leads nowhere is replaced, as every link is.
fn check_place(path: &Path) -> Result<(), PublishError> {
    match path.metadata() {
        Ok(found) if !found.is_file() => {
            Err(PublishError::InTheWay { path: path.to_owned(), what: kind_of(found.file_type()) })
        }
        _ => Ok(()),
    }
}

/// What there is, for a person.
pub(super) fn kind_of(found: FileType) -> &'static str {
    match found {
        found if found.is_dir() => "a directory",
        found if found.is_fifo() => "a named pipe",
        found if found.is_socket() => "a socket",
        found if found.is_block_device() || found.is_char_device() => "a device",
        found if found.is_symlink() => "a link",
        _ => "a file",
    }
}

impl Pick {
    /// Whether a blob that the image has is taken.
    pub(super) fn takes(&self, blob: &Descriptor) -> bool {
        let is_it = |file: &File| matches!(&file.source, Source::Blob(other) if other.digest == blob.digest);
        let is_config = self.config.is_some() && blob.digest == self.target.artifact.config.digest;
        is_config || self.target.artifact.files.iter().any(is_it)
    }

    /// The paths that are written, each with its bytes as far as the manifest names them.
    pub(super) fn writes(&self) -> Vec<Write> {
        let artifact = &self.target.artifact;
        let blob = |file: &File| match &file.source {
            Source::Blob(blob) => Some(blob.clone()),
            Source::Layer(_) | Source::Path(_) => None,
        };
        let files = self.paths.iter().zip(&artifact.files).map(|(path, file)| (path.clone(), blob(file)));
        let config = self.config.iter().map(|path| (path.clone(), Some(artifact.config.clone())));
        let manifest = self.manifest.iter().map(|path| (path.clone(), Some(self.target.manifest.clone())));
        files.chain(config).chain(manifest).collect()
    }
}

/// The one disk of further ones that stands at `index` among those that there are.
fn find(files: &[File], role: Role, index: usize) -> Result<File, PublishError> {
    let found = files.iter().filter(|file| file.role == role).nth(index);
    found.cloned().ok_or_else(|| PublishError::NotInImage {
        what: if role == Role::DiskAdditional { format!("further disk {index}") } else { role.to_string() },
        has: files.iter().map(|file| file.name.to_string()).collect(),
    })
}

/// Where a file goes, however its path is written: its directory may be named through links, the file itself replaces one.
fn place(path: &Path) -> PathBuf {
    resolved(&parent(path)).join(path.file_name().unwrap_or_default())
}

/// A directory without links and dots. What of it does not exist yet is a link to nowhere.
fn resolved(dir: &Path) -> PathBuf {
    match (dir.canonicalize(), dir.file_name()) {
        (Ok(dir), _) => dir,
        (Err(_), Some(name)) => resolved(&parent(dir)).join(name),
        (Err(_), None) => {
            let mut above = dir.parent().map(resolved).unwrap_or_default();
            above.pop();
            above
        }
    }
}

/// The directory that a path is in.
pub(super) fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_however_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("here")).unwrap();
        std::os::unix::fs::symlink("here", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("here", dir.path().join("x")).unwrap();
        let at = |path: &str| place(&dir.path().join(path));
        for path in ["./x", "here/../x", "new/../x", "new/./deep/../../x", "link/../x"] {
            assert_eq!(at(path), at("x"), "{path}");
        }
        assert_eq!(at("link/x"), at("here/x"));
        assert_eq!(at("new//deep/x"), at("new/deep/./x"));
        assert_ne!(at("x"), at("here"), "a link is replaced, not followed");
        assert_eq!(place(Path::new("x")), place(Path::new("./x")));
    }
}
