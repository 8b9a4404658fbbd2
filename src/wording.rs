//! Sizes, lengths of time, lists and system errors as messages have them.

use std::borrow::Cow;
use std::time::Duration;

use bytesize::ByteSize;

/// The text that the standard library appends to an error of the operating system, before its number.
const OS_ERROR: &str = " (os error ";

/// A size for a message: `77.7 MiB`.
pub fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// A size for a message in which every byte counts: `77.7 MiB (81496065 bytes)`.
pub fn exact_size(bytes: u64) -> String {
    match bytes {
        1 => "1 byte".to_owned(),
        0..1024 => format!("{bytes} bytes"),
        _ => format!("{} ({bytes} bytes)", size(bytes)),
    }
}

/// Two sizes that a message compares: in full if they differ by less than their short forms show.
pub fn two_sizes(one: u64, other: u64) -> (String, String) {
    let (short_one, short_other) = (size(one), size(other));
    if one != other && short_one == short_other {
        (exact_size(one), exact_size(other))
    } else {
        (short_one, short_other)
    }
}

/// A list as a part of a sentence: `a`, `a and b`, `a, b and c`; `none` if it is empty.
pub fn list<T: AsRef<str>>(items: &[T]) -> String {
    match items {
        [] => "none".to_owned(),
        [only] => only.as_ref().to_owned(),
        [first @ .., last] => {
            let first: Vec<_> = first.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", first.join(", "), last.as_ref())
        }
    }
}

/// A list of which at most `most` items are named: `a, b and 3 more`.
pub fn short_list<T: AsRef<str>>(items: &[T], most: usize) -> String {
    let more = items.len().saturating_sub(most);
    if more == 0 {
        return list(items);
    }
    let mut shown: Vec<String> = items.iter().take(most).map(|item| item.as_ref().to_owned()).collect();
    shown.push(format!("{more} more"));
    list(&shown)
}

/// A length of time in the largest unit that has at least two of it: `<1s`, `59s`, `9m`, `40h`, `12d`.
pub fn span(length: Duration) -> String {
    match length.as_secs() {
        0 => "<1s".to_owned(),
        seconds @ 1..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// The text without the numbers of system errors: `No such file or directory (os error 2)` loses its end.
pub fn without_error_numbers(text: &str) -> Cow<'_, str> {
    if !text.contains(OS_ERROR) {
        return Cow::Borrowed(text);
    }
    let mut parts = text.split(OS_ERROR);
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(')') {
            Some((number, rest)) if is_number(number) => kept.push_str(rest),
            _ => {
                kept.push_str(OS_ERROR);
                kept.push_str(part);
            }
        }
    }
    Cow::Owned(kept)
}

/// True for a number of the operating system, which may be negative.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_unless_each_byte_counts() {
        assert_eq!([0, 1023, 81_496_065].map(size), ["0 B", "1023 B", "77.7 MiB"]);
        assert_eq!([0, 1, 14, 1024].map(exact_size), ["0 bytes", "1 byte", "14 bytes", "1.0 KiB (1024 bytes)"]);
        assert_eq!(two_sizes(81_496_065, 1 << 20), ("77.7 MiB".to_owned(), "1.0 MiB".to_owned()));
        let close = two_sizes((1 << 20) + 1, 1 << 20);
        assert_eq!(close, ("1.0 MiB (1048577 bytes)".to_owned(), "1.0 MiB (1048576 bytes)".to_owned()));
        assert_eq!(two_sizes(1 << 20, 1 << 20).0, "1.0 MiB");
    }

    #[test]
    fn lists_are_parts_of_sentences() {
        let all = ["a", "b", "c", "d"];
        assert_eq!([0, 1, 2, 3].map(|n| list(&all[..n])), ["none", "a", "a and b", "a, b and c"]);
        assert_eq!([1, 2, 4].map(|most| short_list(&all, most)), ["a and 3 more", "a, b and 2 more", "a, b, c and d"]);
    }

    #[test]
    fn spans_are_in_one_unit() {
        for (seconds, text) in [(0.0, "<1s"), (0.999, "<1s"), (1.0, "1s"), (119.9, "119s"), (120.0, "2m")] {
            assert_eq!(span(Duration::from_secs_f64(seconds)), text);
        }
        assert_eq!([7199, 7200, 172_800].map(|s| span(Duration::from_secs(s))), ["119m", "2h", "2d"]);
    }

    #[test]
    fn numbers_of_system_errors_are_left_out() {
        for (text, kept) in [
            ("cannot read f: No such file or directory (os error 2)", "cannot read f: No such file or directory"),
            ("a (os error 13) (is it yours?): b (os error -4)", "a (is it yours?): b"),
            ("No space left on device (os error 28)", "No space left on device"),
            // Other text stays.
            ("a (os error x)", "a (os error x)"),
            ("a (os error 2", "a (os error 2"),
            ("a (os error )", "a (os error )"),
            ("no route to host (7)", "no route to host (7)"),
        ] {
            assert_eq!(without_error_numbers(text), kept);
        }
        let real = std::fs::File::open("/nonexistent/file").unwrap_err().to_string();
        assert!(real.contains("os error"), "{real}");
        assert_eq!(without_error_numbers(&real), "No such file or directory");
    }
}
