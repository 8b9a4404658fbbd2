//! `launch.json`: what a hypervisor needs to know of a generation. Its schema is `docs/launch.schema.json`.

use std::fs::Metadata;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::desired::{Disks, WorkloadName};
use crate::eci::Role;
use crate::oci::{Digest, Platform, Reference};

/// The file's name in the directory of a generation.
pub(in crate::deploy) const LAUNCH_FILE: &str = "launch.json";

/// What `launch.json` says. It is also the generation's own record, from which lost state is rebuilt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Whose generation it is.
    pub workload: WorkloadName,
    /// The generation's number.
    pub generation: u64,
    /// The image, as the desired state wrote it.
    pub reference: Reference,
    /// The manifest's digest.
    pub digest: Digest,
    /// The digest of the index that the manifest was chosen from.
    pub index_digest: Option<Digest>,
    /// The platform that it was chosen for.
    #[serde(with = "as_text")]
    pub platform: Platform,
    /// The kernel's command line.
    pub cmdline: Option<String>,
    /// What its guest may write to.
    #[serde(default)]
    pub disks: Disks,
    /// The files, in the manifest's order.
    pub files: Vec<LaunchFile>,
    /// The digest of the file that says it, once that was written or read.
    #[serde(skip)]
    pub record: Option<Digest>,
}

impl Launch {
    /// The files by their names in the generation's directory, as a hypervisor is to take them.
    pub fn names(&self) -> impl Iterator<Item = (&str, &LaunchFile)> {
        self.files.iter().filter_map(|file| Some((file.name()?, file)))
    }

    /// What is as the image has it for as long as the generation is there, by its names: files that no guest writes to, and
    /// disks below overlays.
    pub fn fixed(&self) -> impl Iterator<Item = (&str, &LaunchFile)> {
        let is_fixed = |file: &&LaunchFile| !file.writable || file.base.is_some();
        self.files.iter().filter(is_fixed).filter_map(|file| Some((name(file.origin().0)?, file)))
    }

    /// Whether every file is there, with its length unless a guest writes to it. The bytes were verified when the generation
    /// was made.
    pub fn is_complete(&self) -> bool {
        let length =
            |path: &Path| std::fs::symlink_metadata(path).ok().filter(Metadata::is_file).map(|found| found.len());
        let there = |file: &LaunchFile| length(&file.path).is_some_and(|found| file.writable || found == file.size);
        let on_its_base =
            |file: &LaunchFile| file.base.as_ref().is_none_or(|base| length(&base.path) == Some(file.size));
        self.files.iter().all(|file| there(file) && on_its_base(file))
    }
}

/// One file of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchFile {
    /// What it is for.
    pub role: Role,
    /// Its absolute path.
    pub path: PathBuf,
    /// `raw`, `qcow2`, `iso`, `kernel`, `cpio` and so on.
    pub format: String,
    /// The length in bytes of what the image has, whatever a guest has made of it since.
    pub size: u64,
    /// The digest of what the image has, likewise.
    pub digest: Digest,
    /// Whether a guest may write to it.
    pub writable: bool,
    /// The disk below, where it is an overlay.
    #[serde(default)]
    pub base: Option<Base>,
}

/// The disk below an overlay: as the image has it, and not to be written to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Its absolute path.
    pub path: PathBuf,
    /// Its format: `raw`, `qcow2` and so on.
    pub format: String,
}

impl LaunchFile {
    /// Its name in the generation's directory.
    pub fn name(&self) -> Option<&str> {
        name(&self.path)
    }

    /// Path and format of what came out of the image: of an overlay it is the disk below.
    pub fn origin(&self) -> (&Path, &str) {
        match &self.base {
            Some(base) => (&base.path, &base.format),
            None => (&self.path, &self.format),
        }
    }
}

fn name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

mod as_text {
    use super::Platform;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(platform: &Platform, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(platform)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Platform, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
