//! Leases: who boots a generation has a lock on its lease file, and it is not collected meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, OFlag, fcntl};

use super::lease_files::LeaseFiles;
use super::{GenerationName as Name, Generations};
use crate::desired::WorkloadName;
use crate::durable::{DurableError, IoContext};

/// How often, and after how long, a lock is tried that somebody has.
const LOCK_TRIES: u32 = 20;
const LOCK_AGAIN: Duration = Duration::from_millis(50);

/// The leases of this process, by generation. Held while it is looked at who has a lock: two that look at once would take
/// one another for somebody who boots.
#[derive(Clone, Debug)]
pub(super) struct Leases {
    own: Arc<Mutex<BTreeMap<Name, usize>>>,
    pub(super) files: Arc<LeaseFiles>,
}

/// Keeps a generation from being collected.
#[derive(Debug)]
pub struct Lease {
    /// Locks on the lease file and on the generation's directory, as far as they were had. An older agent, as after a
    /// downgrade, looks at the directory.
    locks: Vec<Flock<fs::File>>,
    name: Name,
    own: Leases,
}

/// A generation that nobody uses, and nobody comes to use for as long as this lives.
pub(super) struct Claim<'a> {
    _locks: Vec<Flock<fs::File>>,
    _looking: MutexGuard<'a, BTreeMap<Name, usize>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut own = self.own.look();
        if let Some(count) = own.get_mut(&self.name) {
            *count -= 1;
        }
        own.retain(|_, count| *count > 0);
    }
}

impl Lease {
    /// Has the programs inherit it that this process starts or becomes from now on. The kernel releases it when the last
    /// of those has ended that have not closed the descriptor, however they end.
    pub fn hand_on(&self) -> io::Result<()> {
        self.locks.iter().try_for_each(|lock| fcntl(&**lock, FcntlArg::F_SETFD(FdFlag::empty())).map(drop))?;
        Ok(())
    }
}

impl Leases {
    /// The leases of a state directory.
    pub(super) fn at(state_dir: &Path) -> Self {
        Self { own: Arc::default(), files: Arc::new(LeaseFiles::at(state_dir)) }
    }

    fn look(&self) -> MutexGuard<'_, BTreeMap<Name, usize>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a lease among those of this process.
    fn hold(&self, name: Name, locks: Vec<Flock<fs::File>>) -> Lease {
        *self.look().entry(name.clone()).or_default() += 1;
        Lease { locks, name, own: self.clone() }
    }

    /// Claims a generation, whose directory is `dir`; none if somebody uses it.
    pub(super) fn claim(&self, name: &Name, dir: &Path) -> Option<Claim<'_>> {
        let looking = self.look();
        let locks = self.lock_alone(name, dir)?;
        Some(Claim { _locks: locks, _looking: looking })
    }

    /// Locks of a generation that nobody else has; none if somebody has one. A file that cannot be locked is locked by
    /// nobody, unless this process lacks descriptors or memory to find out.
    fn lock_alone(&self, name: &Name, dir: &Path) -> Option<Vec<Flock<fs::File>>> {
        let file = lock_alone(open_lease(&self.files.path(name)));
        let directory = self.files.counts_directories().then(|| lock_alone(open_dir(dir)));
        let mut locks = Vec::new();
        for lock in [Some(file), directory].into_iter().flatten() {
            match lock {
                Err(Errno::EWOULDBLOCK | Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM) => return None,
                lock => locks.extend(lock),
            }
        }
        Some(locks)
    }
}

impl Generations {
    /// The generations that somebody boots from: those that another process has a lease on.
    pub fn in_use(&self) -> Result<BTreeMap<WorkloadName, Vec<u64>>, DurableError> {
        let mut in_use: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let own = self.leases.look();
        for (workload, number) in self.all()? {
            let name = (workload, number);
            if !own.contains_key(&name) && self.leases.lock_alone(&name, &self.dir(&name.0, number)).is_none() {
                in_use.entry(name.0).or_default().push(number);
            }
        }
        Ok(in_use)
    }

    /// True if any process has a lease on a generation, this one included.
    pub fn is_in_use(&self, workload: &WorkloadName, generation: u64) -> bool {
        let _looking = self.leases.look();
        self.leases.lock_alone(&(workload.clone(), generation), &self.dir(workload, generation)).is_none()
    }

    /// Keeps a generation from being collected for as long as the result lives. Waits for who just looks at whether somebody
    /// does, and not for who stays; none if the generation is gone.
    pub fn lease(&self, workload: &WorkloadName, generation: u64) -> Result<Option<Lease>, DurableError> {
        let (dir, name) = (self.dir(workload, generation), (workload.clone(), generation));
        let directory = open_dir(&dir);
        if directory.as_ref().is_err_and(is_absent) {
            return Ok(None);
        }
        // Another user's lock on the directory is no reason to wait.
        let directory = || {
            directory
                .and_then(|dir| Ok(Flock::lock(dir, FlockArg::LockSharedNonblock).map_err(|(_, errno)| errno)?))
                .ok()
        };
        if !self.leases.files.are_in_use() {
            // The agent is of an older version, and looks at the directory.
            return Ok(directory().filter(|_| dir.is_dir()).map(|lock| self.leases.hold(name, vec![lock])));
        }
        let path = self.leases.files.path(&name);
        let lock = match open_lease(&path) {
            // The file goes after its generation.
            Err(error) if is_absent(&error) && !dir.is_dir() => return Ok(None),
            opened => lock_with_others(opened.on("open", &path)?).map_err(Into::into).on("lock", &path)?,
        };
        // The generation may have been removed while this waited.
        let is_still = fs::metadata(&path).is_ok_and(|now| lock.metadata().is_ok_and(|then| then.ino() == now.ino()));
        if !is_still || !dir.is_dir() {
            return Ok(None);
        }
        Ok(Some(self.leases.hold(name, std::iter::once(lock).chain(directory()).collect())))
    }

    /// A lock on the directory of a generation alone: no lease, but as much as can be had without a lease file. It
    /// counts for an older agent, and in a boot in which an older agent has run.
    pub fn lock_directory(&self, workload: &WorkloadName, generation: u64) -> Option<Lease> {
        let lock = Flock::lock(open_dir(&self.dir(workload, generation)).ok()?, FlockArg::LockSharedNonblock).ok()?;
        Some(self.leases.hold((workload.clone(), generation), vec![lock]))
    }
}

/// Opens a lease file to lock it; anything but a regular file is refused at once.
fn open_lease(path: &Path) -> io::Result<fs::File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(Errno::EINVAL.into()) }
}

/// Opens a directory to lock it. Anything else is refused at once: a named pipe would wait for a writer for ever.
fn open_dir(dir: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(dir)
}

/// True if nothing is there.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A lock that others may have as well.
fn lock_with_others(mut file: fs::File) -> Result<Flock<fs::File>, Errno> {
    for _ in 0..LOCK_TRIES {
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Err((again, Errno::EWOULDBLOCK)) => file = again,
            locked => return locked.map_err(|(_, errno)| errno),
        }
        std::thread::sleep(LOCK_AGAIN);
    }
    Err(Errno::EWOULDBLOCK)
}

/// A lock that nobody else has.
fn lock_alone(opened: io::Result<fs::File>) -> Result<Flock<fs::File>, Errno> {
    let opened = opened.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    Flock::lock(opened, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)
}
