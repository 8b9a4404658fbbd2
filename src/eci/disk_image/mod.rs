//! Headers of disk images: the size of the disk that a guest sees, and whether the image stays within itself.
//!
//! An image of these formats can name other files: a backing file, an external data file, extents, a parent. A hypervisor
//! opens them with its own rights, which would show a guest another guest's disk or a file of the host. Such images are
//! refused, whatever format is declared for them. An image that is cut short names nothing, and is not refused here: no
//! hypervisor opens it. No I/O of its own: bytes come from a [`DiskBytes`].

mod bytes;
mod qcow;
mod qed;
mod vhd;
mod vhdx;
mod vmdk;

use std::io;

use serde::{Deserialize, Serialize};

use self::bytes::Block;

/// The bytes of a disk image, read at random.
pub trait DiskBytes {
    /// Length of the image in bytes.
    fn length(&self) -> u64;

    /// Up to `length` bytes from `offset` on; fewer only at the end of the image.
    ///
    /// # Errors
    ///
    /// If the image cannot be read.
    fn read_at(&mut self, offset: u64, length: usize) -> io::Result<Vec<u8>>;
}

impl DiskBytes for &[u8] {
    fn length(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&mut self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        let end = start.saturating_add(length).min(self.len());
        Ok(self.get(start..end).unwrap_or_default().to_vec())
    }
}

/// Facts of a disk image that stays within itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskImage {
    /// Size in bytes of the disk that a guest sees; none if the header is too short to say.
    pub virtual_size: Option<u64>,
}

/// The file below an overlay. An image that needs more than this names the other one.
pub const BACKING_FILE: &str = "backing file";

/// Reasons for refusing a disk image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsafeDisk {
    /// The image needs another file.
    #[error("it names another file as its {0}: make an image that stands alone, such as with qemu-img convert")]
    NamesFile(&'static str),
    /// The image is encrypted.
    #[error("it is encrypted, and a hypervisor has no key for it")]
    Encrypted,
    /// A feature or version that is not known here, and may name other files.
    #[error("it has {0}, which is not known to be safe")]
    Unknown(String),
    /// The header contradicts itself.
    #[error("its header is damaged: {0}")]
    Damaged(&'static str),
    /// Any of these, in the words of the worker that read the image.
    #[error("{text}")]
    Reported {
        /// The refusal in words.
        text: String,
        /// The file besides itself that the image needs, such as "backing file".
        named_file: Option<String>,
    },
}

impl UnsafeDisk {
    /// The file besides itself that the image needs, such as [`BACKING_FILE`].
    pub fn named_file(&self) -> Option<&str> {
        match self {
            Self::NamesFile(file) => Some(file),
            Self::Reported { named_file, .. } => named_file.as_deref(),
            Self::Encrypted | Self::Unknown(_) | Self::Damaged(_) => None,
        }
    }
}

/// Failures of [`DiskImage::read`].
#[derive(Debug, thiserror::Error)]
pub enum DiskImageError {
    /// The image is refused.
    #[error(transparent)]
    Unsafe(#[from] UnsafeDisk),
    /// The bytes cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl DiskImage {
    /// Reads the headers of an image. Its bytes decide about its format. Bytes of none of these formats are a raw disk.
    ///
    /// # Errors
    ///
    /// If the image names other files, is encrypted, has unknown features or a damaged header, or cannot be read.
    pub fn read(image: &mut dyn DiskBytes) -> Result<Self, DiskImageError> {
        let head = Block::read(image, 0, 8)?;
        if head.starts_with(qcow::MAGIC) {
            qcow::read(image)
        } else if head.starts_with(qed::MAGIC) {
            Err(qed::refusal().into())
        } else if head.starts_with(vhdx::MAGIC) {
            vhdx::read(image)
        } else if vmdk::is_sparse(&head) {
            vmdk::read(image)
        } else if vmdk::is_descriptor(image)? {
            Err(UnsafeDisk::NamesFile("extents").into())
        } else if let Some(footer) = vhd::footer(image)? {
            vhd::read(image, &footer)
        } else {
            Ok(Self { virtual_size: Some(image.length()) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_raw_disk_is_as_large_as_its_bytes() {
        for bytes in [&b""[..], b"MZ", &vec![0; 70_000]] {
            assert_eq!(DiskImage::read(&mut { bytes }).unwrap().virtual_size, Some(bytes.len() as u64));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            magic in prop::sample::select(vec![&b"QFI\xfb\0\0\0\x03"[..], b"KDMV\x01\0\0\0", b"vhdxfile", b"conectix", b""]),
            rest in proptest::collection::vec(any::<u8>(), 0..3000),
        ) {
            let bytes = [magic, &rest].concat();
            let _ = DiskImage::read(&mut &bytes[..]);
        }
    }
}
