//! Check of disks whose bytes contradict their format; they never become files.

use std::fs::File as OpenFile;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::TransferError;
use crate::cache::Cache;
use crate::durable::{DurableError, IoContext};
use crate::eci::{DISK_HEAD_BYTES, DISK_TAIL_BYTES, DiskCheck, DiskHeader, File};
use crate::unpack::Content;

/// Reads the first and the last bytes of the disk in the file `path`. Blocks.
pub fn read_disk_header(path: &Path) -> Result<DiskHeader, DurableError> {
    let mut file = OpenFile::open(path).on("open", path)?;
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    file.by_ref().take(DISK_HEAD_BYTES as u64).read_to_end(&mut head).on("read", path)?;
    let length = file.seek(SeekFrom::End(0)).on("read", path)?;
    let tail_at = length.saturating_sub(DISK_TAIL_BYTES as u64);
    file.seek(SeekFrom::Start(tail_at)).on("read", path)?;
    file.take(DISK_TAIL_BYTES as u64).read_to_end(&mut tail).on("read", path)?;
    Ok(DiskHeader::read(&head, &tail))
}

/// Refuses disks among `files`, which are in the cache, whose bytes contradict their format: a hypervisor that detects
/// formats would use another one, and open the files that its header names.
pub(super) fn check_disks(cache: &Cache, reference: &str, files: &[(File, Content)]) -> Result<(), TransferError> {
    for (file, content) in files {
        let Some(declared) = file.disk_format else { continue };
        let header = read_disk_header(&cache.path(&content.digest))?;
        header.check(declared, DiskCheck::Pull).map_err(|source| TransferError::DiskFormat {
            reference: reference.to_owned(),
            name: file.name.clone(),
            digest: content.digest,
            source,
        })?;
    }
    Ok(())
}
