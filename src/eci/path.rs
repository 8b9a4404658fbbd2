//! Paths in an image: as labels and archives have them, made comparable.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest path that is taken from outside, in bytes; Linux takes no longer ones.
const MAX_BYTES: usize = 4096;

/// A path in an image's file system, without `.`, `..` and empty parts, relative to its root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImagePath(String);

/// Why a text is no path in an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no path of a file in an image")]
pub struct ImagePathError(String);

/// Reasons for not following a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The target is above the image's root.
    #[error("leads out of the image")]
    Outside,
    /// The target goes up from a directory that it has named, which may be a link itself.
    #[error("has .. after a name")]
    Winding,
    /// The target is not a path of a file.
    #[error("is not a path of a file")]
    NoFile,
}

impl ImagePath {
    /// The file's name.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The path as text, without a leading slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path that this one leads to if `at`, which is this path or a directory above it, is a symbolic link to `target`. An
    /// absolute target counts from the image's root.
    pub fn follow(&self, at: &Self, target: &str) -> Result<Self, LinkError> {
        let below = self.0.strip_prefix(&at.0).ok_or(LinkError::NoFile)?;
        let mut parts: Vec<&str> = at.0.split('/').collect();
        parts.pop();
        if target.starts_with('/') {
            parts.clear();
        }
        let mut has_name = false;
        for part in target.split('/') {
            match part {
                "" | "." => {}
                ".." if has_name => return Err(LinkError::Winding),
                ".." => {
                    parts.pop().ok_or(LinkError::Outside)?;
                }
                name => {
                    has_name = true;
                    parts.push(name);
                }
            }
        }
        let is_directory = !has_name || target.ends_with('/') || target.ends_with("/.");
        if target.is_empty() || below.is_empty() && is_directory {
            return Err(LinkError::NoFile);
        }
        format!("{}{below}", parts.join("/")).parse().map_err(|_| LinkError::NoFile)
    }

    /// The directories above it, the nearest first, the root left out.
    pub fn ancestors(&self) -> impl Iterator<Item = &str> {
        let text = self.0.as_str();
        text.rmatch_indices('/').filter_map(move |(slash, _)| text.get(..slash))
    }
}

impl FromStr for ImagePath {
    type Err = ImagePathError;

    fn from_str(text: &str) -> Result<Self, ImagePathError> {
        let refused = || ImagePathError(text.chars().take(100).collect());
        if text.len() > MAX_BYTES || text.chars().any(char::is_control) {
            return Err(refused());
        }
        let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if parts.is_empty() || parts.contains(&"..") || text.ends_with('/') {
            return Err(refused());
        }
        Ok(Self(parts.join("/")))
    }
}

impl fmt::Display for ImagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0)
    }
}

impl TryFrom<String> for ImagePath {
    type Error = ImagePathError;
    fn try_from(text: String) -> Result<Self, ImagePathError> {
        text.parse()
    }
}

impl From<ImagePath> for String {
    fn from(path: ImagePath) -> Self {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_path_that_is_taken_stays_in_the_image_and_has_one_form(text in "[a.]{0,3}(/[a-c.]{0,3}){0,5}|.{0,40}") {
            if let Ok(path) = text.parse::<ImagePath>() {
                prop_assert_eq!(path.to_string().parse(), Ok(path.clone()));
                prop_assert!(path.as_str().split('/').all(|part| !matches!(part, "" | "." | "..")));
                let above = |dir: &str| path.as_str().starts_with(&format!("{dir}/"));
                prop_assert!(path.ancestors().all(above));
            }
        }
    }

    #[test]
    fn paths_are_the_same_however_they_are_written() {
        for text in ["/boot/vmlinuz", "boot/vmlinuz", "./boot//vmlinuz"] {
            assert_eq!(text.parse::<ImagePath>().unwrap().to_string(), "/boot/vmlinuz");
        }
        let path: ImagePath = "/a/b/c".parse().unwrap();
        assert_eq!((path.file_name(), path.ancestors().collect::<Vec<_>>()), ("c", vec!["a/b", "a"]));
    }

    #[test]
    fn links_are_followed_within_the_image() {
        let follow = |path: &str, at: &str, target: &str| {
            let [path, at] = [path, at].map(|path| path.parse::<ImagePath>().unwrap());
            path.follow(&at, target).map(|path| path.to_string())
        };
        for (path, at, target, expected) in [
            ("/boot/k", "/boot/k", "k-6.1", "/boot/k-6.1"),
            ("/boot/k", "/boot/k", "./k-6.1", "/boot/k-6.1"),
            ("/boot/k", "/boot/k", "../usr/k", "/usr/k"),
            ("/boot/k", "/boot/k", "/usr//k", "/usr/k"),
            ("/k", "/k", "k-6.1", "/k-6.1"),
            ("/boot/x/k", "/boot", "usr/lib/boot/", "/usr/lib/boot/x/k"),
            ("/boot/x/k", "/boot/x", "../y", "/y/k"),
            ("/boot/x/k", "/boot/x", "..", "/k"),
            ("/boot/k", "/boot", "/", "/k"),
        ] {
            assert_eq!(follow(path, at, target).as_deref(), Ok(expected), "{path} {target}");
        }
        for (path, at, target, expected) in [
            ("/boot/k", "/boot/k", "../../k", LinkError::Outside),
            ("/boot/k", "/boot/k", "/../k", LinkError::Outside),
            ("/boot/k", "/boot", "..", LinkError::Outside),
            ("/boot/k", "/boot/k", "x/../k", LinkError::Winding),
            ("/boot/k", "/boot/k", "", LinkError::NoFile),
            ("/boot/k", "/boot/k", ".", LinkError::NoFile),
            ("/boot/k", "/boot/k", "..", LinkError::NoFile),
            ("/boot/k", "/boot/k", "dir/", LinkError::NoFile),
            ("/boot/k", "/boot/k", "dir/.", LinkError::NoFile),
            ("/boot/k", "/boot/k", "a\nb", LinkError::NoFile),
            ("/boot/k", "/boot/k", &"a".repeat(5000), LinkError::NoFile),
        ] {
            assert_eq!(follow(path, at, target), Err(expected), "{path} {target}");
        }
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        for text in ["", "/", ".", "..", "/a/../b", "a/", "a\0b", &"a".repeat(5000)] {
            assert!(text.parse::<ImagePath>().is_err(), "{text}");
        }
    }
}
