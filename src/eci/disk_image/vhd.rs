//! Microsoft's vhd (Virtual Hard Disk Image Format Specification 1.0): the footer and the header of a dynamic disk.

use std::io;

use super::bytes::Block;
use super::{DiskBytes, DiskImage, DiskImageError, UnsafeDisk};

const COOKIE: &[u8] = b"conectix";
const DYNAMIC_COOKIE: &[u8] = b"cxsparse";
/// Length of a footer in bytes; early writers leave out the last one.
const FOOTER: usize = 512;
const SHORT_FOOTER: usize = 511;
/// Length of the header of a dynamic disk in bytes.
const DYNAMIC_HEADER: usize = 1024;
/// Places of the eight parent locators in that header, each 24 bytes.
const LOCATORS: std::ops::Range<usize> = 576..768;

/// Offsets of fields of a footer: of the header of a dynamic disk, and the disk type.
const DATA_OFFSET: usize = 16;
const DISK_TYPE: usize = 60;
const DIFFERENCING: u32 = 4;

/// The footer at the image's end, or its copy at the beginning.
pub(super) fn footer(image: &mut dyn DiskBytes) -> io::Result<Option<Block>> {
    for length in [FOOTER, SHORT_FOOTER] {
        let Some(offset) = image.length().checked_sub(length as u64) else { continue };
        let footer = Block::read(image, offset, length)?;
        if footer.starts_with(COOKIE) {
            return Ok(Some(footer));
        }
    }
    let copy = Block::read(image, 0, FOOTER)?;
    Ok(Some(copy).filter(|copy| copy.starts_with(COOKIE)))
}

pub(super) fn read(image: &mut dyn DiskBytes, footer: &Block) -> Result<DiskImage, DiskImageError> {
    // A reader may prefer the copy, so neither may be of a disk that differs from a parent.
    let copy = Block::read(image, 0, FOOTER)?;
    for footer in [Some(footer), Some(&copy).filter(|copy| copy.starts_with(COOKIE))].into_iter().flatten() {
        if footer.be32(DISK_TYPE) == DIFFERENCING || has_parent(image, footer.be64(DATA_OFFSET))? {
            return Err(UnsafeDisk::NamesFile("parent").into());
        }
    }
    Ok(DiskImage { virtual_size: Some(footer.be64(48)).filter(|size| *size > 0) })
}

/// True if the header of a dynamic disk, if there is one at `offset`, has a parent locator.
fn has_parent(image: &mut dyn DiskBytes, offset: u64) -> io::Result<bool> {
    let header = Block::read(image, offset, DYNAMIC_HEADER)?;
    let locators = header.as_slice().get(LOCATORS).unwrap_or_default();
    Ok(header.starts_with(DYNAMIC_COOKIE) && locators.iter().any(|byte| *byte != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXED: u32 = 2;
    const DYNAMIC: u32 = 3;

    fn footer_of(kind: u32) -> Vec<u8> {
        let mut footer = vec![0; FOOTER];
        footer[..8].copy_from_slice(COOKIE);
        footer[16..24].copy_from_slice(&512_u64.to_be_bytes());
        footer[48..56].copy_from_slice(&4096_u64.to_be_bytes());
        footer[60..64].copy_from_slice(&kind.to_be_bytes());
        footer
    }

    fn dynamic(locator: u8) -> Vec<u8> {
        let mut header = vec![0; DYNAMIC_HEADER];
        header[..8].copy_from_slice(DYNAMIC_COOKIE);
        header[600] = locator;
        [footer_of(DYNAMIC), header, vec![0; 512], footer_of(DYNAMIC)].concat()
    }

    fn is_safe(bytes: &[u8]) -> bool {
        DiskImage::read(&mut { bytes }).is_ok_and(|image| image.virtual_size == Some(4096))
    }

    #[test]
    fn disks_without_a_parent_are_safe() {
        assert!(is_safe(&[vec![0; 4096], footer_of(FIXED)].concat()));
        assert!(is_safe(&[vec![0; 4096], footer_of(FIXED)[..SHORT_FOOTER].to_vec()].concat()));
        assert!(is_safe(&dynamic(0)));
    }

    #[test]
    fn disks_with_a_parent_are_refused() {
        assert!(!is_safe(&[vec![0; 4096], footer_of(DIFFERENCING)].concat()));
        assert!(!is_safe(&dynamic(1)));
        let mut copy_differs = dynamic(0);
        copy_differs[63] = 4;
        assert!(!is_safe(&copy_differs));
    }
}
