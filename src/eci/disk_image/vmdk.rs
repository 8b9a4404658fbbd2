//! `VMware`'s vmdk (Virtual Disk Format 5.0): a sparse extent with its descriptor inside.
//!
//! Only images of one file are safe: `monolithicSparse` and `streamOptimized` without a parent. A descriptor in a file of its
//! own always names other files.

use std::io;

use super::super::disk_header::is_vmdk_descriptor;
use super::bytes::Block;
use super::{DiskBytes, DiskImage, DiskImageError, UnsafeDisk};

const SPARSE: &[u8] = b"KDMV";
/// An extent of ESX, which is part of an image of several files.
const ESX: &[u8] = b"COWD";
/// Length of the header of a sparse extent in bytes.
const HEADER: usize = 512;
/// Unit of offsets and lengths in the header, in bytes.
const SECTOR: u64 = 512;
/// Place and length in bytes of the descriptor that QEMU reads, whatever the header says (QEMU, `block/vmdk.c`).
const QEMU_DESCRIPTOR: (u64, usize) = (512, 20 * 512);
/// The longest embedded descriptor that is read, in bytes; writers reserve 10 KiB.
const MAX_DESCRIPTOR: u64 = 1 << 20;
/// Bytes in which the text of a descriptor file shows itself.
const DESCRIPTOR_HEAD: usize = 4096;
/// Parent CID of an image without a parent.
const NO_PARENT: &str = "ffffffff";

pub(super) fn is_sparse(head: &Block) -> bool {
    head.starts_with(SPARSE) || head.starts_with(ESX)
}

/// True if the image is the text of a descriptor.
pub(super) fn is_descriptor(image: &mut dyn DiskBytes) -> io::Result<bool> {
    let head = Block::read(image, 0, DESCRIPTOR_HEAD)?;
    Ok(is_vmdk_descriptor(head.as_slice()))
}

pub(super) fn read(image: &mut dyn DiskBytes) -> Result<DiskImage, DiskImageError> {
    let header = Block::read(image, 0, HEADER)?;
    if header.starts_with(ESX) {
        return Err(UnsafeDisk::Unknown("an extent of ESX without its descriptor".to_owned()).into());
    }
    if header.as_slice().len() < HEADER {
        return Ok(DiskImage { virtual_size: None });
    }
    let [capacity, offset, size] = [12, 28, 36].map(|at| header.le64(at));
    // Without a capacity, QEMU takes the extents that the descriptor names.
    if capacity == 0 && offset != 0 {
        return Err(UnsafeDisk::NamesFile("extents").into());
    }
    if offset != 0 {
        let (offset, size) = (offset.saturating_mul(SECTOR), size.saturating_mul(SECTOR));
        let length = usize::try_from(size).ok().filter(|_| size <= MAX_DESCRIPTOR);
        let length = length.ok_or(UnsafeDisk::Damaged("its descriptor is too long"))?;
        check_descriptor(Block::read(image, offset, length)?.as_slice())?;
    }
    let (offset, length) = QEMU_DESCRIPTOR;
    check_parent(&lines(Block::read(image, offset, length)?.as_slice()))?;
    let virtual_size = capacity.checked_mul(SECTOR).ok_or(UnsafeDisk::Damaged("its capacity is impossible"))?;
    Ok(DiskImage { virtual_size: Some(virtual_size) })
}

/// The lines of a descriptor, up to the zeros that fill its place.
fn lines(descriptor: &[u8]) -> Vec<String> {
    let text = descriptor.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).lines().map(|line| line.trim().to_owned()).collect()
}

fn check_descriptor(descriptor: &[u8]) -> Result<(), UnsafeDisk> {
    let lines = lines(descriptor);
    check_parent(&lines)?;
    let kind = value(&lines, "createType").unwrap_or_default();
    if !["monolithicSparse", "streamOptimized"].iter().any(|known| kind.eq_ignore_ascii_case(known)) {
        return Err(UnsafeDisk::Unknown(format!("the vmdk type {kind:?}")));
    }
    let mut extents = lines.iter().filter(|line| is_extent(line));
    let (first, more) = (extents.next(), extents.next());
    // The one extent is the image itself, by the name that it had when it was made.
    let is_itself =
        first.is_some_and(|line| line.to_ascii_uppercase().contains(" SPARSE ") && !line.contains(['/', '\\']));
    if more.is_some() || !is_itself { Err(UnsafeDisk::NamesFile("extents")) } else { Ok(()) }
}

fn check_parent(lines: &[String]) -> Result<(), UnsafeDisk> {
    let parent = value(lines, "parentCID").unwrap_or(NO_PARENT);
    if value(lines, "parentFileNameHint").is_some() || !parent.eq_ignore_ascii_case(NO_PARENT) {
        return Err(UnsafeDisk::NamesFile("parent"));
    }
    Ok(())
}

/// The value of a key, without quotes. Keys are found however they are spaced and written.
fn value<'a>(lines: &'a [String], key: &str) -> Option<&'a str> {
    lines.iter().find_map(|line| {
        let (found, value) = line.split_once('=')?;
        found.trim().eq_ignore_ascii_case(key).then(|| value.trim().trim_matches('"'))
    })
}

/// True for a line such as `RW 2048 SPARSE "disk.vmdk"`.
fn is_extent(line: &str) -> bool {
    let access = line.split_ascii_whitespace().next().unwrap_or_default();
    ["RW", "RDONLY", "NOACCESS"].iter().any(|known| access.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(capacity: u64, descriptor: &str) -> Vec<u8> {
        let mut bytes = vec![0; 64 << 10];
        bytes[..4].copy_from_slice(SPARSE);
        bytes[12..20].copy_from_slice(&capacity.to_le_bytes());
        bytes[28..36].copy_from_slice(&1_u64.to_le_bytes());
        bytes[36..44].copy_from_slice(&20_u64.to_le_bytes());
        bytes[512..512 + descriptor.len()].copy_from_slice(descriptor.as_bytes());
        bytes
    }

    const GOOD: &str = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n\n\
                        RW 2048 SPARSE \"disk.vmdk\"\n\nddb.adapterType = \"ide\"\n";

    fn refusal(bytes: &[u8]) -> Option<UnsafeDisk> {
        match DiskImage::read(&mut { bytes }) {
            Ok(image) => {
                assert_eq!(image.virtual_size, Some(1 << 20));
                None
            }
            Err(DiskImageError::Unsafe(refusal)) => Some(refusal),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn one_file_without_a_parent_is_safe() {
        assert_eq!(refusal(&image(2048, GOOD)), None);
        assert_eq!(refusal(&image(2048, &GOOD.replace("monolithicSparse", "streamOptimized"))), None);
        assert_eq!(refusal(&image(2048, &GOOD.replace('\n', "\r\n"))), None);
    }

    #[test]
    fn parents_and_other_extents_are_refused() {
        for (from, to) in [
            ("parentCID=ffffffff", "parentCID=12345678"),
            ("parentCID=ffffffff", "parentcid = 12345678"),
            ("CID=1\n", "CID=1\nparentFileNameHint=\"/etc/passwd\"\n"),
            ("CID=1\n", "CID=1\nPARENTFILENAMEHINT = \"x\"\n"),
            ("RW 2048 SPARSE \"disk.vmdk\"", "RW 2048 FLAT \"/etc/passwd\" 0"),
            ("RW 2048 SPARSE \"disk.vmdk\"", "RW 2048 SPARSE \"/etc/passwd\""),
            ("RW 2048 SPARSE \"disk.vmdk\"", "RW 2048 SPARSE \"a.vmdk\"\nrw 1 FLAT \"b\" 0"),
            ("RW 2048 SPARSE \"disk.vmdk\"", ""),
        ] {
            assert!(matches!(refusal(&image(2048, &GOOD.replace(from, to))), Some(UnsafeDisk::NamesFile(_))), "{to}");
        }
        assert!(matches!(refusal(&image(0, GOOD)), Some(UnsafeDisk::NamesFile(_))));
        let split = GOOD.replace("monolithicSparse", "twoGbMaxExtentSparse");
        assert!(matches!(refusal(&image(2048, &split)), Some(UnsafeDisk::Unknown(_))));
        assert!(matches!(refusal(&[b"COWD", &[0; 2000][..]].concat()), Some(UnsafeDisk::Unknown(_))));
        assert!(matches!(refusal(GOOD.as_bytes()), Some(UnsafeDisk::NamesFile(_))));
    }

    #[test]
    fn a_parent_that_only_qemu_would_read_is_refused() {
        let mut bytes = image(2048, "parentFileNameHint=\"/etc/passwd\"\n");
        // The header names a descriptor elsewhere, which is harmless.
        bytes[28..36].copy_from_slice(&40_u64.to_le_bytes());
        bytes[40 * 512..40 * 512 + GOOD.len()].copy_from_slice(GOOD.as_bytes());
        assert_eq!(refusal(&bytes), Some(UnsafeDisk::NamesFile("parent")));
    }
}
