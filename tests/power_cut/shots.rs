//! Copies of the disk at many moments of a story.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::expected::Expected;
use super::tree;
use crate::common::agent::files_below;
use crate::common::disk_image::Mounted;
use crate::common::fault_points::{Answer, Point};

/// One in so many of the changes that are not named in [`TELLING`] has its moments.
const SAMPLED: u32 = 8;
/// At one in so many moments the kernel writes a file out by itself.
const WRITTEN_OUT: u32 = 12;
/// The changes around which all moments count.
const TELLING: [&str; 9] = [
    "sync",
    "sync the directory",
    "rename into place",
    "link",
    "copy to",
    "create",
    "create the link",
    "create the directory",
    "remove",
];

/// Decides what becomes of a change.
pub type Meddle = Box<dyn FnMut(&Point, &Path) -> Answer + Send>;

/// A moment.
pub struct Instant {
    pub what: String,
    /// Which copy shows it.
    pub copy: usize,
    /// What was desired.
    pub stage: usize,
    pub expected: Expected,
}

pub struct Shots {
    mounted: Option<Mounted>,
    state_dir: PathBuf,
    /// Where copies go.
    dir: PathBuf,
    /// What becomes of a change that is about to be made; it is told where the state directory is.
    meddle: Meddle,
    /// How often something else became of one.
    pub meddled: usize,
    pub stage: usize,
    pub instants: Vec<Instant>,
    pub copies: usize,
    /// What the device was like at the last copy.
    last: Option<[String; 4]>,
    expected: Expected,
    chance: fastrand::Rng,
}

impl Shots {
    /// Copies go to `dir`; what `mounted` has at `state_dir` is what they are of.
    pub fn new(mounted: Mounted, state_dir: PathBuf, dir: PathBuf, meddle: Meddle) -> Self {
        Self {
            mounted: Some(mounted),
            state_dir,
            dir,
            meddle,
            meddled: 0,
            stage: 0,
            instants: Vec::new(),
            copies: 0,
            last: None,
            expected: Expected::default(),
            chance: fastrand::Rng::with_seed(7),
        }
    }

    /// A change is about to be made, or was made; nothing else is going on.
    pub fn at(&mut self, point: &Point) -> Answer {
        // The agent goes on after the last moment.
        if self.mounted.is_none() {
            return Answer::Go;
        }
        let live = tree::read(&self.state_dir);
        self.expected.see(&live);
        if point.is_made && point.operation == "sync the directory" {
            self.expected.settle(&point.path, &live);
        }
        if self.chance.u32(0..WRITTEN_OUT) == 0 {
            self.write_something_out();
        }
        if TELLING.contains(&point.operation.as_str()) || self.chance.u32(0..SAMPLED) == 0 {
            self.shoot(point.to_string());
        }
        if point.is_made {
            return Answer::Go;
        }
        let answer = (self.meddle)(point, &self.state_dir);
        self.meddled += usize::from(answer != Answer::Go);
        answer
    }

    /// As the kernel may at any time: one file, and not what was written before it into others.
    fn write_something_out(&mut self) {
        let files = files_below(&self.state_dir);
        if let Some(file) = self.chance.choice(files).and_then(|file| File::open(self.state_dir.join(file)).ok()) {
            file.sync_all().unwrap();
        }
    }

    fn shoot(&mut self, what: String) {
        let mounted = self.mounted.as_ref().unwrap();
        if self.last.as_ref() != Some(&mounted.state()) {
            self.last = Some(mounted.copy(&copy(&self.dir, self.copies)));
            self.copies += 1;
        }
        let (copy, stage, expected) = (self.copies - 1, self.stage, self.expected.clone());
        self.instants.push(Instant { what, copy, stage, expected });
    }

    /// No more is copied.
    pub fn end(&mut self) -> Option<Mounted> {
        self.mounted.take()
    }
}

/// Where a copy is.
pub fn copy(dir: &Path, n: usize) -> PathBuf {
    dir.join(format!("copy-{n}"))
}
