//! What the files of a generation take on disk beside the blobs of the cache: private copies, overlays, its record.

use std::collections::BTreeMap;
use std::fs::{self, DirEntry, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::deploy::Launch;
use crate::oci::Digest;

/// Device and inode.
pub(super) type FileId = (u64, u64);

/// A file, whatever its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct File {
    /// How many names it has, wherever.
    pub(super) names: u64,
    /// What it takes on disk by itself, in bytes.
    pub(super) bytes: u64,
}

/// The files of the generation in `dir`, one for each name. `shared` says how much of a copy of a blob it may share with that,
/// in bytes: what the file system shares counts for each of those who share it, and is freed with the last of them.
pub(super) fn of_generation(
    dir: &Path,
    launch: Option<&Launch>,
    mut shared: impl FnMut(&Digest) -> u64,
) -> Vec<(FileId, File)> {
    let copies: BTreeMap<&str, &Digest> = launch.iter().flat_map(|launch| copies(launch)).collect();
    let weigh = |(entry, found): (DirEntry, Metadata)| {
        let file_name = entry.file_name();
        // What has more names is no copy.
        let copy_of = file_name.to_str().filter(|_| found.nlink() == 1).and_then(|name| copies.get(name));
        let bytes = (found.blocks() * 512).saturating_sub(copy_of.map_or(0, |digest| shared(digest)));
        ((found.dev(), found.ino()), File { names: found.nlink(), bytes })
    };
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let files = entries.filter_map(|entry| Some((entry.metadata().ok().filter(Metadata::is_file)?, entry)));
    files.map(|(found, entry)| (entry, found)).map(weigh).collect()
}

/// The files of a generation that were a blob when they were made, by name.
fn copies(launch: &Launch) -> impl Iterator<Item = (&str, &Digest)> {
    let written_to = launch.names().filter(|(_, file)| file.base.is_none());
    launch.fixed().chain(written_to).map(|(name, file)| (name, &file.digest))
}
