//! Checks of the file system that a state directory is on. Each operation is tried, because a file system does not tell
//! what it lacks.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::unsupported::{has_no_locks, is_unsupported};
use super::{DurableError, IoContext};
use crate::failure::{Classify, Kind, Retry};

/// File systems that have all that is needed.
pub(super) const SUITABLE: &str = "ext4, XFS, btrfs or tmpfs";

/// Names of the files of a check. After a crash they are removed like other unfinished files.
const PROBE: &str = ".probe.new";
const OTHER_PROBE: &str = ".probe-link.new";

/// A reason why a state directory cannot be used where it is.
#[derive(Debug, thiserror::Error)]
pub enum FileSystemError {
    /// The file system lacks an operation.
    #[error("{} cannot be the state directory: its file system cannot {operation}; put it on {SUITABLE}", .dir.display())]
    Lacks {
        /// The directory.
        dir: PathBuf,
        /// The missing operation.
        operation: &'static str,
        /// The file system's error.
        #[source]
        source: io::Error,
    },
    /// Files cannot be renamed from one directory to another.
    #[error("{} and {} are not on one file system and one mount (a bind mount is another one), and files are renamed from one to the other: unmount what is mounted below the state directory, or mount the whole of it", .from.display(), .to.display())]
    Apart {
        /// The directory of files that are not complete.
        from: PathBuf,
        /// The directory of complete ones.
        to: PathBuf,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DurableError),
}

impl Classify for FileSystemError {
    fn kind(&self) -> Kind {
        match self {
            Self::Lacks { .. } | Self::Apart { .. } => Kind::UnsuitableFileSystem,
            Self::Disk(error) => error.kind(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Lacks { .. } | Self::Apart { .. } => Retry::Never,
            Self::Disk(error) => error.retry(),
        }
    }
}

/// Tries the operations that the state directory `dir` needs. Call with its lock held. A full disk skips some of them.
pub fn check_state_dir(dir: &Path) -> Result<(), FileSystemError> {
    let probes = Probes::new(dir, dir)?;
    let outcome = probes.try_operations(dir);
    probes.remove();
    outcome
}

/// Tries to rename a file from the directory `from` to the directory `to`.
pub fn check_rename(from: &Path, to: &Path) -> Result<(), FileSystemError> {
    let probes = Probes::new(from, to)?;
    let outcome = match probes.create().and_then(|_| fs::rename(&probes.0, &probes.1)) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            Err(FileSystemError::Apart { from: from.to_owned(), to: to.to_owned() })
        }
        tried => passed(tried, "rename into place", to),
    };
    probes.remove();
    outcome
}

/// True if files in `from` can be hard-linked into `to`, or if that cannot be tried.
pub fn has_hard_links(from: &Path, to: &Path) -> bool {
    let Ok(probes) = Probes::new(from, to) else { return true };
    let linked = probes.create().and_then(|_| fs::hard_link(&probes.0, &probes.1));
    probes.remove();
    !linked.is_err_and(|error| {
        is_unsupported(&error)
            || matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::CrossesDevices)
    })
}

/// The paths of the two files of a check.
struct Probes(PathBuf, PathBuf);

impl Probes {
    /// Removes files that an earlier check has left.
    fn new(from: &Path, to: &Path) -> Result<Self, DurableError> {
        let probes = Self(from.join(PROBE), to.join(OTHER_PROBE));
        for path in [&probes.0, &probes.1] {
            match fs::remove_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.on("remove", path)?,
            }
        }
        Ok(probes)
    }

    fn create(&self) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.0)
    }

    fn try_operations(&self, dir: &Path) -> Result<(), FileSystemError> {
        let lacks = |operation, source| Err(FileSystemError::Lacks { dir: dir.to_owned(), operation, source });
        match File::open(dir).and_then(|dir| dir.sync_all()) {
            Err(error) if is_unsupported(&error) => return lacks("sync directories", error),
            synced => synced.on("sync the directory", dir)?,
        }
        // Leases lock the directories of generations too, for older versions. A lock that another user has is no
        // failure.
        let locked = Flock::lock(File::open(dir).on("open", dir)?, FlockArg::LockExclusiveNonblock);
        if let Err((_, errno)) = locked
            && has_no_locks(&errno.into())
        {
            return lacks("lock directories", errno.into());
        }
        let file = match self.create() {
            Err(error) if is_full(&error) => return Ok(()),
            created => created.on("create", &self.0)?,
        };
        match file.set_permissions(Permissions::from_mode(0o444)) {
            Err(error) if is_refused(&error) => return lacks("set modes", error),
            set => set.on("set the mode of", &self.0)?,
        }
        match symlink(PROBE, &self.1) {
            Err(error) if is_refused(&error) => return lacks("make symbolic links", error),
            Err(error) if is_full(&error) => return Ok(()),
            made => made.on("create the link", &self.1)?,
        }
        match fs::rename(&self.1, &self.0) {
            Err(error) if is_refused(&error) => lacks("replace a file by a rename", error),
            renamed => passed(renamed, "rename into place", &self.0),
        }
    }

    /// Removes both files. If that fails, the next start removes them.
    fn remove(&self) {
        let _ = fs::remove_file(&self.0);
        let _ = fs::remove_file(&self.1);
    }
}

/// Ignores the error of a full disk, which says nothing about its file system.
fn passed(tried: io::Result<()>, operation: &'static str, path: &Path) -> Result<(), FileSystemError> {
    match tried {
        Err(error) if is_full(&error) => Ok(()),
        tried => Ok(tried.on(operation, path)?),
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// True if the operation is missing. A permission cannot be: the file is ours.
fn is_refused(error: &io::Error) -> bool {
    is_unsupported(error) || error.raw_os_error() == Some(nix::errno::Errno::EPERM as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_leave_a_suitable_directory_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        // As a crash leaves them.
        fs::write(dir.path().join(PROBE), "").unwrap();
        fs::write(to.join(OTHER_PROBE), "").unwrap();
        check_state_dir(dir.path()).unwrap();
        check_rename(&from, &to).unwrap();
        assert!(has_hard_links(&from, &to));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        assert_eq!(fs::read_dir(&from).unwrap().count() + fs::read_dir(&to).unwrap().count(), 0);
    }

    #[test]
    fn a_file_system_that_cannot_sync_is_refused() {
        let error = check_state_dir(Path::new("/proc/self")).unwrap_err();
        assert_eq!((error.kind(), error.kind().exit_code()), (Kind::UnsuitableFileSystem, 78), "{error}");
        assert!(error.to_string().contains("/proc/self") && error.to_string().contains(SUITABLE), "{error}");
    }
}
