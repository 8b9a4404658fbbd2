//! The values of a desired state.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::oci::{Platform, Reference};

/// What a whole `desired.toml` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredState {
    /// What each workload should run.
    pub workloads: BTreeMap<WorkloadName, Spec>,
}

/// What one workload should run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The image.
    pub reference: Reference,
    /// The platform to pick from an index; none: the node's own.
    pub platform: Option<Platform>,
    /// The kernel's command line, handed on in `launch.json`.
    pub cmdline: Option<String>,
    /// Whether the guest may write to its disks, and to which.
    #[serde(default)]
    pub disks: Disks,
    /// What an image waits for that is ready to boot.
    #[serde(default)]
    pub activate: Activate,
    /// How long an activation has to be confirmed; none where it is final.
    #[serde(default)]
    pub confirm: Option<Duration>,
}

/// What a guest may write to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Disks {
    /// Nothing: the disks share their bytes with the cache.
    #[default]
    ReadOnly,
    /// A private copy of each disk, made with each generation.
    Writable,
    /// A qcow2 overlay on each disk, made empty with each generation.
    Overlay,
    /// The same, but the overlay goes over to the next generation where the disk below it is the same.
    OverlayFollow,
}

/// What an image waits for that is ready to boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activate {
    /// For nothing but the window.
    #[default]
    Now,
    /// For a person as well.
    Staged,
}

impl Spec {
    /// The platform to pick from an index.
    pub fn platform(&self) -> Platform {
        self.platform.clone().unwrap_or_else(Platform::host)
    }

    /// Whether both ask for the same generation, whatever they say of how it is activated.
    pub fn makes_the_same(&self, other: &Self) -> bool {
        self.reference == other.reference
            && self.platform == other.platform
            && self.cmdline == other.cmdline
            && self.disks == other.disks
    }
}

/// The name of a workload: `[a-z0-9][a-z0-9._-]{0,62}`, which makes it a safe file name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkloadName(String);

/// Why a text names no workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name of a workload: it has 1 to 63 of a-z, 0-9, \".\", \"_\" and \"-\", and starts with a letter or digit"
)]
pub struct WorkloadNameError(String);

impl WorkloadName {
    /// The workload of a desired state that names one image only.
    pub fn default_name() -> Self {
        Self("default".to_owned())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WorkloadName {
    type Err = WorkloadNameError;

    fn from_str(text: &str) -> Result<Self, WorkloadNameError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let starts_plain = text.bytes().next().is_some_and(plain);
        let all_allowed = text.bytes().all(|byte| plain(byte) || b"._-".contains(&byte));
        if starts_plain && all_allowed && text.len() <= 63 {
            Ok(Self(text.to_owned()))
        } else {
            Err(WorkloadNameError(text.chars().take(100).collect()))
        }
    }
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for WorkloadName {
    type Error = WorkloadNameError;
    fn try_from(text: String) -> Result<Self, WorkloadNameError> {
        text.parse()
    }
}

impl From<WorkloadName> for String {
    fn from(name: WorkloadName) -> Self {
        name.0
    }
}
