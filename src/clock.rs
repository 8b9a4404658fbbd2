//! The clocks of this machine: the one that nobody can set, and whether the other can be right. A node without a battery
//! starts in 1970, and finds every certificate not valid yet; whoever looks is to be told that it is the clock, not the
//! certificate.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Where the kernel says which boot this is (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Tells one boot of this machine from every other; none where the kernel does not say, and then no two are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BootId(u128);

/// The time since this machine was booted, in which it may have slept. Nobody can set this clock; it starts anew with
/// each boot.
pub fn since_boot() -> Duration {
    // The kernel has had this clock since 2.6.39; without it, no time would ever go by.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// Which boot this is; none where that cannot be read.
pub fn boot_id() -> Option<BootId> {
    static READ: LazyLock<Option<BootId>> =
        LazyLock::new(|| std::fs::read_to_string(BOOT_ID).ok().and_then(|text| text.try_into().ok()));
    *READ
}

impl TryFrom<String> for BootId {
    type Error = String;

    /// A UUID, as the kernel writes it.
    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.trim().replace('-', "");
        match u128::from_str_radix(&digits, 16) {
            Ok(id) if digits.len() == 32 => Ok(Self(id)),
            _ => Err(format!("{:?} is no id of a boot", text.chars().take(40).collect::<String>())),
        }
    }
}

impl From<BootId> for String {
    fn from(id: BootId) -> Self {
        format!("{:032x}", id.0)
    }
}

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
    fn this_boot_has_an_id_and_its_clock_goes_forward() {
        let id = boot_id().unwrap();
        assert_eq!(BootId::try_from(String::from(id)), Ok(id));
        assert!(BootId::try_from("no id".to_owned()).is_err());
        let before = since_boot();
        assert!(before > Duration::ZERO && since_boot() >= before);
    }

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
