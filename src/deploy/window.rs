//! When an image may be activated. Pure: the time comes in as a value.
//!
//! A window opens on the days that it names, at the time that a clock in its time zone shows then. Where that clock is
//! put forward or back, RFC 5545 decides, as jiff has it ("compatible"): a time that is skipped counts as much later as
//! is skipped, and of a time that comes twice the first counts. So a window from 02:30 to 04:00 opens at 03:30 on the day
//! on which the clock goes from 02:00 to 03:00, and one that would end before it began by that stays closed on that day.
//! A day that the calendar leaves out has no window.

use std::time::Duration;

use jiff::civil::{Date, Time};
use jiff::{Timestamp, ToSpan};

use crate::config::WindowSettings;

/// How far ahead it is looked, in days: a window that is closed opens before that, however clocks are put.
const HORIZON: i64 = 28;

/// The times at which an image may be activated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window(WindowSettings);

/// Whether a window is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// It is.
    Open {
        /// How long it stays so; some weeks where no end is in sight.
        closes_in: Duration,
    },
    /// It is not.
    Closed {
        /// How long it stays so; never nothing.
        opens_in: Duration,
    },
}

impl Window {
    /// The window that is written down so.
    pub fn new(settings: WindowSettings) -> Self {
        Self(settings)
    }

    /// The name of its time zone in the tz database; none if the zone has none.
    pub fn timezone(&self) -> Option<&str> {
        self.0.timezone.iana_name()
    }

    /// Whether it is open at `now`. Windows that touch or overlap are one.
    pub fn at(&self, now: Timestamp) -> Opening {
        let today = self.0.timezone.to_datetime(now).date();
        // One that began the day before yesterday may last until now where a day is left out.
        let days = (-2..=HORIZON).filter_map(|days| today.checked_add(days.days()).ok());
        let mut open_until = None;
        for (opens, closes) in days.filter_map(|day| self.of(day)).filter(|(_, closes)| *closes > now) {
            match open_until {
                None if opens > now => return Opening::Closed { opens_in: between(now, opens) },
                None => open_until = Some(closes),
                Some(until) if opens > until => break,
                Some(until) => open_until = Some(until.max(closes)),
            }
        }
        match open_until {
            Some(until) => Opening::Open { closes_in: between(now, until) },
            // Only at the end of all times that there are names for.
            None => Opening::Closed { opens_in: Duration::from_secs(24 * 3600) },
        }
    }

    /// From when to when it is open that opens on `day`.
    fn of(&self, day: Date) -> Option<(Timestamp, Timestamp)> {
        let WindowSettings { days, start, end, timezone } = &self.0;
        let instant = |date: Date, time| timezone.to_timestamp(date.to_datetime(time)).ok();
        let is_left_out = timezone.to_datetime(instant(day, Time::midnight())?).date() != day;
        if !days.contains(&day.weekday()) || is_left_out {
            return None;
        }
        let last = if end > start { day } else { day.tomorrow().ok()? };
        let (opens, closes) = (instant(day, *start)?, instant(last, *end)?);
        (opens < closes).then_some((opens, closes))
    }
}

fn between(earlier: Timestamp, later: Timestamp) -> Duration {
    later.duration_since(earlier).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::Weekday;
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    const ALL: [Weekday; 7] = [
        Weekday::Monday,
        Weekday::Tuesday,
        Weekday::Wednesday,
        Weekday::Thursday,
        Weekday::Friday,
        Weekday::Saturday,
        Weekday::Sunday,
    ];
    const ZONES: [&str; 8] = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Asia/Kathmandu",
        "America/Nuuk",
        "Africa/Cairo",
    ];

    fn window(days: &[Weekday], start: &str, end: &str, zone: &str) -> Window {
        let time = |text: &str| text.parse::<Time>().unwrap();
        let timezone = TimeZone::get(zone).unwrap();
        Window::new(WindowSettings { days: days.to_vec(), start: time(start), end: time(end), timezone })
    }

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// When it opens next after `from`, and when it closes then.
    fn next(window: &Window, from: &str) -> (String, String) {
        let Opening::Closed { opens_in } = window.at(time(from)) else { panic!("it is open at {from}") };
        let opens = time(from) + opens_in;
        let Opening::Open { closes_in } = window.at(opens) else { panic!("it does not open at {opens}") };
        (opens.to_string(), (opens + closes_in).to_string())
    }

    #[track_caller]
    fn opens(window: &Window, from: &str, opens: &str, closes: &str) {
        assert_eq!(next(window, from), (opens.to_owned(), closes.to_owned()));
    }

    #[test]
    fn it_opens_on_its_days_from_start_to_end() {
        let window = window(&[Weekday::Monday, Weekday::Thursday], "02:00", "04:00", "UTC");
        // 2026-11-30 is a Monday.
        opens(&window, "2026-11-30T01:59:59.999Z", "2026-11-30T02:00:00Z", "2026-11-30T04:00:00Z");
        opens(&window, "2026-11-30T04:00:00Z", "2026-12-03T02:00:00Z", "2026-12-03T04:00:00Z");
        let at = |text| window.at(time(text));
        assert_eq!(at("2026-11-30T03:00:00Z"), Opening::Open { closes_in: Duration::from_secs(3600) });
        assert_eq!(at("2026-12-01T03:00:00Z"), Opening::Closed { opens_in: Duration::from_secs(47 * 3600) });
    }

    #[test]
    fn over_midnight_the_day_is_the_one_on_which_it_opens() {
        let window = window(&[Weekday::Friday], "22:00", "02:00", "UTC");
        opens(&window, "2026-12-01T23:00:00Z", "2026-12-04T22:00:00Z", "2026-12-05T02:00:00Z");
        opens(&window, "2026-12-05T02:00:00Z", "2026-12-11T22:00:00Z", "2026-12-12T02:00:00Z");
    }

    #[test]
    fn the_same_start_and_end_is_a_whole_day() {
        let one = window(&[Weekday::Saturday], "00:00", "00:00", "UTC");
        opens(&one, "2026-12-01T00:00:00Z", "2026-12-05T00:00:00Z", "2026-12-06T00:00:00Z");
        let two = window(&[Weekday::Sunday, Weekday::Saturday], "06:00", "06:00", "UTC");
        opens(&two, "2026-12-01T00:00:00Z", "2026-12-05T06:00:00Z", "2026-12-07T06:00:00Z");
        let always = window(&ALL, "06:00", "06:00", "Europe/Berlin");
        let Opening::Open { closes_in } = always.at(time("2026-12-01T00:00:00Z")) else { panic!("it is closed") };
        assert!(closes_in > Duration::from_secs(21 * 24 * 3600));
    }

    #[test]
    fn a_time_that_is_skipped_counts_later() {
        // In Berlin, 02:00 to 03:00 is skipped on 2026-03-29; in New York on 2026-03-08.
        let late = window(&ALL, "02:30", "04:00", "Europe/Berlin");
        opens(&late, "2026-03-28T12:00:00Z", "2026-03-29T01:30:00Z", "2026-03-29T02:00:00Z");
        let short = window(&ALL, "01:00", "02:30", "Europe/Berlin");
        opens(&short, "2026-03-28T12:00:00Z", "2026-03-29T00:00:00Z", "2026-03-29T01:30:00Z");
        let inside = window(&ALL, "02:15", "02:45", "America/New_York");
        opens(&inside, "2026-03-07T12:00:00Z", "2026-03-08T07:15:00Z", "2026-03-08T07:45:00Z");
        // Half an hour is skipped on Lord Howe, from 02:00 to 02:30 on 2026-10-04.
        let half = window(&ALL, "02:10", "03:00", "Australia/Lord_Howe");
        opens(&half, "2026-10-03T12:00:00Z", "2026-10-03T15:40:00Z", "2026-10-03T16:00:00Z");
        // From 02:00 to 03:00 no clock in Berlin shows any time.
        let none = window(&ALL, "02:00", "03:00", "Europe/Berlin");
        opens(&none, "2026-03-28T12:00:00Z", "2026-03-30T00:00:00Z", "2026-03-30T01:00:00Z");
        let backwards = window(&ALL, "02:45", "03:15", "Europe/Berlin");
        opens(&backwards, "2026-03-28T12:00:00Z", "2026-03-30T00:45:00Z", "2026-03-30T01:15:00Z");
    }

    #[test]
    fn of_a_time_that_comes_twice_the_first_counts() {
        // In Berlin, 02:00 to 03:00 comes twice on 2026-10-25; in New York 01:00 to 02:00 on 2026-11-01.
        let end = window(&ALL, "01:00", "02:30", "Europe/Berlin");
        opens(&end, "2026-10-24T12:00:00Z", "2026-10-24T23:00:00Z", "2026-10-25T00:30:00Z");
        let start = window(&ALL, "01:30", "03:00", "America/New_York");
        opens(&start, "2026-10-31T12:00:00Z", "2026-11-01T05:30:00Z", "2026-11-01T08:00:00Z");
        // Half an hour comes twice on Lord Howe, from 01:30 on 2026-04-05.
        let half = window(&ALL, "01:00", "01:45", "Australia/Lord_Howe");
        opens(&half, "2026-04-04T12:00:00Z", "2026-04-04T14:00:00Z", "2026-04-04T14:45:00Z");
        let day = window(&[Weekday::Sunday], "00:00", "00:00", "Europe/Berlin");
        opens(&day, "2026-10-20T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z");
    }

    #[test]
    fn a_day_that_is_left_out_has_no_window() {
        // Samoa went from Thursday, 2011-12-29, to Saturday.
        let friday = window(&[Weekday::Friday], "02:00", "04:00", "Pacific/Apia");
        opens(&friday, "2011-12-24T12:00:00Z", "2012-01-05T12:00:00Z", "2012-01-05T14:00:00Z");
        let daily = window(&ALL, "02:00", "04:00", "Pacific/Apia");
        opens(&daily, "2011-12-29T15:00:00Z", "2011-12-30T12:00:00Z", "2011-12-30T14:00:00Z");
        // One that opened on Thursday is no shorter for it.
        let over = window(&[Weekday::Thursday], "22:00", "02:00", "Pacific/Apia");
        opens(&over, "2011-12-29T15:00:00Z", "2011-12-30T08:00:00Z", "2011-12-30T12:00:00Z");
        assert_eq!(over.at(time("2011-12-30T11:00:00Z")), Opening::Open { closes_in: Duration::from_secs(3600) });
    }

    #[test]
    fn at_the_ends_of_time_it_answers_still() {
        for zone in ZONES {
            let window = window(&ALL, "22:00", "02:00", zone);
            let _ = (window.at(Timestamp::MIN), window.at(Timestamp::MAX));
        }
    }

    /// Any window, and a time within a few days of when a clock there is put, if it is.
    fn any_window_and_time() -> impl Strategy<Value = (Window, Timestamp)> {
        let minutes = || (0..24_i8, 0..60_i8).prop_map(|(hour, minute)| Time::constant(hour, minute, 0, 0));
        let days = proptest::sample::subsequence(ALL.to_vec(), 1..=7);
        let years = 1_100_000_000..1_900_000_000_i64;
        (days, minutes(), minutes(), 0..ZONES.len(), years, -300_000..300_000_i64, any::<bool>()).prop_map(
            |(days, start, end, zone, second, near, is_near)| {
                let timezone = TimeZone::get(ZONES[zone]).unwrap();
                let from = Timestamp::from_second(second).unwrap();
                let put = timezone.following(from).next().filter(|_| is_near).map(|put| put.timestamp());
                let now = put.map_or(from, |put| put + near.seconds());
                (Window::new(WindowSettings { days, start, end, timezone }), now)
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_opens_and_closes_when_it_says((window, now) in any_window_and_time()) {
            let nanosecond = Duration::from_nanos(1);
            match window.at(now) {
                Opening::Closed { opens_in } => {
                    prop_assert!(opens_in <= Duration::from_secs(15 * 24 * 3600));
                    let is_open = matches!(window.at(now + opens_in), Opening::Open { .. });
                    prop_assert!(is_open);
                    prop_assert_eq!(window.at(now + opens_in - nanosecond), Opening::Closed { opens_in: nanosecond });
                }
                Opening::Open { closes_in } if closes_in < Duration::from_secs(26 * 24 * 3600) => {
                    let is_closed = matches!(window.at(now + closes_in), Opening::Closed { .. });
                    prop_assert!(is_closed);
                    prop_assert_eq!(window.at(now + closes_in - nanosecond), Opening::Open { closes_in: nanosecond });
                }
                Opening::Open { .. } => {}
            }
        }

        #[test]
        fn where_no_clock_is_put_it_is_open_by_what_the_clock_shows((window, now) in any_window_and_time()) {
            let WindowSettings { days, start, end, timezone } = &window.0;
            let near = |put: jiff::tz::TimeZoneTransition<'_>| between(put.timestamp(), now).as_secs() < 4 * 24 * 3600;
            let is_put = timezone.following(now).next().is_some_and(near) || timezone.preceding(now).next().is_some_and(near);
            let shows = timezone.to_datetime(now);
            let (today, yesterday) = (days.contains(&shows.weekday()), days.contains(&shows.weekday().previous()));
            let expected = if start < end {
                today && *start <= shows.time() && shows.time() < *end
            } else {
                today && shows.time() >= *start || yesterday && shows.time() < *end
            };
            let is_open = matches!(window.at(now), Opening::Open { .. });
            prop_assert!(is_put || is_open == expected, "{:?} {}", window, shows);
        }
    }
}
