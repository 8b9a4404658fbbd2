//! Modes and groups of the files that the agent makes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{DurableError, IoContext, set_mode};
use crate::failure::{Classify, Kind, full_text};

/// Mode of a file or directory, and the group that it is given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission {
    /// Mode bits.
    pub mode: u32,
    /// Group id; none leaves the group as it is.
    pub group: Option<u32>,
}

impl From<u32> for Permission {
    fn from(mode: u32) -> Self {
        Self { mode, group: None }
    }
}

/// Sets mode and group of a file or directory if they differ; another owner's directory that has them is as good.
pub(super) fn repair_permission(path: &Path, permission: Permission) -> Result<(), DurableError> {
    let found = fs::metadata(path).on("read", path)?;
    let has_group = permission.group.is_none_or(|group| group == found.gid());
    if has_group && found.mode() & 0o7777 == permission.mode { Ok(()) } else { set_mode(path, permission) }
}

/// Repairs all of them, each as `repair_permission` does. A file of another owner, and a full disk, are only logged:
/// nobody gets past the directory above, and an agent whose disk is full has to start.
pub fn repair_permissions(files: impl IntoIterator<Item = (PathBuf, Permission)>) -> Result<(), DurableError> {
    for (path, permission) in files {
        match repair_permission(&path, permission) {
            Err(error) if matches!(error.kind(), Kind::Forbidden | Kind::DiskFull) => {
                tracing::warn!(error = full_text(&error), "mode and group are not as [cache] access says");
            }
            repaired => repaired?,
        }
    }
    Ok(())
}

/// The users who may read the cache and the generations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    group: Option<u32>,
}

impl Access {
    /// Access for the owner and the group with this id.
    pub fn group(group: u32) -> Self {
        Self { group: Some(group) }
    }

    /// Permission of directories.
    pub fn dir(self) -> Permission {
        self.permission(0o755, 0o750)
    }

    /// Permission of blobs, and of the files of generations.
    pub fn file(self) -> Permission {
        self.permission(0o444, 0o440)
    }

    /// Permission of files that are replaced in time, such as `index.json`.
    pub fn document(self) -> Permission {
        self.permission(0o644, 0o640)
    }

    fn permission(self, everyone: u32, group: u32) -> Permission {
        Permission { mode: if self.group.is_some() { group } else { everyone }, group: self.group }
    }
}
