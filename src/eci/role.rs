//! What a file is for.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a file of an image is for; the values of the annotation `org.lfedge.eci.role`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The kernel to boot.
    Kernel,
    /// The initial RAM disk.
    Initrd,
    /// The disk that holds the root file system.
    DiskRoot,
    /// A further disk.
    DiskAdditional,
    /// A file that the format carries along; it has no annotation.
    Other,
}

impl Role {
    /// The role that an annotation names.
    pub fn from_annotation(value: &str) -> Option<Self> {
        match value {
            "kernel" => Some(Self::Kernel),
            "initrd" => Some(Self::Initrd),
            "disk-root" => Some(Self::DiskRoot),
            "disk-additional" => Some(Self::DiskAdditional),
            _ => None,
        }
    }

    /// The role's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::DiskRoot => "disk-root",
            Self::DiskAdditional => "disk-additional",
            Self::Other => "other",
        }
    }

    /// Whether it is a disk of the machine.
    pub fn is_disk(self) -> bool {
        matches!(self, Self::DiskRoot | Self::DiskAdditional)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
