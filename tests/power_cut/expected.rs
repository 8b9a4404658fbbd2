//! What may be there after a power cut: what was there when its directory was synced last, or anything that it was since.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::tree::{Entry, Tree};

/// For each name all that it may lead to; where that is none, it may be absent.
#[derive(Clone, Default)]
pub struct Expected(BTreeMap<PathBuf, BTreeSet<Option<Entry>>>);

impl Expected {
    /// Takes note of what is there now, durable or not.
    pub fn see(&mut self, live: &Tree) {
        for path in live.keys() {
            self.0.entry(path.clone()).or_insert_with(|| [None].into());
        }
        for (path, may_be) in &mut self.0 {
            let now = live.get(path);
            if !may_be.iter().any(|entry| entry.as_ref() == now) {
                may_be.insert(now.cloned());
            }
        }
    }

    /// Takes note of a sync of `dir`: its names lead to what they lead to now, until they are changed.
    pub fn settle(&mut self, dir: &Path, live: &Tree) {
        for (path, may_be) in self.0.iter_mut().filter(|(path, _)| path.parent() == Some(dir)) {
            *may_be = [live.get(path).cloned()].into();
        }
    }

    /// What `found` has otherwise.
    pub fn violations<'a>(&'a self, found: &'a Tree) -> impl Iterator<Item = String> + 'a {
        self.0.iter().filter_map(|(path, may_be)| {
            let entry = found.get(path);
            let is_right = may_be.iter().any(|one| one.as_ref() == entry);
            (!is_right).then(|| format!("{} is {entry:?}, and may only be one of {may_be:?}", path.display()))
        })
    }
}
