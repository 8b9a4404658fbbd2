//! One content under two names without a second copy of its bytes, where the file system can.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::{DurableError, IoContext, fault, remove_file, replace_with, set_mode, sync_file};

/// Gives the read-only file `from` the further name `to`, which must not exist: by a hard link, else by a reflink, else
/// by a copy. The bytes are durable after it; the name is once its directory is synced.
pub fn share(from: &Path, to: &Path) -> Result<(), DurableError> {
    match link(from, to) {
        Err(error) if has_no_hard_links(error.io()) => copy(from, to, 0o444),
        linked => linked,
    }
}

/// The same in place of what is at `to`: after a crash that is there, or the new one. Both are durable after it. What is no
/// file is set aside.
pub fn share_over(from: &Path, to: &Path) -> Result<(), DurableError> {
    replace_with(to, |temporary| share(from, temporary))
}

/// Copies `from` to `to`, which must not exist, and gives it `mode`. Where the file system can, the copy shares the bytes
/// until one of the two is written to; elsewhere it has at least the same holes. The bytes are durable after it; the name is once its directory is synced.
pub fn copy(from: &Path, to: &Path, mode: u32) -> Result<(), DurableError> {
    fault::change("copy to", to, || reflink_copy::reflink(from, to).or_else(|_| copy_data(from, to)))?;
    set_mode(to, mode)?;
    sync_file(&fs::File::open(to).on("open", to)?, to)
}

/// Gives the file `from` the further name `to`, which must not exist and is in the same file system. The name is durable once
/// its directory is synced.
pub fn link(from: &Path, to: &Path) -> Result<(), DurableError> {
    fault::change("link", to, || fs::hard_link(from, to))
}

/// Whether a copy of `from` at `to` shares its bytes. That is tried, for no file system says so of itself; nothing stays at `to`.
pub fn shares_copies(from: &Path, to: &Path) -> Result<bool, DurableError> {
    remove_file(to)?;
    let shared = fault::change("try a reflink to", to, || reflink_copy::reflink(from, to));
    remove_file(to)?;
    Ok(shared.is_ok())
}

/// Copies what is not a hole: disks are mostly holes.
fn copy_data(from: &Path, to: &Path) -> io::Result<()> {
    let (mut from, mut to) = (File::open(from)?, File::create_new(to)?);
    let size = from.metadata()?.len();
    let mut place = 0;
    while let Some(start) = seek(&from, place, Whence::SeekData)? {
        let end = seek(&from, start, Whence::SeekHole)?.unwrap_or(size);
        from.seek(SeekFrom::Start(start))?;
        to.seek(SeekFrom::Start(start))?;
        io::copy(&mut Read::by_ref(&mut from).take(end - start), &mut to)?;
        place = end;
    }
    // A hole at the end is not there until the length says so.
    to.set_len(size)
}

/// The next data, or the next hole, from `place` on; none where there is no more. A file system that knows no holes says
/// that all is data.
fn seek(file: &File, place: u64, whence: Whence) -> io::Result<Option<u64>> {
    match lseek(file, i64::try_from(place).map_err(io::Error::other)?, whence) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The file system has no hard links, has no more for this file, or is not the one that holds it.
fn has_no_hard_links(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Unsupported
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::TooManyLinks
            | io::ErrorKind::CrossesDevices
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_bytes_are_shared() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("blob"), dir.path().join("kernel"));
        fs::write(&from, "bytes").unwrap();
        share(&from, &to).unwrap();
        assert_eq!(fs::metadata(&from).unwrap().ino(), fs::metadata(&to).unwrap().ino());
        assert!(share(&from, &to).is_err(), "an existing name is not taken over");
    }

    #[test]
    fn a_copy_has_the_same_bytes_and_the_same_holes() {
        const MIB: usize = 1 << 20;
        let dir = tempfile::tempdir().unwrap();
        for (n, places) in [&[][..], &[0], &[5 * MIB], &[0, 3 * MIB + 77, 8 * MIB - 3]].into_iter().enumerate() {
            let (from, to) = (dir.path().join(format!("from-{n}")), dir.path().join(format!("to-{n}")));
            let mut file = File::create(&from).unwrap();
            file.set_len(8 * MIB as u64).unwrap();
            for place in places {
                file.seek(SeekFrom::Start(*place as u64)).unwrap();
                io::Write::write_all(&mut file, b"abc").unwrap();
            }
            copy_data(&from, &to).unwrap();
            assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
            assert!(fs::metadata(&to).unwrap().blocks() <= fs::metadata(&from).unwrap().blocks() + 8, "{places:?}");
            assert!(copy_data(&from, &to).is_err(), "an existing name is not taken over");
        }
    }
}
