//! The config that an image gets if none is given: fields of the image specification, none of them a time.

use super::image::{Format, Image, Part};
use crate::eci::{LABEL_PREFIX, Role};
use crate::oci::{ContainerConfig, Digest, ImageConfig, Platform, RootFs};

/// The config of `image` for `platform`. `diff_ids` are the digests of the layers' contents, one a layer, as container
/// tools want them of every image. In the legacy format labels name the files.
pub(super) fn generate(
    image: &Image,
    platform: &Platform,
    parts: &[Part],
    diff_ids: &[Digest],
) -> Result<Vec<u8>, serde_json::Error> {
    let is_packed = image.format == Format::Legacy;
    serde_json::to_vec(&ImageConfig {
        author: image.author.clone(),
        platform: Some(platform.clone()),
        container: is_packed.then(|| ContainerConfig { labels: Some(parts.iter().filter_map(label).collect()) }),
        rootfs: Some(RootFs { kind: "layers", diff_ids: diff_ids.to_vec() }),
    })
}

/// Where in the image's file system a part is.
fn label(part: &Part) -> Option<(String, String)> {
    let key = match part.role {
        Role::Kernel => "kernel".to_owned(),
        Role::Initrd => "initrd".to_owned(),
        Role::DiskRoot => "root".to_owned(),
        Role::DiskAdditional => format!("disk-{}", part.index),
        Role::Other => return None,
    };
    Some((format!("{LABEL_PREFIX}{key}"), format!("/{}", part.name)))
}
