//! The directories and names on the way to the desired-state file.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// Symbolic links that the kernel follows in one path.
pub(super) const MAX_LINKS: usize = 40;

/// Directories and names that decide where the file is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// Directories to watch.
    pub(super) dirs: BTreeSet<PathBuf>,
    /// Names in them whose change matters: links on the way, the file, or the first that is missing.
    pub(super) names: BTreeSet<PathBuf>,
    /// The file itself, by its path without links; none if it does not exist.
    pub(super) file: Option<PathBuf>,
}

/// Walks `path` as the kernel does, noting each link and the last name.
pub(super) fn places(path: &Path) -> Places {
    let mut places = Places::default();
    let mut here = PathBuf::from("/");
    let mut rest: Vec<PathBuf> = names(path);
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == Path::new("..") {
            here.pop();
            continue;
        }
        let next = here.join(&name);
        match std::fs::read_link(&next) {
            Ok(target) if links < MAX_LINKS => {
                links += 1;
                places.dirs.insert(here.clone());
                places.names.insert(next);
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                rest.extend(names(&target));
            }
            _ if rest.is_empty() || !next.exists() => {
                places.dirs.insert(here.clone());
                places.file = next.is_file().then(|| next.clone());
                places.names.insert(next);
                break;
            }
            _ => here = next,
        }
    }
    places
}

/// The names in `path`, last first.
fn names(path: &Path) -> Vec<PathBuf> {
    let wanted = |component: &Component| matches!(component, Component::Normal(_) | Component::ParentDir);
    path.components().filter(wanted).map(|component| PathBuf::from(component.as_os_str())).rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_in_a_circle_end() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        assert!(places(&dir.path().join("a")).names.len() <= 2);
    }

    #[test]
    fn the_file_is_known_once_it_exists() {
        let guard = tempfile::tempdir().unwrap();
        let dir = guard.path().canonicalize().unwrap();
        symlink("real", dir.join("link")).unwrap();
        assert_eq!(places(&dir.join("link")).file, None);
        fs::write(dir.join("real"), "x").unwrap();
        assert_eq!(places(&dir.join("link")).file, Some(dir.join("real")));
        assert_eq!(places(&dir).file, None, "a directory is not a file");
    }
}
