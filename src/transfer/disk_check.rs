//! Check of disks whose bytes contradict their format, or that name other files; they never become files.

use std::fs::File as OpenFile;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::TransferError;
use crate::cache::Cache;
use crate::durable::{DurableError, IoContext};
use crate::eci::{
    DISK_HEAD_BYTES, DISK_TAIL_BYTES, DiskBytes, DiskCheck, DiskHeader, DiskImage, DiskImageError, File, UnsafeDisk,
};
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

/// Reads the headers of the disk image in the file `path`. Blocks.
///
/// # Errors
///
/// If the image is not safe to open, or the file cannot be read.
pub fn read_disk_image(path: &Path) -> Result<Result<DiskImage, UnsafeDisk>, DurableError> {
    let file = OpenFile::open(path).on("open", path)?;
    let length = file.metadata().on("read", path)?.len();
    match DiskImage::read(&mut FileBytes { file, length }) {
        Ok(image) => Ok(Ok(image)),
        Err(DiskImageError::Unsafe(refusal)) => Ok(Err(refusal)),
        Err(DiskImageError::Io(error)) => Err(DurableError::new("read", path, error)),
    }
}

/// The bytes of a disk image in a file.
struct FileBytes {
    file: OpenFile,
    length: u64,
}

impl DiskBytes for FileBytes {
    fn length(&self) -> u64 {
        self.length
    }

    fn read_at(&mut self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if offset < self.length {
            self.file.seek(SeekFrom::Start(offset))?;
            self.file.by_ref().take(length as u64).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }
}

/// Refuses disks among `files`, which are in the cache, whose bytes contradict their format, or that name other files:
/// a hypervisor would open those.
pub(super) fn check_disks(cache: &Cache, reference: &str, files: &[(File, Content)]) -> Result<(), TransferError> {
    for (file, content) in files {
        let Some(declared) = file.disk_format else { continue };
        let path = cache.path(&content.digest);
        let (reference, name, digest) = (reference.to_owned(), file.name.clone(), content.digest);
        if let Err(source) = read_disk_header(&path)?.check(declared, DiskCheck::Pull) {
            return Err(TransferError::DiskFormat { reference, name, digest, source });
        }
        if let Err(source) = read_disk_image(&path)? {
            return Err(TransferError::UnsafeDisk { reference, name, digest, source });
        }
    }
    Ok(())
}
