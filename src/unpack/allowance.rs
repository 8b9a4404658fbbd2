//! Bound on how much a layer may decompress to: 1,000 times its size and 1 GiB, where a zero counts as a hundredth.
//!
//! An empty file system of 4 GiB is 148 KB of zstd and has to work, and zeros cost little: they become holes.

/// Bytes that may come out of each compressed one.
const RATIO: u64 = 1000;
/// Bytes that may come out of any layer beside that.
const BASE: u64 = 1 << 30;
/// Weight of a byte, in terms of that of a zero.
const WEIGHT: u64 = 100;
/// Length of the blocks that are zeros or not, in bytes.
const BLOCK: usize = 4096;
const ZEROS: [u8; BLOCK] = [0; BLOCK];

/// What is left of the bound, in hundredths of a byte.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u64,
}

impl Allowance {
    /// The bound for `compressed` bytes.
    pub(super) fn new(compressed: u64) -> Self {
        Self { left: limit(compressed).saturating_mul(WEIGHT) }
    }

    /// The same bound several times.
    pub(super) fn times(self, factor: u64) -> Self {
        Self { left: self.left.saturating_mul(factor) }
    }

    /// Counts decompressed bytes; false once there are too many.
    #[must_use]
    pub(super) fn take(&mut self, bytes: &[u8]) -> bool {
        let cost = bytes.chunks(BLOCK).map(|block| block.len() as u64 * if is_zero(block) { 1 } else { WEIGHT });
        match self.left.checked_sub(cost.sum()) {
            Some(left) => self.left = left,
            None => return false,
        }
        true
    }
}

/// True if there are only zeros.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(BLOCK).all(|block| ZEROS.get(..block.len()).is_some_and(|zeros| zeros == block))
}

/// Bytes other than zeros that `compressed` ones may become.
pub(super) fn limit(compressed: u64) -> u64 {
    compressed.saturating_mul(RATIO).saturating_add(BASE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Length that is still allowed, in pieces of 128 KiB that are all the same.
    fn allowed(compressed: u64, piece: &[u8]) -> u64 {
        let mut allowance = Allowance::new(compressed);
        let cost = Allowance::new(compressed).left - {
            assert!(allowance.take(piece));
            allowance.left
        };
        Allowance::new(compressed).left / cost * piece.len() as u64
    }

    #[test]
    fn bytes_are_bounded_by_the_compressed_size() {
        let piece = vec![7; 1 << 17];
        assert_eq!(allowed(0, &piece), 1 << 30);
        assert_eq!(allowed(1 << 20, &piece), (1000 << 20) + (1 << 30));
        let mut allowance = Allowance::new(0);
        assert!((0..8192).all(|_| allowance.take(&piece)));
        assert!(!allowance.take(&[7]), "1 GiB is used up");
        let mut twice = Allowance::new(0).times(2);
        assert!((0..16384).all(|_| twice.take(&piece)) && !twice.take(&[7]));
    }

    #[test]
    fn zeros_count_as_a_hundredth() {
        let (zeros, bytes) = (vec![0; 1 << 17], vec![7; 1 << 17]);
        assert!(allowed(0, &zeros) >= 99 << 30);
        // 290 KB that become 8 GiB of zeros: 86 MB of the 1.3 GB that they may become.
        let mut allowance = Allowance::new(290_000);
        assert!((0..(8_u64 << 30) / (1 << 17)).all(|_| allowance.take(&zeros)));
        // 148 KB are an empty ext4 disk of 4 GiB: some 70 MiB of it are not zeros.
        let mut disk = Allowance::new(148_000);
        assert!((0..560).all(|_| disk.take(&bytes)));
        assert!((0..(4_u64 << 30) / (1 << 17)).all(|_| disk.take(&zeros)));
    }

    #[test]
    fn one_byte_makes_a_block_count() {
        let (mut block, mut allowance) = ([0; 2 * BLOCK], Allowance::new(0));
        block[17] = 1;
        let before = allowance.left;
        assert!(allowance.take(&block));
        assert_eq!(before - allowance.left, BLOCK as u64 * (WEIGHT + 1));
    }

    #[test]
    fn huge_sizes_do_not_overflow() {
        assert_eq!(limit(u64::MAX), u64::MAX);
        assert!(Allowance::new(u64::MAX).times(4).take(&[7; 100]));
    }
}
