//! Leases: who boots a generation has a lock on its directory, and it is not collected meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, OFlag, fcntl};

use super::{GenerationName as Name, Generations};
use crate::desired::WorkloadName;
use crate::durable::{DurableError, IoContext};

/// How often, and after how long, a lock is tried that somebody has.
const LOCK_TRIES: u32 = 20;
const LOCK_AGAIN: Duration = Duration::from_millis(50);

/// The leases of this process, by generation. Held while it is looked at who has a lock: two that look at once would take
/// one another for somebody who boots.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases(Arc<Mutex<BTreeMap<Name, usize>>>);

/// Keeps a generation from being collected.
#[derive(Debug)]
pub struct Lease {
    lock: Flock<fs::File>,
    name: Name,
    own: Leases,
}

/// A generation's directory that nobody uses, and nobody comes to use for as long as this lives.
pub(super) struct Claim<'a> {
    _lock: Option<Flock<fs::File>>,
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
        fcntl(&*self.lock, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(())
    }
}

impl Leases {
    fn look(&self) -> MutexGuard<'_, BTreeMap<Name, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims a generation's directory; none where somebody uses it.
    pub(super) fn claim(&self, dir: &Path) -> Option<Claim<'_>> {
        let looking = self.look();
        let lock = match lock_alone(dir) {
            Err(Errno::EWOULDBLOCK) => return None,
            // What cannot be locked is used by nobody who could lock it.
            lock => lock.ok(),
        };
        Some(Claim { _lock: lock, _looking: looking })
    }
}

impl Generations {
    /// The generations that somebody boots from: who has a lock on their directories beside this process.
    pub fn in_use(&self) -> Result<BTreeMap<WorkloadName, Vec<u64>>, DurableError> {
        let mut in_use: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let own = self.leases.look();
        for (workload, number) in self.all()? {
            if !own.contains_key(&(workload.clone(), number)) && is_locked(&self.dir(&workload, number)) {
                in_use.entry(workload).or_default().push(number);
            }
        }
        Ok(in_use)
    }

    /// Whether anybody has a lock on a generation's directory, this process included.
    pub fn is_in_use(&self, workload: &WorkloadName, generation: u64) -> bool {
        let _looking = self.leases.look();
        is_locked(&self.dir(workload, generation))
    }

    /// Keeps a generation from being collected for as long as the result lives. Waits for who just looks at whether somebody
    /// does, and not for who stays; none where it is gone.
    pub fn lease(&self, workload: &WorkloadName, generation: u64) -> Result<Option<Lease>, DurableError> {
        let dir = self.dir(workload, generation);
        let opened = match open_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.on("open", &dir)?,
        };
        let lock = lock_with_others(opened).map_err(Into::into).on("lock", &dir)?;
        // It may have been renamed while this waited.
        let is_still = fs::metadata(&dir).is_ok_and(|now| lock.metadata().is_ok_and(|then| then.ino() == now.ino()));
        if !is_still {
            return Ok(None);
        }
        let name = (workload.clone(), generation);
        *self.leases.look().entry(name.clone()).or_default() += 1;
        Ok(Some(Lease { lock, name, own: self.leases.clone() }))
    }
}

/// Opens a directory to lock it. Anything else is refused at once: a named pipe would wait for a writer for ever.
fn open_dir(dir: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(dir)
}

/// A lock that others may have as well.
fn lock_with_others(mut dir: fs::File) -> Result<Flock<fs::File>, Errno> {
    for _ in 0..LOCK_TRIES {
        match Flock::lock(dir, FlockArg::LockSharedNonblock) {
            Err((again, Errno::EWOULDBLOCK)) => dir = again,
            locked => return locked.map_err(|(_, errno)| errno),
        }
        std::thread::sleep(LOCK_AGAIN);
    }
    Err(Errno::EWOULDBLOCK)
}

/// A lock on a generation's directory that nobody else has one on.
fn lock_alone(dir: &Path) -> Result<Flock<fs::File>, Errno> {
    let opened = open_dir(dir).map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    Flock::lock(opened, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)
}

fn is_locked(dir: &Path) -> bool {
    matches!(lock_alone(dir), Err(Errno::EWOULDBLOCK))
}
