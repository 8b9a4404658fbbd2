//! Becoming the owner of the state directory. The service account may replace anything in its directory by a link: what
//! root did there with root's rights, the account could turn against other files.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{
    Gid, Uid, User, getegid, geteuid, getgroups, initgroups, setegid, seteuid, setgid, setgroups, setuid,
};

use crate::durable::check_no_links;
use crate::failure::{Failure, Kind, Retry};

/// Directories of a state directory, and its lock. None of them is a link.
const NAMES: [&str; 8] =
    ["lock", "cache", "cache/blobs", "cache/blobs/sha256", "generations", "leases", "partial", "workloads"];

/// Becomes the owner of the state directory `dir` as [`become_owner`] does, to change what is in it, and refuses links
/// in place of its directories.
pub(super) fn enter(dir: &Path) -> Result<(), Failure> {
    if become_owner(dir)? { Ok(check_no_links(dir, &NAMES)?) } else { Ok(()) }
}

/// Becomes the owner of the state directory `dir` for good if this process is root's and the directory is not, and says
/// if it has. Without the directory nothing changes: whoever works on it says so.
pub(super) fn become_owner(dir: &Path) -> Result<bool, Failure> {
    let Some(owner) = Owner::of(dir)? else { return Ok(false) };
    let become_it = || {
        let gid = owner.set_groups()?;
        // The C library changes the ids of all threads. After the user, no group could be changed.
        setgid(gid)?;
        setuid(owner.uid)
    };
    become_it().map_err(|errno| failed(dir, &errno.into()))?;
    Ok(true)
}

/// Runs `look`, which reads the state directory `dir`, with the rights of its owner if this process is root's and the
/// directory is not. Root's rights are back after it. If root may not change its ids, as in a unit without
/// `CAP_SETUID`, a warning says so and `look` runs with root's rights: what is current boots.
pub(super) fn as_owner<T>(dir: &Path, look: impl FnOnce() -> T) -> Result<T, Failure> {
    let Some(owner) = Owner::of(dir)? else { return Ok(look()) };
    let (groups, gid, uid) = (getgroups(), getegid(), geteuid());
    let change = || {
        let owners = owner.set_groups()?;
        setegid(owners)?;
        seteuid(owner.uid)
    };
    let change_back = || {
        seteuid(uid)?;
        setegid(gid)?;
        setgroups(&groups?)
    };
    match change() {
        Ok(()) => {
            let looked = look();
            change_back().map_err(|errno| Failure::internal(format!("cannot become root again: {errno}")))?;
            Ok(looked)
        }
        Err(errno) => {
            // What was changed could be: it can be changed back.
            let _ = change_back();
            super::complain(&format!("warning: {}", failed(dir, &errno.into()).message));
            Ok(look())
        }
    }
}

/// The owner of a state directory, who is not root.
struct Owner {
    uid: Uid,
    /// The directory's group, which counts for a user without a name.
    gid: Gid,
}

impl Owner {
    /// Finds the owner; none if this process is not root's, and if root owns the directory or there is none.
    fn of(dir: &Path) -> Result<Option<Self>, Failure> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let found = match fs::metadata(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found.map_err(|error| failed(dir, &error))?,
        };
        let owner = Self { uid: Uid::from_raw(found.uid()), gid: Gid::from_raw(found.gid()) };
        Ok((!owner.uid.is_root()).then_some(owner))
    }

    /// Takes the user's supplementary groups; the result is the user's own group.
    fn set_groups(&self) -> nix::Result<Gid> {
        let user = User::from_uid(self.uid).ok().flatten();
        let named = user.and_then(|user| Some((CString::new(user.name).ok()?, user.gid)));
        match named {
            Some((name, gid)) => initgroups(&name, gid).map(|()| gid),
            None => setgroups(&[self.gid]).map(|()| self.gid),
        }
    }
}

fn failed(dir: &Path, error: &io::Error) -> Failure {
    let message = format!("cannot become the owner of {}: {error}; run this as that user", dir.display());
    Failure::new(Kind::Forbidden, message, Retry::Never)
}
