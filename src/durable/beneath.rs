//! Directories below another one, reached without following a link.

use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use super::{DurableError, IoContext};

/// Refuses symbolic links in the relative paths `names` below `dir`. Names of which nothing is there pass. Below `dir`,
/// the kernel resolves them (openat2); one older than Linux 5.6 cannot, and only the names themselves are checked then.
pub fn check_no_links(dir: &Path, names: &[&str]) -> Result<(), DurableError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = openat(CWD, dir, flags | OFlags::DIRECTORY, Mode::empty()).map_err(Into::into).on("open", dir)?;
    for name in names {
        let path = dir.join(name);
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let is_link = match openat2(&root, *name, flags, Mode::empty(), resolve) {
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => false,
            Err(Errno::LOOP | Errno::XDEV) => true,
            Err(Errno::NOSYS | Errno::PERM) => {
                tracing::warn!("the kernel has no openat2: links are looked for by name only");
                path.is_symlink()
            }
            Err(errno) => return Err(DurableError::new("open", &path, errno.into())),
        };
        if is_link {
            let advice = "it is a symbolic link, and is not followed: move what it leads to in its place";
            let refused = std::io::Error::new(std::io::ErrorKind::PermissionDenied, advice);
            return Err(DurableError::new("open", &path, refused));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_below_a_directory_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("cache/blobs")).unwrap();
        fs::write(dir.path().join("lock"), "").unwrap();
        symlink("cache", dir.path().join("inside")).unwrap();
        symlink("/etc", dir.path().join("cache/outside")).unwrap();
        let check = |name: &str| check_no_links(dir.path(), &[name]);
        for name in ["cache", "cache/blobs", "lock", "absent", "absent/x", "lock/x"] {
            check(name).unwrap();
        }
        for name in ["inside", "inside/blobs", "cache/outside", "cache/outside/passwd", "../x"] {
            let error = check(name).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
        // The directory itself may be a link: the operator names it.
        symlink(dir.path().join("cache"), dir.path().join("named")).unwrap();
        check_no_links(&dir.path().join("named"), &["blobs"]).unwrap();
    }
}
