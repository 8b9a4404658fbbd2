//! Files and directories.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use super::permission::{Permission, repair_permission};
use super::unsupported::{Operation, tolerate};
use super::{DurableError, IoContext, fault};

/// Opens a regular file to read it. Anything else is refused at once: a named pipe would wait for a writer for ever.
pub fn open_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"))
    }
}

/// Reads a regular file of at most `limit` bytes. A longer one is an error of the kind `FileTooLarge`, what is no file one of
/// the kind `InvalidInput`.
pub fn read_capped(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_file(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// Lists the paths in a directory; none if there is no directory.
pub fn entries(dir: &Path) -> Result<Vec<PathBuf>, DurableError> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).collect()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(error) => Err(error).on("list", dir),
    }
}

/// Moves something that is in the way aside, beside itself, so that a person can look at it.
pub fn set_aside(path: &Path) -> Result<(), DurableError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let free = (0..1000).map(|n| path.with_file_name(format!("{name}.damaged-{n}"))).find(|aside| !aside.exists());
    let aside = free.unwrap_or_else(|| path.with_file_name(format!("{name}.damaged")));
    tracing::error!(path = %path.display(), aside = %aside.display(), "it is in the way, and is set aside");
    rename(path, &aside)
}

/// Makes the names in a directory durable.
pub fn sync_dir(dir: &Path) -> Result<(), DurableError> {
    fault::change("sync the directory", dir, || tolerate(Operation::Sync, dir, File::open(dir)?.sync_all()))
}

/// Makes a file's bytes durable.
pub fn sync_file(file: &File, path: &Path) -> Result<(), DurableError> {
    fault::change("sync", path, || tolerate(Operation::Sync, path, file.sync_all()))
}

/// Makes a file's bytes durable, and of what is known of it only its length.
pub fn sync_data(file: &File, path: &Path) -> Result<(), DurableError> {
    fault::change("sync", path, || tolerate(Operation::Sync, path, file.sync_data()))
}

/// Makes an empty file that must not exist, to be read and written. Its name is durable once its directory is synced.
pub fn create_file(path: &Path, mode: u32) -> Result<File, DurableError> {
    fault::make("create", path, || OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path))
}

/// Sets the length of a file, in bytes; what is new of it is a hole.
pub fn set_len(file: &File, path: &Path, length: u64) -> Result<(), DurableError> {
    fault::change("set the length of", path, || file.set_len(length))
}

/// Sets mode and group of what is at `path`.
pub fn set_mode(path: &Path, permission: impl Into<Permission>) -> Result<(), DurableError> {
    let Permission { mode, group } = permission.into();
    if let Some(group) = group
        && fs::metadata(path).on("read", path)?.gid() != group
    {
        change_group(path, group)?;
    }
    let set = || tolerate(Operation::SetMode, path, fs::set_permissions(path, Permissions::from_mode(mode)));
    fault::change("set the mode of", path, set)
}

/// Gives what is at `path` to another group, durably. The kernel lets an owner do that who is a member of it.
pub fn set_group(path: &Path, group: u32) -> Result<(), DurableError> {
    change_group(path, group)?;
    sync_file(&File::open(path).on("open", path)?, path)
}

fn change_group(path: &Path, group: u32) -> Result<(), DurableError> {
    fault::change("set the group of", path, || chown(path, None, Some(group)))
}

/// Has `make` make a file at `path`, where nothing may be, and gives it `mode`. It is for what another program writes. The
/// bytes are durable after it; the name is once its directory is synced.
pub fn make_file(path: &Path, mode: u32, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), DurableError> {
    fault::change("make", path, || match path.symlink_metadata() {
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => make(path),
    })?;
    set_mode(path, mode)?;
    sync_file(&File::open(path).on("open", path)?, path)
}

/// Puts a file that `make` makes durably at a path beside `path` in place of what is there: after a crash that is there, or
/// the new one. What is a directory is set aside.
pub fn replace_with<E: From<DurableError>>(path: &Path, make: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    let temporary = temporary(path);
    if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        set_aside(path)?;
    }
    remove_any(&temporary)?;
    let replaced = make(&temporary).and_then(|()| Ok(rename(&temporary, path)?));
    // A rename to another name of the same file leaves both names, and is no error.
    let removed = remove_file(&temporary);
    replaced.and(removed.map_err(E::from))
}

/// Writes all of `bytes` at `offset`.
pub fn write_at(file: &File, path: &Path, offset: u64, bytes: &[u8]) -> Result<(), DurableError> {
    fault::write(path, bytes, |bytes| file.write_all_at(bytes, offset))
}

/// Makes a directory and its missing parents with `permission`, whatever the umask; a directory that exists gets it
/// too.
pub fn create_dir(dir: &Path, permission: impl Into<Permission>) -> Result<(), DurableError> {
    create_dir_with(dir, Some(permission.into()))
}

/// Makes a user's directory as [`create_dir`] does, with mode 0777 less the umask. An existing directory keeps its mode.
pub fn create_user_dir(dir: &Path) -> Result<(), DurableError> {
    create_dir_with(dir, None)
}

fn create_dir_with(dir: &Path, permission: Option<Permission>) -> Result<(), DurableError> {
    match make_dir(dir, permission.map_or(0o777, |permission| permission.mode)) {
        Ok(()) => {
            permission.map_or(Ok(()), |permission| set_mode(dir, permission))?;
            sync_dir(parent(dir))
        }
        Err(error) if error.io().kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {
            permission.map_or(Ok(()), |permission| repair_permission(dir, permission))?;
            // Whoever made it may have ended before its name was durable; had we made it, we could open its parent.
            match sync_dir(parent(dir)) {
                Err(error) if error.io().kind() == io::ErrorKind::PermissionDenied => Ok(()),
                synced => synced,
            }
        }
        // A parent that is there and still will not do, as one that is removed while it is open, is not made again.
        Err(error) if error.io().kind() == io::ErrorKind::NotFound && !parent(dir).exists() && parent(dir) != dir => {
            create_dir_with(parent(dir), permission)?;
            create_dir_with(dir, permission)
        }
        Err(error) => Err(error),
    }
}

fn make_dir(dir: &Path, mode: u32) -> Result<(), DurableError> {
    fault::change("create the directory", dir, || DirBuilder::new().mode(mode).create(dir))
}

/// Makes a directory that only its owner gets into, in one that others may write into. What is there already is taken
/// where it is a directory of ours; a link, or what somebody else has put there, would lead our writing astray.
pub fn private_dir(dir: &Path) -> Result<(), DurableError> {
    match make_dir(dir, 0o700) {
        Ok(()) => sync_dir(parent(dir)),
        Err(error) if error.io().kind() == io::ErrorKind::AlreadyExists => {
            let found = fs::symlink_metadata(dir).on("read", dir)?;
            if found.is_dir() && found.uid() == geteuid().as_raw() {
                return repair_permission(dir, 0o700.into());
            }
            let what = if found.is_dir() { "it is another user's" } else { "it is no directory" };
            let advice = format!("{what}: remove it, or work in another directory");
            Err(io::Error::new(io::ErrorKind::PermissionDenied, advice)).on("work in", dir)
        }
        Err(error) => Err(error),
    }
}

/// Makes an empty directory in place of what is there, for what is not complete yet. Not durable by itself.
pub fn scratch_dir(dir: &Path, permission: impl Into<Permission>) -> Result<(), DurableError> {
    let permission = permission.into();
    remove_dir_all(dir)?;
    make_dir(dir, permission.mode)?;
    set_mode(dir, permission)
}

/// Replaces a file as a whole: after a crash it has the old bytes or the new ones.
pub fn write_atomic(path: &Path, bytes: &[u8], permission: impl Into<Permission>) -> Result<(), DurableError> {
    let temporary = temporary(path);
    remove_file(&temporary)?;
    let written = write_new(&temporary, bytes, permission).and_then(|()| rename(&temporary, path));
    if written.is_err() {
        let _ = remove_file(&temporary);
    }
    written
}

/// Writes a file that must not exist. Its bytes are durable after it; its name is once its directory is synced.
pub fn write_new(path: &Path, bytes: &[u8], permission: impl Into<Permission>) -> Result<(), DurableError> {
    let permission = permission.into();
    let file = create_file(path, permission.mode)?;
    write_at(&file, path, 0, bytes)?;
    set_mode(path, permission)?;
    sync_file(&file, path)
}

/// Gives something its final name, and makes the name durable. Both paths are in one file system.
pub fn rename(from: &Path, to: &Path) -> Result<(), DurableError> {
    move_to(from, to)?;
    sync_dir(parent(to))
}

/// Gives something its final name. The name is durable once its directory is synced.
pub(super) fn move_to(from: &Path, to: &Path) -> Result<(), DurableError> {
    fault::change("rename into place", to, || fs::rename(from, to))
}

/// Removes a file if it is there. Not durable by itself: after a crash it may be back.
pub fn remove_file(path: &Path) -> Result<(), DurableError> {
    remove(path, || fs::remove_file(path))
}

/// Removes whatever is there. Not durable by itself.
pub fn remove_any(path: &Path) -> Result<(), DurableError> {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => remove_dir_all(path),
        _ => remove_file(path),
    }
}

/// Removes a directory and all in it if it is there. Not durable by itself.
pub fn remove_dir_all(dir: &Path) -> Result<(), DurableError> {
    remove(dir, || fs::remove_dir_all(dir))
}

/// Removes a directory if it is there and empty. Not durable by itself.
pub fn remove_dir(dir: &Path) -> Result<(), DurableError> {
    remove(dir, || fs::remove_dir(dir))
}

fn remove(path: &Path, remove: impl FnOnce() -> io::Result<()>) -> Result<(), DurableError> {
    fault::change("remove", path, || match remove() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    })
}

/// Removes the files and links in `dir` that a crash has left incomplete: nobody will ever give them their names. Only for
/// who alone writes into it.
pub fn sweep_temporaries(dir: &Path, stays: impl Fn(&OsStr) -> bool) -> Result<(), DurableError> {
    let entries = fs::read_dir(dir).on("list", dir)?.filter_map(Result::ok);
    let is_left = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let is_temporary = name.as_encoded_bytes().starts_with(b".") && name.as_encoded_bytes().ends_with(b".new");
        is_temporary && !stays(&name) && entry.file_type().is_ok_and(|found| !found.is_dir())
    };
    entries.filter(is_left).try_for_each(|entry| remove_file(&entry.path()))
}

/// A name beside `path` for what is not complete yet. One a path is enough: each path has one writer.
pub(super) fn temporary(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

/// The directory that holds `path`.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Classify;

    #[test]
    fn a_file_is_replaced_whole_and_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        for content in ["one", "two"] {
            write_atomic(&path, content.as_bytes(), 0o600).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir_all(path.join("full")).unwrap();
        assert!(write_atomic(&path, b"x", 0o600).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_private_directory_is_ours_alone() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        private_dir(&work).unwrap();
        fs::set_permissions(&work, Permissions::from_mode(0o755)).unwrap();
        private_dir(&work).unwrap();
        assert_eq!(fs::metadata(&work).unwrap().permissions().mode() & 0o777, 0o700);
        std::os::unix::fs::symlink(&work, dir.path().join("link")).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        for name in ["link", "file"] {
            let error = private_dir(&dir.path().join(name)).unwrap_err();
            assert_eq!(error.kind(), crate::failure::Kind::Forbidden, "{error}");
        }
        if geteuid().is_root() {
            std::os::unix::fs::chown(&work, Some(65534), None).unwrap();
            assert_eq!(private_dir(&work).unwrap_err().kind(), crate::failure::Kind::Forbidden);
        }
    }

    #[test]
    fn directories_are_made_with_their_parents() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_dir(&deep, 0o755).unwrap();
        create_dir(&deep, 0o700).unwrap();
        assert_eq!(fs::metadata(&deep).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(create_dir(Path::new("/proc/self/fd/new/deep"), 0o755).is_err(), "what cannot be is given up");
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(create_dir(&dir.path().join("file/x"), 0o755).is_err());
    }
}
