//! Frames from a worker to the agent: a kind, a length, and a payload that is capped by its kind.

use std::io::{self, Read};

/// Bytes before a payload: the kind, and the length as 32 bits in little endian.
pub(super) const HEADER: usize = 5;
/// Longest piece of a file in one frame, in bytes.
pub(super) const MAX_PIECE: usize = 128 * 1024;
/// Longest text of a worker that cannot confine itself, in bytes.
const MAX_TEXT: usize = 4096;
/// Longest outcome, in bytes: a few paths and targets of links for each file of an image.
const MAX_OUTCOME: usize = 4 * 1024 * 1024;

const READY: u8 = 1;
const UNCONFINED: u8 = 2;
const ALIVE: u8 = 3;
const MEMORY: u8 = 4;
const FILE: u8 = 5;
pub(super) const PIECE: u8 = 6;
const ZEROS: u8 = 7;
const DISCARD: u8 = 8;
const OUTCOME: u8 = 9;

/// One message of a worker.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Frame<'a> {
    /// The worker is confined. The address space that it had before, in bytes.
    Ready(u64),
    /// The worker cannot confine itself, for this reason, and ends.
    Unconfined(&'a [u8]),
    /// The worker makes progress.
    Alive,
    /// The worker waits until it may use this much memory for decompression, in bytes. The answer is one byte.
    Memory(u64),
    /// A wanted file begins, under a number of its own; the one before it is complete.
    File(u32),
    /// The next bytes of the file.
    Piece(&'a [u8]),
    /// As many zeros.
    Zeros(u64),
    /// The file of that number is not wanted after all.
    Discard(u32),
    /// The result, as JSON. The last frame.
    Outcome(&'a [u8]),
}

/// Failures to read a frame.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum FrameError {
    /// Nothing can be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The bytes are not a frame.
    #[error("{0}")]
    Malformed(&'static str),
}

impl<'a> Frame<'a> {
    fn kind(&self) -> u8 {
        match self {
            Self::Ready(_) => READY,
            Self::Unconfined(_) => UNCONFINED,
            Self::Alive => ALIVE,
            Self::Memory(_) => MEMORY,
            Self::File(_) => FILE,
            Self::Piece(_) => PIECE,
            Self::Zeros(_) => ZEROS,
            Self::Discard(_) => DISCARD,
            Self::Outcome(_) => OUTCOME,
        }
    }

    /// The bytes of the frame. A text that is too long is cut.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let payload = match self {
            Self::Ready(number) | Self::Memory(number) | Self::Zeros(number) => number.to_le_bytes().to_vec(),
            Self::File(number) | Self::Discard(number) => number.to_le_bytes().to_vec(),
            Self::Unconfined(text) => text.get(..MAX_TEXT).unwrap_or(text).to_vec(),
            Self::Piece(bytes) | Self::Outcome(bytes) => bytes.to_vec(),
            Self::Alive => Vec::new(),
        };
        [&header(self.kind(), payload.len())[..], &payload].concat()
    }

    /// Reads the next frame. `buffer` holds its payload.
    pub(super) fn read(stream: &mut impl Read, buffer: &'a mut Vec<u8>) -> Result<Self, FrameError> {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header)?;
        let [kind, length @ ..] = header;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        let is_possible = match kind {
            READY | MEMORY | ZEROS => length == size_of::<u64>(),
            FILE | DISCARD => length == size_of::<u32>(),
            ALIVE => length == 0,
            UNCONFINED => length <= MAX_TEXT,
            PIECE => length <= MAX_PIECE,
            OUTCOME => length <= MAX_OUTCOME,
            _ => return Err(FrameError::Malformed("a frame is of an unknown kind")),
        };
        if !is_possible {
            return Err(FrameError::Malformed("a frame has an impossible length"));
        }
        buffer.resize(length, 0);
        stream.read_exact(buffer)?;
        let payload = &buffer[..];
        Ok(match kind {
            READY => Self::Ready(u64::from_le_bytes(array(payload))),
            MEMORY => Self::Memory(u64::from_le_bytes(array(payload))),
            ZEROS => Self::Zeros(u64::from_le_bytes(array(payload))),
            FILE => Self::File(u32::from_le_bytes(array(payload))),
            DISCARD => Self::Discard(u32::from_le_bytes(array(payload))),
            ALIVE => Self::Alive,
            UNCONFINED => Self::Unconfined(payload),
            PIECE => Self::Piece(payload),
            _ => Self::Outcome(payload),
        })
    }
}

/// Header of a payload of `length` bytes, which is within the cap of its kind.
pub(super) fn header(kind: u8, length: usize) -> [u8; HEADER] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    [kind, a, b, c, d]
}

fn array<const LENGTH: usize>(payload: &[u8]) -> [u8; LENGTH] {
    payload.first_chunk().copied().unwrap_or([0; LENGTH])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_are_read_as_they_were_written() {
        let piece = vec![7; MAX_PIECE];
        for frame in [
            Frame::Ready(1 << 40),
            Frame::Unconfined(b"no seccomp"),
            Frame::Alive,
            Frame::Memory(64 << 20),
            Frame::File(7),
            Frame::Piece(&piece),
            Frame::Piece(b""),
            Frame::Zeros(u64::MAX),
            Frame::Discard(u32::MAX),
            Frame::Outcome(b"{}"),
        ] {
            let bytes = frame.to_bytes();
            assert_eq!(Frame::read(&mut &bytes[..], &mut Vec::new()).unwrap(), frame);
            let cut = &bytes[..bytes.len() - 1];
            assert!(matches!(Frame::read(&mut &cut[..], &mut Vec::new()), Err(FrameError::Io(_))), "{frame:?}");
        }
        let long = Frame::Unconfined(&[b'x'; 2 * MAX_TEXT]).to_bytes();
        assert_eq!(Frame::read(&mut &long[..], &mut Vec::new()).unwrap(), Frame::Unconfined(&[b'x'; MAX_TEXT]));
    }

    #[test]
    fn impossible_lengths_take_no_memory() {
        for kind in 0..=u8::MAX {
            let mut buffer = Vec::new();
            let bytes = header(kind, u32::MAX as usize);
            let read = Frame::read(&mut &bytes[..], &mut buffer);
            assert!(matches!(read, Err(FrameError::Malformed(_))), "{kind}");
            assert_eq!(buffer.capacity(), 0);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut bytes = &bytes[..];
            while Frame::read(&mut bytes, &mut Vec::new()).is_ok() {}
        }
    }
}
