//! Labels that name the files of an image that ordinary container tools have built.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{ArtifactError, DiskFormat, File, FileName, ImagePath, Role, Source};

/// What the keys begin with; `kernel`, `initrd`, `root` or `disk-<n>` follows.
pub const LABEL_PREFIX: &str = "org.lfedge.eci.artifact.";

/// The labels in an image's config (image specification, "OCI Image Configuration"), or what is wrong with it.
pub(super) fn of_config(config: &[u8]) -> Result<BTreeMap<String, String>, String> {
    let config: Value = serde_json::from_slice(config).map_err(|error| format!("it is no JSON document: {error}"))?;
    let Value::Object(mut config) = config else { return Err("it is JSON, and no object".to_owned()) };
    let mut inner = match config.remove("config") {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::Object(inner)) => inner,
        Some(_) => return Err("its \"config\" is no object".to_owned()),
    };
    let labels = match inner.remove("Labels") {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::Object(labels)) => labels,
        Some(_) => return Err("its \"Labels\" are no object".to_owned()),
    };
    let text = |(key, value)| match value {
        Value::String(value) => Ok((key, value)),
        other => Err(format!("its label {key} is {other}, and no text")),
    };
    labels.into_iter().map(text).collect()
}

/// The files that labels or annotations name: kernel, initrd, root disk, further disks by their numbers.
pub(super) fn files(labels: &BTreeMap<String, String>) -> Result<Vec<File>, ArtifactError> {
    let mut files = Vec::new();
    for (key, value) in labels {
        let Some(rest) = key.strip_prefix(LABEL_PREFIX) else { continue };
        // Passed over, a disk that is mistyped would be missing only once the node has booted.
        let Some((role, index)) = role(rest) else { return Err(ArtifactError::UnknownLabel(key.clone())) };
        let path: ImagePath = value.parse().map_err(|source| ArtifactError::Label { key: key.clone(), source })?;
        // Where the path is a link, its target may tell more.
        let disk_format = role.is_disk().then(|| DiskFormat::of_file_name(path.file_name()).unwrap_or(DiskFormat::Raw));
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
