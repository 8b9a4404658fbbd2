//! gzip, as gzip(1) reads it (RFC 1952): members one after another, and zeros after the last, which some writers pad with.
//! All members share one decompressor: a new one for each would cost more than a member of a few bytes.

use std::io::{self, BufRead, Read};

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::members::Members;

const MAGIC: [u8; 2] = [0x1f, 0x8b];
const DEFLATE: u8 = 8;
const HAS_HEADER_CRC: u8 = 1 << 1;
const HAS_EXTRA: u8 = 1 << 2;
const HAS_NAME: u8 = 1 << 3;
const HAS_COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0b1110_0000;

/// The decompressed bytes of all members.
pub(super) struct Gzip<R> {
    bytes: R,
    inflate: Decompress,
    crc: Crc,
    place: Place,
    members: Members,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the first member.
    Beginning,
    InMember,
    AfterMember,
}

impl<R: BufRead> Gzip<R> {
    pub(super) fn new(bytes: R, members: Members) -> Self {
        let (inflate, crc) = (Decompress::new(false), Crc::new());
        Self { bytes, inflate, crc, place: Place::Beginning, members }
    }

    /// Goes on to the next member; false if none follows, or nothing but zeros.
    fn begin(&mut self) -> io::Result<bool> {
        if self.place == Place::AfterMember && !self.has_next()? {
            return Ok(false);
        }
        self.members.count()?;
        let [one, two, method, flags, ..] = self.array::<10>()?;
        if [one, two] != MAGIC || method != DEFLATE || flags & RESERVED != 0 {
            return Err(invalid("a member of its gzip has a wrong header"));
        }
        if flags & HAS_EXTRA != 0 {
            let length = u64::from(u16::from_le_bytes(self.array()?));
            let skipped = io::copy(&mut self.bytes.by_ref().take(length), &mut io::sink())?;
            if skipped < length {
                return Err(cut_short());
            }
        }
        for flag in [HAS_NAME, HAS_COMMENT] {
            if flags & flag != 0 {
                self.skip_text()?;
            }
        }
        if flags & HAS_HEADER_CRC != 0 {
            // Not checked: the layer has the digest that its manifest names.
            self.array::<2>()?;
        }
        self.place = Place::InMember;
        Ok(true)
    }

    /// True if something other than padding follows a member.
    fn has_next(&mut self) -> io::Result<bool> {
        let mut is_padded = false;
        loop {
            let rest = self.bytes.fill_buf()?;
            if rest.is_empty() {
                return Ok(false);
            }
            match rest.iter().take_while(|byte| **byte == 0).count() {
                0 if is_padded => return Err(invalid("it goes on after the zeros that end its gzip")),
                0 => return Ok(true),
                zeros => {
                    self.bytes.consume(zeros);
                    is_padded = true;
                }
            }
        }
    }

    /// Skips a text and the NUL that ends it.
    fn skip_text(&mut self) -> io::Result<()> {
        loop {
            let rest = self.bytes.fill_buf()?;
            if rest.is_empty() {
                return Err(cut_short());
            }
            let end = rest.iter().position(|byte| *byte == 0);
            let length = end.map_or(rest.len(), |end| end + 1);
            self.bytes.consume(length);
            if end.is_some() {
                return Ok(());
            }
        }
    }

    /// Decompresses the next bytes of the member; how many came out.
    fn inflate(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        let input = self.bytes.fill_buf()?;
        let is_end = input.is_empty();
        let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
        let status = self.inflate.decompress(input, piece, FlushDecompress::None);
        let status = status.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        // Both are within the slices.
        let read = usize::try_from(self.inflate.total_in() - read).unwrap_or(0);
        let written = usize::try_from(self.inflate.total_out() - written).unwrap_or(0);
        self.bytes.consume(read);
        self.crc.update(piece.get(..written).unwrap_or_default());
        if status == Status::StreamEnd {
            self.end()?;
        } else if is_end && written == 0 {
            return Err(cut_short());
        }
        Ok(written)
    }

    /// Checks what ends a member: the checksum and the length of its content.
    fn end(&mut self) -> io::Result<()> {
        let (sum, length) = (u32::from_le_bytes(self.array()?), u32::from_le_bytes(self.array()?));
        if (sum, length) != (self.crc.sum(), self.crc.amount()) {
            return Err(invalid("a member of its gzip has a wrong checksum"));
        }
        self.inflate.reset(false);
        self.crc.reset();
        self.place = Place::AfterMember;
        Ok(())
    }

    fn array<const LENGTH: usize>(&mut self) -> io::Result<[u8; LENGTH]> {
        let mut bytes = [0; LENGTH];
        self.bytes.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        while !piece.is_empty() && (self.place == Place::InMember || self.begin()?) {
            let count = self.inflate(piece)?;
            if count > 0 {
                return Ok(count);
            }
        }
        Ok(0)
    }
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "its gzip is cut short")
}

#[cfg(test)]
mod tests {
    use super::super::refusal::is_refusal;
    use super::*;
    use std::io::Write;

    fn member(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn gunzip(bytes: impl BufRead, members: Members) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        Gzip::new(bytes, members).read_to_end(&mut content).map(|_| content)
    }

    fn read(parts: &[&[u8]]) -> Option<Vec<u8>> {
        let bytes = parts.concat();
        // Buffers so small that every border falls between two of them somewhere.
        gunzip(io::BufReader::with_capacity(7, &bytes[..]), Members::new(0)).ok()
    }

    #[test]
    fn members_follow_each_other_and_zeros_the_last() {
        let (one, two, zeros) = (member(b"one"), member(b"two"), [0; 1000]);
        assert_eq!(read(&[&one]).unwrap(), b"one");
        assert_eq!(read(&[&one, &member(b""), &two]).unwrap(), b"onetwo");
        assert_eq!(read(&[&one, &two, &zeros]).unwrap(), b"onetwo");
        assert_eq!(read(&[&one, &zeros, &two]), None);
        assert_eq!(read(&[&one, b"garbage"]), None);
        assert_eq!(read(&[&one, &two[..two.len() - 1]]), None);
    }

    #[test]
    fn headers_of_all_forms_are_skipped() {
        let mut full = flate2::GzBuilder::new().filename("name").comment("text").extra(vec![7; 300]);
        full = full.mtime(1);
        let mut encoder = full.write(Vec::new(), flate2::Compression::best());
        let content: Vec<u8> = (0..100_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3] >> 2).collect();
        encoder.write_all(&content).unwrap();
        let mut full = encoder.finish().unwrap();
        assert!(read(&[&full, &member(b"two")]).unwrap() == [&content[..], b"two"].concat());
        for cut in [1, 11, 200, 313, 318, full.len() / 2, full.len() - 1] {
            assert_eq!(read(&[&full[..cut]]), None, "{cut}");
        }
        // A checksum of the header, after all else of it.
        let mut checked = member(b"one");
        checked[3] |= HAS_HEADER_CRC;
        checked.splice(10..10, [1, 2]);
        assert_eq!(read(&[&checked]).unwrap(), b"one");
        let last = full.len() - 1;
        for at in [2, last - 7, last] {
            full[at] ^= 1;
            assert_eq!(read(&[&full]), None, "{at}");
            full[at] ^= 1;
        }
    }

    #[test]
    fn too_many_members_are_refused() {
        let empty = member(b"");
        let bytes = [&empty.repeat(10_000)[..], &member(b"end")].concat();
        assert!(is_refusal(&gunzip(&bytes[..], Members::new(0)).unwrap_err()));
        assert_eq!(gunzip(&bytes[..], Members::new(10_001 * 256)).unwrap(), b"end");
    }
}
