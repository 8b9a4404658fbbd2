//! A file as a layer of the legacy format: a gzipped tar that holds it alone. The same file gives the same bytes, on any
//! machine: owner, mode and time are constants, and so is gzip's header.
//!
//! The digest hangs on the compressor as well. It is `miniz_oxide` at level 6, by way of `flate2`: written in Rust, it
//! does the same on every processor, as those that choose their code by what the processor can do may not. A release of
//! it that compresses otherwise changes digests; a test says so.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use flate2::{Compression, GzBuilder};

use super::BuildError;
use crate::cache::Staged;
use crate::durable::{DurableError, IoContext};
use crate::oci::{Digest, Hasher};

/// The compression level: see above before changing it.
const LEVEL: u32 = 6;
/// The block of a tar, in bytes; two of zeros end one.
const BLOCK: usize = 512;
const ZEROS: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
/// How much of a file is read at once, in bytes.
const PIECE: usize = 128 * 1024;

/// What was packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    /// The layer's digest and its length in bytes.
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// The digest of the tar in it.
    pub(super) diff_id: Digest,
}

/// Writes a layer that holds the file `path` under `name` to `out`, which is in the directory `dir`. `on_piece` is told
/// the length of each piece of the file.
pub(super) fn pack(
    path: &Path,
    name: &str,
    dir: &Path,
    out: impl Write,
    mut on_piece: impl FnMut(u64),
) -> Result<Packed, BuildError> {
    let failed = |source| {
        let source = DurableError::new("write a packed file in", dir, source);
        BuildError::Pack { path: path.to_owned(), source }
    };
    let mut file = File::open(path).on("open", path)?;
    let size = file.metadata().on("read", path)?.len();
    let gzip = GzBuilder::new().mtime(0).write(Hashing::new(out), Compression::new(LEVEL));
    let mut tar = Hashing::new(gzip);
    tar.write_all(&header(name, size).map_err(failed)?).map_err(failed)?;
    let (mut piece, mut left) = (vec![0; PIECE], size);
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let count = file.read(piece.get_mut(..want).unwrap_or_default()).on("read", path)?;
        if count == 0 {
            return Err(BuildError::Changed(path.to_owned()));
        }
        tar.write_all(piece.get(..count).unwrap_or_default()).map_err(failed)?;
        left -= count as u64;
        on_piece(count as u64);
    }
    // It has grown: its end would be missing without a word.
    if file.read(&mut [0]).on("read", path)? > 0 {
        return Err(BuildError::Changed(path.to_owned()));
    }
    let padding = usize::try_from(size.next_multiple_of(BLOCK as u64) - size).unwrap_or_default();
    tar.write_all(ZEROS.get(..padding).unwrap_or_default()).map_err(failed)?;
    tar.write_all(&ZEROS).map_err(failed)?;
    let diff_id = tar.hasher.finish();
    let mut layer = tar.inner.finish().map_err(failed)?;
    layer.flush().map_err(failed)?;
    Ok(Packed { digest: layer.hasher.finish(), size: layer.size, diff_id })
}

/// The header of an entry: root's, readable by all, of no time. A name too long for its field goes before it.
fn header(name: &str, size: u64) -> io::Result<Vec<u8>> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, name, io::empty())?;
    let mut bytes = builder.into_inner()?;
    // The content is to follow: the end that it has written does not count.
    bytes.truncate(bytes.len() - ZEROS.len());
    Ok(bytes)
}

/// Hashes and counts what goes through.
struct Hashing<W> {
    inner: W,
    hasher: Hasher,
    size: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Hasher::default(), size: 0 }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or_default());
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A blob of a layout on its way in, as something to write to.
pub(super) struct Staging<'a>(pub(super) &'a mut Staged);

impl Write for Staging<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.append(bytes).map_err(|error| io::Error::new(error.io().kind(), error))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Classify, Kind, full_text};

    fn packed(name: &str, content: &[u8]) -> (Packed, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, content).unwrap();
        let (mut out, mut told) = (Vec::new(), 0);
        let packed = pack(&path, name, dir.path(), &mut out, |bytes| told += bytes).unwrap();
        assert_eq!((packed.digest, packed.size, told), (Digest::of(&out), out.len() as u64, content.len() as u64));
        (packed, out)
    }

    fn gunzip(bytes: &[u8]) -> Vec<u8> {
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(bytes).read_to_end(&mut tar).unwrap();
        tar
    }

    #[test]
    fn a_layer_is_a_tar_of_one_file_without_a_time_or_an_owner() {
        for (name, size) in [("kernel", 0), ("kernel", 512), ("disk-root-root.raw", 300_001), (&"n".repeat(200), 5)] {
            let content: Vec<u8> = (0..size).map(|n: u32| n.to_le_bytes()[0]).collect();
            let (packed, layer) = packed(name, &content);
            let tar = gunzip(&layer);
            assert_eq!(packed.diff_id, Digest::of(&tar));
            assert_eq!(layer[4..10], [0, 0, 0, 0, 0, 255], "no time, no flags, no system");
            let mut archive = tar::Archive::new(&tar[..]);
            let mut entries = archive.entries().unwrap();
            let mut entry = entries.next().unwrap().unwrap();
            let header = entry.header();
            let told = (header.mode().unwrap(), header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap());
            assert_eq!((entry.path().unwrap().to_str().unwrap(), told), (name, (0o644, 0, 0, 0)));
            let mut read = Vec::new();
            entry.read_to_end(&mut read).unwrap();
            assert!(read == content);
            assert!(entries.next().is_none());
        }
    }

    struct FullDisk;

    impl Write for FullDisk {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_told_with_its_place_and_a_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.raw");
        std::fs::write(&path, "root").unwrap();
        let error = pack(&path, "root.raw", Path::new("/var/tmp"), FullDisk, |_| {}).unwrap_err();
        assert_eq!(error.kind(), Kind::DiskFull);
        let said = full_text(&error);
        assert!(["root.raw", "/var/tmp", "free some space"].iter().all(|part| said.contains(part)), "{said}");
    }

    #[test]
    fn a_file_that_grows_or_shrinks_meanwhile_makes_no_layer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for size in [0, 10, 3 * PIECE as u64] {
            let mut changes = 0;
            std::fs::write(&path, vec![7; 2 * PIECE]).unwrap();
            let outcome = pack(&path, "file", dir.path(), io::sink(), |_| {
                std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(size).unwrap();
                changes += 1;
            });
            assert!(matches!(outcome, Err(BuildError::Changed(_))), "{size}: {outcome:?}");
            assert!(changes > 0);
        }
    }

    /// Digests that were pushed stay what they are: where this fails, every image of the legacy format gets a new one.
    #[test]
    fn the_same_file_has_the_digest_that_it_always_had() {
        let content: Vec<u8> = (0..200_000_u32).flat_map(|n| (n / 7).wrapping_mul(n).to_le_bytes()).collect();
        let (packed, _) = packed("kernel", &content);
        assert_eq!(packed.diff_id.short(), "dabe02b2ea96");
        assert_eq!(packed.digest.short(), "ed81b0bbd5a4");
    }
}
