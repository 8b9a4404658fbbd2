//! Disk image formats.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::wording::list;

/// The format of a disk image, named as in the media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// The disk's bytes as they are.
    Raw,
    /// Microsoft's first.
    Vhd,
    /// `VMware`'s.
    Vmdk,
    /// An optical disc.
    Iso,
    /// QEMU's first.
    Qcow,
    /// QEMU's second.
    Qcow2,
    /// A virtual appliance in a tar.
    Ova,
    /// Microsoft's second.
    Vhdx,
}

impl DiskFormat {
    const ALL: [Self; 8] =
        [Self::Raw, Self::Vhd, Self::Vmdk, Self::Iso, Self::Qcow, Self::Qcow2, Self::Ova, Self::Vhdx];

    /// The names of all formats, for messages.
    pub fn names() -> [&'static str; 8] {
        Self::ALL.map(Self::as_str)
    }

    /// The format that the ending of a file's name stands for.
    pub fn of_file_name(name: &str) -> Option<Self> {
        let (_, ending) = name.rsplit_once('.')?;
        ending.to_ascii_lowercase().parse().ok()
    }

    /// The name in media types, file endings and `launch.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Vhd => "vhd",
            Self::Vmdk => "vmdk",
            Self::Iso => "iso",
            Self::Qcow => "qcow",
            Self::Qcow2 => "qcow2",
            Self::Ova => "ova",
            Self::Vhdx => "vhdx",
        }
    }
}

impl fmt::Display for DiskFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for DiskFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|format| format.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not a known disk format; the formats are {}", list(&Self::names())))
    }
}
