//! Which blobs an image leads to.

use std::collections::BTreeSet;
use std::path::Path;

use crate::cache::Cache;
use crate::deploy::Launch;
use crate::deploy::generation::{MANIFEST_FILE, document};
use crate::durable::read_capped;
use crate::oci::{Digest, Document, MAX_DOCUMENT_BYTES, Manifest};
use crate::unpack::Record;

/// Indexes lead to others; as many as are followed when an image is looked for.
const MAX_DEPTH: usize = 4;

/// What a generation leads to: its files, and the documents that say that they are the image. Of one that has lost its
/// description, what its manifest leads to: it is laid out anew of that.
pub(super) fn of_generation(cache: &Cache, dir: &Path, launch: Option<&Launch>) -> BTreeSet<Digest> {
    let own = || read_capped(&dir.join(MANIFEST_FILE), MAX_DOCUMENT_BYTES as u64).unwrap_or_default();
    let digest = launch.map_or_else(|| Digest::of(&own()), |launch| launch.digest);
    let mut blobs = BTreeSet::from([digest]);
    blobs.extend(launch.iter().flat_map(|launch| &launch.files).map(|file| file.digest));
    if let Ok(Document::Manifest(manifest)) = Document::parse(&document(cache, dir, MANIFEST_FILE, &digest)) {
        of_manifest(cache, &manifest, &mut blobs);
    }
    of_index(cache, launch.and_then(|launch| launch.index_digest), 0, &mut blobs);
    blobs
}

/// What images that are wanted lead to.
pub(super) fn of_images(cache: &Cache, manifests: &BTreeSet<Digest>, indexes: &BTreeSet<Digest>) -> BTreeSet<Digest> {
    let mut blobs = manifests.clone();
    for digest in manifests {
        let bytes = cache.peek(digest, MAX_DOCUMENT_BYTES).unwrap_or_default();
        if let Ok(Document::Manifest(manifest)) = Document::parse(&bytes) {
            of_manifest(cache, &manifest, &mut blobs);
        }
    }
    for index in indexes {
        of_index(cache, Some(*index), 0, &mut blobs);
    }
    blobs
}

fn of_manifest(cache: &Cache, manifest: &Manifest, blobs: &mut BTreeSet<Digest>) {
    blobs.insert(manifest.config.digest);
    for layer in &manifest.layers {
        of_layer(cache, &layer.digest, blobs);
    }
}

/// The layer, and what came out of it.
fn of_layer(cache: &Cache, layer: &Digest, blobs: &mut BTreeSet<Digest>) {
    blobs.insert(*layer);
    blobs.extend(Record::peek(cache, layer).contents().map(|content| content.digest));
}

/// The documents that an index leads to, as far as they are there: without them, looking at a tag again would fetch them
/// again. The images of other platforms are not wanted.
fn of_index(cache: &Cache, index: Option<Digest>, depth: usize, blobs: &mut BTreeSet<Digest>) {
    let Some(index) = index.filter(|index| depth < MAX_DEPTH && blobs.insert(*index)) else { return };
    let bytes = cache.peek(&index, MAX_DOCUMENT_BYTES).unwrap_or_default();
    match Document::parse(&bytes) {
        Ok(Document::Index(found)) => {
            found.manifests.iter().for_each(|entry| of_index(cache, Some(entry.digest), depth + 1, blobs));
        }
        Ok(Document::Manifest(manifest)) => {
            blobs.insert(manifest.config.digest);
        }
        Err(_) => {}
    }
}
