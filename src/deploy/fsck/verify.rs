//! Reading all of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::inventory::{Inventory, OneFile, fault};
use super::{Damage, Fault, Report};
use crate::cache::{Cache, measure_disk};
use crate::oci::Digest;
use crate::transfer::Progress;

/// How hard to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// A thread for each processor.
    Fast,
    /// One thread, behind all others of the machine: the kernel has a thread's place in the queue of the disk follow from
    /// how nice it is.
    Background,
}

/// What a verification found.
#[derive(Debug, Default)]
pub struct Checked {
    /// What is right and what is not.
    pub report: Report,
    /// Where the bytes of a digest are right.
    pub(super) sound: BTreeMap<Digest, PathBuf>,
}

/// The nicest that a thread can be.
const NICE: i32 = 19;

impl Inventory {
    /// Reads everything once, whatever its names, telling `progress` how much of it. None where it was stopped. Blocks for
    /// as long as the disk takes.
    pub fn verify(self, cache: &Cache, pace: Pace, progress: &Progress, stop: &CancellationToken) -> Option<Checked> {
        cache.doubt_all();
        let report =
            Report { blobs: self.blobs, generations: self.generations, bytes: self.bytes(), damage: self.damage };
        let mut files: Vec<OneFile> = self.files.into_values().collect();
        // The largest first: none of them is to be begun when the other threads have nothing left to do.
        files.sort_by_key(|file| std::cmp::Reverse(file.size));
        let (next, checked) = (AtomicUsize::new(0), Mutex::new(Checked { report, ..Checked::default() }));
        let work = || {
            while let Some(file) = files.get(next.fetch_add(1, Relaxed)).filter(|_| !stop.is_cancelled()) {
                look_at(file, cache, progress, stop, &checked);
            }
        };
        let threads = match pace {
            Pace::Fast => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            Pace::Background => 1,
        };
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let thread = std::thread::Builder::new().name("fsck".to_owned()).spawn_scoped(scope, || {
                    if pace == Pace::Background {
                        // Where it may not be nice, it is slow all the same.
                        let _ = rustix::process::setpriority_process(None, NICE);
                    }
                    work();
                });
                if thread.is_err() {
                    // Without threads it goes slower.
                    work();
                }
            }
        });
        let mut checked = checked.into_inner().unwrap_or_else(PoisonError::into_inner);
        checked.report.damage.sort_by(|one, other| one.part.cmp(&other.part));
        (!stop.is_cancelled()).then_some(checked)
    }
}

fn look_at(file: &OneFile, cache: &Cache, progress: &Progress, stop: &CancellationToken, checked: &Mutex<Checked>) {
    let goes_on = |bytes| {
        progress.receive(bytes);
        !stop.is_cancelled()
    };
    let mut opened: io::Result<File> = Err(io::ErrorKind::NotFound.into());
    // Some names of it may be removed meanwhile.
    for name in &file.names {
        opened = opened.or_else(|_| File::open(&name.path));
    }
    let measured = opened.and_then(|file| {
        let found = file.metadata()?;
        Ok(measure_disk(&file, goes_on)?.map(|digest| (digest, found)))
    });
    let mut checked = checked.lock().unwrap_or_else(PoisonError::into_inner);
    match measured {
        Ok(None) => {}
        Ok(Some((digest, found))) => {
            for name in &file.names {
                if name.digest != digest {
                    let fault = Fault::OtherBytes { digest: Some(digest) };
                    checked.report.damage.push(Damage::found(name.part.clone(), fault));
                    continue;
                }
                checked.sound.insert(digest, name.path.clone());
                if name.path == cache.path(&digest) {
                    cache.trust(&digest, &found);
                }
            }
        }
        Err(error) => {
            let broken = file.names.iter().filter_map(|name| Some((name, fault(&name.path, &error)?)));
            let broken = broken.map(|(name, fault)| Damage::found(name.part.clone(), fault));
            checked.report.damage.extend(broken);
        }
    }
}
