//! The worker's side of the frames.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::super::allowance::is_zero;
use super::super::host::Host;
use super::frames::{Frame, HEADER, MAX_PIECE, PIECE, header};

/// Interval between signs of life.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// Zeros that are counted before they are sent, in bytes.
const ZEROS_AT_ONCE: u64 = 16 << 20;

/// Connection of a worker to the agent.
pub(in super::super) struct Channel {
    stream: File,
    reported_at: Cell<Instant>,
}

/// A wanted file on its way to the agent: runs of zeros are counted, not sent.
pub(super) struct Outgoing {
    channel: Rc<Channel>,
    /// Room for a frame's header, and a piece.
    buffer: Vec<u8>,
    zeros: u64,
}

impl Channel {
    pub(super) fn new(stream: File) -> Self {
        Self { stream, reported_at: Cell::new(Instant::now()) }
    }

    pub(in super::super) fn send(&self, frame: &Frame<'_>) -> io::Result<()> {
        self.write(&frame.to_bytes())
    }

    /// Reads a request, which is preceded by its length.
    pub(in super::super) fn request(&self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        (&self.stream).read_exact(&mut length)?;
        let mut request = Vec::new();
        (&self.stream).take(u32::from_le_bytes(length).into()).read_to_end(&mut request)?;
        Ok(request)
    }

    /// Tells the agent that the file of this number is not wanted after all.
    pub(super) fn discard(&self, number: u32) -> io::Result<()> {
        self.send(&Frame::Discard(number))
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.stream).write_all(bytes)?;
        self.reported_at.set(Instant::now());
        Ok(())
    }
}

impl Host for Channel {
    fn report_alive(&self) -> io::Result<()> {
        if self.reported_at.get().elapsed() < ALIVE_EVERY { Ok(()) } else { self.send(&Frame::Alive) }
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        self.send(&Frame::Memory(bytes))?;
        (&self.stream).read_exact(&mut [0])
    }
}

impl Outgoing {
    /// Begins a file.
    pub(super) fn begin(channel: &Rc<Channel>, number: u32) -> io::Result<Self> {
        channel.send(&Frame::File(number))?;
        Ok(Self { channel: Rc::clone(channel), buffer: vec![0; HEADER + MAX_PIECE], zeros: 0 })
    }

    /// Length of a piece in bytes: all but the last are as long.
    pub(super) const PIECE: usize = MAX_PIECE;

    /// Room for the next piece.
    pub(super) fn piece(&mut self) -> &mut [u8] {
        self.buffer.get_mut(HEADER..).unwrap_or_default()
    }

    /// Sends the first `length` bytes of the piece.
    pub(super) fn send(&mut self, length: usize) -> io::Result<()> {
        let content = self.buffer.get(HEADER..HEADER + length).unwrap_or_default();
        if is_zero(content) {
            self.zeros += length as u64;
            // The agent hashes them meanwhile.
            return if self.zeros < ZEROS_AT_ONCE { Ok(()) } else { self.flush() };
        }
        self.flush()?;
        if let Some(start) = self.buffer.first_chunk_mut() {
            *start = header(PIECE, length);
        }
        self.channel.write(self.buffer.get(..HEADER + length).unwrap_or_default())
    }

    /// Sends the zeros that were counted.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match std::mem::take(&mut self.zeros) {
            0 => Ok(()),
            zeros => self.channel.send(&Frame::Zeros(zeros)),
        }
    }
}
