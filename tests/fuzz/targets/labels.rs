//! Labels in the config of an image by ordinary container tools.

use std::collections::BTreeSet;

use eci_agent::eci::Artifact;
use eci_agent::oci::{Descriptor, Manifest};

pub fn fuzz(data: &[u8]) {
    let layer = Descriptor::of("application/vnd.oci.image.layer.v1.tar", b"");
    let manifest = Manifest::new(Descriptor::of("application/vnd.oci.image.config.v1+json", data), vec![layer]);
    let Ok(artifact) = Artifact::from_config(&manifest, data) else { return };
    let mut names = BTreeSet::new();
    let stable = artifact.files.iter().filter_map(eci_agent::eci::File::stable_name);
    let own = artifact.files.iter().map(|file| file.name.to_string());
    assert!(own.chain(stable).all(|name| names.insert(name)), "two files want one name: {:?}", artifact.files);
}
