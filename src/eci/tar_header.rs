//! The header block of a tar entry, read as GNU tar reads it: v7, ustar and GNU forms.

use std::ops::Range;

/// Length of a header, in bytes (POSIX.1-2017, pax, "ustar Interchange Format").
pub const TAR_BLOCK: usize = 512;

const NAME: Range<usize> = 0..100;
const SIZE: Range<usize> = 124..136;
const CHECKSUM: Range<usize> = 148..156;
const TYPE_FLAG: usize = 156;
const LINK_NAME: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..263;
const PREFIX: Range<usize> = 345..500;

/// The magic of ustar; GNU tar's own form has a space in place of the NUL, and no prefix.
const USTAR: &[u8] = b"ustar\0";

/// A header whose checksum is right.
#[derive(Clone, Debug)]
pub struct TarHeader([u8; TAR_BLOCK]);

impl TarHeader {
    /// Reads a header; none if `block` is shorter than one, is all zeros or has a wrong checksum. Old tars sum signed bytes.
    pub fn read(block: &[u8]) -> Option<Self> {
        let header = Self(*block.first_chunk()?);
        let is_empty = header.0.iter().all(|byte| *byte == 0);
        let stored = number(header.field(CHECKSUM))?;
        let is_right = stored == header.sum(u64::from)
            || i64::try_from(stored).is_ok_and(|stored| stored == header.sum(|byte| i64::from(byte.cast_signed())));
        (!is_empty && is_right).then_some(header)
    }

    /// The type flag.
    pub fn type_flag(&self) -> u8 {
        self.0.get(TYPE_FLAG).copied().unwrap_or_default()
    }

    /// Length of the content in bytes; none if the field is not a number, negative or over 64 bits. A blank field is 0: GNU tar
    /// leaves it blank in a volume label.
    pub fn size(&self) -> Option<u64> {
        let field = self.field(SIZE);
        let is_blank = field.iter().all(|byte| matches!(byte, 0 | b' '));
        if is_blank { Some(0) } else { number(field) }
    }

    /// The path, with ustar's prefix.
    pub fn path(&self) -> Vec<u8> {
        let (name, prefix) = (text(self.field(NAME)), text(self.field(PREFIX)));
        if self.field(MAGIC) == USTAR && !prefix.is_empty() { [prefix, b"/", name].concat() } else { name.to_vec() }
    }

    /// The target of a link.
    pub fn link_name(&self) -> &[u8] {
        text(self.field(LINK_NAME))
    }

    /// The whole block.
    pub fn block(&self) -> &[u8; TAR_BLOCK] {
        &self.0
    }

    fn field(&self, place: Range<usize>) -> &[u8] {
        self.0.get(place).unwrap_or_default()
    }

    /// Sum of all bytes, those of the checksum itself counted as spaces.
    fn sum<T: std::iter::Sum>(&self, value: impl Fn(u8) -> T) -> T {
        let bytes = self.0.iter().enumerate();
        bytes.map(|(place, byte)| value(if CHECKSUM.contains(&place) { b' ' } else { *byte })).sum()
    }
}

/// Text up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number in octal digits, or in base 256 if the first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    match field.split_first() {
        Some((first, rest)) if first & 0x80 != 0 => {
            // The second bit is the sign.
            let start = (first & 0x40 == 0).then_some(u64::from(first & 0x3f))?;
            rest.iter().try_fold(start, |value, byte| Some(value.checked_mul(256)? | u64::from(*byte)))
        }
        // Some writers leave a NUL there if the field before it overflows.
        Some((0, rest)) => octal(rest),
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Option<u64> {
    let field = field.trim_ascii_start();
    let length = field.iter().position(|byte| !(b'0'..=b'7').contains(byte)).unwrap_or(field.len());
    let (digits, rest) = field.split_at_checked(length)?;
    let is_ended = rest.first().is_none_or(|byte| *byte == 0 || byte.is_ascii_whitespace());
    if digits.is_empty() || !is_ended {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| value.checked_mul(8)?.checked_add(u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tar::Header;

    fn block(name: &str, size: u64) -> [u8; TAR_BLOCK] {
        let mut header = Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_size(size);
        header.set_cksum();
        *header.as_bytes()
    }

    #[test]
    fn signed_and_unsigned_checksums_are_right() {
        let mut block = block("a", 7);
        block[0] = 0xe9;
        let sum = |value: fn(u8) -> i64| {
            let bytes = block.iter().enumerate();
            bytes.map(|(n, byte)| value(if CHECKSUM.contains(&n) { b' ' } else { *byte })).sum::<i64>()
        };
        let sums = [sum(i64::from), sum(|byte| i64::from(byte.cast_signed()))];
        assert_eq!(sums[0] - sums[1], 256);
        for (sum, is_right) in [(sums[0], true), (sums[1], true), (sums[1] + 1, false), (sums[0] - 1, false)] {
            block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            assert_eq!(TarHeader::read(&block).is_some(), is_right, "{sum}");
        }
    }

    #[test]
    fn blocks_without_a_header_are_none() {
        assert!(TarHeader::read(&[0; TAR_BLOCK]).is_none());
        assert!(TarHeader::read(&block("a", 7)[..511]).is_none());
        assert!(TarHeader::read(&[b' '; TAR_BLOCK]).is_none());
    }

    #[test]
    fn numbers_are_octal_or_base_256() {
        let base_256 = |first: u8, last: [u8; 8]| [&[first, 0, 0, 0][..], &last].concat();
        for (field, expected) in [
            (b"00000001750\0".to_vec(), Some(1000)),
            (b"       1750 ".to_vec(), Some(1000)),
            (b"\x00000001750 ".to_vec(), Some(1000)),
            (b"777777777777".to_vec(), Some(0o777_777_777_777)),
            (b"            ".to_vec(), None),
            (b"0000000009\0\0".to_vec(), None),
            (b"-0000000001\0".to_vec(), None),
            (base_256(0x80, 1_u64.to_be_bytes()), Some(1)),
            (base_256(0x80, u64::MAX.to_be_bytes()), Some(u64::MAX)),
            (base_256(0x81, 1_u64.to_be_bytes()), None),
            (base_256(0xff, u64::MAX.to_be_bytes()), None),
        ] {
            assert_eq!(number(&field), expected, "{field:?}");
        }
    }

    #[test]
    fn a_blank_size_is_zero() {
        for (field, expected) in
            [(&[0; 12], Some(0)), (b"            ", Some(0)), (b"         \0\0\0", Some(0)), (b"           x", None)]
        {
            let mut bytes = block("label", 7);
            bytes[SIZE].copy_from_slice(field);
            let mut header = Header::from_byte_slice(&bytes).clone();
            header.set_cksum();
            assert_eq!(TarHeader::read(header.as_bytes()).unwrap().size(), expected, "{field:?}");
        }
    }

    #[test]
    fn only_ustar_has_a_prefix() {
        let mut header = Header::new_ustar();
        header.set_path(format!("{}/{}", "p".repeat(120), "n".repeat(90))).unwrap();
        header.set_cksum();
        let path = TarHeader::read(header.as_bytes()).unwrap().path();
        assert_eq!(path.len(), 211);
        let mut bytes = *header.as_bytes();
        bytes[MAGIC].copy_from_slice(b"ustar ");
        let mut gnu = Header::from_byte_slice(&bytes).clone();
        gnu.set_cksum();
        assert_eq!(TarHeader::read(gnu.as_bytes()).unwrap().path(), [b'n'; 90]);
    }

    proptest! {
        #[test]
        fn sizes_and_names_are_read_as_they_were_written(size: u64, name in "[a-z]{1,50}(/[a-z]{1,40})?") {
            let header = TarHeader::read(&block(&name, size)).unwrap();
            prop_assert_eq!((header.size(), header.path()), (Some(size), name.into_bytes()));
        }

        #[test]
        fn a_number_of_any_bytes_is_one_or_none(field in proptest::collection::vec(any::<u8>(), 0..13)) {
            let _ = number(&field);
        }
    }
}
