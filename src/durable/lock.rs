//! One process a directory.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use super::file::temporary;
use super::lock_file::{self, FileIdentity, Holds, holds, pid_of};
use super::suitability::SUITABLE;
use super::unsupported::{has_no_locks, warn_of_no_lock};
use super::{DurableError, IoContext, remove_dir, remove_dir_all, remove_file};
use crate::failure::{Classify, Kind, Retry};

/// Longest wait for a lock whose holder has ended: a child that it was starting when it was killed keeps the lock until
/// it becomes another program.
const ORPHAN_WAIT: Duration = Duration::from_secs(2);
/// Pause between looks at such a lock.
const ORPHAN_PAUSE: Duration = Duration::from_millis(10);
/// Tries to remove a directory whose last file may not be gone yet.
const REMOVE_TRIES: u32 = 20;
/// Pause between these tries.
const REMOVE_AGAIN: Duration = Duration::from_millis(10);

/// A lock that the kernel releases when the process ends, however it ends.
#[derive(Debug)]
pub struct DirLock {
    file: Flock<File>,
    path: PathBuf,
    /// Text of the file before this process wrote into it.
    text_before: String,
}

/// Why a lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{} is held by {}; one agent a state directory", .path.display(), holder(*.pid))]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The process id in the file, if that process is another one and has the file open.
        pid: Option<u32>,
    },
    /// The file system has no locks.
    #[error("cannot lock {}: its file system has no locks; put it on {SUITABLE}", .path.display())]
    Unsupported {
        /// The lock file.
        path: PathBuf,
        /// The file system's error.
        #[source]
        source: io::Error,
    },
    /// The file cannot be used.
    #[error(transparent)]
    Disk(#[from] DurableError),
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// Locks a directory until the file is dropped, and waits for others who lock it so. None if its file system has no locks.
pub fn lock_dir(dir: &Path) -> Result<Option<Flock<File>>, DurableError> {
    let file = File::open(dir).on("open", dir)?;
    match Flock::lock(file, FlockArg::LockExclusive) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, errno)) => {
            let error = io::Error::from(errno);
            if has_no_locks(&error) { Ok(None) } else { Err(error).on("lock", dir) }
        }
    }
}

impl DirLock {
    /// Takes the lock at `path`, and writes this process's id into it. Waits only if the process that is named as its
    /// holder has ended. Only the owner can open the file, so that nobody else can hold the lock. A symbolic link in
    /// its place is refused.
    ///
    /// Other users may have opened a file that an older version made, and hold the lock or wait for it. Such a file is
    /// replaced by a new one once its lock is taken, or if the process that it names does not have it open.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let give_up_at = Instant::now() + ORPHAN_WAIT;
        loop {
            // To read only: a file system with a file that is open to be written cannot be mounted read-only.
            let file = lock_file::open(path, OpenOptions::new().read(true), OFlag::O_CREAT)?;
            let (is_shared, identity) = (lock_file::is_open_to_others(&file, path)?, FileIdentity::of(&file, path)?);
            let text = lock_file::read_text(&file);
            let taken = match Self::take(file, path, text.clone(), !is_shared) {
                // NFS locks only what is open to be written.
                Err(LockError::Unsupported { source, .. }) if source.raw_os_error() == Some(Errno::EBADF as i32) => {
                    let file = lock_file::open(path, OpenOptions::new().read(true).write(true), OFlag::empty())?;
                    Self::take(file, path, text, !is_shared)
                }
                Err(LockError::Held { .. }) if is_shared && holds(pid_of(&text), identity) == Holds::No => {
                    Self::replace(path, identity, text)
                }
                Ok(Some(lock)) if is_shared => match Self::replace(path, identity, text) {
                    Err(LockError::Disk(error)) if error.kind() == Kind::DiskFull => Ok(Some(lock)),
                    replaced => replaced,
                },
                taken => taken,
            };
            match taken {
                Ok(Some(lock)) => return Ok(lock),
                Ok(None) => {}
                Err(LockError::Held { pid: None, .. }) if Instant::now() < give_up_at => {
                    std::thread::sleep(ORPHAN_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Acquires the lock of a user's directory, which may be on any file system. Without locks there, warns and returns
    /// none.
    pub fn acquire_if_supported(path: &Path) -> Result<Option<Self>, LockError> {
        match Self::acquire(path) {
            Err(LockError::Unsupported { source, .. }) => {
                warn_of_no_lock(path, &source);
                Ok(None)
            }
            acquired => acquired.map(Some),
        }
    }

    /// Whether the lock still keeps others out: at its path is the file that it is on. Where that cannot be told, as the
    /// disk fails, nothing speaks against it.
    pub fn is_in_place(&self) -> bool {
        let identity = |found: fs::Metadata| (found.dev(), found.ino());
        match (fs::metadata(&self.path).map(identity), self.file.metadata().map(identity)) {
            (Ok(there), Ok(ours)) => there == ours,
            (Err(error), _) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
            (Ok(_), Err(_)) => true,
        }
    }

    /// True if the holder before this one was of a version that wrote its process id alone.
    pub fn follows_unversioned(&self) -> bool {
        lock_file::is_unversioned(&self.text_before)
    }

    /// Locks an open file. None if the file is not at its path any more: its last holder has removed it, and it keeps
    /// nobody out. If the file stays, its holder is written into it.
    fn take(file: File, path: &Path, text_before: String, stays: bool) -> Result<Option<Self>, LockError> {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) if file.metadata().on("read", path)?.nlink() == 0 => Ok(None),
            Ok(file) => {
                if stays {
                    note_holder(&file, path)?;
                }
                Ok(Some(Self { file, path: path.to_owned(), text_before }))
            }
            Err((file, Errno::EWOULDBLOCK)) => {
                let identity = FileIdentity::of(&file, path)?;
                let pid = pid_of(&text_before).filter(|pid| holds(Some(*pid), identity) == Holds::Yes);
                Err(LockError::Held { path: path.to_owned(), pid })
            }
            Err((_, errno)) if has_no_locks(&errno.into()) => {
                Err(LockError::Unsupported { path: path.to_owned(), source: errno.into() })
            }
            Err((_, errno)) => Err(DurableError::new("lock", path, errno.into()).into()),
        }
    }

    /// Puts a new locked file in place of the file `old`, so that locks on `old` keep nobody out. None if another
    /// process has replaced it meanwhile: the new file has one name at a time, and only who has locked it renames it.
    fn replace(path: &Path, old: FileIdentity, text_before: String) -> Result<Option<Self>, LockError> {
        let fresh = temporary(path);
        let file = lock_file::open(&fresh, OpenOptions::new().read(true), OFlag::O_CREAT)?;
        let Ok(file) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
            return Err(LockError::Held { path: path.to_owned(), pid: None });
        };
        if !FileIdentity::of(&file, &fresh)?.is_at(&fresh) {
            return Ok(None);
        }
        if !old.is_at(path) {
            let _ = remove_file(&fresh);
            return Ok(None);
        }
        note_holder(&file, &fresh)?;
        fs::rename(&fresh, path).on("rename into place", path)?;
        Ok(Some(Self { file, path: path.to_owned(), text_before }))
    }
}

/// Writes this process's id into its lock file. On a full disk the file stays empty: the id is for messages only.
fn note_holder(file: &File, path: &Path) -> Result<(), DurableError> {
    match lock_file::write_holder(file, path) {
        Err(error) if error.kind() == Kind::DiskFull => Ok(()),
        written => written,
    }
}

/// Removes a locked directory with its contents. FUSE and NFS keep a deleted file under another name while it is open:
/// there, the lock is released before the directory is removed. A directory that another process has locked by then is
/// not empty, and stays.
pub fn remove_locked_dir(dir: &Path, lock: Option<DirLock>) -> Result<(), DurableError> {
    match remove_dir_all(dir) {
        Err(error) if error.io().kind() == io::ErrorKind::DirectoryNotEmpty => {}
        removed => return removed,
    }
    drop(lock);
    for _ in 0..REMOVE_TRIES {
        match remove_dir(dir) {
            // A closed file may take a moment to go.
            Err(error) if error.io().kind() == io::ErrorKind::DirectoryNotEmpty => std::thread::sleep(REMOVE_AGAIN),
            removed => return removed,
        }
    }
    Ok(())
}

impl Classify for LockError {
    fn kind(&self) -> Kind {
        match self {
            Self::Held { .. } => Kind::Locked,
            Self::Unsupported { .. } => Kind::UnsuitableFileSystem,
            Self::Disk(error) => error.kind(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Unsupported { .. } => Retry::Never,
            Self::Held { .. } | Self::Disk(_) => Retry::Later,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Child, Command};

    /// A process that is killed when the test ends.
    struct Killed(Child);

    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Makes a lock file as older versions did, which names the process `pid`.
    fn older(path: &Path, pid: u32) -> File {
        fs::write(path, format!("{pid}\n")).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
        File::open(path).unwrap()
    }

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = DirLock::acquire(&path).unwrap();
        assert!(first.is_in_place());
        let own = DirLock::acquire(&path).unwrap_err();
        assert!(own.to_string().contains("another process"), "the file is open in this process in any case: {own}");
        // A process that has the file open, one that lives and has not, one that has ended, and what is no process.
        let holder = Killed(Command::new("sleep").arg("1000").stdin(File::open(&path).unwrap()).spawn().unwrap());
        let parent = std::os::unix::process::parent_id();
        let mut ended = Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        for (pid, is_named) in
            [(holder.0.id(), true), (parent, false), (ended.id(), false), (0, false), (u32::MAX, false)]
        {
            fs::write(&path, format!("{pid} 0.1.0\n")).unwrap();
            let second = DirLock::acquire(&path).unwrap_err().to_string();
            assert_eq!(second.contains(&format!("process {pid};")), is_named, "{second}");
        }
        drop((first, holder));
        DirLock::acquire(&path).unwrap();
    }

    #[test]
    fn a_lock_whose_directory_is_another_keeps_nobody_out() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        fs::create_dir(&state).unwrap();
        let lock = DirLock::acquire(&state.join("lock")).unwrap();
        fs::rename(&state, dir.path().join("moved")).unwrap();
        assert!(!lock.is_in_place());
        fs::create_dir(&state).unwrap();
        let _other = DirLock::acquire(&state.join("lock")).unwrap();
        assert!(!lock.is_in_place());
    }

    #[test]
    fn only_the_owner_opens_a_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        older(&path, 1 << 22);
        for _ in ["there", "not there"] {
            let lock = DirLock::acquire(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
            let (pid, version) = (std::process::id(), env!("CARGO_PKG_VERSION"));
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{pid} {version}\n"));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
            drop(lock);
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_file_that_others_opened_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let opened = older(&path, 1 << 22);
        let lock = DirLock::acquire(&path).unwrap();
        assert!(lock.follows_unversioned() && lock.is_in_place());
        let _others = Flock::lock(opened, FlockArg::LockExclusiveNonblock).unwrap();
        assert!(lock.is_in_place());
        drop(lock);
        let next = DirLock::acquire(&path).unwrap();
        assert!(!next.follows_unversioned());
    }

    #[test]
    fn only_the_named_process_keeps_a_file_that_others_can_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        // The agent of an older version.
        let opened = older(&path, 1);
        let agent = Killed(Command::new("sleep").arg("1000").stdin(opened.try_clone().unwrap()).spawn().unwrap());
        fs::write(&path, format!("{}\n", agent.0.id())).unwrap();
        let held = Flock::lock(opened, FlockArg::LockExclusiveNonblock).unwrap();
        assert!(matches!(DirLock::acquire(&path), Err(LockError::Held { pid: Some(pid), .. }) if pid == agent.0.id()));
        // Another user's lock, once the agent has ended.
        drop(agent);
        let lock = DirLock::acquire(&path).unwrap();
        assert!(lock.is_in_place());
        drop(held);
        assert!(matches!(DirLock::acquire(&path), Err(LockError::Held { .. })));
    }

    #[test]
    fn a_lock_whose_holder_has_ended_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        drop(DirLock::acquire(&path).unwrap());
        // Of a child that a killed agent was starting: nobody is named who has the file open.
        let orphan = OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
        let held = Flock::lock(orphan, FlockArg::LockExclusiveNonblock).unwrap();
        let (started, path) = (Instant::now(), &path);
        assert!(matches!(DirLock::acquire(path), Err(LockError::Held { pid: None, .. })), "it is held for too long");
        assert!(started.elapsed() >= ORPHAN_WAIT);
        std::thread::scope(|scope| {
            let next = scope.spawn(|| DirLock::acquire(path).unwrap());
            drop(held);
            assert!(next.join().unwrap().is_in_place());
        });
    }

    #[test]
    fn nothing_but_a_file_is_a_lock() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("lock"), dir.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        fs::set_permissions(&victim, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        let refused = DirLock::acquire(&path).unwrap_err();
        assert!(std::error::Error::source(&refused).unwrap().to_string().contains("symbolic link"), "{refused:?}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(fs::metadata(&victim).unwrap().mode() & 0o7777, 0o640);
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(DirLock::acquire(&path).is_err());
    }

    #[test]
    fn a_lock_that_was_removed_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let opened = File::create(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(DirLock::take(opened, &path, String::new(), true).unwrap().is_none());
    }
}
