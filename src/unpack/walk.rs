//! A walk through a tar, entry by entry, with caps on all that it says of itself. The fields of a header are read by the
//! `tar` crate; its own walk keeps long names in memory, however long they claim to be.

use std::io::{self, Read};

use tar::{EntryType, GnuHeader, Header, PaxExtensions};

use super::packing::{BLOCK, Bytes, head, is_tar};

/// The longest extended header that is read, in bytes: it holds a path and a few attributes.
const MAX_EXTENSION: u64 = 1024 * 1024;
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
}

/// What a header says.
#[derive(Debug)]
pub(super) struct Entry {
    /// The path as it is written.
    pub(super) path: String,
    pub(super) kind: EntryType,
    pub(super) size: u64,
    /// Whether its content is not the file's as it is, but a map of its holes and what is between them.
    pub(super) is_sparse: bool,
}

/// Extended headers, which say of the next entry what its own header has no room for.
#[derive(Default)]
struct Extended {
    path: Option<String>,
    size: Option<u64>,
    /// The path of a sparse file: the other one is made up, for programs that know of none.
    sparse_path: Option<String>,
    is_sparse: bool,
}

impl Walk {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes, content: 0, padding: 0, entries: 0, total: 0 }
    }

    /// The next entry; what is left of the one before is passed over. None at the archive's end, which is where its bytes
    /// end too: some writers (umoci among them) leave out the last padding and the blocks of zeros.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut extended = Extended::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(invalid("it has more than 10 million entries"));
            }
            let (kind, size) = (header.entry_type(), header.entry_size()?);
            match kind {
                EntryType::GNULongName => {
                    self.begin(size)?;
                    let mut name = self.extension(size)?;
                    name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
                    extended.path = Some(String::from_utf8_lossy(&name).into_owned());
                }
                EntryType::XHeader => {
                    self.begin(size)?;
                    extended.read(&self.extension(size)?)?;
                }
                EntryType::GNULongLink | EntryType::XGlobalHeader => {
                    self.begin(size)?;
                    self.extension(size)?;
                }
                kind => {
                    if kind.is_gnu_sparse() {
                        self.pass_over_map(&header)?;
                    }
                    let size = extended.size.unwrap_or(size);
                    // Links and devices have no content, whatever their size says.
                    let content = if has_content(kind) { size } else { 0 };
                    self.begin(content)?;
                    self.total = self.total.saturating_add(content);
                    let path = extended.sparse_path.or(extended.path);
                    return Ok(Some(Entry {
                        path: path.unwrap_or_else(|| String::from_utf8_lossy(&header.path_bytes()).into_owned()),
                        kind: if kind.is_gnu_sparse() { EntryType::Regular } else { kind },
                        size: content,
                        is_sparse: extended.is_sparse || kind.is_gnu_sparse(),
                    }));
                }
            }
        }
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
        let block = BLOCK as u64;
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
    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let read = head(&mut self.bytes)?;
        match read.len() {
            BLOCK => block.copy_from_slice(&read),
            0 if self.entries > 0 => return Ok(None),
            _ => return Err(cut_short()),
        }
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if is_tar(header.as_bytes()) { Ok(Some(header)) } else { Err(invalid("a header's checksum is wrong")) }
    }

    /// Passes over what the header of a sparse file (GNU's form before pax) has no room for of its map.
    fn pass_over_map(&mut self, header: &Header) -> io::Result<()> {
        /// Where such a block says whether another one follows (GNU tar, `struct sparse_header`).
        const IS_EXTENDED: usize = 504;
        let mut goes_on = header.as_gnu().is_some_and(GnuHeader::is_extended);
        for _ in 0..MAX_MAP {
            if !goes_on {
                return Ok(());
            }
            let block = head(&mut self.bytes)?;
            if block.len() < BLOCK {
                return Err(cut_short());
            }
            goes_on = block.get(IS_EXTENDED) == Some(&1);
        }
        Err(invalid("the map of a sparse file has more than 64 MiB"))
    }

    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(invalid("an extended header has more than 1 MiB"));
        }
        let mut bytes = Vec::new();
        self.bytes.by_ref().take(size).read_to_end(&mut bytes)?;
        self.content = size - bytes.len() as u64;
        if self.content > 0 { Err(cut_short()) } else { Ok(bytes) }
    }
}

impl Extended {
    fn read(&mut self, bytes: &[u8]) -> io::Result<()> {
        for extension in PaxExtensions::new(bytes) {
            let extension = extension?;
            let value = String::from_utf8_lossy(extension.value_bytes());
            match extension.key_bytes() {
                b"path" => self.path = Some(value.into_owned()),
                b"size" => {
                    self.size = Some(value.parse().map_err(|_| invalid("an extended header's size is no number"))?);
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    self.is_sparse = true;
                    if key == b"GNU.sparse.name" {
                        self.sparse_path = Some(value.into_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn has_content(kind: EntryType) -> bool {
    !(kind.is_dir()
        || kind.is_symlink()
        || kind.is_hard_link()
        || kind.is_block_special()
        || kind.is_character_special()
        || kind.is_fifo())
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it is cut short")
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::super::archive::tar;
    use super::*;
    use proptest::prelude::*;

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
