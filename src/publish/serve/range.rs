//! The `Range` header, as far as it names one range of bytes.

use std::ops::Range;

/// How much of a blob is wanted.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of it.
    Whole,
    /// These bytes, which are some.
    Part(Range<u64>),
    /// Nothing that it has.
    Beyond,
}

impl Wanted {
    /// A header that is malformed or names several ranges is passed over, as RFC 9110 allows.
    pub fn of(header: Option<&str>, size: u64) -> Self {
        let range = header.and_then(|header| header.strip_prefix("bytes=")?.split_once('-'));
        range.and_then(|(first, last)| Self::between(first.trim(), last.trim(), size)).unwrap_or(Self::Whole)
    }

    fn between(first: &str, last: &str, size: u64) -> Option<Self> {
        let range = match (number(first), number(last)) {
            (Some(first), None) if last.is_empty() => first..size,
            (Some(first), Some(last)) if first <= last => first..size.min(last.saturating_add(1)),
            (None, Some(length)) if first.is_empty() => size.saturating_sub(length)..size,
            _ => return None,
        };
        Some(if range.is_empty() { Self::Beyond } else { Self::Part(range) })
    }
}

/// Digits only: the parser of numbers would also take a sign.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_understood_and_the_rest_passed_over() {
        for (header, wanted) in [
            ("bytes=0-", Wanted::Part(0..10)),
            ("bytes=4-", Wanted::Part(4..10)),
            ("bytes=4-5", Wanted::Part(4..6)),
            ("bytes=0-99999999999999999999", Wanted::Part(0..10)),
            ("bytes=-3", Wanted::Part(7..10)),
            ("bytes=-30", Wanted::Part(0..10)),
            ("bytes=10-", Wanted::Beyond),
            ("bytes=-0", Wanted::Beyond),
            ("bytes=5-4", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
        ] {
            assert_eq!(Wanted::of(Some(header), 10), wanted, "{header}");
        }
        assert_eq!(Wanted::of(None, 10), Wanted::Whole);
        assert_eq!(Wanted::of(Some("bytes=0-"), 0), Wanted::Beyond);
    }
}
