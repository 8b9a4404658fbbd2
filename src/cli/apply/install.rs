//! The replacement of the desired-state file.

use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::durable::{DurableError, followed, is_mount_point, replace_content};
use crate::failure::{Failure, Kind, Retry};

/// Mode of a new file: everybody may read what a node should run.
const MODE: u32 = 0o644;

/// Replaces `target` by `bytes` in one step, or changes nothing.
pub(super) fn install(target: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let is_busy = |error: &DurableError| error.io().raw_os_error() == Some(Errno::EBUSY as i32);
    if is_mount_point(target) {
        return Err(mounted(target));
    }
    match replace_content(target, bytes, MODE) {
        Err(error) if is_busy(&error) => Err(mounted(target)),
        replaced => Ok(replaced?),
    }
}

/// The file that a path leads to. A link that configuration management set is followed, not replaced, also one to a
/// file that is not there yet.
pub(super) fn resolved(path: &Path) -> PathBuf {
    let path = followed(path);
    path.canonicalize().unwrap_or(path)
}

fn mounted(target: &Path) -> Failure {
    let message = format!(
        "{} is a mount point and cannot be replaced in one step: write to the file that is mounted there, or mount its directory instead; nothing was changed",
        target.display()
    );
    Failure { kind: Kind::Io, message, retry: Retry::Never }
}
