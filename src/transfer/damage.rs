//! An image layout that is not whole: all that it lacks, told at once.

use super::{Target, TransferError};
use crate::blocking;
use crate::cache::Cache;
use crate::eci::{Artifact, Source as Place};
use crate::failure::{Classify, Kind};
use crate::oci::{Descriptor, Manifest};
use crate::registry::{LayoutPart, Source};
use crate::unpack::Record;

/// Refuses a layout that lacks some of `parts`, or has some of another length. What the cache has is not asked for.
pub async fn check(source: &Source, cache: &Cache, parts: Vec<LayoutPart>) -> Result<(), TransferError> {
    let Source::Layout(layout) = source else { return Ok(()) };
    let cache = cache.clone();
    let needed: Vec<LayoutPart> = blocking::run(move || {
        let is_known = |blob: &Descriptor| cache.contains(blob) || !Record::load(&cache, blob).is_empty();
        parts.into_iter().filter(|part| !is_known(&part.blob)).collect()
    })
    .await;
    Ok(layout.check(&needed).await?)
}

/// What is wrong with the layout as a whole, where `error` is of one of its blobs: whoever is to mend it wants to know
/// all that is damaged. Other errors stay as they are.
pub async fn explain(source: &Source, target: &Target, error: TransferError) -> TransferError {
    let is_damage = matches!(error.kind(), Kind::DigestMismatch | Kind::SizeMismatch | Kind::LayoutInvalid);
    match source {
        Source::Layout(layout) if is_damage => {
            layout.examine(&parts(&target.artifact)).await.err().map_or(error, TransferError::from)
        }
        _ => error,
    }
}

/// The blobs that matter of an image whose files are known, with what they are.
pub fn parts(artifact: &Artifact) -> Vec<LayoutPart> {
    let by_path = artifact.files.iter().any(|file| matches!(file.source, Place::Path(_)));
    let layers = if by_path { artifact.layers.as_slice() } else { &[] };
    let files = artifact.files.iter().filter_map(|file| Some((file.layer()?, file.name.to_string())));
    name(&artifact.config, files.chain(numbered(layers)))
}

/// All blobs of an image, whose files only its config names.
pub(super) fn all(manifest: &Manifest) -> Vec<LayoutPart> {
    name(&manifest.config, numbered(&manifest.layers))
}

fn numbered(layers: &[Descriptor]) -> impl Iterator<Item = (&Descriptor, String)> {
    layers.iter().enumerate().map(|(n, layer)| (layer, format!("layer {n}")))
}

fn name<'a>(config: &'a Descriptor, others: impl Iterator<Item = (&'a Descriptor, String)>) -> Vec<LayoutPart> {
    let mut seen = std::collections::BTreeSet::new();
    std::iter::once((config, "config".to_owned()))
        .chain(others)
        .filter(|(blob, _)| seen.insert(blob.digest))
        .map(|(blob, title)| LayoutPart { blob: blob.clone(), title })
        .collect()
}
