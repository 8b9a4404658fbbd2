//! Readers below and above decompression: both end when cancelled, and what comes out is counted.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::Cancel;
use super::allowance::{Allowance, limit};
use super::refusal::{check, refusal};

/// A layer's file, until cancelled.
pub(super) struct Input {
    pub(super) file: File,
    pub(super) cancel: Cancel,
}

/// Decompressed bytes, as many as the compressed size allows.
pub(super) struct Counted<R> {
    bytes: R,
    compressed: u64,
    allowance: Allowance,
    cancel: Cancel,
}

impl Read for Input {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        check(&self.cancel)?;
        self.file.read(piece)
    }
}

impl Seek for Input {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl<R> Counted<R> {
    /// `bytes` came out of `compressed` ones.
    pub(super) fn new(bytes: R, compressed: u64, cancel: Cancel) -> Self {
        Self { bytes, compressed, allowance: Allowance::new(compressed), cancel }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        check(&self.cancel)?;
        let count = self.bytes.read(piece)?;
        if self.allowance.take(piece.get(..count).unwrap_or_default()) {
            return Ok(count);
        }
        Err(refusal(format!(
            "its {} bytes decompress to more than 1,000 times their number and 1 GiB, which are {} bytes",
            self.compressed,
            limit(self.compressed)
        )))
    }
}
