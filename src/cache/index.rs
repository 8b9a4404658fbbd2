//! `index.json` of the layout: which images it holds, by reference.

use std::path::{Path, PathBuf};

use crate::durable::{DurableError, write_atomic};
use crate::oci::{Descriptor, Document, Index, REF_NAME};

const MODE: u32 = 0o644;

fn path(root: &Path) -> PathBuf {
    root.join("index.json")
}

/// Makes an empty index where there is none.
pub(super) fn create(root: &Path) -> Result<(), DurableError> {
    if path(root).exists() { Ok(()) } else { write(root, &Index::new(Vec::new())) }
}

/// Puts `manifest` under `name`, in place of what had that name.
pub(super) fn set(root: &Path, name: &str, manifest: &Descriptor) -> Result<(), DurableError> {
    let mut index = read(root);
    let entry = manifest.clone().with(REF_NAME, name);
    if index.manifests.contains(&entry) {
        return Ok(());
    }
    index.manifests.retain(|other| other.annotation(REF_NAME) != Some(name));
    index.manifests.push(entry);
    write(root, &index)
}

/// A damaged index is begun anew: it holds nothing that the next pull does not bring back.
fn read(root: &Path) -> Index {
    let document = std::fs::read(path(root)).ok().and_then(|bytes| Document::parse(&bytes).ok());
    match document {
        Some(Document::Index(index)) => index,
        _ => Index::new(Vec::new()),
    }
}

fn write(root: &Path, index: &Index) -> Result<(), DurableError> {
    write_atomic(&path(root), &serde_json::to_vec_pretty(index).unwrap_or_default(), MODE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_to_one_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = |text: &str| Descriptor::of(crate::oci::media_type::MANIFEST, text.as_bytes());
        create(dir.path()).unwrap();
        for (name, text) in [("a.example/x:1", "one"), ("a.example/y:1", "two"), ("a.example/x:1", "three")] {
            set(dir.path(), name, &manifest(text)).unwrap();
        }
        let names: Vec<_> =
            read(dir.path()).manifests.iter().map(|m| (m.annotations[REF_NAME].clone(), m.digest)).collect();
        let expected = [
            ("a.example/y:1".to_owned(), manifest("two").digest),
            ("a.example/x:1".to_owned(), manifest("three").digest),
        ];
        assert_eq!(names, expected);
    }
}
