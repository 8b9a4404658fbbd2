//! Reading all of it.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::inventory::{Inventory, Name, OneFile, fault};
use super::{Damage, Fault, Report};
use crate::cache::{Cache, measure_disk};
use crate::durable::open_file;
use crate::oci::Digest;
use crate::transfer::Progress;

/// How hard to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// A thread for each processor.
    Fast,
    /// One thread, behind all others of the machine: the kernel has a thread's place in the queue of the disk follow from
    /// how nice it is. A thread that may not lower its priority, as in the service's sandbox, rests half of the time.
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
/// Longest rest after a piece of a file: what took longer was held up by the disk, not by other work.
const MAX_REST: Duration = Duration::from_secs(1);

impl Inventory {
    /// Reads everything once, whatever its names, telling `progress` how much of it. None where it was stopped. Blocks for
    /// as long as the disk takes.
    pub fn verify(self, cache: &Cache, pace: Pace, progress: &Progress, stop: &CancellationToken) -> Option<Checked> {
        let bytes = self.bytes();
        let Self { files, damage, strays, blobs, generations } = self;
        let report = Report { blobs, generations, bytes, damage, strays };
        let mut files: Vec<OneFile> = files.into_values().collect();
        // The largest first: none of them is to be begun when the other threads have nothing left to do.
        files.sort_by_key(|file| std::cmp::Reverse(file.size));
        let (next, checked) = (AtomicUsize::new(0), Mutex::new(Checked { report, ..Checked::default() }));
        let work = |rests: bool| {
            while let Some(file) = files.get(next.fetch_add(1, Relaxed)).filter(|_| !stop.is_cancelled()) {
                let mut since = Instant::now();
                let goes_on = |bytes| {
                    progress.receive(bytes);
                    if rests && !stop.is_cancelled() {
                        std::thread::sleep(rest_after(since.elapsed()));
                    }
                    since = Instant::now();
                    !stop.is_cancelled()
                };
                look_at(file, cache, goes_on, &checked);
            }
        };
        let threads = match pace {
            Pace::Fast => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            Pace::Background => 1,
        };
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let thread = std::thread::Builder::new().name("fsck".to_owned()).spawn_scoped(scope, || {
                    let lower = || rustix::process::setpriority_process(None, NICE);
                    work(pace == Pace::Background && lower().is_err());
                });
                if thread.is_err() {
                    // Without threads it goes slower.
                    work(pace == Pace::Background);
                }
            }
        });
        let mut checked = checked.into_inner().unwrap_or_else(PoisonError::into_inner);
        checked.report.damage.sort_by(|one, other| one.part.cmp(&other.part));
        (!stop.is_cancelled()).then_some(checked)
    }
}

/// Rest after a piece that took `took`: as long, so that half of the time is left to other work.
fn rest_after(took: Duration) -> Duration {
    took.min(MAX_REST)
}

fn look_at(file: &OneFile, cache: &Cache, goes_on: impl FnMut(u64) -> bool, checked: &Mutex<Checked>) {
    // Some names of it may be removed meanwhile, or become those of another file.
    let opened = file.names.iter().map(|name| open(file, name)).reduce(Result::or);
    let Some(opened) = opened else { return };
    let measured = opened.and_then(|(found, file)| Ok(measure_disk(&file, goes_on)?.map(|digest| (digest, found))));
    judge(file, &measured, cache, &mut checked.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Says of each name that a file has still what its bytes mean there. What has a name by now that was another file's was not
/// read.
fn judge(file: &OneFile, measured: &io::Result<Option<(Digest, Metadata)>>, cache: &Cache, checked: &mut Checked) {
    for name in &file.names {
        let fault = match measured {
            Ok(None) => return,
            Ok(Some(_)) if !is_at(file, &name.path) => continue,
            Ok(Some((digest, found))) if *digest == name.digest => {
                checked.sound.insert(*digest, name.path.clone());
                if name.path == cache.path(digest) {
                    cache.trust(digest, found);
                }
                continue;
            }
            Ok(Some((digest, _))) => Fault::OtherBytes { digest: Some(*digest) },
            Err(error) => match fault(&name.path, error) {
                Some(fault) => fault,
                None => continue,
            },
        };
        cache.doubt(&name.digest);
        checked.report.damage.push(Damage::found(name.part.clone(), fault).of_inode(file.id.1));
    }
}

fn open(file: &OneFile, name: &Name) -> io::Result<(Metadata, File)> {
    let opened = open_file(&name.path)?;
    let found = opened.metadata()?;
    if (found.dev(), found.ino()) == file.id { Ok((found, opened)) } else { Err(io::ErrorKind::NotFound.into()) }
}

fn is_at(file: &OneFile, path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == file.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::fsck::Part;
    use std::fs;

    /// Puts other bytes in the place of what is at `path`, as a rename does.
    fn replace(path: &Path, bytes: &[u8]) {
        let new = path.with_extension("new");
        fs::write(&new, bytes).unwrap();
        fs::rename(new, path).unwrap();
    }

    struct Fixture {
        dir: tempfile::TempDir,
        cache: Cache,
        digest: Digest,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let cache = Cache::open(dir.path()).unwrap();
            let digest = cache.insert(b"kernel").unwrap();
            Self { dir, cache, digest }
        }

        fn blob(&self) -> PathBuf {
            self.cache.path(&self.digest)
        }

        /// The file that has the names of the blob and `more` now.
        fn file(&self, more: &[PathBuf]) -> OneFile {
            let found = fs::metadata(self.blob()).unwrap();
            let part = Part::Blob { digest: self.digest };
            let name = |path: &PathBuf| Name { part: part.clone(), path: path.clone(), digest: self.digest };
            let names = [self.blob()].iter().chain(more).map(name).collect();
            OneFile { id: (found.dev(), found.ino()), size: found.len(), names }
        }

        fn look(&self, file: &OneFile) -> Checked {
            let checked = Mutex::default();
            look_at(file, &self.cache, |_| true, &checked);
            checked.into_inner().unwrap()
        }

        /// A verdict on what the file was, while `bytes` come into the blob's place.
        fn judge_while_replaced_by(&self, bytes: &[u8]) -> Checked {
            let file = self.file(&[]);
            let (found, opened) = open(&file, &file.names[0]).unwrap();
            let digest = measure_disk(&opened, |_| true).unwrap().unwrap();
            replace(&self.blob(), bytes);
            let mut checked = Checked::default();
            judge(&file, &Ok(Some((digest, found))), &self.cache, &mut checked);
            checked
        }
    }

    #[test]
    fn verification_rests_as_long_as_it_reads_up_to_a_second() {
        for (took, rests) in [(0, 0), (7, 7), (1000, 1000), (60_000, 1000)].map(|(a, b)| (ms(a), ms(b))) {
            assert_eq!(rest_after(took), rests);
        }
    }

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_name_that_is_another_files_by_now_is_not_read() {
        let f = Fixture::new();
        let other = f.dir.path().join("kernel");
        fs::hard_link(f.blob(), &other).unwrap();
        let file = f.file(std::slice::from_ref(&other));
        replace(&f.blob(), b"kernal");
        let checked = f.look(&file);
        assert_eq!((checked.report.damage, checked.sound.get(&f.digest)), (vec![], Some(&other)));
    }

    #[test]
    fn a_verdict_is_of_the_file_that_was_read() {
        let f = Fixture::new();
        let checked = f.judge_while_replaced_by(b"kernal");
        assert_eq!((checked.report.damage, checked.sound.len()), (vec![], 0), "nobody has read what is there");

        let checked = f.judge_while_replaced_by(b"kernel");
        assert_eq!((checked.report.damage, checked.sound.len()), (vec![], 0), "what was wrong is gone");
        assert_eq!(f.look(&f.file(&[])).sound.len(), 1);
    }
}
