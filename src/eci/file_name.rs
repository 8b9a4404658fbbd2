//! Canonical file names, and the check on names that come from outside.

use std::fmt;

use serde::Serialize;

use super::{DiskFormat, Role};

/// The longest name in bytes; file systems take 255, and prefixes and temporary names need some of it.
const MAX_BYTES: usize = 200;

/// Names that this project itself writes into the directory of a generation or where a pull goes to, and those that a
/// hypervisor boots from: an image without an initrd must not get one by carrying along a file that is called so.
const RESERVED: [&str; 6] = ["config.json", "manifest.json", "launch.json", ".eci-pull", "kernel", "initrd"];

/// What the name of the overlay on a disk ends with, after the name of the disk's stable symlink.
pub const OVERLAY: &str = ".overlay.qcow2";

/// A name that is safe to create in a directory of ours.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct FileName(String);

/// Why a name is not safe, or not free.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("file name {name:?} is refused: {reason}")]
pub struct FileNameError {
    name: String,
    reason: &'static str,
}

impl FileName {
    /// Takes a name from outside.
    pub fn new(name: &str) -> Result<Self, FileNameError> {
        let reason = if name.is_empty() {
            "it is empty"
        } else if name.len() > MAX_BYTES {
            "it is longer than 200 bytes"
        } else if name == "." || name == ".." {
            "it names a directory"
        } else if name.contains(['/', '\\']) {
            "it has a path separator"
        } else if name.chars().any(char::is_control) {
            "it has a control character"
        } else if name.starts_with('.') {
            "it starts with a dot, as hidden files do"
        } else if name.starts_with('-') {
            "it starts like an option"
        } else {
            return Ok(Self(name.to_owned()));
        };
        Err(FileNameError { name: name.chars().take(100).collect(), reason })
    }

    /// The name of a file in the directory of a generation, from its role, its place among the additional disks and
    /// the title that the image gives it.
    pub fn canonical(
        role: Role,
        index: usize,
        title: Option<&str>,
        format: Option<DiskFormat>,
    ) -> Result<Self, FileNameError> {
        // The title is checked also where it has no part in the name: a bad one is a sign of a bad image.
        let title = title.map(Self::new).transpose()?;
        let disk = |prefix: String, fallback: &str| {
            let title = title
                .as_ref()
                .map_or_else(|| format!("{fallback}.{}", format.unwrap_or(DiskFormat::Raw)), |title| title.0.clone());
            if title.starts_with(&prefix) { title } else { prefix + &title }
        };
        match role {
            Role::Kernel => Ok(Self("kernel".to_owned())),
            Role::Initrd => Ok(Self("initrd".to_owned())),
            Role::DiskRoot => Self::new(&disk("disk-root-".to_owned(), "root")),
            Role::DiskAdditional => Self::new(&disk(format!("disk-{index}-"), "disk")),
            Role::Other => match title {
                None => Err(FileNameError { name: String::new(), reason: "a file that is no disk needs a title" }),
                Some(title) if title.is_taken() => Err(FileNameError {
                    name: title.0,
                    reason: "the name is kept for a kernel, an initrd, a disk, or files of the agent and of pulls",
                }),
                Some(title) => Ok(title),
            },
        }
    }

    /// Whether the name is one of our own, that of a stable symlink (`disk-root`, `disk-0` …), or that of an overlay.
    fn is_taken(&self) -> bool {
        let name = self.0.strip_suffix(OVERLAY).unwrap_or(&self.0);
        let stable =
            name.strip_prefix("disk-").is_some_and(|rest| rest == "root" || rest.bytes().all(|b| b.is_ascii_digit()));
        stable || RESERVED.contains(&self.as_str())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<std::path::Path> for FileName {
    fn as_ref(&self) -> &std::path::Path {
        self.0.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(role: Role, index: usize, title: &str) -> String {
        FileName::canonical(role, index, Some(title), None).unwrap().0
    }

    #[test]
    fn files_get_their_canonical_names() {
        assert_eq!(canonical(Role::Kernel, 0, "vmlinuz"), "kernel");
        assert_eq!(canonical(Role::DiskRoot, 0, "root.raw"), "disk-root-root.raw");
        assert_eq!(canonical(Role::DiskRoot, 0, "disk-root-root.raw"), "disk-root-root.raw");
        assert_eq!(canonical(Role::DiskAdditional, 1, "data.qcow2"), "disk-1-data.qcow2");
        assert_eq!(canonical(Role::DiskAdditional, 1, "disk-1-data.qcow2"), "disk-1-data.qcow2");
        assert_eq!(
            FileName::canonical(Role::DiskRoot, 0, None, Some(DiskFormat::Qcow2)).unwrap().as_str(),
            "disk-root-root.qcow2"
        );
    }

    #[test]
    fn a_title_with_a_leading_dot_is_refused() {
        for title in [".bashrc", ".ssh", "..", "...", ".disk-root-x"] {
            for role in [Role::Kernel, Role::DiskRoot, Role::DiskAdditional, Role::Other] {
                assert!(FileName::canonical(role, 0, Some(title), None).is_err(), "{role}: {title}");
            }
        }
        assert_eq!(canonical(Role::Other, 0, "a.bashrc"), "a.bashrc");
        assert_eq!(canonical(Role::DiskRoot, 0, "root."), "disk-root-root.");
    }

    #[test]
    fn names_of_our_own_files_cannot_be_taken() {
        let overlays = ["disk-root.overlay.qcow2", "disk-10.overlay.qcow2"];
        let others =
            ["launch.json", "manifest.json", "disk-root", "disk-0", "config.json", ".eci-pull", "kernel", "initrd"];
        for title in others.into_iter().chain(overlays) {
            assert!(FileName::canonical(Role::Other, 0, Some(title), None).is_err(), "{title}");
        }
    }

    proptest! {
        #[test]
        fn a_name_that_is_accepted_stays_in_its_directory(name in ".{0,240}") {
            if let Ok(name) = FileName::new(&name) {
                let path = std::path::Path::new("/dir").join(&name);
                prop_assert_eq!(path.parent(), Some(std::path::Path::new("/dir")));
                prop_assert!(!name.as_str().contains('\0'));
            }
        }

        #[test]
        fn a_canonical_name_is_its_own(title in "(disk-root-|disk-[0-9]-)?[a-z0-9.-]{1,20}", index in 0_usize..9) {
            for role in [Role::DiskRoot, Role::DiskAdditional, Role::Other] {
                if let Ok(name) = FileName::canonical(role, index, Some(&title), None) {
                    prop_assert_eq!(FileName::canonical(role, index, Some(name.as_str()), None), Ok(name));
                }
            }
        }
    }
}
