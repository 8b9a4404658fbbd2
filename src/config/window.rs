//! `[window]`: when an image may be activated.

use std::str::FromStr;

use jiff::civil::{Time, Weekday};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::fragment;
use super::value::Text;

/// `[window]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowSettings {
    /// The days on which it opens; one at least.
    pub days: Vec<Weekday>,
    /// When it opens, by a clock in `timezone`.
    pub start: Time,
    /// When it closes: on the next day where that is earlier than `start`, a day later where it is the same.
    pub end: Time,
    /// Where the clock hangs.
    pub timezone: TimeZone,
}

impl WindowSettings {
    /// What the table says; none where it says nothing.
    pub(super) fn from_fragment(window: fragment::Window) -> Result<Option<Self>, (&'static str, String)> {
        let fragment::Window { days, start, end, timezone } = window;
        let (start, end) = match (start, end) {
            (Some(start), Some(end)) => (start.0.0, end.0.0),
            (None, None) if days.is_some() => (Time::midnight(), Time::midnight()),
            (None, None) if timezone.is_none() => return Ok(None),
            (None, None) => {
                return Err(("window.timezone", "there is no window: write start and end, or days".to_owned()));
            }
            _ => return Err(("window", "start and end go together".to_owned())),
        };
        let days = days.map_or_else(|| DAYS.iter().map(|(_, day)| *day).collect(), |days| days.0);
        Ok(Some(Self { days, start, end, timezone: timezone.map_or(TimeZone::UTC, |zone| zone.0.0) }))
    }
}

/// The days as they are written.
const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

/// Days such as `["mon", "tue"]`; one at least.
#[derive(Clone, Debug)]
pub(super) struct Days(Vec<Weekday>);

impl<'de> Deserialize<'de> for Days {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let days: Vec<_> = Vec::<Text<Day>>::deserialize(deserializer)?.into_iter().map(|day| day.0.0).collect();
        if days.is_empty() { Err(D::Error::custom("without a day it would never open")) } else { Ok(Self(days)) }
    }
}

#[derive(Clone, Copy, Debug)]
struct Day(Weekday);

impl FromStr for Day {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let day = DAYS.iter().find(|(name, _)| *name == text).map(|(_, day)| Self(*day));
        day.ok_or_else(|| {
            format!("{text:?} is no day: write \"mon\", \"tue\", \"wed\", \"thu\", \"fri\", \"sat\" or \"sun\"")
        })
    }
}

/// What a clock shows, such as `"02:00"`.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeOfDay(Time);

impl FromStr for TimeOfDay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let two = |digits: &str| {
            let is_two = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<i8>().ok().filter(|_| is_two)
        };
        let time = text.split_once(':').and_then(|(hour, minute)| Time::new(two(hour)?, two(minute)?, 0, 0).ok());
        time.map(Self).ok_or_else(|| format!("{text:?} is no time of day: write \"00:00\" to \"23:59\""))
    }
}

/// A time zone such as `"Europe/Berlin"`.
#[derive(Clone, Debug)]
pub(super) struct Zone(TimeZone);

impl FromStr for Zone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The node's own data may be newer than this program, but it may also have none, or not all of it.
        let found = TimeZone::get(text).or_else(|_| TimeZoneDatabase::bundled().get(text));
        let known = found.ok().filter(|zone| !zone.is_unknown());
        known.map(Self).ok_or_else(|| {
            format!("{text:?} is no time zone that is known here: write \"UTC\", or one such as \"Europe/Berlin\"")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_has_four_digits() {
        for (text, hour, minute) in [("00:00", 0, 0), ("02:30", 2, 30), ("23:59", 23, 59)] {
            assert_eq!(text.parse::<TimeOfDay>().unwrap().0, Time::constant(hour, minute, 0, 0));
        }
        for text in
            ["", "2:00", "02:0", "24:00", "02:60", "02:00:00", "+2:00", "-1:00", "0200", "02.00", "٠٢:٠٠", "02:00 "]
        {
            assert!(text.parse::<TimeOfDay>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_zone_is_known_without_the_nodes_data() {
        let bundled = TimeZoneDatabase::bundled();
        for name in ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia"] {
            assert!(bundled.get(name).is_ok(), "{name}");
            assert_eq!(name.parse::<Zone>().unwrap().0.iana_name(), Some(name));
        }
        for name in ["", "Berlin", "Europe/Berlin ", "../UTC", "/etc/localtime", "Etc/Unknown", "CET-1CEST,M3.5.0"] {
            assert!(name.parse::<Zone>().is_err(), "{name}");
        }
    }
}
