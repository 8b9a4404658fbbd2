//! gzip, as gzip(1) reads it: members one after another, and zeros after the last, which some writers pad with.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

/// The decompressed bytes of all members.
pub(super) struct Gzip<R> {
    /// The member that is being read; none after the last.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Gzip<R> {
    pub(super) fn new(bytes: R) -> Self {
        Self { member: Some(GzDecoder::new(bytes)) }
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        while let Some(mut member) = self.member.take() {
            let count = member.read(piece)?;
            if count > 0 || piece.is_empty() {
                self.member = Some(member);
                return Ok(count);
            }
            self.member = next(member.into_inner())?;
        }
        Ok(0)
    }
}

/// The member that follows; none where nothing does, or nothing but zeros.
fn next<R: BufRead>(mut bytes: R) -> io::Result<Option<GzDecoder<R>>> {
    let mut is_padded = false;
    loop {
        let rest = bytes.fill_buf()?;
        if rest.is_empty() {
            return Ok(None);
        }
        match rest.iter().take_while(|byte| **byte == 0).count() {
            0 if is_padded => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it goes on after the zeros that end its gzip"));
            }
            0 => return Ok(Some(GzDecoder::new(bytes))),
            zeros => {
                bytes.consume(zeros);
                is_padded = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn member(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn read(parts: &[&[u8]]) -> Option<Vec<u8>> {
        let (bytes, mut content) = (parts.concat(), Vec::new());
        // Buffers so small that every border falls between two of them somewhere.
        let bytes = io::BufReader::with_capacity(7, &bytes[..]);
        Gzip::new(bytes).read_to_end(&mut content).ok().map(|_| content)
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
}
