//! Microsoft's vhdx ([MS-VHDX] 2.2 to 2.6): region table and metadata table.

use super::bytes::Block;
use super::{DiskBytes, DiskImage, DiskImageError, UnsafeDisk};

pub(super) const MAGIC: &[u8] = b"vhdxfile";

/// Offsets of the two headers, and of the two region tables, in bytes.
const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const REGION_TABLES: [u64; 2] = [192 << 10, 256 << 10];
/// Length of a region table and of a metadata table in bytes.
const TABLE: usize = 64 << 10;
/// Length of a table's entries in bytes.
const ENTRY: usize = 32;
/// Most entries of a region or metadata table.
const MAX_ENTRIES: usize = 2047;

/// GUIDs, as they are stored.
const METADATA_REGION: [u8; 16] = *b"\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e";
const FILE_PARAMETERS: [u8; 16] = *b"\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b";
const VIRTUAL_SIZE: [u8; 16] = *b"\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8";
const PARENT_LOCATOR: [u8; 16] = *b"\x2d\x5f\xd3\xa8\x0b\xb3\x4d\x45\xab\xf7\xd3\xd8\x48\x34\xab\x0c";
/// The file parameter "has parent".
const HAS_PARENT: u32 = 1 << 1;

pub(super) fn read(image: &mut dyn DiskBytes) -> Result<DiskImage, DiskImageError> {
    check_log(image)?;
    let mut virtual_size = None;
    // A reader takes the copy if the first table is damaged, so both have to be safe.
    for table in REGION_TABLES {
        let Some(metadata) = metadata_region(image, table)? else { continue };
        check_parent(image, metadata)?;
        virtual_size = item(image, metadata, VIRTUAL_SIZE)?.map(|size| size.le64(0)).or(virtual_size);
    }
    Ok(DiskImage { virtual_size })
}

/// Refuses an image that was not closed: replaying its log could change what was checked here.
fn check_log(image: &mut dyn DiskBytes) -> Result<(), DiskImageError> {
    let mut newest: Option<Block> = None;
    for offset in HEADERS {
        let header = Block::read(image, offset, 80)?;
        let is_newer = newest.as_ref().is_none_or(|other| other.le64(8) < header.le64(8));
        if header.starts_with(b"head") && is_newer {
            newest = Some(header);
        }
    }
    if newest.is_none_or(|header| header.array::<16>(48) == [0; 16]) {
        Ok(())
    } else {
        Err(UnsafeDisk::Unknown("a log to replay".to_owned()).into())
    }
}

/// The offset of the metadata region, by the region table at `table`.
fn metadata_region(image: &mut dyn DiskBytes, table: u64) -> Result<Option<u64>, DiskImageError> {
    let table = Block::read(image, table, TABLE)?;
    if !table.starts_with(b"regi") {
        return Ok(None);
    }
    let count = usize::try_from(table.le32(8)).unwrap_or(usize::MAX).min(MAX_ENTRIES);
    let entry = (0..count).map(|n| 16 + n * ENTRY).find(|at| table.array::<16>(*at) == METADATA_REGION);
    Ok(entry.map(|at| table.le64(at + 16)))
}

fn check_parent(image: &mut dyn DiskBytes, metadata: u64) -> Result<(), DiskImageError> {
    let has_parent = item(image, metadata, FILE_PARAMETERS)?.is_some_and(|it| it.le32(4) & HAS_PARENT != 0);
    if has_parent || item(image, metadata, PARENT_LOCATOR)?.is_some() {
        return Err(UnsafeDisk::NamesFile("parent").into());
    }
    Ok(())
}

/// The first bytes of a metadata item; none if the table at `region` does not list it.
fn item(image: &mut dyn DiskBytes, region: u64, id: [u8; 16]) -> Result<Option<Block>, DiskImageError> {
    let table = Block::read(image, region, TABLE)?;
    if !table.starts_with(b"metadata") {
        return Ok(None);
    }
    let count = usize::from(table.le16(10)).min(MAX_ENTRIES);
    let Some(at) = (0..count).map(|n| 32 + n * ENTRY).find(|at| table.array::<16>(*at) == id) else { return Ok(None) };
    Ok(Some(Block::read(image, region.saturating_add(u64::from(table.le32(at + 16))), 8)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: usize = 1 << 20;

    /// An image with this metadata: items by id, each 8 bytes.
    fn image(items: &[([u8; 16], u64)]) -> Vec<u8> {
        let mut bytes = vec![0; 2 << 20];
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(0, MAGIC);
        put(64 << 10, b"head");
        for table in [192 << 10, 256 << 10] {
            put(table, b"regi");
            put(table + 8, &1_u32.to_le_bytes());
            put(table + 16, &METADATA_REGION);
            put(table + 32, &(METADATA as u64).to_le_bytes());
        }
        put(METADATA, b"metadata");
        put(METADATA + 10, &u16::try_from(items.len()).unwrap().to_le_bytes());
        for (n, (id, value)) in items.iter().enumerate() {
            let offset = (64 << 10) + 8 * n;
            put(METADATA + 32 + n * ENTRY, id);
            put(METADATA + 48 + n * ENTRY, &u32::try_from(offset).unwrap().to_le_bytes());
            put(METADATA + offset, &value.to_le_bytes());
        }
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
    fn a_parent_is_refused_and_its_absence_is_safe() {
        let (plain, size) = ((FILE_PARAMETERS, 0), (VIRTUAL_SIZE, 1 << 30));
        assert_eq!(refusal(&image(&[plain, size])), None);
        let parent = Some(UnsafeDisk::NamesFile("parent"));
        assert_eq!(refusal(&image(&[(FILE_PARAMETERS, u64::from(HAS_PARENT) << 32), size])), parent);
        assert_eq!(refusal(&image(&[plain, size, (PARENT_LOCATOR, 0)])), parent);
    }

    #[test]
    fn a_log_to_replay_is_refused() {
        let mut with_log = image(&[(FILE_PARAMETERS, 0), (VIRTUAL_SIZE, 1 << 30)]);
        with_log[(64 << 10) + 48] = 1;
        assert!(matches!(refusal(&with_log), Some(UnsafeDisk::Unknown(_))));
    }
}
