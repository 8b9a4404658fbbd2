//! The file of a lock: opened without following a link, accessible to its owner only, with the id of the process that
//! holds the lock and that program's version.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::kill;
use nix::unistd::{Pid, geteuid};

use super::{DurableError, IoContext};

/// Mode of a lock file: whoever can open it can hold it.
const MODE: u32 = 0o600;
/// Size limit of the text in a lock file, in bytes.
const MAX_TEXT: u64 = 80;

/// Answer to whether a process holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Yes,
    No,
    /// The process lives, and its open files cannot be read.
    Unknown,
}

/// Device and inode of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileIdentity(u64, u64);

impl FileIdentity {
    /// Identity of an open file.
    pub(super) fn of(file: &File, path: &Path) -> Result<Self, DurableError> {
        file.metadata().map(|found| Self::from(&found)).on("read", path)
    }

    /// True if this is the file at `path`, which is not a link to it.
    pub(super) fn is_at(self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|found| Self::from(&found) == self)
    }
}

impl From<&fs::Metadata> for FileIdentity {
    fn from(found: &fs::Metadata) -> Self {
        Self(found.dev(), found.ino())
    }
}

/// Opens a lock file, which has to be a regular file. A symbolic link may lead to another user's file.
pub(super) fn open(path: &Path, options: &mut OpenOptions, flags: OFlag) -> Result<File, DurableError> {
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let refused = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}: remove it"));
    let file = match options.custom_flags(flags.bits()).mode(MODE).open(path) {
        Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => Err(refused("a symbolic link")),
        Ok(file) if !file.metadata().on("read", path)?.is_file() => Err(refused("not a regular file")),
        opened => opened,
    };
    file.on("open the lock", path)
}

/// True if another user can open the file, as those that older versions made.
pub(super) fn is_open_to_others(file: &File, path: &Path) -> Result<bool, DurableError> {
    Ok(file.metadata().on("read", path)?.mode() & 0o077 != 0)
}

/// Reads the text of a lock file; a failure makes a message poorer, and nothing else.
pub(super) fn read_text(file: &File) -> String {
    let mut text = Vec::new();
    let _ = file.take(MAX_TEXT).read_to_end(&mut text);
    String::from_utf8_lossy(&text).trim().to_owned()
}

/// Writes id and version of this process into a locked file. The file is reached by its descriptor: its path may lead
/// to another file by now. Without /proc, nothing is written.
pub(super) fn write_holder(locked: &File, path: &Path) -> Result<(), DurableError> {
    let by_descriptor = format!("/proc/self/fd/{}", locked.as_raw_fd());
    let file = match OpenOptions::new().write(true).truncate(true).open(by_descriptor) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.on("write", path)?,
    };
    writeln!(&file, "{} {}", std::process::id(), env!("CARGO_PKG_VERSION")).on("write", path)
}

/// Process id in the text of a lock file.
pub(super) fn pid_of(text: &str) -> Option<u32> {
    text.split_whitespace().next()?.parse().ok()
}

/// True if the text was written by a version that wrote its process id alone. Those locked directories for leases.
pub(super) fn is_unversioned(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Finds out if the process that a lock file names has the file open.
pub(super) fn holds(pid: Option<u32>, file: FileIdentity) -> Holds {
    // This process has just opened the file itself, and tells nothing about another one.
    let Some(pid) = pid.filter(|pid| *pid != std::process::id()) else { return Holds::Unknown };
    let Some(raw) = i32::try_from(pid).ok().filter(|pid| *pid > 0) else { return Holds::No };
    if kill(Pid::from_raw(raw), None) == Err(Errno::ESRCH) {
        return Holds::No;
    }
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        // The owner of the lock file, or root, runs agents; no other user can.
        let owner = fs::metadata(format!("/proc/{pid}")).map(|found| found.uid());
        let is_agents = |uid: u32| uid == 0 || uid == geteuid().as_raw();
        return if owner.is_ok_and(|uid| !is_agents(uid)) { Holds::No } else { Holds::Unknown };
    };
    let is_it = |entry: fs::DirEntry| fs::metadata(entry.path()).is_ok_and(|found| FileIdentity::from(&found) == file);
    if open.filter_map(Result::ok).any(is_it) { Holds::Yes } else { Holds::No }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_tells_pid_and_version() {
        for (text, pid, is_old) in
            [("", None, false), ("123", Some(123), true), ("123 0.1.0", Some(123), false), ("x 1", None, false)]
        {
            assert_eq!((pid_of(text), is_unversioned(text)), (pid, is_old), "{text}");
        }
    }
}
