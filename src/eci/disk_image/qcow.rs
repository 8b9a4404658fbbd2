//! QEMU's qcow and qcow2 (QEMU, `docs/interop/qcow2.txt`, `block/qcow.c`).

use super::bytes::Block;
use super::{BACKING_FILE, DiskBytes, DiskImage, DiskImageError, UnsafeDisk};

pub(super) const MAGIC: &[u8] = b"QFI\xfb";

/// Length of the longest header without its extensions, in bytes.
const HEADER: usize = 104;
/// The incompatible feature "external data file".
const EXTERNAL_DATA: u64 = 1 << 2;
/// The incompatible features that stay within the image: dirty, corrupt, compression type, extended L2 entries.
const KNOWN_FEATURES: u64 = 0b1_1111;

pub(super) fn read(image: &mut dyn DiskBytes) -> Result<DiskImage, DiskImageError> {
    let header = Block::read(image, 0, HEADER)?;
    let (crypt_method, features) = match header.be32(4) {
        1 => (header.be32(36), 0),
        2 => (header.be32(32), 0),
        3 => (header.be32(32), header.be64(72)),
        other => return Err(UnsafeDisk::Unknown(format!("the qcow version {other}")).into()),
    };
    let virtual_size = Some(header.be64(24)).filter(|size| *size > 0);
    let backing_offset = header.be64(8);
    let refusal = if features & EXTERNAL_DATA != 0 {
        UnsafeDisk::NamesFile("external data file")
    } else if backing_offset != 0 {
        UnsafeDisk::NamesFile(BACKING_FILE)
    } else if crypt_method != 0 {
        UnsafeDisk::Encrypted
    } else if features & !KNOWN_FEATURES != 0 {
        UnsafeDisk::Unknown(format!("the incompatible qcow2 features {:#x}", features & !KNOWN_FEATURES))
    } else {
        return Ok(DiskImage { virtual_size });
    };
    Err(refusal.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of this version, with 8 bytes changed at an offset.
    fn header(version: u32, at: usize, value: u64) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4..8].copy_from_slice(&version.to_be_bytes());
        bytes[24..32].copy_from_slice(&(1_u64 << 30).to_be_bytes());
        bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
        bytes
    }

    fn refusal(bytes: &[u8]) -> Option<UnsafeDisk> {
        match DiskImage::read(&mut { bytes }) {
            Ok(image) => {
                assert_eq!(image.virtual_size, Some(1 << 30));
                None
            }
            Err(DiskImageError::Unsafe(refusal)) => Some(refusal),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn an_image_that_stands_alone_is_safe() {
        for version in 1..=3 {
            assert_eq!(refusal(&header(version, 500, 1)), None, "version {version}");
        }
        // Dirty, corrupt, compressed by zstd, extended L2 entries.
        assert_eq!(refusal(&header(3, 72, 0b1_1011)), None);
        assert_eq!(refusal(&header(2, 72, 0b100)), None, "version 2 has no features there");
    }

    #[test]
    fn names_of_other_files_and_encryption_are_refused() {
        for version in 1..=3 {
            assert_eq!(refusal(&header(version, 8, 0x200)), Some(UnsafeDisk::NamesFile("backing file")));
        }
        assert_eq!(refusal(&header(1, 32, 1)), Some(UnsafeDisk::Encrypted));
        for version in 2..=3 {
            assert_eq!(refusal(&header(version, 32, 2 << 32)), Some(UnsafeDisk::Encrypted));
        }
        assert_eq!(refusal(&header(3, 72, 0b101)), Some(UnsafeDisk::NamesFile("external data file")));
        assert!(matches!(refusal(&header(3, 72, 1 << 5)), Some(UnsafeDisk::Unknown(_))));
        assert!(matches!(refusal(&header(4, 500, 1)), Some(UnsafeDisk::Unknown(_))));
    }

    #[test]
    fn a_header_that_is_cut_short_names_nothing() {
        for length in 8..104 {
            let image = DiskImage::read(&mut &header(3, 200, 0)[..length]).unwrap();
            assert_eq!(image.virtual_size.is_some(), length >= 32, "{length}");
        }
    }
}
