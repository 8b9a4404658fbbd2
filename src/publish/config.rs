//! The config that an image gets where none is given: the fields of the image specification, without a time.

use std::collections::BTreeMap;

use serde::Serialize;

use super::image::{Image, Part};
use crate::eci::{LABEL_PREFIX, Role};
use crate::oci::{Digest, Platform};

#[derive(Serialize)]
struct Config<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<&'a str>,
    #[serde(flatten)]
    platform: &'a Platform,
    #[serde(rename = "config", skip_serializing_if = "Option::is_none")]
    labelled: Option<Labelled>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rootfs: Option<RootFs<'a>>,
}

#[derive(Serialize)]
struct Labelled {
    #[serde(rename = "Labels")]
    labels: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct RootFs<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    diff_ids: &'a [Digest],
}

/// The config of `image` for `platform`. In the legacy format labels name the files, and `diff_ids` are the digests of
/// the layers' tars, as container tools want both; otherwise there are none.
pub(super) fn generate(
    image: &Image,
    platform: &Platform,
    parts: &[Part],
    diff_ids: &[Digest],
) -> Result<Vec<u8>, serde_json::Error> {
    let packed = !diff_ids.is_empty();
    serde_json::to_vec(&Config {
        author: image.author.as_deref(),
        platform,
        labelled: packed.then(|| Labelled { labels: parts.iter().filter_map(label).collect() }),
        rootfs: packed.then_some(RootFs { kind: "layers", diff_ids }),
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
