//! Check of disks whose bytes contradict their format, or that name other files; they never become files.

use super::TransferError;
use crate::cache::Cache;
use crate::eci::{DiskCheck, File};
use crate::unpack::{Content, DiskReadError, Worker, read_disk};

/// Refuses disks among `files`, which are in the cache, whose bytes contradict their format, or that name other files:
/// a hypervisor would open those.
pub(super) fn check_disks(cache: &Cache, reference: &str, files: &[(File, Content)]) -> Result<(), TransferError> {
    for (file, content) in files {
        let Some(declared) = file.disk_format else { continue };
        let (reference, name, digest) = (reference.to_owned(), file.name.clone(), content.digest);
        let report = match read_disk(&Worker::of_process(), &cache.path(&digest)) {
            Ok(report) => report,
            Err(DiskReadError::Disk(error)) => return Err(error.into()),
            Err(DiskReadError::Worker { source, .. }) => {
                return Err(TransferError::DiskUnread { reference, name, digest, source });
            }
        };
        if let Err(source) = report.header.check(declared, DiskCheck::Pull) {
            return Err(TransferError::DiskFormat { reference, name, digest, source });
        }
        if let Err(refusal) = report.image {
            let source = Box::new(refusal);
            return Err(TransferError::UnsafeDisk { reference, name, digest, source });
        }
    }
    Ok(())
}
