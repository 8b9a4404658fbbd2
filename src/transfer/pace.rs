//! How fast a connection is, and when another one is worth its request. Pure.

use std::time::Duration;

/// A connection is given up where those that ended before it have brought so many times as much in the same time.
const FAR: u128 = 8;
/// It is waited for so long before it is compared: a segment is made to take about that.
pub(super) const FAIR: Duration = Duration::from_secs(1);

/// What came, and how long it was waited for. Only the network counts: a slow disk or a limit of ours is no fault of the
/// source's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    bytes: u64,
    waited: Duration,
}

impl Pace {
    pub(super) fn add(&mut self, bytes: u64, waited: Duration) {
        self.bytes += bytes;
        self.waited += waited;
    }

    /// Takes up that of a connection which has ended. The last ones count most: lines get faster and slower.
    pub(super) fn follow(&mut self, ended: Self) {
        *self = Self { bytes: self.bytes / 2 + ended.bytes, waited: self.waited / 2 + ended.waited };
    }

    pub(super) fn bytes_per_second(&self) -> u64 {
        let milliseconds = u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX).max(1);
        self.bytes.saturating_mul(1000) / milliseconds
    }

    /// Whether it is no match for what is usual. Where nothing is, nobody knows.
    pub(super) fn is_far_below(&self, usual: &Self) -> bool {
        let (own, others) = (u128::from(self.bytes), u128::from(usual.bytes));
        self.waited >= FAIR && own * FAR * usual.waited.as_micros() < others * self.waited.as_micros()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(bytes: u64, milliseconds: u64) -> Pace {
        Pace { bytes, waited: Duration::from_millis(milliseconds) }
    }

    #[test]
    fn a_connection_is_compared_with_others_once_it_had_a_fair_chance() {
        let usual = pace(8000, 1000);
        assert!(pace(999, 1000).is_far_below(&usual) && !pace(1000, 1000).is_far_below(&usual));
        assert!(!pace(0, 999).is_far_below(&usual), "it has hardly begun");
        assert!(!pace(0, 60_000).is_far_below(&Pace::default()), "there is nothing to compare it with");
        assert!(pace(0, 1000).is_far_below(&pace(8000, 0)));
    }

    #[test]
    fn what_is_usual_changes_with_the_line() {
        let mut usual = pace(1 << 30, 1000);
        for _ in 0..20 {
            usual.follow(pace(1000, 1000));
        }
        assert!(!pace(600, 1000).is_far_below(&usual), "{usual:?}");
        assert_eq!(pace(1000, 500).bytes_per_second(), 2000);
    }
}
