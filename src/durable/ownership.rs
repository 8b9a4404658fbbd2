//! Modes and owners of files that are not the agent's own.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

use super::file::{create_file, remove_file, rename, set_mode, sync_file, temporary, write_at};
use super::{DurableError, IoContext, fault};

/// Mode bits of everybody but the owner and the group.
const OTHERS: u32 = 0o007;

/// The mode that a new file gets in `dir`: 0666 less the umask, or what the directory's default ACL leaves of it.
pub fn new_file_mode(dir: &Path) -> Result<u32, DurableError> {
    let path = temporary(&dir.join("mode"));
    remove_file(&path)?;
    let found = create_file(&path, 0o666)?.metadata().on("read", &path);
    remove_file(&path)?;
    Ok(found?.mode() & 0o777)
}

/// Replaces a file as a whole, as [`super::write_atomic`] does. Mode and owner stay those of the file that is replaced; a
/// new file gets `mode`. Nothing is changed if the owner cannot be kept.
pub fn replace_content(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DurableError> {
    let found = fs::symlink_metadata(path).ok().filter(Metadata::is_file);
    let mode = found.as_ref().map_or(mode, |found| found.mode() & 0o7777);
    replace(path, bytes, found.as_ref(), mode)
}

/// Replaces a file that holds secrets as a whole. The owner stays that of the file that is replaced. The mode is 0600;
/// a group that alone could read the old file can read the new one.
pub fn replace_secret(path: &Path, bytes: &[u8]) -> Result<(), DurableError> {
    let found = fs::symlink_metadata(path).ok().filter(Metadata::is_file);
    let old = found.as_ref().map_or(0, Metadata::mode);
    let is_private = old & OTHERS == 0;
    let mode = if is_private { 0o600 | (old & 0o040) } else { 0o600 };
    replace(path, bytes, found.as_ref(), mode)
}

fn replace(path: &Path, bytes: &[u8], found: Option<&Metadata>, mode: u32) -> Result<(), DurableError> {
    let temporary = temporary(path);
    remove_file(&temporary)?;
    let written = write_like(&temporary, bytes, found, mode).and_then(|()| rename(&temporary, path));
    if written.is_err() {
        let _ = remove_file(&temporary);
    }
    written
}

fn write_like(path: &Path, bytes: &[u8], like: Option<&Metadata>, mode: u32) -> Result<(), DurableError> {
    let file = create_file(path, 0o600)?;
    write_at(&file, path, 0, bytes)?;
    if let Some(like) = like {
        let ours = file.metadata().on("read", path)?;
        let (uid, gid) = (like.uid(), like.gid());
        if (ours.uid(), ours.gid()) != (uid, gid) {
            let given = || fchown(&file, Some(uid), Some(gid)).map_err(|error| not_given(&error, uid, gid));
            fault::change("keep the owner in", path, given)?;
        }
    }
    // After the owner, because a change of the owner clears some bits of the mode.
    set_mode(path, mode)?;
    sync_file(&file, path)
}

fn not_given(error: &io::Error, uid: u32, gid: u32) -> io::Error {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return io::Error::from_raw_os_error(error.raw_os_error().unwrap_or_default());
    }
    let advice = format!("the file belongs to user {uid} and group {gid}: run this as root or as that user");
    io::Error::new(io::ErrorKind::PermissionDenied, advice)
}

/// True if the kernel says that `path` is a mount point.
pub fn is_mount_point(path: &Path) -> bool {
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown};

    #[test]
    fn mode_and_owner_of_a_replaced_file_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("desired.toml");
        replace_content(&path, b"new", 0o644).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let is_root = nix::unistd::geteuid().is_root();
        if is_root {
            chown(&path, Some(65534), Some(65534)).unwrap();
        }
        let owner = |found: &Metadata| (found.uid(), found.gid(), found.mode() & 0o7777);
        let before = fs::metadata(&path).unwrap();
        replace_content(&path, b"newer", 0o644).unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!((owner(&before), before.ino() == after.ino()), (owner(&after), false));
        assert_eq!(fs::read(&path).unwrap(), b"newer");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn secrets_are_for_the_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
        replace_secret(&path, b"new").unwrap();
        assert_eq!(mode(), 0o600);
        for (before, after) in [(0o644, 0o600), (0o666, 0o600), (0o604, 0o600), (0o640, 0o640), (0o660, 0o640)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(before)).unwrap();
            replace_secret(&path, b"newer").unwrap();
            assert_eq!(mode(), after, "{before:o}");
        }
        assert_eq!(fs::read(&path).unwrap(), b"newer");
    }

    #[test]
    fn only_a_mount_is_a_mount_point() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_mount_point(Path::new("/proc")));
        assert!(!is_mount_point(dir.path()) && !is_mount_point(&dir.path().join("absent")));
    }
}
