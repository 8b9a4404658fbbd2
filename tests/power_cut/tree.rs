//! What is on disk below a directory, name by name.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::registry::digest;

/// Files up to this length, in bytes, are told apart by their content.
const SMALL: u64 = 64 << 10;

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    Directory,
    Link(PathBuf),
    /// By its content, where it is small and has its last one.
    File(Option<String>),
}

/// By the path from the directory on.
pub type Tree = BTreeMap<PathBuf, Entry>;

/// Reads it. Left out is what nothing relies on after a power cut: names that begin with a dot are of what is not complete,
/// and what is noted of a download without a sync counts until the machine starts again only.
pub fn read(dir: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(parent) = dirs.pop() {
        let entries = fs::read_dir(dir.join(&parent)).unwrap_or_else(|error| panic!("{}: {error}", parent.display()));
        for entry in entries.map(Result::unwrap) {
            let path = parent.join(entry.file_name());
            if !is_relied_on(&path) {
                continue;
            }
            let kind = entry.file_type().unwrap();
            let found = if kind.is_dir() {
                dirs.push(path.clone());
                Entry::Directory
            } else if kind.is_symlink() {
                Entry::Link(fs::read_link(entry.path()).unwrap())
            } else {
                let is_last = !path.starts_with("partial") || path.extension().is_some_and(|ending| ending == "synced");
                let is_small = entry.metadata().unwrap().len() <= SMALL;
                Entry::File((is_last && is_small).then(|| digest(&fs::read(entry.path()).unwrap())))
            };
            tree.insert(path, found);
        }
    }
    tree
}

fn is_relied_on(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap();
    let is_written_over = path.extension().is_some_and(|ending| ending == "written");
    // Lease files are made again at each start.
    !path.starts_with("leases") && !name.starts_with('.') && !is_written_over && name != "lock" && name != "lost+found"
}
