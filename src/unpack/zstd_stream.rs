//! The decompressed bytes of a zstd stream, frame by frame: the window of each is known before memory is spent on it.

use std::io::{self, BufRead, Read};

use zstd::stream::raw::{DParameter, Decoder, Operation};

use super::Limits;
use super::host::{SharedHost, reserve};
use super::members::Members;
use super::refusal::refusal;
use super::zstd_frames::{MAX_HEADER, Skippable, ZSTD, skippable, window};
use crate::wording::two_sizes;

/// Memory that a decoder takes beside its window, in bytes: its tables, a block each of input and output.
const OVERHEAD: u64 = 512 * 1024;

/// The decompressed bytes of all frames.
pub(super) struct Zstd<R> {
    bytes: R,
    /// Bytes that were read to see a frame's header, and are not decoded yet.
    head: Vec<u8>,
    /// The decoder of all frames that its memory is enough for, and that memory in bytes.
    decoder: Option<(Decoder<'static>, u64)>,
    is_in_frame: bool,
    frames: Members,
    limits: Limits,
    host: SharedHost,
}

impl<R: BufRead> Zstd<R> {
    pub(super) fn new(bytes: R, frames: Members, limits: Limits, host: SharedHost) -> Self {
        Self { bytes, head: Vec::new(), decoder: None, is_in_frame: false, frames, limits, host }
    }

    /// Goes on to the next ordinary frame; false at the end.
    fn begin(&mut self) -> io::Result<bool> {
        loop {
            let missing = MAX_HEADER.saturating_sub(self.head.len()) as u64;
            self.bytes.by_ref().take(missing).read_to_end(&mut self.head)?;
            if self.head.is_empty() {
                return Ok(false);
            }
            self.frames.count()?;
            match skippable(&self.head) {
                Skippable::Length(length) => self.skip(length)?,
                Skippable::Cut => return Err(cut_short()),
                Skippable::Other if self.head.starts_with(&ZSTD) => break,
                Skippable::Other if ZSTD.starts_with(&self.head) => return Err(cut_short()),
                Skippable::Other => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "what follows a zstd frame is not one"));
                }
            }
        }
        // Of a header that is cut short, the decoder says so.
        self.reserve(window(&self.head).unwrap_or(0))?;
        self.is_in_frame = true;
        Ok(true)
    }

    /// Skips a skippable frame, whose beginning is the head.
    fn skip(&mut self, length: u64) -> io::Result<()> {
        let in_head = usize::try_from(length).unwrap_or(usize::MAX).min(self.head.len());
        self.head.drain(..in_head);
        let rest = length - in_head as u64;
        let skipped = io::copy(&mut self.bytes.by_ref().take(rest), &mut io::sink())?;
        if skipped == rest { Ok(()) } else { Err(cut_short()) }
    }

    /// Sees to it that there is a decoder with memory for a window.
    fn reserve(&mut self, window: u64) -> io::Result<()> {
        let limit = self.limits.max_window;
        if window > limit {
            let (window, limit) = two_sizes(window, limit);
            return Err(refusal(format!(
                "its zstd window of {window} is larger than [unpack] max_window = {limit} allows"
            )));
        }
        let needed = window.saturating_add(OVERHEAD);
        if self.decoder.as_ref().is_some_and(|(_, memory)| *memory >= needed) {
            return Ok(());
        }
        // First of all: to hold memory while waiting for more could be to wait for ever.
        self.decoder = None;
        reserve(&*self.host, needed, self.limits)?;
        let mut decoder = Decoder::new()?;
        // The decoder's own limit is a power of two, and refuses what was not told by the header.
        let log = limit.max(1).next_power_of_two().trailing_zeros().clamp(10, 30);
        decoder.set_parameter(DParameter::WindowLogMax(log))?;
        self.decoder = Some((decoder, needed));
        Ok(())
    }

    /// Decodes the next bytes of the frame; how many came out.
    fn decode(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        let Some((decoder, _)) = &mut self.decoder else { return Err(cut_short()) };
        let is_head = !self.head.is_empty();
        let input = if is_head { &self.head[..] } else { self.bytes.fill_buf()? };
        let is_end = input.is_empty();
        let status = decoder.run_on_buffers(input, piece)?;
        if is_head {
            self.head.drain(..status.bytes_read);
        } else {
            self.bytes.consume(status.bytes_read);
        }
        self.is_in_frame = status.remaining > 0;
        if self.is_in_frame && is_end && status.bytes_written == 0 {
            return Err(cut_short());
        }
        Ok(status.bytes_written)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        while !piece.is_empty() && (self.is_in_frame || self.begin()?) {
            let count = self.decode(piece)?;
            if count > 0 {
                return Ok(count);
            }
        }
        Ok(0)
    }
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "a zstd frame is cut short")
}

#[cfg(test)]
mod tests {
    use super::super::archive::skippable;
    use super::super::host::tests::Granting;
    use super::super::refusal::is_refusal;
    use super::*;
    use std::io::{BufReader, Write};
    use std::rc::Rc;

    const LIMITS: Limits = Limits { max_file_bytes: 1 << 20, max_window: 1 << 20, memory: 2 << 20 };

    /// A frame with a window of 2^`log` bytes.
    fn frame(log: u32, content: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn read(parts: &[&[u8]], frames: u64) -> io::Result<Vec<u8>> {
        let (bytes, mut content) = (parts.concat(), Vec::new());
        // Buffers so small that every border falls between two of them somewhere.
        let bytes = BufReader::with_capacity(7, &bytes[..]);
        let members = Members::new(frames * 256);
        Zstd::new(bytes, members, LIMITS, Rc::new(Granting::default())).read_to_end(&mut content).map(|_| content)
    }

    #[test]
    fn frames_follow_each_other_with_windows_of_their_own() {
        let content: Vec<u8> = (0..300_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
        let (one, two) = content.split_at(100_000);
        let (small, large, skipped) = (frame(10, one), frame(20, two), skippable(3, b"abcdefghijklmnopqrstuvwxyz"));
        assert!(read(&[&small, &large], 0).unwrap() == content);
        assert!(read(&[&skipped, &small, &skipped, &frame(10, b""), &large, &skipped], 0).unwrap() == content);
        for cut in [&large[..large.len() - 1], &large[..3], &large[..9], &skipped[..7], &skipped[..30]] {
            assert_eq!(read(&[&small, cut], 0).unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{}", cut.len());
        }
        assert_eq!(read(&[&small, b"garbage"], 0).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_later_frame_with_a_larger_window_is_refused_by_the_key() {
        let small = frame(10, &[7; 5000]);
        let error = read(&[&small, &frame(21, &[7; 5000])], 0).unwrap_err();
        assert!(is_refusal(&error) && error.to_string().contains("[unpack] max_window = 1.0 MiB"), "{error}");
        assert_eq!(read(&[&small, &frame(20, &[7; 5000])], 0).unwrap().len(), 10_000);
    }

    #[test]
    fn memory_follows_the_largest_window() {
        let host = Rc::new(Granting::default());
        let content = [frame(10, &[7; 5000]), frame(20, &[7; 5000]), frame(10, &[7; 5000])].concat();
        let mut stream = Zstd::new(&content[..], Members::new(0), LIMITS, Rc::clone(&host) as SharedHost);
        let mut held = Vec::new();
        let mut piece = [0; 5000];
        for _ in 0..3 {
            stream.read_exact(&mut piece).unwrap();
            held.push(stream.decoder.as_ref().unwrap().1);
        }
        assert_eq!(held, [1024 + OVERHEAD, (1 << 20) + OVERHEAD, (1 << 20) + OVERHEAD]);
        assert_eq!(*host.0.borrow(), held[..2], "the third frame needs no more");
    }

    #[test]
    fn too_many_frames_are_refused_empty_or_not() {
        let (empty, none) = (frame(10, b""), skippable(0, b""));
        for frames in [empty.repeat(10_001), none.repeat(10_001)] {
            assert!(is_refusal(&read(&[&frames, &empty], 0).unwrap_err()));
            assert_eq!(read(&[&frames, &empty], 10_002).unwrap(), b"");
        }
    }
}
