//! The `Retry-After` header: seconds, or a date in one of the three forms of HTTP (RFC 9110, 10.2.3 and 5.6.7).

use std::time::{Duration, SystemTime};

/// The longest wait that is believed. The longest rate-limit window in use is a day. More is a mistake: Docker Hub, for
/// one, sends the time at which its window ends, as seconds since 1970.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The wait that the value `text` of `Retry-After` asks for at the time `now`. None if the value cannot be read, or asks
/// for more than [`MAX_RETRY_AFTER`]: the caller then backs off as if the header were absent. A date in the past is no wait.
pub fn parse_retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    let wait = if text.bytes().all(|byte| byte.is_ascii_digit()) {
        Duration::from_secs(text.parse().ok()?)
    } else {
        httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default()
    };
    (wait <= MAX_RETRY_AFTER).then_some(wait)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110.
    const EXAMPLE: u64 = 784_111_777;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn wait(text: &str) -> Option<u64> {
        parse_retry_after(text, at(EXAMPLE - 30)).map(|wait| wait.as_secs())
    }

    #[test]
    fn seconds_and_all_forms_of_a_date_are_read() {
        for (text, expected) in [
            ("0", 0),
            ("120", 120),
            (" 120\t", 120),
            ("000120", 120),
            ("86400", 86400),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 30),
            ("Sunday, 06-Nov-94 08:49:37 GMT", 30),
            ("Sun Nov  6 08:49:37 1994", 30),
            ("  Sun, 06 Nov 1994 08:49:37 GMT ", 30),
            ("Sun, 06 Nov 1994 08:49:07 GMT", 0),
            ("Sun, 06 Nov 1994 07:00:00 GMT", 0),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ] {
            assert_eq!(wait(text), Some(expected), "{text:?}");
        }
    }

    #[test]
    fn implausible_and_unreadable_values_are_ignored() {
        for text in [
            // Docker Hub's: seconds since 1970.
            "1746136938",
            "86401",
            "99999999999",
            "99999999999999999999999999",
            "Mon, 07 Nov 1994 08:49:37 GMT",
            "Fri, 31 Dec 9999 23:59:59 GMT",
            "",
            " ",
            "-1",
            "+5",
            "1.5",
            "1e3",
            "0x10",
            "120s",
            "120, 240",
            "soon",
            "١٢٠",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 32 Nov 1994 08:49:37 GMT",
            "Mon, 06 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(wait(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_value_asks_for_too_long(text in ".{0,40}", now in 0..4_000_000_000_u64) {
            let wait = parse_retry_after(&text, at(now));
            prop_assert!(wait.is_none_or(|wait| wait <= MAX_RETRY_AFTER));
        }

        #[test]
        fn plausible_seconds_are_taken_as_they_are(seconds in 0..=86_400_u64, now in 0..4_000_000_000_u64) {
            let wait = parse_retry_after(&seconds.to_string(), at(now));
            prop_assert_eq!(wait, Some(Duration::from_secs(seconds)));
        }

        #[test]
        fn a_date_is_the_time_until_then(now in 1_000_000_000..2_000_000_000_u64, ahead in 0..=86_400_u64) {
            let date = httpdate::fmt_http_date(at(now + ahead));
            prop_assert_eq!(parse_retry_after(&date, at(now)), Some(Duration::from_secs(ahead)));
            prop_assert_eq!(parse_retry_after(&date, at(now + ahead + 1)), Some(Duration::ZERO));
            prop_assert_eq!(parse_retry_after(&date, at(now - 86_401)), None);
        }
    }
}
