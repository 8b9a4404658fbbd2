//! The state of one path in one layer, collected entry by entry.

use super::Finding;
use super::file_ref::FileRef;
use super::walk::{Entry, EntryKind};
use crate::eci::ImagePath;

/// The prefix of a name that takes a file of a lower layer away (image specification, "Whiteouts").
const WHITEOUT: &str = ".wh.";
/// The name that takes all that lower layers have in a directory.
const OPAQUE: &str = ".wh..wh..opq";

/// The state of a path after the entries so far.
#[derive(Debug, Default)]
pub(super) struct PathState {
    /// By entries of the path itself; the last counts.
    own: Option<Finding<FileRef>>,
    /// The nearest symbolic link above it, and its target.
    link: Option<(ImagePath, String)>,
    /// The nearest directory above it that has an entry.
    directory: Option<ImagePath>,
    /// True if the path is removed from lower layers.
    is_hidden: bool,
}

impl PathState {
    /// Records an entry of the path itself.
    pub(super) fn set_own(&mut self, finding: Finding<FileRef>) {
        self.own = Some(finding);
    }

    /// Records an entry at `path`, which is not `wanted` itself: a whiteout of it or of a directory above it, an
    /// opaque directory above it, a link or a directory above it, or something else where a directory was.
    pub(super) fn see(&mut self, entry: &Entry, path: &ImagePath, wanted: &ImagePath) {
        let name = path.file_name();
        let dir = path.as_str().strip_suffix(name).unwrap_or_default().trim_end_matches('/');
        let above = |candidate: &str| wanted.ancestors().any(|ancestor| ancestor == candidate);
        if name == OPAQUE {
            self.is_hidden |= dir.is_empty() || above(dir);
        } else if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            let hidden = if dir.is_empty() { hidden.to_owned() } else { format!("{dir}/{hidden}") };
            self.is_hidden |= wanted.as_str() == hidden || above(&hidden);
        } else if above(path.as_str()) {
            self.see_above(entry, path);
        }
    }

    /// Records an entry at `path`, which is above the wanted one. The last entry of a path counts, and the longest path.
    fn see_above(&mut self, entry: &Entry, path: &ImagePath) {
        let is_nearer = |than: &ImagePath| path.as_str().len() >= than.as_str().len();
        self.link.take_if(|(at, _)| at == path);
        self.directory.take_if(|at| at == path);
        match entry.kind {
            EntryKind::Directory if self.directory.as_ref().is_none_or(is_nearer) => {
                self.directory = Some(path.clone());
            }
            EntryKind::Symlink if self.link.as_ref().is_none_or(|(at, _)| is_nearer(at)) => {
                self.link = Some((path.clone(), entry.link.clone()));
            }
            EntryKind::Directory | EntryKind::Symlink => {}
            EntryKind::File | EntryKind::HardLink | EntryKind::Other => self.is_hidden = true,
        }
    }

    /// The layer's finding for the path. A whiteout removes the path from lower layers, not from its own.
    pub(super) fn finding(self) -> Finding<FileRef> {
        match (self.own, self.link, self.directory) {
            (Some(own), _, _) => own,
            (None, Some((at, to)), _) => Finding::Symlink { at, to },
            _ if self.is_hidden => Finding::Gone,
            (None, None, Some(directory)) => Finding::Directory(directory),
            (None, None, None) => Finding::Nothing,
        }
    }
}
