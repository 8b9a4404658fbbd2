//! Whether this machine's clock can be right. A node without a battery starts in 1970, and finds every certificate not
//! valid yet; whoever looks is to be told that it is the clock, not the certificate.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use jiff::Timestamp;

/// When this version was made, in seconds of the epoch: 2026-11-25. No node runs it earlier.
const MADE: i64 = 1_795_564_800;
/// How far a clock may be behind what was seen before: clocks are set, and by a little.
const TOLERANCE_S: i64 = 24 * 3600;

/// The latest time that is known to have been, in seconds of the epoch.
static SEEN: AtomicI64 = AtomicI64::new(MADE);

/// Notes a time that is known to have been.
pub fn note(seen: Timestamp) {
    SEEN.fetch_max(seen.as_second(), Relaxed);
}

/// What is wrong with the clock, in words; none where it can be right.
pub fn complaint() -> Option<String> {
    complain(Timestamp::now(), SEEN.load(Relaxed))
}

fn complain(now: Timestamp, seen: i64) -> Option<String> {
    if now.as_second() >= seen - TOLERANCE_S {
        return None;
    }
    let seen = Timestamp::from_second(seen).unwrap_or(Timestamp::MAX);
    Some(format!("this machine's clock is wrong: it says {now:.0}, and it is after {seen:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_wrong_that_is_before_what_was_seen() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(complain(at("2026-11-25T00:00:00Z"), MADE), None);
        assert_eq!(complain(at("2026-11-24T01:00:00Z"), MADE), None, "a time zone does no harm");
        let said = complain(at("1970-01-01T00:01:00Z"), MADE).unwrap();
        assert!(said.contains("1970-01-01T00:01:00Z") && said.contains("2026-11-25T00:00:00Z"), "{said}");
        assert!(complain(at("2027-01-01T00:00:00Z"), at("2027-02-01T00:00:00Z").as_second()).is_some());
    }
}
