//! Generations: immutable directories of canonically named files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use nix::errno::Errno;

use super::disk::DiskError;
use super::launch::{LAUNCH_FILE, Launch};
use super::lease::Leases;
use super::order::Order;
use super::record::{GenerationName, Records};
use crate::cache::Cache;
use crate::desired::{Disks, WorkloadName};
use crate::durable::{
    Access, DurableError, IoContext, Permission, create_dir, entries, read_capped, remove_any, remove_dir,
    remove_dir_all, rename, repair_permissions, scratch_dir, set_aside, shares_copies, sweep_temporaries, write_atomic,
};
use crate::eci::Role;
use crate::oci::{Digest, MAX_DOCUMENT_BYTES};

/// The file beside the workloads' directories with the highest number of a generation that is gone with its workload.
const HIGHEST_GONE: &str = ".highest-gone";
/// The names of the image's documents in the directory of a generation.
pub(super) const CONFIG_FILE: &str = "config.json";
pub(super) const MANIFEST_FILE: &str = "manifest.json";
/// What the name of a generation ends with that is being removed.
const RETIRED: &str = ".retired";
/// The same of one that is being made.
const UNFINISHED: &str = ".new";
/// A description of a few files, in bytes.
const MAX_LAUNCH: u64 = 4 << 20;

/// The generations of all workloads.
#[derive(Clone, Debug)]
pub struct Generations {
    root: PathBuf,
    access: Access,
    pub(super) leases: Leases,
    records: Records,
    /// Held while a copy is tried: its name has one writer.
    trying: Arc<Mutex<()>>,
}

impl Generations {
    /// The generations in the state directory `state_dir`, an absolute path. Missing lease files are made.
    pub fn open(state_dir: &Path) -> Result<Self, DurableError> {
        Self::open_for(state_dir, Access::default())
    }

    /// Opens the generations as [`Self::open`] does. What is there, and what is made, is for those who have `access`.
    pub fn open_for(state_dir: &Path, access: Access) -> Result<Self, DurableError> {
        let generations = Self { access, ..Self::at(state_dir) };
        create_dir(&generations.root, access.dir())?;
        generations.repair_permissions()?;
        generations.update_leases()?;
        Ok(generations)
    }

    /// Has the locks count for the rest of this boot that older versions took on the directories of generations. Call
    /// before the generations are opened.
    pub fn count_directory_locks(state_dir: &Path) -> Result<(), DurableError> {
        Leases::at(state_dir).files.count_directories()
    }

    /// Makes the lease files that are missing, and removes those of generations that are gone.
    pub fn update_leases(&self) -> Result<(), DurableError> {
        self.leases.files.update(|| self.all())
    }

    /// Gives the files of all generations the permissions that they are to have now.
    fn repair_permissions(&self) -> Result<(), DurableError> {
        let dirs = |dir: &Path| Ok(entries(dir)?.into_iter().filter(|path| is_dir(path)));
        for workload in dirs(&self.root)? {
            repair_permissions([(workload.clone(), self.access.dir())])?;
            dirs(&workload)?.try_for_each(|dir| repair_permissions(permissions(&dir, self.access)?))?;
        }
        Ok(())
    }

    /// The same for a reader, which makes nothing.
    pub fn at(state_dir: &Path) -> Self {
        Self {
            root: state_dir.join("generations"),
            access: Access::default(),
            leases: Leases::at(state_dir),
            records: Records::default(),
            trying: Arc::default(),
        }
    }

    /// The directory of one generation.
    pub fn dir(&self, workload: &WorkloadName, generation: u64) -> PathBuf {
        self.workload(workload).join(generation.to_string())
    }

    /// What a generation says of itself; none where it is not there, not complete, not what it is known to have said, or
    /// cannot be read now.
    pub fn launch(&self, workload: &WorkloadName, generation: u64) -> Option<Launch> {
        self.described(workload, generation).ok().flatten()
    }

    /// The same, for who does away with what is not complete.
    pub fn described(&self, workload: &WorkloadName, generation: u64) -> Result<Option<Launch>, DurableError> {
        let Some(text) = self.record(workload, generation)? else { return Ok(None) };
        let record = Digest::of(&text);
        if !self.records.allow(workload, generation, &record) {
            return Ok(None);
        }
        let is_its_own = |launch: &Launch| launch.workload == *workload && launch.generation == generation;
        let launch = serde_json::from_slice(&text).ok().filter(is_its_own);
        Ok(launch.map(|launch| Launch { record: Some(record), ..launch }))
    }

    /// The digest of what a generation says of itself, where that is not what it is known to have said.
    pub fn altered(&self, workload: &WorkloadName, generation: u64) -> Option<Digest> {
        let record = Digest::of(&self.record(workload, generation).ok()??);
        (!self.records.allow(workload, generation, &record)).then_some(record)
    }

    /// The bytes of a generation's record; none where they are not there, or cannot be read at any time.
    fn record(&self, workload: &WorkloadName, generation: u64) -> Result<Option<Vec<u8>>, DurableError> {
        let path = self.dir(workload, generation).join(LAUNCH_FILE);
        match read_capped(&path, MAX_LAUNCH) {
            Err(error) if is_damage(&error) => Ok(None),
            text => text.map(Some).on("read", &path),
        }
    }

    /// Holds the records of generations to these digests from now on: one with other bytes counts as none. What is not
    /// among them is taken for what it says.
    pub fn hold_to(&self, records: BTreeMap<GenerationName, Digest>) {
        self.records.set(records);
    }

    /// The image that a generation was made of, as far as anything in it still says so.
    pub fn image(&self, workload: &WorkloadName, generation: u64) -> Option<Digest> {
        let manifest = || read_capped(&self.dir(workload, generation).join(MANIFEST_FILE), MAX_DOCUMENT_BYTES as u64);
        let launch = self.launch(workload, generation).map(|launch| launch.digest);
        launch.or_else(|| manifest().ok().map(|manifest| Digest::of(&manifest)))
    }

    /// What a generation says of itself, where every file is there with its length. Nothing is read but `launch.json`.
    pub fn complete(&self, workload: &WorkloadName, generation: u64) -> Option<Launch> {
        let dir = self.dir(workload, generation);
        let launch = self.launch(workload, generation).filter(Launch::is_complete)?;
        let has_root = launch.files.iter().any(|file| file.role == Role::DiskRoot);
        let others = [Some(CONFIG_FILE), Some(MANIFEST_FILE), has_root.then_some("disk-root")];
        others.into_iter().flatten().all(|name| dir.join(name).is_file()).then_some(launch)
    }

    /// Lays out what is ordered, all of whose blobs are in `cache`, as a new generation. The directory appears under
    /// its number complete and durable, or not at all.
    pub fn materialize(&self, cache: &Cache, order: &Order) -> Result<Launch, DiskError> {
        let parent = self.workload(&order.workload);
        if parent.exists() && !parent.is_dir() {
            set_aside(&parent)?;
        }
        create_dir(&parent, self.access.dir())?;
        let number = self.highest(&order.workload)?.max(order.after).saturating_add(1);
        let unfinished = parent.join(format!(".{number}{UNFINISHED}"));
        scratch_dir(&unfinished, self.access.dir())?;
        let launch = order.describe(number, &self.dir(&order.workload, number));
        let follows = order.disks == Disks::OverlayFollow;
        let before = order.current.filter(|_| follows).and_then(|current| self.launch(&order.workload, current));
        let made = order.fill(cache, &launch, before.as_ref(), &unfinished).and_then(|record| {
            repair_permissions(permissions(&unfinished, self.access)?)?;
            let name = (order.workload.clone(), number);
            self.leases.files.make_after(&name, || rename(&unfinished, &self.dir(&order.workload, number)))?;
            Ok(Launch { record: Some(record), ..launch })
        });
        if made.is_err() {
            let _ = remove_dir_all(&unfinished);
        }
        made
    }

    /// Whether a private copy of a blob shares its bytes, and takes no room of its own until the guest writes.
    pub fn shares_copies(&self, cache: &Cache, workload: &WorkloadName, blob: &Digest) -> Result<bool, DurableError> {
        let dir = self.workload(workload);
        let _trying = self.trying.lock().unwrap_or_else(PoisonError::into_inner);
        create_dir(&dir, self.access.dir())?;
        shares_copies(&cache.path(blob), &dir.join(format!(".reflink{UNFINISHED}")))
    }

    /// Removes what a crash left half made: generations, and files of a repair. For who holds the directory's lock, before
    /// anything is made there.
    pub fn sweep(&self) -> Result<(), DurableError> {
        self.remove_named(&[UNFINISHED, RETIRED])?;
        for (workload, number) in self.all()? {
            let Some(launch) = self.launch(&workload, number) else { continue };
            let is_its_own = |name: &OsStr| launch.names().any(|(own, _)| own == name);
            sweep_temporaries(&self.dir(&workload, number), is_its_own)?;
        }
        Ok(())
    }

    /// Removes what is not or no longer a generation, by how its name ends. What others have put there stays.
    fn remove_named(&self, endings: &[&str]) -> Result<(), DurableError> {
        let is_ours = |entry: &PathBuf| {
            let name = entry.file_name().unwrap_or_default().as_encoded_bytes();
            name.starts_with(b".") && endings.iter().any(|ending| name.ends_with(ending.as_bytes()))
        };
        for workload in entries(&self.root)? {
            let ours = entries(&workload).unwrap_or_default().into_iter().filter(is_ours);
            ours.into_iter().try_for_each(|entry| remove_any(&entry))?;
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

    /// Takes a generation's name away, durably, so that what follows can be interrupted anywhere: [`Self::sweep_retired`]
    /// removes the rest. False where somebody uses it.
    pub fn retire(&self, workload: &WorkloadName, generation: u64) -> Result<bool, DurableError> {
        let dir = self.dir(workload, generation);
        let name = (workload.clone(), generation);
        let Some(_claim) = self.leases.claim(&name, &dir) else { return Ok(false) };
        rename(&dir, &self.workload(workload).join(format!(".{generation}{RETIRED}"))).map(|()| true)
    }

    /// Removes what is left of generations whose names were taken away.
    pub fn sweep_retired(&self) -> Result<(), DurableError> {
        self.remove_named(&[RETIRED])
    }

    /// The workloads that have a directory, whether there is a generation in it or not.
    pub fn workloads(&self) -> Result<Vec<WorkloadName>, DurableError> {
        let name = |dir: PathBuf| dir.file_name()?.to_str()?.parse().ok();
        Ok(entries(&self.root)?.into_iter().filter_map(name).collect())
    }

    /// Removes a workload's directory, unless there is something in it.
    pub fn forget(&self, workload: &WorkloadName) -> Result<(), DurableError> {
        let dir = self.workload(workload);
        if dir.is_dir() && entries(&dir)?.is_empty() { remove_dir(&dir) } else { Ok(()) }
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
        let path = self.root.join(HIGHEST_GONE);
        if path.is_dir() {
            set_aside(&path)?;
        }
        write_atomic(&path, generation.to_string().as_bytes(), self.access.file())
    }

    /// The highest number of all that are gone with their workloads; 0 where there is none.
    pub fn highest_gone(&self) -> u64 {
        let text = read_capped(&self.root.join(HIGHEST_GONE), 64).unwrap_or_default();
        String::from_utf8_lossy(&text).parse().unwrap_or(0)
    }

    /// The highest number on disk; 0 where there is none.
    pub fn highest(&self, workload: &WorkloadName) -> Result<u64, DurableError> {
        let number = |path: PathBuf| path.file_name()?.to_str()?.parse::<u64>().ok();
        Ok(entries(&self.workload(workload))?.into_iter().filter_map(number).max().unwrap_or(0))
    }
}

/// True if a directory is there, not a link to one.
fn is_dir(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_dir())
}

/// The permissions for `access` of the directory of a generation, and of the files in it. Files that guests write to
/// keep their mode.
fn permissions(dir: &Path, access: Access) -> Result<Vec<(PathBuf, Permission)>, DurableError> {
    let mut all = vec![(dir.to_owned(), access.dir())];
    for path in entries(dir)? {
        let found = path.symlink_metadata().on("read", &path)?;
        let mode = found.mode() & 0o7777;
        let is_guests = mode & 0o222 != 0;
        if found.is_file() {
            all.push((path, if is_guests { Permission { mode, ..access.file() } } else { access.file() }));
        }
    }
    Ok(all)
}

/// A document of the generation in `dir`, from wherever it has its digest; empty where it is nowhere.
pub(super) fn document(cache: &Cache, dir: &Path, name: &str, digest: &Digest) -> Vec<u8> {
    let own = read_capped(&dir.join(name), MAX_DOCUMENT_BYTES as u64).ok().filter(|bytes| Digest::of(bytes) == *digest);
    own.or_else(|| cache.peek(digest, MAX_DOCUMENT_BYTES)).unwrap_or_default()
}

/// Whether no later try will read it either. A sector that cannot be read is as good as wrong bytes.
fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, InvalidInput, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | InvalidInput | FileTooLarge)
        || error.raw_os_error() == Some(Errno::EIO as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eci::{File, FileName, Source};
    use crate::oci::{Descriptor, Platform};
    use crate::unpack::Content;

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
            disks: Disks::ReadOnly,
            current: None,
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
    fn a_record_that_is_not_what_it_is_known_to_be_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let generations = Generations::open(dir.path()).unwrap();
        let order = order(&cache);
        let launch = generations.materialize(&cache, &order).unwrap();
        let path = generations.dir(&order.workload, 1).join(LAUNCH_FILE);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("}\n") && !text.ends_with("\n\n"), "{text:?}");
        assert_eq!(launch.record, Some(Digest::of(text.as_bytes())));
        generations.hold_to([((order.workload.clone(), 1), launch.record.unwrap())].into());
        assert_eq!(generations.complete(&order.workload, 1), Some(launch));
        assert_eq!(generations.altered(&order.workload, 1), None);

        let other = text.replace("quiet", "quite");
        fs::remove_file(&path).unwrap();
        fs::write(&path, &other).unwrap();
        assert_eq!(generations.complete(&order.workload, 1), None);
        assert_eq!(generations.altered(&order.workload, 1), Some(Digest::of(other.as_bytes())));
        assert_eq!(generations.image(&order.workload, 1), Some(order.digest), "the manifest says it still");
        generations.hold_to(BTreeMap::new());
        let cmdline = generations.complete(&order.workload, 1).and_then(|launch| launch.cmdline);
        assert_eq!(cmdline.as_deref(), Some("quite"), "nobody knows better");
    }

    #[test]
    fn a_record_without_a_newline_stays_valid() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let generations = Generations::open(dir.path()).unwrap();
        let order = order(&cache);
        let launch = generations.materialize(&cache, &order).unwrap();
        let path = generations.dir(&order.workload, 1).join(LAUNCH_FILE);
        // As earlier versions wrote it, with the digest that they kept of it.
        let old = fs::read_to_string(&path).unwrap().trim_end().to_owned();
        fs::remove_file(&path).unwrap();
        fs::write(&path, &old).unwrap();
        let record = Digest::of(old.as_bytes());
        generations.hold_to([((order.workload.clone(), 1), record)].into());
        assert_eq!(generations.complete(&order.workload, 1), Some(Launch { record: Some(record), ..launch }));
        assert_eq!(generations.altered(&order.workload, 1), None);
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
