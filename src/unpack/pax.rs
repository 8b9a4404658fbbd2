//! Records of a pax extended header (POSIX.1-2017, pax, "pax Extended Header"): each is delimited by its length, so that a
//! value may hold any byte.

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaxRecord<'a> {
    /// The keyword; never empty.
    pub key: &'a [u8],
    /// The value, of any bytes.
    pub value: &'a [u8],
}

/// Kinds of damage of an extended header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PaxError {
    /// A record begins with something else than a length and a space.
    #[error("a record of its extended header has no length")]
    NoLength,
    /// A record is longer than the header, or shorter than its own frame.
    #[error("a record of its extended header has a wrong length")]
    WrongLength,
    /// A record has no equals sign, or nothing before it.
    #[error("a record of its extended header has no keyword")]
    NoKeyword,
    /// The last byte of a record is not a newline.
    #[error("a record of its extended header does not end with its line")]
    NoNewline,
    /// A size is not a number in decimal digits, or over 64 bits.
    #[error("the size in an extended header is not a number")]
    Size,
}

/// Reads the records in order. Nothing follows the first that is damaged.
pub fn pax_records(mut bytes: &[u8]) -> impl Iterator<Item = Result<PaxRecord<'_>, PaxError>> {
    std::iter::from_fn(move || {
        // Some writers fill the header up with NULs.
        if bytes.iter().all(|byte| *byte == 0) {
            return None;
        }
        let record = record(bytes);
        bytes = record.as_ref().map_or(&[], |(_, rest)| *rest);
        Some(record.map(|(record, _)| record))
    })
}

/// The first record, and what follows it: `LENGTH KEY=VALUE\n`, where the length counts all of that.
fn record(bytes: &[u8]) -> Result<(PaxRecord<'_>, &[u8]), PaxError> {
    let space = bytes.iter().position(|byte| *byte == b' ').ok_or(PaxError::NoLength)?;
    let digits = bytes.get(..space).unwrap_or_default();
    let length = decimal(digits).ok_or(PaxError::NoLength)?;
    let length = usize::try_from(length).map_err(|_| PaxError::WrongLength)?;
    let (whole, rest) = bytes.split_at_checked(length).ok_or(PaxError::WrongLength)?;
    let (newline, content) = whole.get(space + 1..).and_then(<[u8]>::split_last).ok_or(PaxError::WrongLength)?;
    if *newline != b'\n' {
        return Err(PaxError::NoNewline);
    }
    let equals = content.iter().position(|byte| *byte == b'=').ok_or(PaxError::NoKeyword)?;
    match (content.get(..equals), content.get(equals + 1..)) {
        (Some(key), Some(value)) if !key.is_empty() => Ok((PaxRecord { key, value }, rest)),
        _ => Err(PaxError::NoKeyword),
    }
}

/// A number in decimal digits alone; none if there are none, or over 64 bits.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    let value = |value: u64, digit: &u8| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    };
    if digits.is_empty() { None } else { digits.iter().try_fold(0, value) }
}

#[cfg(test)]
mod tests {
    use super::super::archive::pax_record;
    use super::*;
    use proptest::prelude::*;

    type Pair<'a> = (&'a [u8], &'a [u8]);

    fn read(bytes: &[u8]) -> Result<Vec<Pair<'_>>, PaxError> {
        pax_records(bytes).map(|record| record.map(|record| (record.key, record.value))).collect()
    }

    #[test]
    fn a_value_may_hold_newlines_nul_and_equals_signs() {
        let capability = pax_record(b"SCHILY.xattr.security.capability", b"\x01\n\x02");
        let odd = pax_record(b"SCHILY.xattr.user.odd", b"\0\n9 path=evil\n=");
        let bytes = [&capability[..], &odd, &pax_record(b"path", b"a"), &pax_record(b"mtime", b"")].concat();
        let expected: [(&[u8], &[u8]); 4] = [
            (b"SCHILY.xattr.security.capability", b"\x01\n\x02"),
            (b"SCHILY.xattr.user.odd", b"\0\n9 path=evil\n="),
            (b"path", b"a"),
            (b"mtime", b""),
        ];
        assert_eq!(read(&bytes).unwrap(), expected);
        assert_eq!(read(&[&bytes[..], &[0; 100]].concat()).unwrap(), expected, "filled up with NULs");
    }

    #[test]
    fn wrong_lengths_are_damage() {
        for (bytes, expected) in [
            (&b"path=a\n"[..], PaxError::NoLength),
            (b"9path=a\n", PaxError::NoLength),
            (b" 9 path=a\n", PaxError::NoLength),
            (b"-9 path=a\n", PaxError::NoLength),
            (b"99999999999999999999 path=a\n", PaxError::NoLength),
            (b"18446744073709551615 path=a\n", PaxError::WrongLength),
            (b"11 path=a\n", PaxError::WrongLength),
            (b"8 path=a\n", PaxError::NoNewline),
            (b"2 path=a\n", PaxError::WrongLength),
            (b"0 path=a\n", PaxError::WrongLength),
            (b"3 \n", PaxError::NoKeyword),
            (b"5 =a\n", PaxError::NoKeyword),
            (b"7 path\n", PaxError::NoKeyword),
            (b"9 path=a\n\0\0x", PaxError::NoLength),
        ] {
            assert_eq!(read(bytes), Err(expected), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    proptest! {
        #[test]
        fn records_are_read_as_they_were_written(
            records in proptest::collection::vec((
                "[a-zA-Z.]{1,40}", proptest::collection::vec(any::<u8>(), 0..1100)), 0..5),
        ) {
            let bytes: Vec<u8> =
                records.iter().flat_map(|(key, value)| pax_record(key.as_bytes(), value)).collect();
            let expected: Vec<_> = records.iter().map(|(key, value)| (key.as_bytes(), &value[..])).collect();
            prop_assert_eq!(read(&bytes), Ok(expected));
        }

        #[test]
        fn any_bytes_are_records_or_damage(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
