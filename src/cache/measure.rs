//! Digest and length of a file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::durable::{DurableError, IoContext};
use crate::oci::{Digest, Hasher};

/// How much of a file is read at once, in bytes.
const PIECE: usize = 128 * 1024;
/// The same where the disk alone sets the pace.
const LARGE_PIECE: usize = 1024 * 1024;

/// The digest and the length in bytes of a file, which is read in pieces.
pub fn measure(path: &Path) -> Result<(Digest, u64), DurableError> {
    measure_with(path, |_| ())
}

/// The same; `on_piece` is told the length of each piece once it is hashed.
pub fn measure_with(path: &Path, mut on_piece: impl FnMut(u64)) -> Result<(Digest, u64), DurableError> {
    let (mut hasher, mut size) = (Hasher::default(), 0);
    pieces(path, |piece| {
        hasher.update(piece);
        size += piece.len() as u64;
        on_piece(piece.len() as u64);
        Ok::<_, DurableError>(())
    })?;
    Ok((hasher.finish(), size))
}

/// The digest of a file; `goes_on` is asked after each piece that is hashed, and where it says no, there is no result.
pub(super) fn measure_while(path: &Path, mut goes_on: impl FnMut() -> bool) -> Result<Option<Digest>, DurableError> {
    let mut hasher = Hasher::default();
    let read = pieces(path, |piece| {
        hasher.update(piece);
        if goes_on() { Ok(()) } else { Err(None) }
    });
    match read {
        Ok(()) => Ok(Some(hasher.finish())),
        Err(None) => Ok(None),
        Err(Some(error)) => Err(error),
    }
}

/// The digest of what the disk has of an open file: what the kernel keeps of it in memory may be right where
/// the disk is not, so it is dropped first, and is not kept afterwards. `goes_on` is told the length of each piece once it
/// is hashed; where it says no, there is no result.
pub fn measure_disk(mut file: &File, mut goes_on: impl FnMut(u64) -> bool) -> std::io::Result<Option<Digest>> {
    let (mut hasher, mut size) = (Hasher::default(), 0);
    let mut piece = vec![0; LARGE_PIECE];
    drop_cached(file, 0, 0);
    loop {
        let count = file.read(&mut piece)?;
        if count == 0 {
            return Ok(Some(hasher.finish()));
        }
        hasher.update(piece.get(..count).unwrap_or_default());
        drop_cached(file, size, count as u64);
        size += count as u64;
        if !goes_on(count as u64) {
            return Ok(None);
        }
    }
}

/// Has the kernel drop so many bytes of a file from its memory; 0 are all. It is advice, and may not be taken.
fn drop_cached(file: &File, from: u64, length: u64) {
    let [from, length] = [from, length].map(|value| i64::try_from(value).unwrap_or_default());
    let _ = posix_fadvise(file, from, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

/// Hands a file's bytes on in order.
pub(super) fn pieces<E: From<DurableError>>(
    path: &Path,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut file = File::open(path).on("open", path)?;
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece).on("read", path)? {
            0 => return Ok(()),
            count => take(piece.get(..count).unwrap_or_default())?,
        }
    }
}
