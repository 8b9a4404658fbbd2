//! One layer: what is wanted of it, taken out by a worker, and stored.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;

use super::file_ref::FileRef;
use super::receiver::{ReceiveError, Receiver};
use super::worker::{Found, Outcome, Process, ReadError, Request, Worker, WorkerError};
use super::{Cancel, Content, Finding, Limits, Memory, Record, UnpackError, Want};
use crate::cache::{Cache, Sealed, Staged};
use crate::durable::{DurableError, IoContext};
use crate::oci::Descriptor;

/// Means of an unpacking that it shares with others, or is ended by.
#[derive(Clone, Debug)]
pub struct Control {
    /// The memory of all decompression together.
    pub memory: Memory,
    /// Ends it.
    pub cancel: Cancel,
    /// Does it.
    pub worker: Worker,
}

/// Unpacks to the end with memory of its own, in this process: for tests, and for layers that are trusted.
pub fn unpack(cache: &Cache, layer: &Descriptor, wants: &[Want], limits: Limits) -> Result<Record, UnpackError> {
    let control = Control { memory: Memory::default(), cancel: Cancel::default(), worker: Worker::unconfined() };
    unpack_with(cache, layer, wants, limits, &control)
}

/// Takes `wants` out of `layer`, which is in the cache, and notes what was found, or why nothing was. Files that come out are
/// blobs of the cache, written once, with holes where they have runs of zeros.
pub fn unpack_with(
    cache: &Cache,
    layer: &Descriptor,
    wants: &[Want],
    limits: Limits,
    control: &Control,
) -> Result<Record, UnpackError> {
    let mut record = Record::load(cache, layer);
    match findings(cache, layer, wants, limits, control) {
        Ok(findings) => {
            for (want, finding) in findings {
                record.note(want, finding);
            }
            record.save(cache, &layer.digest)?;
            Ok(record)
        }
        Err(error) => {
            // Of bytes that the disk has changed meanwhile nothing is known.
            if let UnpackError::Layer { fault, .. } = &error
                && cache.verify(layer)
            {
                record.note_fault(wants, limits, fault.clone());
                // What cannot be noted is found out again.
                let _ = record.save(cache, &layer.digest);
            }
            Err(error)
        }
    }
}

fn findings<'w>(
    cache: &Cache,
    layer: &Descriptor,
    wants: &'w [Want],
    limits: Limits,
    control: &Control,
) -> Result<Vec<(&'w Want, Finding)>, UnpackError> {
    let path = cache.path(&layer.digest);
    let file = File::open(&path).on("open", &path)?;
    let request = Request::Layer { media_type: layer.media_type.clone(), wants: wants.to_vec(), limits };
    let failed = |error| match error {
        ReadError::Cancelled => UnpackError::Cancelled,
        ReadError::Worker(source) => UnpackError::Worker { layer: layer.digest, source },
    };
    let mut process =
        Process::start(&control.worker, file, &request, limits.memory, &control.cancel).map_err(failed)?;
    let receiver = Receiver::new(cache, layer, wants.len(), limits, control);
    let (outcome, files) = receiver.receive(&mut process).map_err(|error| match error {
        ReceiveError::Read(error) => failed(error),
        ReceiveError::Disk(error) => UnpackError::Disk(error),
    })?;
    match outcome {
        Outcome::Found(found) => keep(layer, wants, found, files),
        Outcome::Fault(fault) => Err(UnpackError::Layer { layer: layer.digest, fault: fault.cut() }),
        Outcome::Unreadable(errno) => {
            Err(UnpackError::Disk(DurableError::new("read", &path, io::Error::from_raw_os_error(errno))))
        }
        Outcome::Disk { .. } => Err(failed(WorkerError::Malformed("it answers another question").into())),
    }
}

/// Gives the files that were found the names of their contents. None is kept before all is known to be right.
fn keep<'w>(
    layer: &Descriptor,
    wants: &'w [Want],
    found: Found,
    mut files: BTreeMap<u32, Staged>,
) -> Result<Vec<(&'w Want, Finding)>, UnpackError> {
    let malformed = |reason| UnpackError::Worker { layer: layer.digest, source: WorkerError::Malformed(reason) };
    let mut sealed: BTreeMap<u32, Sealed> = BTreeMap::new();
    let mut findings = Vec::new();
    let mut answered = BTreeSet::new();
    for (place, finding) in found {
        let want = wants.get(place).filter(|_| answered.insert(place));
        let want = want.ok_or_else(|| malformed("it found what is not wanted"))?;
        if !finding.is_about(want) {
            return Err(malformed("what it found is elsewhere"));
        }
        findings.push((
            want,
            finding.with_file(|file| match file {
                FileRef::Layer => Ok::<_, UnpackError>(Content { digest: layer.digest, size: layer.size }),
                FileRef::Sent(number) => {
                    if let Some(file) = files.remove(&number) {
                        sealed.insert(number, file.seal()?);
                    }
                    let file = sealed.get(&number).ok_or_else(|| malformed("it found a file that it did not send"))?;
                    let (digest, size) = file.content();
                    Ok(Content { digest, size })
                }
            })?,
        ));
    }
    sealed.into_values().try_for_each(Sealed::keep)?;
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::super::{Fault, archive};
    use super::*;
    use crate::failure::{Classify, Kind};
    use proptest::prelude::*;
    use std::io::Write;
    use tar::{EntryType, Header};

    struct Fixture {
        dir: tempfile::TempDir,
        cache: Cache,
    }

    /// A layer of entries: a path, its type, and its content.
    fn tar(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            // As it stands: the crate refuses paths that lead elsewhere.
            let name = &mut header.as_old_mut().name;
            name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn path(text: &str) -> Want {
        Want::Path(text.parse().unwrap())
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let cache = Cache::open(dir.path()).unwrap();
            Self { dir, cache }
        }

        fn unpack(&self, layer: &[u8], want: &Want) -> Result<Finding, UnpackError> {
            self.unpack_as("x", layer, want)
        }

        fn unpack_as(&self, media_type: &str, layer: &[u8], want: &Want) -> Result<Finding, UnpackError> {
            let digest = self.cache.insert(layer).unwrap();
            let layer = Descriptor::new(media_type, digest, layer.len() as u64);
            let limits = Limits::new(1 << 20);
            let record = unpack(&self.cache, &layer, std::slice::from_ref(want), limits)?;
            assert_eq!(Record::load(&self.cache, &layer), record, "it is noted");
            Ok(record.finding(&self.cache, want).unwrap())
        }

        fn itself(layer: &[u8]) -> Finding {
            Finding::File(Content { digest: crate::oci::Digest::of(layer), size: layer.len() as u64 })
        }

        fn content(&self, finding: &Finding) -> Vec<u8> {
            let Finding::File(content) = finding else { panic!("{finding:?}") };
            self.cache.read(&content.digest, 1 << 20).unwrap()
        }
    }

    #[test]
    fn one_file_comes_out_of_plain_bytes_and_archives_of_every_compression() {
        let f = Fixture::new();
        let archive = tar(&[("dir/", EntryType::Directory, b""), ("dir/any-name", EntryType::Regular, b"kernel")]);
        let zst = zstd::encode_all(&archive[..], 3).unwrap();
        let plain_gzip = gzip(b"a kernel that is compressed itself");
        for (layer, content) in [
            (b"kernel".to_vec(), b"kernel".to_vec()),
            (archive.clone(), b"kernel".to_vec()),
            (gzip(&archive), b"kernel".to_vec()),
            ([gzip(&archive), vec![0; 10_000]].concat(), b"kernel".to_vec()),
            (zst, b"kernel".to_vec()),
            (plain_gzip.clone(), plain_gzip),
            (Vec::new(), Vec::new()),
        ] {
            let finding = f.unpack(&layer, &Want::Only).unwrap();
            assert_eq!(f.content(&finding), content);
        }
    }

    proptest! {
        // Each writes to disk, and waits for it.
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn what_was_packed_comes_out_again(
            content in proptest::collection::vec(any::<u8>(), 0..5000), zeros in 0_usize..20_000, packing in 0..3,
            name in "[a-z]{1,8}(/[a-z]{1,60}){0,4}",
        ) {
            let content = [content, vec![0; zeros], b"end".to_vec()].concat();
            let archive = archive::tar(&[(&format!("{name}/file"), &content)]);
            let layer = match packing {
                0 => archive,
                1 => gzip(&archive),
                _ => zstd::encode_all(&archive[..], 1).unwrap(),
            };
            let f = Fixture::new();
            let only = f.unpack(&layer, &Want::Only).unwrap();
            prop_assert!(f.content(&only) == content);
            let by_path = f.unpack(&layer, &path(&format!("/{name}/file"))).unwrap();
            prop_assert_eq!(only, by_path);
        }
    }

    #[test]
    fn several_files_are_refused_but_for_a_disk_that_is_an_archive() {
        let f = Fixture::new();
        let archive = tar(&[("a.ovf", EntryType::Regular, b"a"), ("a.vmdk", EntryType::Regular, b"b")]);
        assert_eq!(f.unpack(&archive, &Want::Only).unwrap_err().kind(), Kind::ArchiveRefused);
        let finding = f.unpack(&archive, &Want::OnlyOrArchive).unwrap();
        assert_eq!(f.content(&finding), archive);
    }

    #[test]
    fn a_layer_that_says_it_is_compressed_is_decompressed_whatever_is_in_it() {
        const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
        const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
        let f = Fixture::new();
        let disk = [vec![7; 300_000], vec![0; 300_000]].concat();
        let ova = tar(&[("a.ovf", EntryType::Regular, b"a"), ("a.vmdk", EntryType::Regular, b"b")]);
        for (content, want) in [(&disk, Want::Only), (&disk, Want::OnlyOrArchive), (&ova, Want::OnlyOrArchive)] {
            let packed = [(GZIP, gzip(content)), (ZSTD, zstd::encode_all(&content[..], 1).unwrap())];
            for (media_type, layer) in packed {
                let finding = f.unpack_as(media_type, &layer, &want).unwrap();
                assert!(f.content(&finding) == *content, "{media_type} {want:?}");
            }
        }
        for (media_type, want) in [(GZIP, Want::OnlyOrArchive), (ZSTD, Want::OnlyOrArchive)] {
            let plain = f.unpack_as(media_type, &ova, &want).unwrap();
            assert!(f.content(&plain) == ova, "a tar is read whatever its type says");
        }
        let cut = &gzip(&disk)[..50];
        assert!(matches!(
            f.unpack_as(GZIP, cut, &Want::Only),
            Err(UnpackError::Layer { fault: Fault::Damaged(_), .. })
        ));
        let bomb = gzip(&vec![7; (1 << 20) + 1]);
        assert!(matches!(
            f.unpack_as(GZIP, &bomb, &Want::Only),
            Err(UnpackError::Layer { fault: Fault::TooLarge { .. }, .. })
        ));
        assert_eq!(std::fs::read_dir(f.dir.path().join("partial")).unwrap().count(), 0);
    }

    #[test]
    fn bytes_that_are_not_what_their_type_says_are_refused() {
        const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
        let f = Fixture::new();
        let disk = noise(3000);
        let zst = zstd::encode_all(&disk[..], 1).unwrap();
        let skippable = [archive::skippable(0, b"abcd"), disk.clone()].concat();
        for (suffix, layer) in [
            ("+gzip", disk.clone()),
            ("+zstd", disk.clone()),
            (".gzip", disk.clone()),
            ("+zstd:chunked", disk.clone()),
            ("+xz", disk.clone()),
            ("+encrypted", disk.clone()),
            ("+gzip", zst.clone()),
            ("+zstd", gzip(&disk)),
            ("+zstd", skippable.clone()),
            ("+gzip", Vec::new()),
            ("+zstd", archive::skippable(3, b"abcd")),
            ("+zstd", Vec::new()),
        ] {
            for want in [Want::Only, Want::OnlyOrArchive] {
                let refused = f.unpack_as(&format!("{TAR}{suffix}"), &layer, &want).unwrap_err();
                assert_eq!(refused.kind(), Kind::ArchiveRefused, "{suffix}: {refused}");
            }
        }
        for layer in [disk, zst, skippable, archive::skippable(3, b"abcd")] {
            let plain = f.unpack_as(TAR, &layer, &Want::Only).unwrap();
            assert!(f.content(&plain) == layer, "nothing says that it is compressed");
        }
    }

    #[test]
    fn skippable_zstd_frames_are_skipped_wherever_they_are() {
        const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
        let f = Fixture::new();
        let disk = noise(300_000);
        let frame = |content: &[u8]| zstd::encode_all(content, 1).unwrap();
        let (one, two) = disk.split_at(100_000);
        let (small, none, large) =
            (archive::skippable(0, b"abcd"), archive::skippable(15, b""), archive::skippable(7, &vec![7; 400_000]));
        let whole: [&[&[u8]]; 6] = [
            &[&small, &frame(&disk)],
            &[&none, &none, &large, &frame(&disk)],
            &[&small, &frame(one), &small, &frame(two)],
            &[&frame(one), &none, &large, &frame(b""), &frame(two), &small],
            &[&frame(&disk), &large],
            &[&frame(&disk), &none],
        ];
        for parts in whole {
            let finding = f.unpack_as(ZSTD, &parts.concat(), &Want::Only).unwrap();
            assert!(f.content(&finding) == disk);
        }
        let tar = tar(&[("root.raw", EntryType::Regular, &disk)]);
        for media_type in
            [ZSTD, "application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+gzip"]
        {
            for want in [Want::Only, Want::OnlyOrArchive, path("/root.raw")] {
                let layer = [&large[..], &frame(&tar), &small].concat();
                let finding = f.unpack_as(media_type, &layer, &want).unwrap();
                assert!(f.content(&finding) == disk, "{media_type} {want:?}");
            }
        }
        let cut: [&[&[u8]]; 7] = [
            &[&small[..11]],
            &[&small[..7]],
            &[&small, &small[..2]],
            &[&small, &frame(&disk), &small[..11]],
            &[&frame(&disk), &small[..3]],
            &[&frame(one), &large[..400], &frame(two)],
            &[&small, &frame(&disk)[..200]],
        ];
        for parts in cut {
            let error = f.unpack_as(ZSTD, &parts.concat(), &Want::Only).unwrap_err();
            assert_eq!(error.kind(), Kind::ArchiveDamaged, "{error}");
        }
        let layer = [&frame(&tar)[..], &small[..11]].concat();
        assert_eq!(f.unpack_as(ZSTD, &layer, &path("/root.raw")).unwrap_err().kind(), Kind::ArchiveDamaged);
    }

    /// Bytes that do not compress, and are not an archive.
    fn noise(size: u32) -> Vec<u8> {
        (0..size).map(|n: u32| n.wrapping_mul(2_654_435_761).rotate_left(n % 32).to_le_bytes()[1] | 1).collect()
    }

    #[test]
    fn compression_that_is_not_read_is_refused_by_its_name() {
        let f = Fixture::new();
        // A frame that wants 256 MiB, and one of a single segment of 2^40 bytes.
        let window = b"\x28\xb5\x2f\xfd\x00\x90and so on".to_vec();
        let segment = b"\x28\xb5\x2f\xfd\xe0\0\0\0\0\0\x01\0\0and so on".to_vec();
        for (layer, told) in [
            (b"\xfd7zXZ\0and so on".to_vec(), "it is compressed with xz"),
            (window, "its zstd window of 256.0 MiB is larger than [unpack] max_window = 32.0 MiB allows"),
            (segment, "its zstd window of 1.0 TiB is larger"),
        ] {
            let refused = f.unpack_as("application/vnd.oci.image.layer.v1.tar+zstd", &layer, &Want::Only).unwrap_err();
            assert!(
                matches!(refused, UnpackError::Layer { fault: Fault::Refused(_), .. })
                    && refused.to_string().contains(told),
                "{refused}"
            );
            let plain = f.unpack(&layer, &Want::Only).unwrap();
            assert_eq!(f.content(&plain), layer, "nothing says that it is compressed");
        }
    }

    #[test]
    fn a_file_takes_away_what_was_below_its_path_wanted_or_not() {
        let f = Fixture::new();
        let layer = tar(&[("a", EntryType::Regular, b"file")]);
        let digest = f.cache.insert(&layer).unwrap();
        let wants = [path("/a"), path("/a/root.raw")];
        for wants in [&wants[..], &wants[1..]] {
            let layer = Descriptor::new("x", digest, layer.len() as u64);
            let record = unpack(&f.cache, &layer, wants, Limits::new(1 << 20)).unwrap();
            assert_eq!(record.finding(&f.cache, &path("/a/root.raw")), Some(Finding::Gone), "{wants:?}");
        }
    }

    #[test]
    fn a_file_is_found_by_its_path_and_whiteouts_count() {
        let f = Fixture::new();
        let (regular, dir, link) = (EntryType::Regular, EntryType::Directory, EntryType::Symlink);
        let symlink = |at: &str, to: &str| Finding::Symlink { at: at.parse().unwrap(), to: to.to_owned() };
        let found = f.unpack(
            &gzip(&tar(&[("./boot/vmlinuz", regular, b"old"), ("boot/vmlinuz", regular, b"new")])),
            &path("/boot/vmlinuz"),
        );
        assert_eq!(f.content(&found.unwrap()), b"new");
        for (entries, expected) in [
            (
                vec![("boot/", dir, &b""[..]), ("boot/other", regular, b"x")],
                Finding::Directory("boot".parse().unwrap()),
            ),
            (vec![("boot/other", regular, b"x")], Finding::Nothing),
            (vec![("boot/.wh.vmlinuz", regular, b"")], Finding::Gone),
            (vec![(".wh.boot", regular, b"")], Finding::Gone),
            (vec![("boot/.wh..wh..opq", regular, b"")], Finding::Gone),
            (vec![("boot", regular, b"")], Finding::Gone),
            (vec![("boot", EntryType::Block, b"")], Finding::Gone),
            (vec![("boot", link, b""), ("boot", dir, b"")], Finding::Directory("boot".parse().unwrap())),
            (vec![("boot", link, b""), ("boot", regular, b"")], Finding::Gone),
            (vec![("boot", dir, b""), ("boot", link, b""), (".wh.boot", regular, b"")], symlink("boot", "")),
            (vec![("bo/.wh..wh..opq", regular, b""), ("boot/.wh.vmlinu", regular, b"")], Finding::Nothing),
        ] {
            assert_eq!(f.unpack(&tar(&entries), &path("/boot/vmlinuz")).unwrap(), expected, "{entries:?}");
        }
        let both = tar(&[("boot/.wh..wh..opq", regular, b""), ("boot/vmlinuz", regular, b"new")]);
        let found = f.unpack(&both, &path("/boot/vmlinuz")).unwrap();
        assert_eq!(f.content(&found), b"new", "a whiteout hides what is below, not what is beside it");
    }

    /// A tar of a file with more holes than a header has room for, as GNU tar makes it, and of one after it.
    fn sparse(format: &str) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let disk = File::create(dir.path().join("disk.raw")).unwrap();
        disk.set_len(40 << 16).unwrap();
        (0..40).for_each(|n| std::os::unix::fs::FileExt::write_all_at(&disk, b"data", n << 16).unwrap());
        std::fs::write(dir.path().join("vmlinuz"), "kernel").unwrap();
        let mut tar = std::process::Command::new("tar");
        tar.args(["--sparse", "-cf", "-", "disk.raw", "vmlinuz"]).current_dir(dir.path());
        let made = tar.args(format.split(' ')).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        made.stdout
    }

    #[test]
    fn what_is_wrong_with_a_layer_is_known_without_it() {
        let f = Fixture::new();
        let (kernel, initrd) = (path("/kernel"), path("/initrd"));
        let layer = tar(&[("kernel", EntryType::Block, b""), ("initrd", EntryType::Regular, b"initrd")]);
        let known = |want: &Want, max_file_bytes| {
            let record = Record::load(&f.cache, &Descriptor::of("x", &layer));
            record.fault(std::slice::from_ref(want), Limits::new(max_file_bytes)).cloned()
        };
        let UnpackError::Layer { fault, .. } = f.unpack(&layer, &kernel).unwrap_err() else { panic!() };
        assert_eq!(known(&kernel, 1 << 20), Some(fault));
        assert_eq!((known(&initrd, 1 << 20), known(&kernel, 1 << 21)), (None, None), "it may be right for those");
        f.unpack(&layer, &initrd).unwrap();
    }

    #[test]
    fn a_sparse_file_is_refused_by_that_name_where_it_is_wanted() {
        let f = Fixture::new();
        let refused = |layer: &[u8], want: &Want| {
            let error = f.unpack(layer, want).unwrap_err();
            assert_eq!(error.kind(), Kind::ArchiveRefused);
            assert!(error.to_string().contains("sparse"), "{error}");
        };
        for format in [
            "--format=gnu",
            "--format=pax --sparse-version=0.0",
            "--format=pax --sparse-version=0.1",
            "--format=pax --sparse-version=1.0",
        ] {
            let layer = sparse(format);
            let kernel = f.unpack(&layer, &path("/vmlinuz")).unwrap();
            assert_eq!(f.content(&kernel), b"kernel", "{format}: one beside it is no matter");
            refused(&layer, &path("/disk.raw"));
            assert_eq!(f.unpack(&layer, &Want::OnlyOrArchive).unwrap(), Fixture::itself(&layer), "{format}");
            // The second entry, which is a header, a block of content and the end, is left out.
            let at = layer.windows(8).rposition(|name| name == b"vmlinuz\0").unwrap();
            refused(&layer[..at], &Want::Only);
        }
    }

    #[test]
    fn what_leads_elsewhere_or_is_no_file_is_refused() {
        let f = Fixture::new();
        for (name, kind) in [
            ("boot/vmlinuz", EntryType::Link),
            ("boot/vmlinuz", EntryType::Char),
            ("boot/vmlinuz", EntryType::Fifo),
            ("boot/vmlinuz", EntryType::Directory),
            ("../boot/vmlinuz", EntryType::Regular),
            ("/../boot/vmlinuz", EntryType::Regular),
            ("//usr/../../x", EntryType::Regular),
        ] {
            let refused = f.unpack(&tar(&[(name, kind, b"")]), &path("/boot/vmlinuz"));
            assert_eq!(refused.unwrap_err().kind(), Kind::ArchiveRefused, "{name} {kind:?}");
        }
    }

    #[test]
    fn links_are_found_with_their_targets() {
        let f = Fixture::new();
        let long = "t/".repeat(100) + "k";
        let found = |entries: &[Vec<u8>]| f.unpack(&entries.concat(), &path("/boot/vmlinuz")).unwrap();
        let symlink = |at: &str, to: &str| Finding::Symlink { at: at.parse().unwrap(), to: to.to_owned() };
        let entry = archive::entry;
        for (entries, expected) in [
            (vec![entry(b"boot/vmlinuz", b'2', b"../k", b"")], symlink("/boot/vmlinuz", "../k")),
            (vec![entry(b"boot", b'2', b"usr/boot", b"")], symlink("/boot", "usr/boot")),
            (vec![entry(b"boot/vmlinuz", b'1', b"./usr/k", b"")], Finding::HardLink("/usr/k".parse().unwrap())),
            (vec![entry(b"boot/vmlinuz", b'1', b"/usr/k", b"")], Finding::HardLink("/usr/k".parse().unwrap())),
            (
                vec![
                    entry(b"x", b'K', b"", [long.as_bytes(), b"\0"].concat().as_slice()),
                    entry(b"boot/vmlinuz", b'2', b"cut", b""),
                ],
                symlink("/boot/vmlinuz", &long),
            ),
            (
                vec![
                    entry(b"x", b'x', b"", &archive::pax_record(b"linkpath", long.as_bytes())),
                    entry(b"boot/vmlinuz", b'1', b"cut", b""),
                ],
                Finding::HardLink(long.parse().unwrap()),
            ),
        ] {
            assert_eq!(found(&entries), expected);
        }
        let replaced = [entry(b"boot/vmlinuz", b'0', b"", b"old"), entry(b"boot/vmlinuz", b'2', b"k", b"")];
        assert_eq!(found(&replaced), symlink("/boot/vmlinuz", "k"), "the last one counts");
        assert!(!f.cache.path(&crate::oci::Digest::of(b"old")).exists(), "nobody would ever remove it");
        let outside = entry(b"boot/vmlinuz", b'1', b"../k", b"");
        assert_eq!(f.unpack(&outside, &path("/boot/vmlinuz")).unwrap_err().kind(), Kind::ArchiveRefused);
    }

    #[test]
    fn leading_slashes_are_dropped() {
        let f = Fixture::new();
        let regular = EntryType::Regular;
        for (name, beside) in [("boot/vmlinuz", "/usr/x"), ("/boot/vmlinuz", "//usr/x"), ("./boot/vmlinuz", "/./usr/x")]
        {
            let layer = tar(&[(beside, regular, b"x"), (name, regular, b"kernel"), ("/", EntryType::Directory, b"")]);
            for (want, content) in [("/boot/vmlinuz", &b"kernel"[..]), ("/usr/x", b"x")] {
                let finding = f.unpack(&layer, &path(want)).unwrap();
                assert_eq!(f.content(&finding), content, "{name}");
            }
        }
        for name in ["/boot/.wh.vmlinuz", "//.wh.boot", "/boot/.wh..wh..opq", "/.wh..wh..opq", "./.wh..wh..opq"] {
            let finding = f.unpack(&tar(&[(name, regular, b"")]), &path("/boot/vmlinuz")).unwrap();
            assert_eq!(finding, Finding::Gone, "{name}");
        }
    }

    #[test]
    fn damage_and_bombs_are_refused_and_leave_nothing() {
        let f = Fixture::new();
        let bomb = gzip(&tar(&[("a", EntryType::Regular, &vec![0; 2 << 20])]));
        assert_eq!(f.unpack(&bomb, &Want::Only).unwrap_err().kind(), Kind::FileTooLarge);
        // None of them is too large, and one is wanted; the others are not unpacked without end.
        let crowd: Vec<_> = (0..5).map(|_| ("b", EntryType::Regular, vec![0; 900 << 10])).collect();
        let crowd: Vec<_> = crowd.iter().map(|(name, kind, content)| (*name, *kind, &content[..])).collect();
        assert_eq!(f.unpack(&gzip(&tar(&crowd)), &path("/a")).unwrap_err().kind(), Kind::FileTooLarge);
        let archive = gzip(&tar(&[("a", EntryType::Regular, &[7; 5000])]));
        let cut = &archive[..archive.len() - 20];
        assert_eq!(f.unpack(cut, &Want::Only).unwrap_err().kind(), Kind::ArchiveDamaged);
        let mut trailing = tar(&[("a", EntryType::Regular, b"a")]);
        trailing.resize(4 << 20, 0);
        assert_eq!(f.unpack(&gzip(&trailing), &Want::Only).unwrap_err().kind(), Kind::ArchiveDamaged);
        let late = tar(&[("a", EntryType::Regular, b"good"), ("../b", EntryType::Regular, b"bad")]);
        assert_eq!(f.unpack(&late, &path("/a")).unwrap_err().kind(), Kind::ArchiveRefused);
        let twice = tar(&[("a", EntryType::Regular, b"first"), ("a", EntryType::Regular, b"second")]);
        f.unpack(&twice, &path("/a")).unwrap();
        for stray in [&b"good"[..], b"first"] {
            assert!(!f.cache.path(&crate::oci::Digest::of(stray)).exists(), "nobody would ever remove it");
        }
        assert_eq!(std::fs::read_dir(f.dir.path().join("partial")).unwrap().count(), 0);
    }
}
