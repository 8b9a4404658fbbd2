//! The frames of a zstd stream: skippable ones, and the window that an ordinary one needs (RFC 8878, section 3.1).

use std::io::{self, BufRead, Read, Seek, SeekFrom};

/// Magic of an ordinary frame.
pub(super) const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Magics of skippable frames: the low half of the first byte is free.
const SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
/// The longest header of an ordinary frame, in bytes, and its magic.
pub(super) const MAX_HEADER: usize = 18;

/// Beginning of a layer's bytes, as far as zstd is concerned.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// An ordinary frame.
    Frame,
    /// Skippable frames, and nothing after them.
    OnlySkippable,
    /// A skippable frame that is cut short.
    Cut,
    /// Bytes that are not zstd's.
    Other,
}

/// Skippable frame, as far as its header is there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Skippable {
    /// Its length in bytes, header included.
    Length(u64),
    /// Its header is cut short.
    Cut,
    /// It is something else.
    Other,
}

/// Detects the beginning of `file`, and leaves it at its first byte. Skippable frames are skipped unread.
pub(super) fn beginning(file: &mut (impl BufRead + Seek)) -> io::Result<Beginning> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut at = file.seek(SeekFrom::Start(0))?;
    let beginning = loop {
        let mut head = Vec::with_capacity(MAX_HEADER);
        Read::take(&mut *file, MAX_HEADER as u64).read_to_end(&mut head)?;
        if head.starts_with(&ZSTD) {
            break Beginning::Frame;
        }
        let has_skipped = at > 0;
        let frame = match skippable(&head) {
            Skippable::Length(frame) => frame,
            Skippable::Cut => break Beginning::Cut,
            Skippable::Other => {
                break match head.len() {
                    0 if has_skipped => Beginning::OnlySkippable,
                    1..4 if has_skipped => Beginning::Cut,
                    _ => Beginning::Other,
                };
            }
        };
        let next = at.saturating_add(frame);
        if next > length {
            break Beginning::Cut;
        }
        // Relative, because it keeps the buffer: a layer may begin with millions of empty frames.
        file.seek_relative(next.cast_signed() - at.cast_signed() - head.len().try_into().unwrap_or(0))?;
        at = next;
    };
    file.seek(SeekFrom::Start(0))?;
    Ok(beginning)
}

/// Detects a skippable frame by its beginning.
pub(super) fn skippable(head: &[u8]) -> Skippable {
    let is_skippable =
        head.first().is_some_and(|first| first >> 4 == 5) && head.get(1..4).is_some_and(|magic| magic == SKIPPABLE);
    match head.get(4..).and_then(<[u8]>::first_chunk) {
        _ if !is_skippable => Skippable::Other,
        None => Skippable::Cut,
        Some(size) => Skippable::Length(8 + u64::from(u32::from_le_bytes(*size))),
    }
}

/// The window that a frame needs, in bytes (RFC 8878, "Frame Header").
pub(super) fn window(frame: &[u8]) -> Option<u64> {
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

#[cfg(test)]
mod tests {
    use super::super::archive::skippable;
    use super::*;
    use std::io::{BufReader, Cursor};

    fn told(parts: &[&[u8]]) -> Beginning {
        // Buffers so small that every border falls between two of them somewhere.
        let mut file = BufReader::with_capacity(7, Cursor::new(parts.concat()));
        let beginning = beginning(&mut file).unwrap();
        assert_eq!(file.stream_position().unwrap(), 0);
        beginning
    }

    #[test]
    fn skippable_frames_are_passed_over() {
        let frame = zstd::encode_all(&b"content"[..], 3).unwrap();
        let plain = told(&[&frame]);
        assert_eq!(plain, Beginning::Frame);
        let large = skippable(0xf, &vec![7; 300_000]);
        for frames in [
            &[skippable(0, b"abcd")][..],
            &[skippable(0, b"")],
            &[skippable(0, b""), skippable(0xf, b""), skippable(7, b"x")],
            &[large],
        ] {
            let skipped = frames.concat();
            assert_eq!(told(&[&skipped, &frame]), plain);
            assert_eq!(told(&[&skipped]), Beginning::OnlySkippable);
            assert_eq!(told(&[&skipped, b"MZ and so on"]), Beginning::Other);
            assert_eq!(told(&[&skipped, &skipped[..7]]), Beginning::Cut);
            assert_eq!(told(&[&skipped, &skipped[..3]]), Beginning::Cut);
        }
        assert_eq!(told(&[&skippable(0, b"abcd")[..11]]), Beginning::Cut);
        assert_eq!(told(&[b"\x50\x2a\x4d\x18\xff\xff\xff\xff"]), Beginning::Cut);
    }

    /// A file that counts its reads.
    struct Counted(Cursor<Vec<u8>>, usize);

    impl Read for Counted {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 += 1;
            self.0.read(buffer)
        }
    }

    impl Seek for Counted {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.0.seek(to)
        }
    }

    #[test]
    fn many_frames_are_read_through_one_buffer() {
        let frame = zstd::encode_all(&b"content"[..], 3).unwrap();
        let bytes = [skippable(0, b"").repeat(10_000), frame].concat();
        let mut file = BufReader::with_capacity(8192, Counted(Cursor::new(bytes), 0));
        assert_eq!(beginning(&mut file).unwrap(), Beginning::Frame);
        assert!(file.get_ref().1 < 30, "{} reads", file.get_ref().1);
    }

    #[test]
    fn other_bytes_are_not_taken_for_frames() {
        for bytes in [
            &b""[..],
            b"\x50\x2a\x4d",
            b"\x60\x2a\x4d\x18\0\0\0\0",
            b"\x4f\x2a\x4d\x18\0\0\0\0",
            b"\x1f\x8b",
            &[0; 600],
        ] {
            assert_eq!(told(&[bytes]), Beginning::Other, "{bytes:?}");
        }
    }
}
