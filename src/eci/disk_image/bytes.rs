//! A piece of a disk image, whose fields are read by offset.

use std::io;

use super::DiskBytes;

/// Bytes of an image. A field that lies beyond them reads as zero bits.
pub(super) struct Block(Vec<u8>);

impl Block {
    /// Reads `length` bytes from `offset` on, or fewer at the image's end.
    pub(super) fn read(image: &mut dyn DiskBytes, offset: u64, length: usize) -> io::Result<Self> {
        Ok(Self(image.read_at(offset, length)?))
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn starts_with(&self, magic: &[u8]) -> bool {
        self.0.starts_with(magic)
    }

    /// `N` bytes at `at`.
    pub(super) fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let found = self.0.get(at..).and_then(|rest| rest.first_chunk());
        found.copied().unwrap_or([0; N])
    }

    /// A big-endian number of 32 bits.
    pub(super) fn be32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    /// A big-endian number of 64 bits.
    pub(super) fn be64(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.array(at))
    }

    /// A little-endian number of 16 bits.
    pub(super) fn le16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    /// A little-endian number of 32 bits.
    pub(super) fn le32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    /// A little-endian number of 64 bits.
    pub(super) fn le64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }
}
