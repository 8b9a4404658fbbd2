//! How a layer is packed, told by its bytes: what media types say of it is often wrong.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};

use super::gzip::Gzip;

/// The length of a tar header in bytes (POSIX.1-2017, pax, "ustar Interchange Format").
pub(super) const BLOCK: usize = 512;
/// Windows of up to 2^27 bytes, as the zstd program takes them without being asked.
const ZSTD_WINDOW_LOG: u32 = 27;
/// How much of a layer is read at once, in bytes.
const PIECE: usize = 128 * 1024;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Compressions that are told, and not read: their first bytes, and their names.
const OTHERS: [(&[u8], &str); 2] = [(b"\xfd7zXZ\0", "xz"), (b"BZh", "bzip2")];

/// A layer's bytes, decompressed.
pub(super) type Bytes = Box<dyn Read>;

/// What a layer's bytes are.
pub(super) enum Packing {
    /// A file as it is.
    Plain,
    /// A file, compressed.
    File(Bytes),
    /// A tar, compressed or not.
    Archive { bytes: Bytes, is_compressed: bool },
}

/// Bytes that are what they seem to be, and not to be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

impl Packing {
    /// How a layer is packed. A tar is one however it is compressed; a file without a tar around it was compressed for its
    /// way only where the layer `says_compressed`, and cannot be read only then: what looks compressed else is a file, as a
    /// kernel may begin with anything.
    pub(super) fn of(says_compressed: bool, file: File) -> io::Result<Self> {
        let mut file = BufReader::with_capacity(PIECE, file);
        let magic: Vec<u8> = file.fill_buf()?.iter().take(BLOCK).copied().collect();
        let is_compressed = magic.starts_with(&GZIP) || magic.starts_with(&ZSTD);
        match decompressed(file, &magic).and_then(|mut bytes| Ok((head(&mut bytes)?, bytes))) {
            Ok((head, bytes)) if is_tar(&head) => Ok(Self::Archive { bytes: joined(head, bytes), is_compressed }),
            Ok((head, bytes)) if says_compressed && is_compressed => Ok(Self::File(joined(head, bytes))),
            Err(error) if says_compressed => Err(error),
            _ if says_compressed => match OTHERS.iter().find(|(other, _)| magic.starts_with(other)) {
                Some((_, name)) => Err(refusal(format!("it is compressed with {name}; gzip and zstd are read"))),
                None => Ok(Self::Plain),
            },
            _ => Ok(Self::Plain),
        }
    }
}

/// The bytes from their beginning, which were read already.
fn joined(head: Vec<u8>, bytes: Bytes) -> Bytes {
    Box::new(Cursor::new(head).chain(bytes))
}

/// Whether a layer's media type says that its bytes are compressed.
pub fn says_compressed(media_type: &str) -> bool {
    ["gzip", "zstd"].iter().any(|ending| media_type.ends_with(ending))
}

fn decompressed(file: BufReader<File>, magic: &[u8]) -> io::Result<Bytes> {
    if magic.starts_with(&GZIP) {
        Ok(Box::new(Gzip::new(file)))
    } else if magic.starts_with(&ZSTD) {
        let limit = 1 << ZSTD_WINDOW_LOG;
        if let Some(window) = zstd_window(magic).filter(|window| *window > limit) {
            return Err(refusal(format!(
                "its zstd window of {window} bytes is larger than the {limit} that are taken"
            )));
        }
        let mut decoder = zstd::Decoder::with_buffer(file)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG)?;
        Ok(Box::new(decoder))
    } else {
        Ok(Box::new(file))
    }
}

/// The window that a zstd frame wants, in bytes (RFC 8878, "Frame Header").
fn zstd_window(frame: &[u8]) -> Option<u64> {
    let descriptor = *frame.get(ZSTD.len())?;
    let rest = frame.get(ZSTD.len() + 1..)?;
    if descriptor & 0x20 == 0 {
        let window = *rest.first()?;
        let base = 1_u64 << (10 + (window >> 3));
        return Some(base + (base >> 3) * u64::from(window & 7));
    }
    // A frame of a single segment has no window of its own: it is as large as its content.
    let skipped = match descriptor & 3 {
        3 => 4,
        length => usize::from(length),
    };
    let length = 1_usize << (descriptor >> 6);
    let bytes = rest.get(skipped..skipped + length)?;
    let size = bytes.iter().rev().fold(0, |size: u64, byte| (size << 8) | u64::from(*byte));
    Some(if length == 2 { size + 256 } else { size })
}

fn refusal(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, Refusal(reason))
}

/// Whether an error is no damage: the bytes are right, and not taken.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Refusal>)
}

/// Reads until `piece` is full or the bytes end; how many there are.
pub(super) fn fill(bytes: &mut Bytes, piece: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = piece.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match bytes.read(rest)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// The first block, shorter where there is no more.
pub(super) fn head(bytes: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(BLOCK);
    bytes.take(BLOCK as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// Whether a block is the header of a tar entry: its checksum is right.
pub(super) fn is_tar(block: &[u8]) -> bool {
    match block.first_chunk::<BLOCK>() {
        // A block of zeros ends an archive; one that begins so is empty, and no archive for us.
        Some(block) if block.iter().any(|byte| *byte != 0) => checksum_is_right(block),
        _ => false,
    }
}

/// The sum of all bytes, those of the checksum itself counted as spaces.
fn checksum_is_right(block: &[u8; BLOCK]) -> bool {
    let sum: u32 =
        block.iter().enumerate().map(|(n, byte)| if (148..156).contains(&n) { 32 } else { u32::from(*byte) }).sum();
    tar::Header::from_byte_slice(block).cksum().is_ok_and(|stored| stored == sum)
}
