//! What of a blob is still to be fetched, handed out in order. Pure.

use std::collections::VecDeque;
use std::ops::Range;

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

/// The gaps that are left, the first one first.
#[derive(Debug, Default)]
pub(super) struct Segments(VecDeque<Range<u64>>);

impl Segments {
    /// Segments of `gaps`, which are in order.
    pub(super) fn of(gaps: impl Iterator<Item = Range<u64>>) -> Self {
        Self(gaps.collect())
    }

    /// Whether there are no more.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next segment, of at most `longest` bytes.
    pub(super) fn take(&mut self, longest: u64) -> Option<Range<u64>> {
        let gap = self.0.front_mut()?;
        let segment = gap.start..gap.end.min(gap.start.saturating_add(longest));
        if segment.end == gap.end {
            self.0.pop_front();
        } else {
            gap.start = segment.end;
        }
        Some(segment)
    }

    /// Takes back what of a segment did not come; it is the first to be handed out again.
    pub(super) fn give_back(&mut self, rest: Range<u64>) {
        if !rest.is_empty() {
            let place = self.0.partition_point(|gap| gap.start < rest.start);
            self.0.insert(place, rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_come_in_order_and_what_did_not_come_comes_again() {
        let mut segments = Segments::of([0..10, 20..25].into_iter());
        assert_eq!(segments.take(4), Some(0..4));
        assert_eq!(segments.take(4), Some(4..8));
        segments.give_back(2..4);
        segments.give_back(8..8);
        assert_eq!(std::iter::from_fn(|| segments.take(4)).collect::<Vec<_>>(), [2..4, 8..10, 20..24, 24..25]);
        segments.give_back(24..25);
        segments.give_back(9..10);
        assert_eq!(std::iter::from_fn(|| segments.take(4)).collect::<Vec<_>>(), [9..10, 24..25]);
    }
}
