//! What a manifest makes of its layers.

use std::collections::BTreeSet;

use eci_agent::eci::{Artifact, FileName, Role};
use eci_agent::oci::Document;

pub fn fuzz(data: &[u8]) {
    let Ok(Document::Manifest(manifest)) = Document::parse(data) else { return };
    let Ok(artifact) = Artifact::from_manifest(&manifest) else { return };
    let files = &artifact.files;
    assert!(files.iter().any(|file| matches!(file.role, Role::Kernel | Role::DiskRoot)));
    assert!(files.iter().all(|file| FileName::new(file.name.as_str()).is_ok()));
    let mut names = BTreeSet::new();
    let stable = files.iter().filter_map(eci_agent::eci::File::stable_name);
    let own = files.iter().map(|file| file.name.to_string());
    assert!(own.chain(stable).all(|name| names.insert(name)), "two files want one name: {files:?}");
}
