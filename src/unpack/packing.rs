//! How a layer is packed, told by its bytes: what media types say of it is often wrong.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::rc::Rc;

use super::Limits;
use super::counted::{Counted, Input};
use super::gzip::Gzip;
use super::host::{SharedHost, reserve};
use super::members::Members;
use super::refusal::{is_refusal, refusal};
use super::zstd_frames::{Beginning, beginning};
use super::zstd_stream::Zstd;
use crate::eci::{TAR_BLOCK, TarHeader};

/// How much of a layer is read at once, in bytes.
const PIECE: usize = 128 * 1024;

/// Memory that gzip takes, in bytes: its window, and tables.
const GZIP_MEMORY: u64 = 64 * 1024;

const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Compressions that are told, and not read: their first bytes, and their names.
const OTHERS: [(&[u8], &str); 4] =
    [(b"\xfd7zXZ\0", "xz"), (b"BZh", "bzip2"), (b"\x04\x22\x4d\x18", "lz4"), (b"LZIP", "lzip")];

/// A layer's bytes, decompressed.
pub(super) type Bytes = Box<dyn Read>;

/// What a layer's bytes are.
pub(super) enum Packing {
    /// A file as it is; and if it is compressed, and could be an archive by that, the refusal to decompress it.
    Plain(Option<io::Error>),
    /// A file, compressed.
    File(Bytes),
    /// A tar, compressed or not.
    Archive { bytes: Bytes, is_compressed: bool },
}

impl Packing {
    /// Detects the packing of a layer. A tar is recognized under any compression. For a file without a tar, the media type
    /// decides: the file is decompressed if the type says so, else kept as it is, as a kernel may begin with any bytes.
    /// Bytes that are not compressed as their type says are refused.
    pub(super) fn of(media_type: &str, file: Rc<File>, limits: Limits, host: &SharedHost) -> io::Result<Self> {
        let mut file = BufReader::with_capacity(PIECE, Input { file, host: Rc::clone(host) });
        let size = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(0))?;
        let magic = head(&mut file)?;
        let zstd = beginning(&mut file)?;
        file.seek(SeekFrom::Start(0))?;
        let found = match zstd {
            _ if magic.starts_with(&GZIP) => Some("gzip"),
            Beginning::Other => None,
            Beginning::Frame | Beginning::OnlySkippable | Beginning::Cut => Some("zstd"),
        };
        let opened = decompressed(file, size, found, &zstd, limits, host).and_then(|bytes| {
            let mut bytes: Bytes = Box::new(Counted::new(bytes, size, Rc::clone(host)));
            Ok((head(&mut bytes)?, bytes))
        });
        match (opened, promise(media_type)) {
            (Err(error), _) if error.raw_os_error().is_some() => Err(error),
            (Ok((head, bytes)), _) if is_tar(&head) => {
                Ok(Self::Archive { bytes: joined(head, bytes), is_compressed: found.is_some() })
            }
            (opened, None) => Ok(Self::Plain(opened.err().filter(is_refusal))),
            (opened, Some(promised)) if found == Some(promised.as_str()) => {
                opened.map(|(head, bytes)| Self::File(joined(head, bytes)))
            }
            (_, Some(promised)) => Err(broken_promise(&promised, found, &magic)),
        }
    }
}

/// The bytes from their beginning, which were read already.
fn joined(head: Vec<u8>, bytes: Bytes) -> Bytes {
    Box::new(Cursor::new(head).chain(bytes))
}

/// Whether a layer's media type says that its bytes are compressed.
pub fn says_compressed(media_type: &str) -> bool {
    promise(media_type).is_some()
}

/// The compression, or other packing, that follows `tar` in a layer's media type: `gzip` of `tar+gzip`, of docker's
/// `tar.gzip` and of `tar+gzip+encrypted`; `zstd` of `tar+zstd:chunked`.
pub(super) fn promise(media_type: &str) -> Option<String> {
    let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let words = |separator: &[char]| media_type.split(separator).map(str::to_owned).collect::<Vec<_>>();
    let word = words(&['.', '+', ':']).into_iter().skip_while(|word| word != "tar").nth(1);
    let word = word.or_else(|| words(&['+']).into_iter().nth(1))?;
    Some(match word.as_str() {
        "gz" | "x-gzip" => "gzip".to_owned(),
        "zst" => "zstd".to_owned(),
        _ => word,
    })
}

fn broken_promise(promised: &str, found: Option<&str>, magic: &[u8]) -> io::Error {
    let other = OTHERS.iter().find(|(other, _)| magic.starts_with(other)).map(|(_, name)| *name);
    refusal(match (found, other) {
        (None, Some(name)) => format!("it is compressed with {name}; gzip and zstd are read"),
        (Some(found), _) => format!("its media type says {promised}, and it is compressed with {found}, and not a tar"),
        (None, None) => format!("its media type says {promised}, and it is neither compressed so nor a tar"),
    })
}

fn decompressed(
    file: BufReader<Input>,
    size: u64,
    found: Option<&str>,
    zstd: &Beginning,
    limits: Limits,
    host: &SharedHost,
) -> io::Result<Bytes> {
    match (found, zstd) {
        (Some("gzip"), _) => {
            reserve(&**host, GZIP_MEMORY, limits)?;
            Ok(Box::new(Gzip::new(file, Members::new(size))))
        }
        (Some(_), Beginning::OnlySkippable) => {
            Err(refusal("it is empty: all of its zstd frames are skippable ones".to_owned()))
        }
        (Some(_), Beginning::Cut) => {
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a skippable zstd frame is cut short"))
        }
        (Some(_), _) => Ok(Box::new(Zstd::new(file, Members::new(size), limits, Rc::clone(host)))),
        (None, _) => Ok(Box::new(file)),
    }
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
    let mut head = Vec::with_capacity(TAR_BLOCK);
    bytes.take(TAR_BLOCK as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// True if a block is the header of a tar entry. A block of zeros ends an archive: an archive that begins with one is
/// empty, and does not count.
fn is_tar(block: &[u8]) -> bool {
    TarHeader::read(block).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_say_how_their_bytes_are_packed() {
        for (media_type, expected) in [
            ("application/vnd.oci.image.layer.v1.tar", None),
            ("application/vnd.docker.image.rootfs.diff.tar", None),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Some("gzip")),
            ("application/vnd.oci.image.layer.v1.TAR+GZIP; charset=utf-8", Some("gzip")),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Some("gzip")),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Some("gzip")),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Some("gzip")),
            ("application/vnd.docker.image.rootfs.diff.tar.zstd", Some("zstd")),
            ("application/vnd.oci.image.layer.v1.tar+zstd:chunked", Some("zstd")),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", Some("gzip")),
            ("application/vnd.oci.image.layer.v1.tar+xz", Some("xz")),
            ("application/vnd.oci.image.layer.v1+gzip", Some("gzip")),
            ("application/vnd.oci.image.layer.v1", None),
            ("x", None),
        ] {
            assert_eq!(promise(media_type).as_deref(), expected, "{media_type}");
        }
    }
}
