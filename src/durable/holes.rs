//! Holes: runs of zeros that take no room on disk.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};

use super::{DurableError, fault};

/// What a hole is made of, in bytes: it is the block of the file systems that matter.
const BLOCK: usize = 4096;
/// A block to compare with.
const ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Writes `bytes` at `offset`, where nothing was written before: zeros that fill their part of a block are passed over, and
/// stay the hole that is there. Where the file is to end in one, the caller sets its length.
pub fn write_sparse(file: &File, path: &Path, offset: u64, bytes: &[u8]) -> Result<(), DurableError> {
    fault::write(path, bytes, |bytes| write_data(file, offset, bytes))
}

fn write_data(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let write =
        |from: usize, to: usize| file.write_all_at(bytes.get(from..to).unwrap_or_default(), offset + from as u64);
    // What is neither written nor passed over yet begins at `from`.
    let (mut from, mut at) = (0, 0);
    while at < bytes.len() {
        let into_block = usize::try_from((offset + at as u64) % BLOCK as u64).unwrap_or_default();
        let end = bytes.len().min(at + BLOCK - into_block);
        if bytes.get(at..end) == ZEROS.get(..end - at) {
            write(from, at)?;
            from = end;
        }
        at = end;
    }
    write(from, at)
}

/// Makes a hole of `range`, whatever is there; the length stays. An error of the kind `Unsupported` where the file system
/// has no holes.
pub fn punch(file: &File, path: &Path, range: Range<u64>) -> Result<(), DurableError> {
    let [start, length] = [range.start, range.end - range.start].map(|value| i64::try_from(value).unwrap_or(i64::MAX));
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fault::change("punch a hole into", path, || Ok(fallocate(file, flags, start, length)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    proptest! {
        #[test]
        fn the_bytes_are_the_same(
            runs in proptest::collection::vec((any::<bool>(), 1..10_000_usize), 1..8), offset in 0..10_000_u64, cut in 1..9000_usize,
        ) {
            let bytes: Vec<u8> = runs.iter().flat_map(|(zero, length)| vec![u8::from(!zero); *length]).collect();
            let file = tempfile::tempfile().unwrap();
            let mut at = offset;
            for piece in bytes.chunks(cut) {
                write_data(&file, at, piece).unwrap();
                at += piece.len() as u64;
            }
            file.set_len(at).unwrap();
            let mut read = vec![9; bytes.len()];
            file.read_exact_at(&mut read, offset).unwrap();
            prop_assert!(read == bytes);
        }
    }

    #[test]
    fn zeros_take_no_room_and_what_is_punched_is_zero() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let mut bytes = vec![0; 1 << 20];
        bytes[500_000] = 1;
        write_sparse(&file, &path, 0, &bytes).unwrap();
        file.set_len(1 << 20).unwrap();
        assert_eq!(file.metadata().unwrap().blocks() * 512, BLOCK as u64);
        punch(&file, &path, 499_000..501_000).unwrap();
        assert!(fs::read(&path).unwrap() == vec![0; 1 << 20]);
    }
}
