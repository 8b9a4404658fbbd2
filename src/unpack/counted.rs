//! Readers below and above decompression: both report progress to the host, and what comes out is counted.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::rc::Rc;

use super::allowance::{Allowance, limit};
use super::host::SharedHost;
use super::refusal::refusal;
use crate::wording::{exact_size, size};

/// A layer's file.
pub(super) struct Input {
    pub(super) file: Rc<File>,
    pub(super) host: SharedHost,
}

/// Decompressed bytes, as many as the compressed size allows.
pub(super) struct Counted<R> {
    bytes: R,
    compressed: u64,
    allowance: Allowance,
    host: SharedHost,
}

impl Read for Input {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        self.host.report_alive()?;
        (&*self.file).read(piece)
    }
}

impl Seek for Input {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        (&*self.file).seek(to)
    }
}

impl<R> Counted<R> {
    /// `bytes` came out of `compressed` ones.
    pub(super) fn new(bytes: R, compressed: u64, host: SharedHost) -> Self {
        Self { bytes, compressed, allowance: Allowance::new(compressed), host }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        self.host.report_alive()?;
        let count = self.bytes.read(piece)?;
        if self.allowance.take(piece.get(..count).unwrap_or_default()) {
            return Ok(count);
        }
        Err(refusal(format!(
            "its {} decompress to more than 1,000 times as much and 1 GiB, which are {}",
            exact_size(self.compressed),
            size(limit(self.compressed))
        )))
    }
}
