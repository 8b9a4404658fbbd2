//! What a generation is made of, and how its directory is filled.

use std::io;
use std::path::Path;

use super::Launch;
use super::disk::{self, DiskError};
use super::generation::{CONFIG_FILE, MANIFEST_FILE};
use super::launch::{LAUNCH_FILE, LaunchFile};
use crate::cache::Cache;
use crate::desired::{Disks, WorkloadName};
use crate::durable::{IoContext, create_link, share, sync_dir, write_new};
use crate::eci::File;
use crate::oci::{Descriptor, Digest, Platform, Reference};
use crate::unpack::Content;

/// What a generation is made of.
#[derive(Clone, Debug)]
pub struct Order {
    /// Whose it will be.
    pub workload: WorkloadName,
    /// The image, as the desired state wrote it.
    pub reference: Reference,
    /// The manifest's digest.
    pub digest: Digest,
    /// The digest of the index that the manifest was chosen from.
    pub index_digest: Option<Digest>,
    /// The platform that it was chosen for.
    pub platform: Platform,
    /// The kernel's command line.
    pub cmdline: Option<String>,
    /// The image's config.
    pub config: Descriptor,
    /// What the guest may write to.
    pub disks: Disks,
    /// The generation whose overlays go over to this one, where the guest's do: the one that `current` points at.
    pub current: Option<u64>,
    /// The files, and where their bytes are in the cache.
    pub files: Vec<(File, Content)>,
    /// The highest number that the workload has used before; numbers are never used twice.
    pub after: u64,
}

impl Order {
    /// What the generation of that number will say of itself, whose directory is to be `dir`.
    pub(super) fn describe(&self, generation: u64, dir: &Path) -> Launch {
        let describe = |(file, content): &(File, Content)| {
            disk::for_guest(
                self.disks,
                file,
                LaunchFile {
                    role: file.role,
                    path: dir.join(&file.name),
                    format: file.format().to_owned(),
                    size: content.size,
                    digest: content.digest,
                    writable: false,
                    base: None,
                },
            )
        };
        Launch {
            workload: self.workload.clone(),
            generation,
            reference: self.reference.clone(),
            digest: self.digest,
            index_digest: self.index_digest,
            platform: self.platform.clone(),
            cmdline: self.cmdline.clone(),
            disks: self.disks,
            files: self.files.iter().map(describe).collect(),
            record: None,
        }
    }

    /// Fills the directory `dir` with what `launch` describes, durably, and gives the digest of its record. Overlays may be
    /// those of `before`.
    pub(super) fn fill(
        &self,
        cache: &Cache,
        launch: &Launch,
        before: Option<&Launch>,
        dir: &Path,
    ) -> Result<Digest, DiskError> {
        for ((file, content), described) in self.files.iter().zip(&launch.files) {
            let (blob, fixed) = (cache.path(&content.digest), dir.join(&file.name));
            if described.writable && described.base.is_none() {
                disk::copy_for_guest(&blob, &fixed)?;
            } else {
                share(&blob, &fixed)?;
            }
            disk::lay_over(described, before, dir)?;
            if let (Some(stable), Some(name)) = (file.stable_name(), described.name()) {
                create_link(name.as_ref(), &dir.join(stable))?;
            }
        }
        share(&cache.path(&self.config.digest), &dir.join(CONFIG_FILE))?;
        share(&cache.path(&self.digest), &dir.join(MANIFEST_FILE))?;
        let mut text = serde_json::to_vec_pretty(launch).map_err(io::Error::from).on("describe", dir)?;
        text.push(b'\n');
        write_new(&dir.join(LAUNCH_FILE), &text, 0o444)?;
        sync_dir(dir)?;
        Ok(Digest::of(&text))
    }
}
