//! How large blobs are divided among connections. Pure.

/// A blob of more bytes is fetched in segments; a smaller one in one go.
pub(super) const SEGMENTED: u64 = 16 << 20;
/// The shortest segment, in bytes: a request costs a round trip.
pub(super) const SHORTEST: u64 = 8 << 20;
/// The longest, in bytes: what the fastest connections bring before the slowest is read once more to be hashed, which
/// costs little only as long as it is still in memory.
const LONGEST: u64 = 256 << 20;

/// How long a segment is to be on a connection that brings so many bytes a second: some registries take milliseconds to
/// find a part of a blob, so that a request is to be worth it; and what one connection has to do, no other can.
pub(super) fn length(bytes_per_second: u64) -> u64 {
    bytes_per_second.clamp(SHORTEST, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_takes_about_a_second_but_is_neither_tiny_nor_endless() {
        assert_eq!((length(0), length(1 << 20)), (SHORTEST, SHORTEST));
        assert_eq!(length(100 << 20), 100 << 20);
        assert_eq!(length(u64::MAX), LONGEST);
    }
}
