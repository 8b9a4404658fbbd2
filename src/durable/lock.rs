//! One process a directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use super::suitability::SUITABLE;
use super::unsupported::{has_no_locks, warn_of_no_lock};
use super::{DurableError, IoContext, remove_dir, remove_dir_all};
use crate::failure::{Classify, Kind, Retry};

/// Tries to remove a directory whose last file may not be gone yet.
const REMOVE_TRIES: u32 = 20;
/// Pause between these tries.
const REMOVE_AGAIN: Duration = Duration::from_millis(10);

/// A lock that the kernel releases when the process ends, however it ends.
#[derive(Debug)]
pub struct DirLock {
    file: Flock<File>,
    path: PathBuf,
}

/// Why a lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{} is held by {}; one agent a state directory", .path.display(), holder(*.pid))]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The holder's process id, if its file says.
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

impl DirLock {
    /// Takes the lock at `path` without waiting, and writes this process's id into it.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        loop {
            // To read only: a file system with a file that is open to be written cannot be mounted read-only.
            let created = OpenOptions::new().read(true).custom_flags(OFlag::O_CREAT.bits()).mode(0o644).open(path);
            let file = created.on("open the lock", path)?;
            let taken = match Self::take(file, path) {
                // NFS locks only what is open to be written.
                Err(LockError::Unsupported { source, .. }) if source.raw_os_error() == Some(Errno::EBADF as i32) => {
                    Self::take(OpenOptions::new().read(true).write(true).open(path).on("open the lock", path)?, path)
                }
                taken => taken,
            };
            if let Some(lock) = taken? {
                return Ok(lock);
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

    /// None where the file is not at its path any more: its last holder has removed it, and it keeps nobody out.
    fn take(file: File, path: &Path) -> Result<Option<Self>, LockError> {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) if file.metadata().on("read", path)?.nlink() == 0 => Ok(None),
            Ok(file) => {
                match fs::write(path, format!("{}\n", std::process::id())) {
                    // Whose it is is only for a person to read. On a full disk an agent has all the more to start.
                    Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                    }
                    written => written.on("write", path)?,
                }
                Ok(Some(Self { file, path: path.to_owned() }))
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                // Twenty bytes hold any pid; a failure to read it only makes the message poorer.
                let _ = Read::by_ref(&mut file).take(20).read_to_string(&mut text);
                Err(LockError::Held { path: path.to_owned(), pid: text.trim().parse().ok() })
            }
            Err((_, errno)) if has_no_locks(&errno.into()) => {
                Err(LockError::Unsupported { path: path.to_owned(), source: errno.into() })
            }
            Err((_, errno)) => Err(DurableError::new("lock", path, errno.into()).into()),
        }
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

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = DirLock::acquire(&path).unwrap();
        assert!(first.is_in_place());
        let second = DirLock::acquire(&path).unwrap_err();
        assert!(second.to_string().contains(&format!("process {}", std::process::id())), "{second}");
        drop(first);
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
    fn a_lock_that_was_removed_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let opened = File::create(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(DirLock::take(opened, &path).unwrap().is_none());
    }
}
