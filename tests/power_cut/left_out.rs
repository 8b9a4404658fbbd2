//! What becomes of it where a sync is left out: the tests of power cuts are to see that.

use std::fs;
use std::path::Path;

use crate::common::disk_image::{EXT4, EXT4_AS_IT_COMES, EXT4_WRITEBACK, XFS};
use crate::common::fault_points::Point;

/// A kind of sync.
#[derive(Clone, Copy)]
pub struct Sync {
    pub name: &'static str,
    /// Whether it is this one; where the state directory is, is told.
    pub is: fn(&Point, &Path) -> bool,
    /// How many stages of the story have it.
    pub stages: usize,
    /// The file systems where something else makes up for it; `docs/development/durability.md` says what.
    pub made_up_for: &'static [&'static str],
}

const UPDATE: usize = 2;
const SEGMENTS: usize = 3;
const UNPACKING: usize = 5;

pub const BLOB: Sync = sync("a blob, before its name", UPDATE, is_blob);
pub const CURRENT: Sync = sync("`workloads/<workload>`, after a link's name", UPDATE, is_links);

pub const ALL: [Sync; 14] = [
    BLOB,
    sync("`cache/blobs/sha256`, after a blob's name", UPDATE, is_blobs),
    sync("a manifest, before its name", UPDATE, |point, _| is_file(point, "cache/blobs/sha256")),
    sync("a large blob on its way, before the note of it", SEGMENTS, is_save),
    sync("the note of a large blob on its way, before its name", SEGMENTS, is_note),
    sync("a file out of a layer, before its name", UNPACKING, is_staged).but_not_on(&[XFS.name]),
    sync("the note of a file out of a layer, before its name", UNPACKING, |point, _| is_file(point, "cache/unpacked")),
    sync("`launch.json`", UPDATE, |point, _| point.operation == "sync" && point.path.ends_with("launch.json")),
    sync("a generation's directory, before its name", UPDATE, is_generation).but_not_on(&JOURNALS),
    sync("`generations/<workload>`, after a generation's name", UPDATE, is_generations),
    CURRENT,
    sync("`state.json`, before its name", UPDATE, |point, _| is_file(point, "")),
    sync("the state directory, after a name in it", UPDATE, |point, _| is_dir(point, "")),
    sync("the parent of a new directory", UPDATE, is_parent),
];

/// The file systems that write the names of all directories into one journal, in order.
const JOURNALS: [&str; 4] = [EXT4.name, EXT4_AS_IT_COMES.name, EXT4_WRITEBACK.name, XFS.name];

const fn sync(name: &'static str, stages: usize, is: fn(&Point, &Path) -> bool) -> Sync {
    Sync { name, is, stages, made_up_for: &[] }
}

impl Sync {
    const fn but_not_on(self, made_up_for: &'static [&'static str]) -> Self {
        Self { made_up_for, ..self }
    }
}

fn is_dir(point: &Point, dir: &str) -> bool {
    point.operation == "sync the directory" && point.path == Path::new(dir)
}

/// A file in `dir` that is about to get its name.
fn is_file(point: &Point, dir: &str) -> bool {
    point.operation == "sync" && point.path.parent() == Some(Path::new(dir)) && is_unnamed(&point.path)
}

fn is_unnamed(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_str().unwrap().starts_with('.'))
}

fn is_of_download(point: &Point) -> bool {
    point.operation == "sync" && point.path.starts_with("partial") && point.path.extension().is_none()
}

/// What is whole is read-only before it is synced.
fn is_read_only(point: &Point, state_dir: &Path) -> bool {
    fs::metadata(state_dir.join(&point.path)).unwrap().permissions().readonly()
}

fn is_blob(point: &Point, state_dir: &Path) -> bool {
    is_of_download(point) && is_read_only(point, state_dir)
}

fn is_save(point: &Point, state_dir: &Path) -> bool {
    is_of_download(point) && !is_read_only(point, state_dir)
}

fn is_staged(point: &Point, _: &Path) -> bool {
    point.operation == "sync" && point.path.extension().is_some_and(|ending| ending == "staged")
}

fn is_note(point: &Point, _: &Path) -> bool {
    is_file(point, "partial")
}

fn is_blobs(point: &Point, _: &Path) -> bool {
    is_dir(point, "cache/blobs/sha256")
}

fn is_generation(point: &Point, _: &Path) -> bool {
    point.operation == "sync the directory" && point.path.starts_with("generations") && is_unnamed(&point.path)
}

fn is_generations(point: &Point, _: &Path) -> bool {
    point.operation == "sync the directory" && point.path.parent() == Some(Path::new("generations"))
}

fn is_links(point: &Point, _: &Path) -> bool {
    point.operation == "sync the directory" && point.path.parent() == Some(Path::new("workloads"))
}

fn is_parent(point: &Point, _: &Path) -> bool {
    ["cache", "cache/blobs", "generations", "workloads"].iter().any(|dir| is_dir(point, dir))
}
