//! The files that leases lock: `leases/<workload>/<generation>` in the state directory. Only the agent's user and the
//! group of hypervisors can open them, so that no other user keeps a generation from being removed or booted.
//!
//! Older versions locked the directory of the generation, which every user can open. Locks on directories count until
//! the machine boots again after an older version has run, for the machines that an older `eci exec` started. The file
//! `leases/_boot` has that boot: the kernel's id of it if that can be read, and the time on the boot clock.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use super::guest_group::{GuestGroupError, guest_group};
use super::{GUEST_GROUP, GenerationName as Name};
use crate::clock::{BootId, boot_id, since_boot};
use crate::durable::{
    DurableError, Permission, create_dir, create_file, entries, read_capped, remove_any, remove_dir, set_mode,
    write_atomic,
};
use crate::failure::{Classify, Kind, full_text};

/// Name of the file with the boot until whose end locks on directories count. No workload has a name that begins so.
const BOOT: &str = "_boot";
/// Content of that file if no lock on a directory counts.
const NO_BOOT: &str = "none";
/// Size limit of that file, in bytes.
const MAX_BOOT: u64 = 80;

/// The lease files of a state directory.
#[derive(Debug)]
pub(super) struct LeaseFiles {
    root: PathBuf,
    /// Held while a generation and its file are made, and while files without a generation are removed.
    changing: Mutex<()>,
}

/// The last boot in which an older version ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// No older version has run since a boot that is over.
    None,
    /// The boot with this id, if it can be read, and the time on the boot clock.
    Boot { id: Option<BootId>, at: Duration },
}

impl Mark {
    /// True unless that boot is over.
    fn is_this_boot(self) -> bool {
        match self {
            Self::None => false,
            Self::Boot { id, at } => match (id, boot_id()) {
                (Some(then), Some(now)) => then == now,
                // A unit with ProcSubset=pid cannot read the id. The boot clock begins anew with each boot.
                _ => since_boot() >= at,
            },
        }
    }

    fn text(self) -> String {
        match self {
            Self::None => NO_BOOT.to_owned(),
            Self::Boot { id, at } => format!("{} {}", id.map_or_else(|| "-".to_owned(), String::from), at.as_secs()),
        }
    }
}

impl LeaseFiles {
    /// Names the lease files of a state directory; nothing is read or made.
    pub(super) fn at(state_dir: &Path) -> Self {
        Self { root: state_dir.join("leases"), changing: Mutex::default() }
    }

    /// Path of a generation's lease file.
    pub(super) fn path(&self, (workload, generation): &Name) -> PathBuf {
        self.root.join(workload.as_str()).join(generation.to_string())
    }

    /// True if an agent that makes lease files has been here.
    pub(super) fn are_in_use(&self) -> bool {
        // Users who cannot read the directory are refused, so that it is there.
        !matches!(fs::symlink_metadata(&self.root), Err(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// True if locks on directories count, beside those on lease files.
    pub(super) fn counts_directories(&self) -> bool {
        self.mark().is_none_or(Mark::is_this_boot)
    }

    /// The mark in the file; none if there is no file, or one that makes no sense.
    fn mark(&self) -> Option<Mark> {
        let text = String::from_utf8(read_capped(&self.root.join(BOOT), MAX_BOOT).ok()?).ok()?;
        if text == NO_BOOT {
            return Some(Mark::None);
        }
        let (id, at) = text.split_once(' ')?;
        Some(Mark::Boot { id: id.to_owned().try_into().ok(), at: Duration::from_secs(at.parse().ok()?) })
    }

    /// Has locks on directories count for the rest of this boot: an older version has run.
    pub(super) fn count_directories(&self) -> Result<(), DurableError> {
        remove_any(&self.root.join(BOOT))
    }

    /// Makes the missing files of the generations that `all` lists, and removes those of other generations. On a full
    /// disk, and on a file system whose files have a fixed group, no file is made: the agent has to start, and to
    /// remove generations, all the same.
    pub(super) fn update(&self, all: impl FnOnce() -> Result<Vec<Name>, DurableError>) -> Result<(), DurableError> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let generations = all()?;
        match self.make_all(&generations) {
            Err(error) if matches!(error.kind(), Kind::DiskFull | Kind::Forbidden) => {
                tracing::warn!(error = full_text(&error), "leases: files are missing; eci exec boots without a lease");
            }
            made => made?,
        }
        for workload in entries(&self.root)? {
            if !workload.is_dir() && !workload.ends_with(BOOT) {
                remove_any(&workload)?;
            }
            for file in entries(&workload)? {
                if !generations.iter().any(|name| self.path(name) == file) {
                    remove_any(&file)?;
                }
            }
            if workload.is_dir() && entries(&workload)?.is_empty() {
                remove_dir(&workload)?;
            }
        }
        Ok(())
    }

    /// Runs `make`, which makes a generation, and then makes its lease file. Without the file the generation is as
    /// good: the next collection or start makes it.
    pub(super) fn make_after<T, E>(&self, name: &Name, make: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = make()?;
        if let Err(error) = self.make(name, lease_group()) {
            tracing::warn!(error = full_text(&error), "leases: eci exec boots {}/{} without a lease", name.0, name.1);
        }
        Ok(generation)
    }

    fn make_all(&self, generations: &[Name]) -> Result<(), DurableError> {
        let group = lease_group();
        ensure_dir(&self.root, group)?;
        self.mark_boot(!generations.is_empty())?;
        generations.iter().try_for_each(|name| self.make(name, group))
    }

    /// Writes the file with the boot, and ends it once that boot is over.
    fn mark_boot(&self, has_generations: bool) -> Result<(), DurableError> {
        let mark = match self.mark() {
            None if has_generations => Mark::Boot { id: boot_id(), at: since_boot() },
            Some(mark) if mark == Mark::None || mark.is_this_boot() => return Ok(()),
            _ => Mark::None,
        };
        let path = self.root.join(BOOT);
        if path.is_dir() {
            remove_any(&path)?;
        }
        write_atomic(&path, mark.text().as_bytes(), 0o600)
    }

    /// Makes the lease file of a generation, or repairs it. Not durable: a missing one is made at the next start.
    fn make(&self, name: &Name, group: Option<u32>) -> Result<(), DurableError> {
        let (path, dir) = (self.path(name), self.root.join(name.0.as_str()));
        ensure_dir(&self.root, group)?;
        ensure_dir(&dir, group)?;
        let permission = Permission { mode: if group.is_some() { 0o640 } else { 0o600 }, group };
        match path.symlink_metadata() {
            Ok(found) if found.is_file() && has(&found, permission) => return Ok(()),
            Ok(found) if found.is_file() => {}
            _ => {
                remove_any(&path)?;
                create_file(&path, permission.mode)?;
            }
        }
        set_mode(&path, permission)
    }
}

/// The group of lease files; none if there is none that this process can give files to. Then only the agent's user, and
/// root, take leases.
fn lease_group() -> Option<u32> {
    static WARNED: Once = Once::new();
    guest_group()
        .inspect_err(|error| {
            if *error == GuestGroupError::NotMember {
                WARNED.call_once(|| {
                    tracing::warn!(
                        "leases: {error}; hypervisors under another user boot without a lease: add the agent's user to \
                         {GUEST_GROUP} and restart the agent"
                    );
                });
            }
        })
        .ok()
}

/// Makes a directory, or repairs its mode and group.
fn ensure_dir(dir: &Path, group: Option<u32>) -> Result<(), DurableError> {
    let permission = Permission { mode: if group.is_some() { 0o750 } else { 0o700 }, group };
    match dir.symlink_metadata() {
        Ok(found) if found.is_dir() && has(&found, permission) => Ok(()),
        Ok(found) if !found.is_dir() => {
            remove_any(dir)?;
            create_dir(dir, permission)
        }
        _ => create_dir(dir, permission),
    }
}

fn has(found: &fs::Metadata, permission: Permission) -> bool {
    found.mode() & 0o7777 == permission.mode && permission.group.is_none_or(|group| group == found.gid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::WorkloadName;

    fn name(generation: u64) -> Name {
        (WorkloadName::default_name(), generation)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn update(files: &LeaseFiles, generations: &[u64]) {
        files.update(|| Ok(generations.iter().map(|number| name(*number)).collect())).unwrap();
    }

    #[test]
    fn lease_files_follow_the_generations() {
        let dir = tempfile::tempdir().unwrap();
        let files = LeaseFiles::at(dir.path());
        assert!(!files.are_in_use());
        update(&files, &[1, 2]);
        assert!(files.are_in_use());
        let expected = if guest_group().is_ok() { [0o750, 0o750, 0o640] } else { [0o700, 0o700, 0o600] };
        let paths = [files.root.clone(), files.root.join("default"), files.path(&name(1))];
        assert_eq!(paths.each_ref().map(|path| mode(path)), expected);
        // What is not as it should be is repaired; a file stays the same one, for it may be locked.
        let inode = fs::metadata(&paths[2]).unwrap().ino();
        for path in &paths {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        }
        fs::remove_file(files.path(&name(2))).unwrap();
        std::os::unix::fs::symlink(&paths[2], files.path(&name(2))).unwrap();
        update(&files, &[1, 2, 3]);
        assert_eq!(
            (paths.each_ref().map(|path| mode(path)), fs::metadata(&paths[2]).unwrap().ino()),
            (expected, inode)
        );
        assert!(files.path(&name(2)).symlink_metadata().unwrap().is_file());
        update(&files, &[3]);
        assert_eq!([1, 2, 3].map(|generation| files.path(&name(generation)).exists()), [false, false, true]);
        update(&files, &[]);
        assert!(!files.root.join("default").exists());
    }

    #[test]
    fn directory_locks_count_until_the_next_boot() {
        let dir = tempfile::tempdir().unwrap();
        let files = LeaseFiles::at(dir.path());
        assert!(files.counts_directories(), "an older agent runs");
        update(&files, &[1]);
        assert!(files.counts_directories(), "an older version made the generation");
        let boot = dir.path().join("leases").join(BOOT);
        let this = fs::read_to_string(&boot).unwrap();
        assert!(this.starts_with(&String::from(boot_id().unwrap())), "{this}");
        let later = since_boot().as_secs() + 1000;
        for (text, counts) in [
            (format!("{} 1", "0".repeat(32)), false),
            (format!("{} {later}", String::from(boot_id().unwrap())), true),
            ("- 0".to_owned(), true),
            (format!("- {later}"), false),
            (format!("{} {later}", "0".repeat(32)), false),
        ] {
            fs::write(&boot, &text).unwrap();
            assert_eq!(files.counts_directories(), counts, "{text}");
            update(&files, &[1]);
            assert_eq!(fs::read_to_string(&boot).unwrap() == NO_BOOT, !counts, "{text}");
        }
        fs::write(&boot, "garbled").unwrap();
        assert!(files.counts_directories());
        update(&files, &[1]);
        assert!(fs::read_to_string(&boot).unwrap().starts_with(&String::from(boot_id().unwrap())));
        fs::write(&boot, NO_BOOT).unwrap();
        files.count_directories().unwrap();
        update(&files, &[1]);
        assert_eq!(fs::read_to_string(&boot).unwrap().split(' ').next(), this.split(' ').next());

        let fresh = tempfile::tempdir().unwrap();
        let files = LeaseFiles::at(fresh.path());
        update(&files, &[]);
        update(&files, &[1]);
        assert!(!files.counts_directories(), "no older version was here");
    }
}
