//! What of a blob is still to be fetched, handed out in order. Pure.

use std::collections::VecDeque;
use std::ops::Range;

/// A blob of more bytes is fetched in segments; a smaller one in one go.
pub(super) const SEGMENTED: u64 = 16 << 20;
/// The length of a segment in bytes. A request costs a round trip, so it is not small; what lies between the slowest
/// connection and the fastest is hashed from memory that the kernel lends, so it is not large.
pub(super) const SEGMENT: u64 = 8 << 20;

/// The gaps that are left, the first one first.
#[derive(Debug)]
pub(super) struct Segments {
    gaps: VecDeque<Range<u64>>,
    longest: u64,
}

impl Segments {
    /// Segments of `gaps`, which are in order, none longer than `longest`.
    pub(super) fn new(gaps: impl Iterator<Item = Range<u64>>, longest: u64) -> Self {
        Self { gaps: gaps.collect(), longest }
    }

    /// Whether there are no more.
    pub(super) fn is_empty(&self) -> bool {
        self.gaps.is_empty()
    }

    /// The next segment.
    pub(super) fn take(&mut self) -> Option<Range<u64>> {
        let gap = self.gaps.front_mut()?;
        let segment = gap.start..gap.end.min(gap.start.saturating_add(self.longest));
        if segment.end == gap.end {
            self.gaps.pop_front();
        } else {
            gap.start = segment.end;
        }
        Some(segment)
    }

    /// Takes back what of a segment did not come; it is the first to be handed out again.
    pub(super) fn give_back(&mut self, rest: Range<u64>) {
        if !rest.is_empty() {
            let place = self.gaps.partition_point(|gap| gap.start < rest.start);
            self.gaps.insert(place, rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_come_in_order_and_what_did_not_come_comes_again() {
        let mut segments = Segments::new([0..10, 20..25].into_iter(), 4);
        assert_eq!(segments.take(), Some(0..4));
        assert_eq!(segments.take(), Some(4..8));
        segments.give_back(2..4);
        segments.give_back(8..8);
        assert_eq!(std::iter::from_fn(|| segments.take()).collect::<Vec<_>>(), [2..4, 8..10, 20..24, 24..25]);
        segments.give_back(24..25);
        segments.give_back(9..10);
        assert_eq!(std::iter::from_fn(|| segments.take()).collect::<Vec<_>>(), [9..10, 24..25]);
    }
}
