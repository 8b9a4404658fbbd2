//! Errors of the disk, with what was being done to which path.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::failure::{Classify, Kind, Retry};

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}{}", .path.display(), advice(.source))]
pub struct DurableError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl DurableError {
    /// Says that `operation` on `path` failed; the operation reads well after "cannot".
    pub fn new(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self { operation, path: path.to_owned(), source }
    }

    /// The operating system's error.
    pub fn io(&self) -> &io::Error {
        &self.source
    }
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull => " (free some space on its file system)",
        io::ErrorKind::QuotaExceeded => " (free some space, or raise the quota of whom the agent runs as)",
        io::ErrorKind::ReadOnlyFilesystem => {
            " (its file system is mounted read-only: look for the reason in the kernel's log, and mount it writable)"
        }
        io::ErrorKind::CrossesDevices => {
            " (both names have to be on one file system and one mount: unmount what is mounted below the directory)"
        }
        // An error of our own says what to do itself.
        io::ErrorKind::PermissionDenied if source.raw_os_error().is_some() => {
            " (check owner and mode of the directory)"
        }
        _ if source.raw_os_error() == Some(Errno::EIO as i32) => {
            " (the disk, or its file system, fails: look for the reason in the kernel's log)"
        }
        _ => "",
    }
}

impl Classify for DurableError {
    fn kind(&self) -> Kind {
        match self.source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::DiskFull,
            io::ErrorKind::ReadOnlyFilesystem => Kind::ReadOnly,
            io::ErrorKind::PermissionDenied => Kind::Forbidden,
            io::ErrorKind::CrossesDevices => Kind::UnsuitableFileSystem,
            _ => Kind::Io,
        }
    }

    /// Always later: space is freed, disks are remounted and modes are mended while the agent goes on.
    fn retry(&self) -> Retry {
        Retry::Later
    }
}

/// Adds to an I/O result what was being done.
pub trait IoContext<T> {
    /// Says which operation on which path it was, as [`DurableError::new`] does.
    fn on(self, operation: &'static str, path: &Path) -> Result<T, DurableError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn on(self, operation: &'static str, path: &Path) -> Result<T, DurableError> {
        self.map_err(|source| DurableError::new(operation, path, source))
    }
}
