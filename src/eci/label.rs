//! Labels that name the files of an image that ordinary container tools have built.

use std::collections::BTreeMap;

use super::{ArtifactError, DiskFormat, File, FileName, ImagePath, Role, Source};
use crate::oci::ImageConfig;

/// What the keys begin with; `kernel`, `initrd`, `root` or `disk-<n>` follows.
pub const LABEL_PREFIX: &str = "org.lfedge.eci.artifact.";

/// The labels in an image's config.
pub(super) fn of_config(config: &[u8]) -> Result<BTreeMap<String, String>, serde_json::Error> {
    Ok(ImageConfig::parse(config)?.container.and_then(|container| container.labels).unwrap_or_default())
}

/// The files that labels or annotations name: kernel, initrd, root disk, further disks by their numbers.
pub(super) fn files(labels: &BTreeMap<String, String>) -> Result<Vec<File>, ArtifactError> {
    let mut files = Vec::new();
    for (key, value) in labels {
        let Some((role, index)) = key.strip_prefix(LABEL_PREFIX).and_then(role) else { continue };
        let path: ImagePath = value.parse().map_err(|source| ArtifactError::Label { key: key.clone(), source })?;
        let disk_format = role.is_disk().then(|| format(&path));
        let name = FileName::canonical(role, index, Some(path.file_name()), disk_format)
            .map_err(|source| ArtifactError::Name { digest: path.to_string(), source })?;
        files.push(File { role, index, name, disk_format, source: Source::Path(path) });
    }
    files.sort_by_key(|file| (file.role, file.index));
    Ok(files)
}

fn role(key: &str) -> Option<(Role, usize)> {
    match key {
        "kernel" => Some((Role::Kernel, 0)),
        "initrd" => Some((Role::Initrd, 0)),
        "root" => Some((Role::DiskRoot, 0)),
        other => {
            let number = other.strip_prefix("disk-")?;
            // Written in another way, it would be a second disk of the same number.
            let index: usize = number.parse().ok().filter(|index: &usize| index.to_string() == number)?;
            Some((Role::DiskAdditional, index))
        }
    }
}

/// The format that a file's ending names; a disk without one that is known is raw.
fn format(path: &ImagePath) -> DiskFormat {
    let ending = path.file_name().rsplit_once('.').map_or("", |(_, ending)| ending).to_ascii_lowercase();
    ending.parse().unwrap_or(DiskFormat::Raw)
}
