//! `launch.json`: what a hypervisor needs to know of a generation. Its schema is `docs/launch.schema.json`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::desired::WorkloadName;
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
    /// The files, in the manifest's order.
    pub files: Vec<LaunchFile>,
}

impl Launch {
    /// The files by their names in the generation's directory.
    pub fn names(&self) -> impl Iterator<Item = (&str, &LaunchFile)> {
        self.files.iter().filter_map(|file| Some((file.path.file_name()?.to_str()?, file)))
    }

    /// Whether every file is there with its length. Their bytes were verified when the generation was made.
    pub fn is_complete(&self) -> bool {
        let there = |file: &LaunchFile| {
            std::fs::metadata(&file.path).is_ok_and(|found| found.is_file() && found.len() == file.size)
        };
        self.files.iter().all(there)
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
    /// Its length in bytes.
    pub size: u64,
    /// The digest of its content.
    pub digest: Digest,
    /// Whether a guest may write to it.
    pub writable: bool,
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
