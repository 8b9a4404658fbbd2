//! Reading of the headers of a disk, in a worker.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::request::{Outcome, RefusedDisk};
use crate::eci::{DISK_HEAD_BYTES, DISK_TAIL_BYTES, DiskBytes, DiskHeader, DiskImage, DiskImageError};

/// Reads the headers of the disk in `file`.
pub(super) fn read_disk(mut file: &File) -> io::Result<Outcome> {
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    file.take(DISK_HEAD_BYTES as u64).read_to_end(&mut head)?;
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(DISK_TAIL_BYTES as u64)))?;
    file.take(DISK_TAIL_BYTES as u64).read_to_end(&mut tail)?;
    let image = match DiskImage::read(&mut FileBytes { file, length }) {
        Ok(image) => Ok(image),
        Err(DiskImageError::Unsafe(refusal)) => {
            Err(RefusedDisk { text: refusal.to_string(), named_file: refusal.named_file().map(str::to_owned) })
        }
        Err(DiskImageError::Io(error)) => return Err(error),
    };
    Ok(Outcome::Disk { header: DiskHeader::read(&head, &tail), image })
}

/// The bytes of a disk image in a file.
struct FileBytes<'a> {
    file: &'a File,
    length: u64,
}

impl DiskBytes for FileBytes<'_> {
    fn length(&self) -> u64 {
        self.length
    }

    fn read_at(&mut self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if offset < self.length {
            self.file.seek(SeekFrom::Start(offset))?;
            self.file.take(length as u64).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }
}
