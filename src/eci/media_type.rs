//! Media types of the parts of an ECI, in the artifacts format.

use super::{DiskFormat, Role};

/// The config, as this project writes it.
pub const CONFIG: &str = "application/vnd.lfedge.eci.config.v1+json";
/// A kernel, as this project writes it.
pub const KERNEL: &str = "application/vnd.lfedge.eci.kernel.layer.v1+kernel";
/// An initrd, as this project writes it.
pub const INITRD: &str = "application/vnd.lfedge.eci.initrd.layer.v1+cpio";
/// Any other file.
pub const OTHER: &str = "application/vnd.lfedge.eci.layer.v1";

/// A kernel in the format's documents. No tar is meant: a layer is the plain file.
const KERNEL_DOCUMENTED: &str = "application/vnd.lfedge.eci.kernel.layer.v1.tar";
/// An initrd in the format's documents. No tar is meant here either.
const INITRD_DOCUMENTED: &str = "application/vnd.lfedge.eci.initrd.layer.v1.tar";
const DISK_PREFIX: &str = "application/vnd.lfedge.disk.layer.v1+";

/// The media type of a disk.
pub fn disk(format: DiskFormat) -> String {
    format!("{DISK_PREFIX}{format}")
}

/// What a media type alone says of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Kernel,
    Initrd,
    Disk(DiskFormat),
    Other,
}

impl Part {
    pub(super) fn of(media_type: &str) -> Option<Self> {
        match media_type {
            KERNEL | KERNEL_DOCUMENTED => Some(Self::Kernel),
            INITRD | INITRD_DOCUMENTED => Some(Self::Initrd),
            OTHER => Some(Self::Other),
            other => Some(Self::Disk(other.strip_prefix(DISK_PREFIX)?.parse().ok()?)),
        }
    }

    /// Whether a layer of this part can have `role`.
    pub(super) fn fits(self, role: Role) -> bool {
        match self {
            Self::Kernel => role == Role::Kernel,
            Self::Initrd => role == Role::Initrd,
            Self::Disk(_) => role.is_disk(),
            Self::Other => role == Role::Other,
        }
    }
}
