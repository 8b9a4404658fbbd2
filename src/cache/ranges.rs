//! Which bytes of a blob have landed. Pure; the offsets are the blob's own.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Ranges of bytes in order, none of which touches another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// Adds a range.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        // Those that it touches are one with it afterwards.
        let from = self.0.partition_point(|other| other.end < range.start);
        let to = self.0.partition_point(|other| other.start <= range.end);
        let touched = self.0.get(from..to).unwrap_or_default();
        let start = touched.first().map_or(range.start, |first| first.start.min(range.start));
        let end = touched.last().map_or(range.end, |last| last.end.max(range.end));
        self.0.splice(from..to, std::iter::once(start..end));
    }

    /// How many bytes there are without a gap from `offset` on.
    pub fn run_from(&self, offset: u64) -> u64 {
        let at = self.0.partition_point(|range| range.end <= offset);
        self.0.get(at).filter(|range| range.start <= offset).map_or(0, |range| range.end - offset)
    }

    /// The first gap at or after `offset`, of a blob of `size` bytes.
    pub fn gap_from(&self, offset: u64, size: u64) -> Option<Range<u64>> {
        let start = offset + self.run_from(offset);
        let next = self.0.get(self.0.partition_point(|range| range.start < start));
        let end = next.map_or(size, |range| range.start.min(size));
        (start < end).then_some(start..end)
    }

    /// All gaps of a blob of `size` bytes, in order.
    pub fn gaps(&self, size: u64) -> impl Iterator<Item = Range<u64>> {
        std::iter::successors(self.gap_from(0, size), move |gap| self.gap_from(gap.end, size))
    }

    /// Where the last one ends.
    pub fn end(&self) -> u64 {
        self.0.last().map_or(0, |range| range.end)
    }

    /// How many bytes there are.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }
}

impl From<Ranges> for Vec<(u64, u64)> {
    fn from(ranges: Ranges) -> Self {
        ranges.0.into_iter().map(|range| (range.start, range.end)).collect()
    }
}

impl TryFrom<Vec<(u64, u64)>> for Ranges {
    type Error = &'static str;

    fn try_from(pairs: Vec<(u64, u64)>) -> Result<Self, Self::Error> {
        let in_order = pairs.iter().all(|(start, end)| start < end)
            && pairs.iter().zip(pairs.iter().skip(1)).all(|((_, end), (start, _))| end < start);
        let ranges = pairs.into_iter().map(|(start, end)| start..end).collect();
        if in_order { Ok(Self(ranges)) } else { Err("the ranges are not in order") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: usize = 40;

    proptest! {
        #[test]
        fn they_are_what_a_row_of_bytes_is(inserted in proptest::collection::vec((0..SIZE, 0..12_usize), 0..12)) {
            let (mut ranges, mut model) = (Ranges::default(), [false; SIZE]);
            for (start, length) in inserted {
                let end = (start + length).min(SIZE);
                ranges.insert(start as u64..end as u64);
                model[start..end].fill(true);
            }
            prop_assert_eq!(ranges.total(), model.iter().filter(|landed| **landed).count() as u64);
            for offset in 0..SIZE {
                let run = model[offset..].iter().take_while(|landed| **landed).count() as u64;
                prop_assert_eq!(ranges.run_from(offset as u64), run);
            }
            let mut missing = [false; SIZE];
            for gap in ranges.gaps(SIZE as u64) {
                let [start, end] = [gap.start, gap.end].map(|at| usize::try_from(at).unwrap());
                prop_assert!(end == SIZE || model[end], "a gap is as long as it can be");
                missing[start..end].fill(true);
            }
            prop_assert_eq!(missing, model.map(|landed| !landed));
            let text = serde_json::to_string(&ranges).unwrap();
            prop_assert_eq!(serde_json::from_str::<Ranges>(&text).unwrap(), ranges);
        }
    }

    #[test]
    fn what_is_out_of_order_is_no_list_of_ranges() {
        for text in ["[[0,0]]", "[[5,3]]", "[[0,5],[5,9]]", "[[4,5],[0,1]]", "[[-1,2]]", "{}", "[[1]]"] {
            assert!(serde_json::from_str::<Ranges>(text).is_err(), "{text}");
        }
    }
}
