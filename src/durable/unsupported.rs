//! Operations that some file systems lack. A user's files may be on any: a missing operation is skipped, and one warning
//! says what is lost. The agent refuses such a file system at its start (`suitability.rs`).

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Once;

use nix::errno::Errno;
use nix::unistd::geteuid;

/// An operation that may be skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Sync,
    SetMode,
    Lock,
}

impl Operation {
    /// Warns once of what is lost without the operation.
    fn warn_once(self, path: &Path, error: &io::Error) {
        static WARNED: [Once; 3] = [const { Once::new() }; 3];
        let [sync, mode, lock] = &WARNED;
        let (once, lost) = match self {
            Self::Sync => (sync, "the file system cannot sync: a power cut may undo what is written now"),
            Self::SetMode => (mode, "the file system cannot set modes: files have those that it gives them"),
            Self::Lock => (lock, "the file system has no locks: another push or pull there is not noticed"),
        };
        once.call_once(|| tracing::warn!(path = %path.display(), %error, "{lost}"));
    }
}

/// Ignores the error of an operation that the file system lacks.
pub(super) fn tolerate(operation: Operation, path: &Path, result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is_unsupported(&error) || (operation == Operation::SetMode && is_fixed(path, &error)) => {
            operation.warn_once(path, &error);
            Ok(())
        }
        result => result,
    }
}

/// Warns once that no other process is kept out.
pub(super) fn warn_of_no_lock(path: &Path, error: &io::Error) {
    Operation::Lock.warn_once(path, error);
}

/// True if the file system lacks the operation; file systems use several errors for that.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENOTTY))
}

/// True if the file system has no locks: NFS locks only files open for writing, and none without its lock service.
pub(super) fn has_no_locks(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    is_unsupported(error) || matches!(errno, Some(Errno::EBADF | Errno::ENOLCK))
}

/// True if a mode cannot be set although the file is ours: the file system fixes the modes.
fn is_fixed(path: &Path, error: &io::Error) -> bool {
    let is_ours = || path.symlink_metadata().is_ok_and(|found| found.uid() == geteuid().as_raw());
    error.raw_os_error() == Some(Errno::EPERM as i32) && is_ours()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_supported_is_tolerated() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let tolerated = |operation, errno: Errno| tolerate(operation, &file, Err(errno.into())).is_ok();
        for errno in [Errno::EINVAL, Errno::EOPNOTSUPP, Errno::ENOSYS] {
            assert!(tolerated(Operation::Sync, errno) && tolerated(Operation::SetMode, errno), "{errno}");
        }
        for errno in [Errno::EIO, Errno::ENOSPC, Errno::EROFS, Errno::EACCES, Errno::EDQUOT] {
            assert!(!tolerated(Operation::Sync, errno) && !tolerated(Operation::SetMode, errno), "{errno}");
        }
        assert!(tolerated(Operation::SetMode, Errno::EPERM), "the file is ours");
        assert!(!tolerated(Operation::Sync, Errno::EPERM));
    }
}
