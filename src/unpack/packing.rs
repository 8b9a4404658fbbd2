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

/// A layer's bytes, decompressed.
pub(super) type Bytes = Box<dyn Read>;

/// Whether a layer's media type says that its bytes are compressed.
pub fn says_compressed(media_type: &str) -> bool {
    ["gzip", "zstd"].iter().any(|ending| media_type.ends_with(ending))
}

/// The decompressed bytes of a layer that is an archive; none where it is a plain file, compressed or not. One that
/// `says_compressed`, looks it and cannot be read is an error.
pub(super) fn archive(says_compressed: bool, file: File) -> io::Result<Option<Bytes>> {
    let mut bytes = decompressed(file)?;
    match head(&mut bytes) {
        Ok(head) if is_tar(&head) => Ok(Some(Box::new(Cursor::new(head).chain(bytes)))),
        Err(error) if says_compressed => Err(error),
        // What only looks compressed is a plain file: a kernel may begin with anything.
        Ok(_) | Err(_) => Ok(None),
    }
}

fn decompressed(file: File) -> io::Result<Bytes> {
    let mut file = BufReader::with_capacity(PIECE, file);
    let magic = file.fill_buf()?;
    if magic.starts_with(&GZIP) {
        Ok(Box::new(Gzip::new(file)))
    } else if magic.starts_with(&ZSTD) {
        let mut decoder = zstd::Decoder::with_buffer(file)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG)?;
        Ok(Box::new(decoder))
    } else {
        Ok(Box::new(file))
    }
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
