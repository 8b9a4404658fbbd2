//! Bound on the members of a gzip stream and the frames of a zstd stream, which cost time even when they are empty.

use std::io;

use super::refusal::refusal;

/// Members that any layer may have.
const MIN: u64 = 10_000;
/// Compressed bytes for each member beyond. pzstd and pigz need some MiB for each; eStargz and zstd:chunked, which have a
/// member for each file of a root file system, some KiB. A member of nothing has 20 bytes in gzip, and 9 in zstd.
const BYTES_EACH: u64 = 256;

/// Count of members.
#[derive(Debug)]
pub(super) struct Members {
    most: u64,
    left: u64,
}

impl Members {
    /// The bound for a layer of `compressed` bytes.
    pub(super) fn new(compressed: u64) -> Self {
        let most = MIN.max(compressed / BYTES_EACH);
        Self { most, left: most }
    }

    /// Counts one more, and refuses it if there are too many.
    pub(super) fn count(&mut self) -> io::Result<()> {
        let most = self.most;
        self.left = self.left.checked_sub(1).ok_or_else(|| {
            refusal(format!("it is compressed in more than {most} members or frames, too many for its size"))
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::refusal::is_refusal;
    use super::*;

    #[test]
    fn members_are_bounded_by_the_compressed_size() {
        for (compressed, most) in [(0, 10_000), (40 << 20, 163_840), (64 << 30, 268_435_456_u64)] {
            let mut members = Members::new(compressed);
            assert_eq!(members.most, most);
            members.left = 1;
            members.count().unwrap();
            assert!(is_refusal(&members.count().unwrap_err()));
        }
    }
}
