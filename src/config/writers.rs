//! Users who can write a configuration file, or put another one in its place. Root obeys only files of which root alone
//! is one: a service account that may write a drop-in could otherwise have a command of root write any file, or send
//! root's passwords anywhere.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::error::ConfigError;

/// Mode bits that let a group or everybody write.
const OTHERS_WRITE: u32 = 0o022;
/// Mode bit of a directory in which only the owner of a file may replace it.
const STICKY: u32 = 0o1000;
/// Limit of symbolic links on the way to a file, as the kernel has it.
const MAX_LINKS: usize = 40;

/// Refuses a file if a user other than root can write it, or can change what its path leads to: by a directory or a
/// symbolic link anywhere on the way. `file` is the file opened at `path` before, so that one swapped in since is
/// noticed.
pub(super) fn check_writers(path: &Path, file: &File) -> Result<(), ConfigError> {
    let opened = file.metadata().map_err(|source| failed(path, source))?;
    if is_writable_by_others(&opened) {
        return Err(refused(path, &opened));
    }
    let (target, found) = walk(path)?;
    if (found.dev(), found.ino()) != (opened.dev(), opened.ino()) {
        return Err(failed(&target, io::Error::other("another file came into its place while it was read")));
    }
    Ok(())
}

/// Follows a path name by name, and refuses names that another user can change. The path without symbolic links, and
/// what is there.
fn walk(path: &Path) -> Result<(PathBuf, Metadata), ConfigError> {
    let whole = std::path::absolute(path).map_err(|source| failed(path, source))?;
    let (mut at, mut rest, mut links) = (PathBuf::from("/"), names(&whole), 0);
    let mut found = look_at(&at)?;
    while let Some(name) = rest.pop() {
        if name == ".." {
            at.pop();
            found = look_at(&at)?;
            continue;
        }
        let next = at.join(name);
        found = look_at(&next)?;
        if !found.is_symlink() {
            at = next;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(failed(&next, io::Error::other("too many symbolic links")));
        }
        let target = fs::read_link(&next).map_err(|source| failed(&next, source))?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        rest.extend(names(&target));
    }
    Ok((at, found))
}

/// Looks at one name, and refuses it if another user can write it or replace names in it.
fn look_at(path: &Path) -> Result<Metadata, ConfigError> {
    let found = fs::symlink_metadata(path).map_err(|source| failed(path, source))?;
    let is_sticky = found.is_dir() && found.mode() & STICKY != 0;
    let is_open = is_writable_by_others(&found) && !found.is_symlink() && !is_sticky;
    if found.uid() != 0 || is_open { Err(refused(path, &found)) } else { Ok(found) }
}

/// The names of a path, the last one first, without the root.
fn names(path: &Path) -> Vec<OsString> {
    let name = |part: Component| match part {
        Component::Normal(_) | Component::ParentDir => Some(part.as_os_str().to_owned()),
        _ => None,
    };
    path.components().rev().filter_map(name).collect()
}

fn is_writable_by_others(found: &Metadata) -> bool {
    found.uid() != 0 || found.mode() & OTHERS_WRITE != 0
}

fn failed(path: &Path, source: io::Error) -> ConfigError {
    ConfigError::Read { path: path.to_owned(), source }
}

fn refused(path: &Path, found: &Metadata) -> ConfigError {
    ConfigError::Writable { path: path.to_owned(), owner: found.uid(), mode: found.mode() & 0o7777 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Classify;
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};

    const NOBODY: u32 = 65534;
    /// Paths to one file of a [`Tree`].
    const FILES: [&str; 3] = ["a/b/agent.d/x.toml", "links/to/agent.d/x.toml", "links/../a/./b/agent.d/x.toml"];

    /// `a/b/agent.d/x.toml` and `links/to -> ../a/b`, all of them root's; none without root.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn of_root(test: &str) -> Option<Self> {
            if !nix::unistd::geteuid().is_root() {
                println!("SKIP {test}: only root gives files away");
                return None;
            }
            let tree = Self(tempfile::tempdir().unwrap());
            for dir in ["a", "a/b", "a/b/agent.d", "links"] {
                fs::create_dir(tree.path(dir)).unwrap();
                fs::set_permissions(tree.path(dir), fs::Permissions::from_mode(0o755)).unwrap();
            }
            fs::write(tree.path("a/b/agent.d/x.toml"), "").unwrap();
            symlink("../a/b", tree.path("links/to")).unwrap();
            Some(tree)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn check(&self, name: &str) -> Result<(), ConfigError> {
            let path = self.path(name);
            check_writers(&path, &File::open(&path).unwrap())
        }

        fn refuses(&self, name: &str, named: &str, saying: &str) {
            let error = self.check(name).unwrap_err();
            assert_eq!(error.kind().exit_code(), 78);
            let error = error.to_string();
            assert!(error.contains(self.path(named).to_str().unwrap()) && error.contains(saying), "{saying}: {error}");
        }
    }

    #[test]
    fn a_directory_anywhere_on_the_way_counts() {
        let Some(tree) = Tree::of_root("a_directory_anywhere_on_the_way_counts") else { return };
        for file in FILES {
            tree.check(file).unwrap();
        }
        for dir in ["a", "a/b", "a/b/agent.d"] {
            chown(tree.path(dir), Some(NOBODY), None).unwrap();
            for file in FILES {
                tree.refuses(file, dir, "user 65534");
            }
            chown(tree.path(dir), Some(0), None).unwrap();
            fs::set_permissions(tree.path(dir), fs::Permissions::from_mode(0o775)).unwrap();
            tree.refuses(FILES[0], dir, "mode 0775");
            fs::set_permissions(tree.path(dir), fs::Permissions::from_mode(0o1777)).unwrap();
            tree.check(FILES[0]).expect("nobody else can replace a name of root's in a sticky directory");
            fs::set_permissions(tree.path(dir), fs::Permissions::from_mode(0o755)).unwrap();
        }
        lchown(tree.path("links/to"), Some(NOBODY), None).unwrap();
        tree.refuses(FILES[1], "links/to", "user 65534");
        tree.check(FILES[0]).unwrap();
    }

    #[test]
    fn each_of_several_links_counts() {
        let Some(tree) = Tree::of_root("each_of_several_links_counts") else { return };
        let (first, second) = (tree.path("links/first"), tree.path("a/second"));
        symlink(&second, &first).unwrap();
        symlink("b/agent.d/x.toml", &second).unwrap();
        tree.check("links/first").unwrap();
        lchown(&second, Some(NOBODY), None).unwrap();
        tree.refuses("links/first", "a/second", "user 65534");
        lchown(&second, Some(0), None).unwrap();
        chown(tree.path("a"), Some(NOBODY), None).unwrap();
        tree.refuses("links/first", "a", "user 65534");
        chown(tree.path("a"), Some(0), None).unwrap();
        tree.check("links/first").unwrap();
    }

    #[test]
    fn a_file_that_was_swapped_is_refused() {
        let Some(tree) = Tree::of_root("a_file_that_was_swapped_is_refused") else { return };
        let (path, other) = (tree.path("a/b/agent.d/x.toml"), tree.path("a/other"));
        let opened = File::open(&path).unwrap();
        check_writers(&path, &opened).unwrap();
        fs::write(&other, "").unwrap();
        fs::rename(&other, &path).unwrap();
        let error = check_writers(&path, &opened).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("another file came into its place"), "{error}: {source}");
        tree.check("a/b/agent.d/x.toml").unwrap();
    }

    #[test]
    fn links_that_lead_in_a_circle_end() {
        let Some(tree) = Tree::of_root("links_that_lead_in_a_circle_end") else { return };
        symlink("two", tree.path("links/one")).unwrap();
        symlink("one", tree.path("links/two")).unwrap();
        let opened = File::open(tree.path("a/b/agent.d/x.toml")).unwrap();
        let error = check_writers(&tree.path("links/one"), &opened).unwrap_err();
        assert!(matches!(error, ConfigError::Read { .. }), "{error}");
    }
}
