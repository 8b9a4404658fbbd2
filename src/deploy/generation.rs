//! Generations: immutable directories of canonically named files.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::launch::{LAUNCH_FILE, Launch, LaunchFile};
use crate::cache::Cache;
use crate::desired::WorkloadName;
use crate::durable::{
    DurableError, IoContext, create_dir, create_link, remove_dir, remove_dir_all, rename, scratch_dir, share, sync_dir,
    write_atomic, write_new,
};
use crate::eci::{File, Role};
use crate::oci::{Descriptor, Digest, Platform, Reference};
use crate::unpack::Content;

/// Everybody may read a generation, nobody may change it.
const FILE_MODE: u32 = 0o444;
const DIR_MODE: u32 = 0o755;
/// The file beside the workloads' directories with the highest number of a generation that is gone with its workload.
const HIGHEST_GONE: &str = ".highest-gone";
/// What the name of a generation ends with that is being removed.
const RETIRED: &str = ".retired";

/// The generations of all workloads.
#[derive(Clone, Debug)]
pub struct Generations {
    root: PathBuf,
}

/// Keeps a generation from being collected.
#[derive(Debug)]
pub struct Lease(#[allow(dead_code, reason = "it is held, not read")] Flock<fs::File>);

/// What a generation is made of.
#[derive(Clone, Debug)]
pub struct Order {
    /// Whose it will be.
    pub workload: WorkloadName,
    /// The image, as the desired state wrote it.
    pub reference: Reference,
    /// The manifest's digest.
    pub digest: Digest,
    /// The digest of the index that the manifest was chosen from.
    pub index_digest: Option<Digest>,
    /// The platform that it was chosen for.
    pub platform: Platform,
    /// The kernel's command line.
    pub cmdline: Option<String>,
    /// The image's config.
    pub config: Descriptor,
    /// The files, and where their bytes are in the cache.
    pub files: Vec<(File, Content)>,
    /// The highest number that the workload has used before; numbers are never used twice.
    pub after: u64,
}

impl Generations {
    /// The generations in the state directory `state_dir`, an absolute path.
    pub fn open(state_dir: &Path) -> Result<Self, DurableError> {
        let generations = Self::at(state_dir);
        create_dir(&generations.root, DIR_MODE)?;
        Ok(generations)
    }

    /// The same for a reader, which makes nothing.
    pub fn at(state_dir: &Path) -> Self {
        Self { root: state_dir.join("generations") }
    }

    /// The directory of one generation.
    pub fn dir(&self, workload: &WorkloadName, generation: u64) -> PathBuf {
        self.workload(workload).join(generation.to_string())
    }

    /// What a generation says of itself; none where it is not there, not complete, or cannot be read now.
    pub fn launch(&self, workload: &WorkloadName, generation: u64) -> Option<Launch> {
        self.described(workload, generation).ok().flatten()
    }

    /// The same, for who does away with what is not complete.
    pub fn described(&self, workload: &WorkloadName, generation: u64) -> Result<Option<Launch>, DurableError> {
        let path = self.dir(workload, generation).join(LAUNCH_FILE);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            text => Ok(serde_json::from_slice(&text.on("read", &path)?).ok()),
        }
    }

    /// The same where every file is there with its length. Nothing is read but `launch.json`.
    pub fn complete(&self, workload: &WorkloadName, generation: u64) -> Option<Launch> {
        let dir = self.dir(workload, generation);
        let launch = self.launch(workload, generation).filter(Launch::is_complete)?;
        let has_root = launch.files.iter().any(|file| file.role == Role::DiskRoot);
        let others = [Some("config.json"), Some("manifest.json"), has_root.then_some("disk-root")];
        others.into_iter().flatten().all(|name| dir.join(name).is_file()).then_some(launch)
    }

    /// Lays out what is ordered, all of whose blobs are in `cache`, as a new generation. The directory appears under
    /// its number complete and durable, or not at all.
    pub fn materialize(&self, cache: &Cache, order: &Order) -> Result<Launch, DurableError> {
        let parent = self.workload(&order.workload);
        create_dir(&parent, DIR_MODE)?;
        let number = self.highest(&order.workload)?.max(order.after).saturating_add(1);
        let unfinished = parent.join(format!(".{number}.new"));
        scratch_dir(&unfinished, DIR_MODE)?;
        let launch = self.describe(order, number);
        let made = fill(cache, order, &launch, &unfinished)
            .and_then(|()| rename(&unfinished, &self.dir(&order.workload, number)));
        if made.is_err() {
            let _ = remove_dir_all(&unfinished);
        }
        made.map(|()| launch)
    }

    /// Removes what a crash left half made.
    pub fn sweep(&self) -> Result<(), DurableError> {
        for workload in entries(&self.root)? {
            for entry in entries(&workload).unwrap_or_default() {
                if entry.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
                    remove_dir_all(&entry)?;
                }
            }
        }
        Ok(())
    }

    /// Every generation that has its name, whether it is whole or not.
    pub fn all(&self) -> Result<Vec<(WorkloadName, u64)>, DurableError> {
        let mut all = Vec::new();
        for dir in entries(&self.root)? {
            let Some(workload) = dir.file_name().and_then(|name| name.to_str()?.parse::<WorkloadName>().ok()) else {
                continue;
            };
            let numbers = entries(&dir)?.into_iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok());
            all.extend(numbers.map(|number| (workload.clone(), number)));
        }
        all.sort();
        Ok(all)
    }

    /// When a generation was made, as far as its directory says.
    pub fn made_at(&self, workload: &WorkloadName, generation: u64) -> SystemTime {
        let found = fs::metadata(self.dir(workload, generation)).and_then(|found| found.modified());
        found.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Whether somebody has a lock on a generation's directory, as who boots from it does.
    pub fn is_in_use(&self, workload: &WorkloadName, generation: u64) -> bool {
        matches!(claim(&self.dir(workload, generation)), Err(Errno::EWOULDBLOCK))
    }

    /// Keeps a generation from being collected for as long as the result lives. Waits for who just looks at whether somebody
    /// does; none where it is gone.
    pub fn lease(&self, workload: &WorkloadName, generation: u64) -> Result<Option<Lease>, DurableError> {
        let dir = self.dir(workload, generation);
        let opened = match fs::File::open(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.on("open", &dir)?,
        };
        let lock = Flock::lock(opened, FlockArg::LockShared).map_err(|(_, errno)| errno.into()).on("lock", &dir)?;
        // It may have been renamed while this waited.
        let is_still = fs::metadata(&dir).is_ok_and(|now| lock.metadata().is_ok_and(|then| then.ino() == now.ino()));
        Ok(is_still.then_some(Lease(lock)))
    }

    /// Takes a generation's name away, durably, so that what follows can be interrupted anywhere: [`Self::sweep_retired`]
    /// removes the rest. False where somebody uses it.
    pub fn retire(&self, workload: &WorkloadName, generation: u64) -> Result<bool, DurableError> {
        let dir = self.dir(workload, generation);
        let _claim = match claim(&dir) {
            Err(Errno::EWOULDBLOCK) => return Ok(false),
            // What cannot be locked is used by nobody who could lock it.
            claim => claim.ok(),
        };
        rename(&dir, &self.workload(workload).join(format!(".{generation}{RETIRED}"))).map(|()| true)
    }

    /// Removes what is left of generations whose names were taken away.
    pub fn sweep_retired(&self) -> Result<(), DurableError> {
        for workload in entries(&self.root)? {
            for entry in entries(&workload).unwrap_or_default() {
                if entry.file_name().is_some_and(|name| name.as_encoded_bytes().ends_with(RETIRED.as_bytes())) {
                    remove_dir_all(&entry)?;
                }
            }
        }
        Ok(())
    }

    /// The workloads that have a directory, whether there is a generation in it or not.
    pub fn workloads(&self) -> Result<Vec<WorkloadName>, DurableError> {
        let name = |dir: PathBuf| dir.file_name()?.to_str()?.parse().ok();
        Ok(entries(&self.root)?.into_iter().filter_map(name).collect())
    }

    /// Removes a workload's directory, unless there is something in it.
    pub fn forget(&self, workload: &WorkloadName) -> Result<(), DurableError> {
        let dir = self.workload(workload);
        if entries(&dir)?.is_empty() { remove_dir(&dir) } else { Ok(()) }
    }

    fn workload(&self, workload: &WorkloadName) -> PathBuf {
        self.root.join(workload.as_str())
    }

    /// Takes note, durably, of a number that is about to be gone from disk with its workload: were `state.json` lost as
    /// well, nothing else would tell that it was used.
    pub(super) fn note_gone(&self, generation: u64) -> Result<(), DurableError> {
        if generation <= self.highest_gone() {
            return Ok(());
        }
        write_atomic(&self.root.join(HIGHEST_GONE), generation.to_string().as_bytes(), FILE_MODE)
    }

    /// The highest number of all that are gone with their workloads; 0 where there is none.
    pub fn highest_gone(&self) -> u64 {
        let text = fs::read_to_string(self.root.join(HIGHEST_GONE)).unwrap_or_default();
        text.parse().unwrap_or(0)
    }

    /// The highest number on disk; 0 where there is none.
    pub fn highest(&self, workload: &WorkloadName) -> Result<u64, DurableError> {
        let number = |path: PathBuf| path.file_name()?.to_str()?.parse::<u64>().ok();
        Ok(entries(&self.workload(workload))?.into_iter().filter_map(number).max().unwrap_or(0))
    }

    fn describe(&self, order: &Order, generation: u64) -> Launch {
        let dir = self.dir(&order.workload, generation);
        let describe = |(file, content): &(File, Content)| LaunchFile {
            role: file.role,
            path: dir.join(&file.name),
            format: file.format().to_owned(),
            size: content.size,
            digest: content.digest,
            writable: false,
        };
        Launch {
            workload: order.workload.clone(),
            generation,
            reference: order.reference.clone(),
            digest: order.digest,
            index_digest: order.index_digest,
            platform: order.platform.clone(),
            cmdline: order.cmdline.clone(),
            files: order.files.iter().map(describe).collect(),
        }
    }
}

fn fill(cache: &Cache, order: &Order, launch: &Launch, dir: &Path) -> Result<(), DurableError> {
    for (file, content) in &order.files {
        share(&cache.path(&content.digest), &dir.join(&file.name))?;
        if let Some(stable) = file.stable_name() {
            create_link(file.name.as_ref(), &dir.join(stable))?;
        }
    }
    share(&cache.path(&order.config.digest), &dir.join("config.json"))?;
    share(&cache.path(&order.digest), &dir.join("manifest.json"))?;
    let text = serde_json::to_vec_pretty(launch).map_err(io::Error::from).on("describe", dir)?;
    write_new(&dir.join(LAUNCH_FILE), &text, FILE_MODE)?;
    sync_dir(dir)
}

/// A lock on a generation's directory that nobody else has one on.
fn claim(dir: &Path) -> Result<Flock<fs::File>, Errno> {
    let opened = fs::File::open(dir).map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    Flock::lock(opened, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)
}

/// The paths in a directory; none where it does not exist.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, DurableError> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).on("list", dir),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eci::{FileName, Source};

    fn order(cache: &Cache) -> Order {
        let blob = |bytes: &[u8]| Descriptor::new("x", cache.insert(bytes).unwrap(), bytes.len() as u64);
        let file = |role, name: &str, index, bytes: &[u8]| {
            let source = Source::Blob(blob(bytes));
            let file = File { role, index, name: FileName::new(name).unwrap(), disk_format: None, source };
            (file, Content { digest: blob(bytes).digest, size: bytes.len() as u64 })
        };
        let files = vec![
            file(Role::Kernel, "kernel", 0, b"kernel"),
            file(Role::DiskRoot, "disk-root-root.raw", 0, b"root"),
            file(Role::DiskAdditional, "disk-0-data.raw", 0, b"data"),
        ];
        Order {
            workload: WorkloadName::default_name(),
            reference: "a.example/b:c".parse().unwrap(),
            digest: cache.insert(b"manifest").unwrap(),
            index_digest: None,
            platform: Platform::host(),
            cmdline: Some("quiet".to_owned()),
            config: blob(b"{}"),
            files,
            after: 0,
        }
    }

    #[test]
    fn a_generation_has_canonical_names_stable_links_and_its_record() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let generations = Generations::open(dir.path()).unwrap();
        let order = order(&cache);
        let launch = generations.materialize(&cache, &order).unwrap();
        let made = generations.dir(&order.workload, 1);
        let read = |name: &str| fs::read_to_string(made.join(name)).unwrap();
        assert_eq!(
            (read("kernel"), read("disk-root"), read("disk-0"), read("config.json")),
            ("kernel".into(), "root".into(), "data".into(), "{}".into())
        );
        assert_eq!(fs::read_link(made.join("disk-root")).unwrap(), Path::new("disk-root-root.raw"));
        assert_eq!(generations.launch(&order.workload, 1), Some(launch));
        assert_eq!(generations.materialize(&cache, &order).unwrap().generation, 2);
        assert_eq!(generations.materialize(&cache, &Order { after: 9, ..order }).unwrap().generation, 10);
    }

    #[test]
    fn no_name_of_an_image_is_lost_to_a_file_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let generations = Generations::open(dir.path()).unwrap();
        let mut order = order(&cache);
        let name = FileName::canonical(Role::Other, 0, Some(".launch.json.new"), None).unwrap();
        let (first, content) = order.files[0].clone();
        order.files.push((File { role: Role::Other, name, ..first }, content));
        let launch = generations.materialize(&cache, &order).unwrap();
        assert!(launch.files.iter().all(|file| file.path.is_file()));
    }

    #[test]
    fn a_generation_that_cannot_be_whole_does_not_appear() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let generations = Generations::open(dir.path()).unwrap();
        let order = order(&cache);
        fs::remove_file(cache.path(&order.files[1].1.digest)).unwrap();
        assert!(generations.materialize(&cache, &order).is_err());
        assert_eq!(entries(&dir.path().join("generations/default")).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_a_crash_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let generations = Generations::open(dir.path()).unwrap();
        fs::create_dir_all(dir.path().join("generations/default/.7.new/x")).unwrap();
        generations.sweep().unwrap();
        assert!(!dir.path().join("generations/default/.7.new").exists());
    }
}
