//! Symbolic links that are swapped in one step.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::file::{move_to, parent, remove_file, set_aside, sync_dir, temporary};
use super::{DurableError, IoContext, fault};

/// Symbolic links that the kernel follows in one path.
const MAX_LINKS: usize = 40;

/// The path that a symbolic link leads to, whether it exists or not; `path` itself if it is not a link.
pub fn followed(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let Ok(target) = path.read_link() else { break };
        path = parent(&path).join(target);
    }
    path
}

/// Points `link` at `target`. At any instant, and after any crash, it points at the old target or at the new one.
pub fn swap_link(target: &Path, link: &Path) -> Result<(), DurableError> {
    replace(target, link)?;
    sync_dir(parent(link))
}

/// The same for two links of one directory, in order, with one wait for the disk. After a crash each points at its old
/// target or at its new one.
pub fn swap_links(first: (&Path, &Path), second: (&Path, &Path)) -> Result<(), DurableError> {
    replace(first.0, first.1)?;
    swap_link(second.0, second.1)
}

fn replace(target: &Path, link: &Path) -> Result<(), DurableError> {
    let fresh = temporary(link);
    for place in [&fresh, link] {
        if fs::symlink_metadata(place).is_ok_and(|found| found.is_dir()) {
            set_aside(place)?;
        }
    }
    remove_file(&fresh)?;
    let replaced = create_link(target, &fresh).and_then(|()| move_to(&fresh, link));
    if replaced.is_err() {
        let _ = remove_file(&fresh);
    }
    replaced
}

/// Makes a link at `link`, where nothing is. Not durable by itself.
pub fn create_link(target: &Path, link: &Path) -> Result<(), DurableError> {
    fault::change("create the link", link, || symlink(target, link))
}

/// Removes a link, durably, if it is there. Where it is not, whoever removed it may not have come to the sync.
pub fn remove_link(link: &Path) -> Result<(), DurableError> {
    if read_link(link)?.is_some() {
        remove_file(link)?;
    }
    match sync_dir(parent(link)) {
        Err(error) if error.io().kind() == io::ErrorKind::NotFound => Ok(()),
        synced => synced,
    }
}

/// Where a link points, unresolved; none where there is no link, but nothing or something else.
pub fn read_link(link: &Path) -> Result<Option<PathBuf>, DurableError> {
    match fs::read_link(link) {
        Ok(target) => Ok(Some(target)),
        Err(error) if is_no_link(error.kind()) => Ok(None),
        Err(error) => Err(error).on("read the link", link),
    }
}

fn is_no_link(error: io::ErrorKind) -> bool {
    matches!(error, io::ErrorKind::NotFound | io::ErrorKind::InvalidInput | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_never_absent_while_it_is_swapped() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("current");
        swap_link(Path::new("generations/0"), &link).unwrap();
        let watched = link.clone();
        let reader = std::thread::spawn(move || {
            let mut seen = 0;
            while read_link(&watched).unwrap().unwrap() != Path::new("generations/50") {
                seen += 1;
            }
            seen
        });
        for n in 1..=50 {
            swap_link(Path::new(&format!("generations/{n}")), &link).unwrap();
        }
        reader.join().unwrap();
    }

    #[test]
    fn what_is_in_the_way_of_a_link_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("current");
        fs::create_dir_all(link.join("full")).unwrap();
        assert_eq!(read_link(&link).unwrap(), None);
        swap_link(Path::new("whole"), &link).unwrap();
        assert_eq!(read_link(&link).unwrap().unwrap(), Path::new("whole"));
        assert!(dir.path().join("current.damaged-0/full").exists());
    }

    #[test]
    fn a_crash_before_the_rename_does_not_stop_the_next_swap() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("current");
        symlink("half", temporary(&link)).unwrap();
        swap_link(Path::new("whole"), &link).unwrap();
        assert_eq!(read_link(&link).unwrap().unwrap(), Path::new("whole"));
        remove_link(&link).unwrap();
        remove_link(&link).unwrap();
        assert_eq!(read_link(&link).unwrap(), None);
    }
}
