//! A walk through a tar, entry by entry, with caps on all that it says of itself. The `tar` crate's own walk keeps long
//! names in memory, however long they claim to be.

use std::io::{self, Read};

use super::attributes::Attributes;
use super::packing::{Bytes, head};
use super::pax::PaxError;
use crate::eci::{TAR_BLOCK, TarHeader};

/// The longest extended header that is read, in bytes: it holds a path and a few attributes.
const MAX_EXTENSION: u64 = 1024 * 1024;
/// Longest value of a global extended header, in bytes: longer than any path, and copied for every entry after it.
const MAX_GLOBAL: usize = 8 * 1024;
/// Longest part of a link's target that is read, in characters: more than a path may have.
const MAX_LINK: usize = 4097;
/// More entries than any root file system has.
const MAX_ENTRIES: u64 = 10_000_000;
/// What may follow the end of an archive, in bytes: writers pad to their record size.
const MAX_TRAILER: u64 = 1024 * 1024;
/// The longest map of a sparse file that is passed over, in blocks: 64 MiB have room for millions of holes.
const MAX_MAP: usize = 128 * 1024;

/// A tar that is read from front to back.
pub(super) struct Walk {
    bytes: Bytes,
    /// What is left of the entry's content, and of the padding after it.
    content: u64,
    padding: u64,
    entries: u64,
    /// Length of the content of all entries so far.
    total: u64,
    /// Records of global extended headers, which hold for all entries after them.
    global: Attributes,
}

/// Kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A further name of a file that is in the image already.
    HardLink,
    /// A device, a pipe, or something that is not a file.
    Other,
}

/// What a header says.
#[derive(Debug)]
pub(super) struct Entry {
    /// The path as it is written.
    pub(super) path: String,
    /// The target of a link, as it is written.
    pub(super) link: String,
    pub(super) kind: EntryKind,
    pub(super) size: u64,
    /// Whether its content is not the file's as it is, but a map of its holes and what is between them.
    pub(super) is_sparse: bool,
}

impl EntryKind {
    /// The kind that a type flag stands for. One that is unknown stands for a file (POSIX.1-2017, pax, "ustar Interchange
    /// Format"), but for those of GNU tar that name a volume or continue a file of another one.
    fn of(type_flag: u8) -> Self {
        match type_flag {
            b'1' => Self::HardLink,
            b'2' => Self::Symlink,
            b'5' | b'D' => Self::Directory,
            b'3' | b'4' | b'6' | b'M' | b'N' | b'V' => Self::Other,
            _ => Self::File,
        }
    }

    /// True if an entry of the type has content. Links, devices and directories have none, whatever their size says.
    fn has_content(type_flag: u8) -> bool {
        !(b'1'..=b'6').contains(&type_flag)
    }
}

impl Walk {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes, content: 0, padding: 0, entries: 0, total: 0, global: Attributes::default() }
    }

    /// The next entry; what is left of the one before is passed over. None at the archive's end, which is where its bytes
    /// end too: some writers (umoci among them) leave out the last padding and the blocks of zeros.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut own = Attributes::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(invalid("it has more than 10 million entries"));
            }
            match header.type_flag() {
                b'L' => own.set_path(&self.extension(&header)?),
                b'K' => own.set_link(&self.extension(&header)?),
                b'x' | b'X' => own.add(&self.extension(&header)?).map_err(damaged)?,
                b'g' => {
                    let records = self.extension(&header)?;
                    self.global.add(&records).map_err(damaged)?;
                    if self.global.longest() > MAX_GLOBAL {
                        return Err(invalid("a value in a global extended header is longer than any path"));
                    }
                }
                flag => return self.entry(&header, flag, own).map(Some),
            }
        }
    }

    /// The entry that a header and the records before it describe.
    fn entry(&mut self, header: &TarHeader, flag: u8, own: Attributes) -> io::Result<Entry> {
        let attributes = own.over(&self.global);
        if flag == b'S' {
            self.pass_over_map(header)?;
        }
        let content = if EntryKind::has_content(flag) {
            let size = attributes.size().map_err(damaged)?.map_or_else(|| header_size(header), Ok)?;
            self.begin(size)?;
            size
        } else {
            0
        };
        self.total = self.total.saturating_add(content);
        let path = attributes.path().unwrap_or_else(|| String::from_utf8_lossy(&header.path()).into_owned());
        let link = attributes.link().unwrap_or_else(|| String::from_utf8_lossy(header.link_name()).into_owned());
        // Writers before POSIX have no type for directories.
        let kind = match EntryKind::of(flag) {
            EntryKind::File if path.ends_with('/') => EntryKind::Directory,
            kind => kind,
        };
        let link = link.chars().take(MAX_LINK).collect();
        Ok(Entry { path, link, kind, size: content, is_sparse: attributes.is_sparse() || flag == b'S' })
    }

    /// Length of the content of all entries so far, in bytes.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Reads the entry's content until `piece` is full or the content ends; how many bytes there are.
    pub(super) fn fill(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = piece.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read(rest)? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }

    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.content).unwrap_or(usize::MAX).min(piece.len());
        if want == 0 {
            return Ok(0);
        }
        let count = self.bytes.read(piece.get_mut(..want).unwrap_or_default())?;
        if count == 0 {
            return Err(cut_short());
        }
        self.content -= count as u64;
        Ok(count)
    }

    /// Reads what follows the archive: little, or it is refused.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let trailer = io::copy(&mut self.bytes.by_ref().take(MAX_TRAILER + 1), &mut io::sink())?;
        if trailer > MAX_TRAILER {
            Err(invalid("it goes on for more than 1 MiB after its archive has ended"))
        } else {
            Ok(())
        }
    }

    fn begin(&mut self, size: u64) -> io::Result<()> {
        let block = TAR_BLOCK as u64;
        self.content = size;
        self.padding =
            size.checked_next_multiple_of(block).ok_or_else(|| invalid("an entry has an impossible size"))? - size;
        Ok(())
    }

    fn skip(&mut self) -> io::Result<()> {
        let left = self.content.saturating_add(self.padding);
        let skipped = io::copy(&mut self.bytes.by_ref().take(left), &mut io::sink())?;
        let is_whole = skipped >= self.content;
        (self.content, self.padding) = (0, 0);
        if is_whole { Ok(()) } else { Err(cut_short()) }
    }

    /// The next header; none at the first block of zeros, which ends an archive, and where the bytes end after an entry.
    fn header(&mut self) -> io::Result<Option<TarHeader>> {
        let block = head(&mut self.bytes)?;
        match block.len() {
            0 if self.entries > 0 => return Ok(None),
            TAR_BLOCK if block.iter().all(|byte| *byte == 0) => return Ok(None),
            TAR_BLOCK => {}
            _ => return Err(cut_short()),
        }
        TarHeader::read(&block).map(Some).ok_or_else(|| invalid("a header's checksum is wrong"))
    }

    /// Passes over what the header of a sparse file (GNU's form before pax) has no room for of its map.
    fn pass_over_map(&mut self, header: &TarHeader) -> io::Result<()> {
        /// Place in a header that says whether such a block follows (GNU tar, `struct oldgnu_header`).
        const HEADER_IS_EXTENDED: usize = 482;
        /// Where such a block says whether another one follows (GNU tar, `struct sparse_header`).
        const IS_EXTENDED: usize = 504;
        let mut goes_on = header.block().get(HEADER_IS_EXTENDED) == Some(&1);
        for _ in 0..MAX_MAP {
            if !goes_on {
                return Ok(());
            }
            let block = head(&mut self.bytes)?;
            if block.len() < TAR_BLOCK {
                return Err(cut_short());
            }
            goes_on = block.get(IS_EXTENDED) == Some(&1);
        }
        Err(invalid("the map of a sparse file has more than 64 MiB"))
    }

    /// The content of an extended header.
    fn extension(&mut self, header: &TarHeader) -> io::Result<Vec<u8>> {
        let size = header_size(header)?;
        self.begin(size)?;
        if size > MAX_EXTENSION {
            return Err(invalid("an extended header has more than 1 MiB"));
        }
        let mut bytes = Vec::new();
        self.bytes.by_ref().take(size).read_to_end(&mut bytes)?;
        self.content = size - bytes.len() as u64;
        if self.content > 0 { Err(cut_short()) } else { Ok(bytes) }
    }
}

fn header_size(header: &TarHeader) -> io::Result<u64> {
    header.size().ok_or_else(|| invalid("a header's size is not a number"))
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it is cut short")
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

fn damaged(error: PaxError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::super::archive::{entry, pax_record, tar};
    use super::*;
    use proptest::prelude::*;
    use tar::{EntryType, Header};

    fn walk(bytes: Vec<u8>) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut walk = Walk::new(Box::new(io::Cursor::new(bytes)));
        let mut found = Vec::new();
        while let Some(entry) = walk.next()? {
            let (mut content, mut piece) = (Vec::new(), [0; 100]);
            loop {
                let filled = walk.fill(&mut piece)?;
                content.extend_from_slice(&piece[..filled]);
                if filled < piece.len() {
                    break;
                }
            }
            assert_eq!(content.len() as u64, entry.size);
            found.push((entry.path, content));
        }
        walk.finish()?;
        Ok(found)
    }

    #[test]
    fn entries_come_in_order_with_their_long_names() {
        let long = "d/".repeat(150) + "file";
        let found = walk(tar(&[("a", b"one"), (&long, &[7; 1000]), ("b", b"")])).unwrap();
        assert_eq!(found, [("a".to_owned(), b"one".to_vec()), (long, vec![7; 1000]), ("b".to_owned(), Vec::new())]);
    }

    #[test]
    fn what_is_cut_short_or_goes_on_is_refused() {
        let whole = tar(&[("a", &[7; 1000])]);
        for length in [0, 100, 512, 1000, 1500] {
            assert!(walk(whole[..length].to_vec()).is_err(), "{length}");
        }
        let mut padded = whole.clone();
        padded.resize(whole.len() + 1000, 0);
        walk(padded).unwrap();
        let mut endless = whole;
        endless.resize(3 << 20, 7);
        assert!(walk(endless).is_err());
    }

    #[test]
    fn an_archive_may_end_with_its_last_entry() {
        let whole = tar(&[("a", b"one"), ("b", b"content")]);
        for length in [512 + 512 + 512 + 7, 512 + 512 + 512 + 100, 4 * 512, 5 * 512] {
            assert_eq!(walk(whole[..length].to_vec()).unwrap().len(), 2, "{length}");
        }
    }

    /// An extended header of one record, and an entry.
    fn with_record(kind: u8, key: &str, value: &[u8], next: &[u8]) -> Vec<u8> {
        [&entry(b"pax", kind, b"", &pax_record(key.as_bytes(), value))[..], next].concat()
    }

    #[test]
    fn extended_headers_are_read_by_length() {
        let file = entry(b"a", b'0', b"", b"one");
        let found =
            |bytes: Vec<u8>| walk(bytes).map(|found| found.into_iter().map(|(path, _)| path).collect::<Vec<_>>());
        let capability = with_record(b'x', "SCHILY.xattr.security.capability", b"\x01\n\x02", &file);
        assert_eq!(found([&capability[..], &file].concat()).unwrap(), ["a", "a"]);
        let global = with_record(b'g', "path", b"g", &with_record(b'x', "path", b"x", &file));
        assert_eq!(found([&global[..], &file].concat()).unwrap(), ["x", "g"]);
        let removed = with_record(b'g', "path", b"g", &with_record(b'g', "path", b"", &file));
        assert_eq!(found(removed).unwrap(), ["a"]);
        let longest = |length: usize| with_record(b'g', "path", &vec![b'g'; length], &file);
        assert_eq!(found(longest(MAX_GLOBAL)).unwrap().concat().len(), MAX_GLOBAL);
        assert!(found(longest(MAX_GLOBAL + 1)).is_err(), "it would be copied for every entry");
        let solaris = with_record(b'X', "path", b"x", &file);
        assert_eq!(found(solaris).unwrap(), ["x"]);
        for (key, value) in [("size", &b"99999999999999999999"[..]), ("size", b"18446744073709551615"), ("size", b"-1")]
        {
            assert!(found(with_record(b'x', key, value, &file)).is_err(), "{value:?}");
        }
        let wrong = entry(b"pax", b'x', b"", b"30 path=short\n");
        assert!(found([&wrong[..], &file].concat()).is_err());
    }

    #[test]
    fn old_tars_are_read() {
        let kinds = |bytes: Vec<u8>| {
            let mut walk = Walk::new(Box::new(io::Cursor::new(bytes)));
            let mut kinds = Vec::new();
            while let Some(entry) = walk.next().unwrap() {
                kinds.push((entry.path, entry.kind, entry.size));
            }
            kinds
        };
        // As v7 wrote them: no magic, no type, signed checksums, a directory by its slash.
        let v7 = |name: &[u8], kind: u8, content: &[u8]| {
            let mut bytes = entry(name, kind, b"", content);
            bytes[257..512].fill(0);
            bytes[148..156].fill(b' ');
            let sum: i64 = bytes[..512].iter().map(|byte| i64::from(byte.cast_signed())).sum();
            bytes[148..156].copy_from_slice(format!("{sum:6o}\0 ").as_bytes());
            bytes
        };
        let bytes = [v7(b"d\xe9/", 0, b""), v7(b"a", 0, b"one"), v7(b"b", b'7', b"two"), v7(b"e/", b'0', b"")].concat();
        let expected = [
            ("d\u{fffd}/", EntryKind::Directory, 0),
            ("a", EntryKind::File, 3),
            ("b", EntryKind::File, 3),
            ("e/", EntryKind::Directory, 0),
        ];
        assert_eq!(kinds(bytes), expected.map(|(path, kind, size)| (path.to_owned(), kind, size)));
        // A link whose size is blank, and a size in base 256.
        let mut link = entry(b"l", b'2', b"a", b"");
        link[124..136].fill(b' ');
        let mut large = entry(b"f", b'0', b"", b"one");
        large[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
        for block in [&mut link, &mut large] {
            let mut header = Header::from_byte_slice(&block[..512]).clone();
            header.set_cksum();
            block[..512].copy_from_slice(header.as_bytes());
        }
        let expected = [("l", EntryKind::Symlink, 0), ("f", EntryKind::File, 3)];
        assert_eq!(kinds([link, large].concat()), expected.map(|(path, kind, size)| (path.to_owned(), kind, size)));
    }

    #[test]
    fn a_long_name_that_is_too_long_is_refused_before_it_is_read() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(8 << 30);
        header.set_cksum();
        assert!(walk(header.as_bytes().to_vec()).is_err());
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048), at in 0_usize..1024, value: u8) {
            let _ = walk(bytes);
            let mut mutated = tar(&[("a", b"content"), ("b", &[1; 600])]);
            mutated[at] = value;
            let _ = walk(mutated);
        }
    }
}
