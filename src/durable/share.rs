//! One content under two names without a second copy of its bytes, where the file system can.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{DurableError, IoContext, sync_file};

/// Gives the read-only file `from` the further name `to`, which must not exist: by a hard link, else by a reflink, else
/// by a copy. The bytes are durable after it; the name is once its directory is synced.
pub fn share(from: &Path, to: &Path) -> Result<(), DurableError> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(error) if has_no_hard_links(&error) => copy(from, to, 0o444),
        Err(error) => Err(error).on("link", to),
    }
}

/// Copies `from` to `to`, which must not exist, and gives it `mode`. Where the file system can, the copy shares the bytes
/// until one of the two is written to. The bytes are durable after it; the name is once its directory is synced.
pub fn copy(from: &Path, to: &Path, mode: u32) -> Result<(), DurableError> {
    reflink_copy::reflink_or_copy(from, to).on("copy to", to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).on("set the mode of", to)?;
    sync_file(&fs::File::open(to).on("open", to)?, to)
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
}
