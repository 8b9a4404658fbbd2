//! `index.json` of the layout: which images it holds, by reference.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::durable::{DurableError, IoContext, Permission, read_capped, set_aside, write_atomic};
use crate::oci::{Descriptor, Digest, Document, Index, REF_NAME};

/// Far more images than a directory has, in bytes.
const MAX_BYTES: u64 = 64 << 20;

fn path(root: &Path) -> PathBuf {
    root.join("index.json")
}

/// Makes an empty index where there is none.
pub(super) fn create(root: &Path, permission: Permission) -> Result<(), DurableError> {
    if path(root).exists() { Ok(()) } else { write(root, permission, &json(&Index::new(Vec::new()))) }
}

/// Puts `manifest` under `name`, in place of what had that name or another one that `replaces` accepts. The rest of the
/// index stays as it is, unknown fields included: other tools write into layouts as well.
pub(super) fn set(
    root: &Path,
    permission: Permission,
    name: &str,
    manifest: &Descriptor,
    replaces: impl Fn(&str) -> bool,
) -> Result<(), DurableError> {
    let mut index = read(root)?;
    let entry = json(&manifest.clone().with(REF_NAME, name));
    let mut manifests = match index.get_mut("manifests").map(Value::take) {
        Some(Value::Array(manifests)) => manifests,
        _ => Vec::new(),
    };
    let is_complete = index.get("schemaVersion").and_then(Value::as_u64) == Some(2);
    let name_of = |entry: &Value| Some(entry.get("annotations")?.get(REF_NAME)?.as_str()?.to_owned());
    let is_replaced = |other: &Value| name_of(other).is_some_and(|other| other == name || replaces(&other));
    if is_complete && manifests.iter().filter(|other| is_replaced(other)).eq([&entry]) {
        return Ok(());
    }
    manifests.retain(|other| !is_replaced(other));
    manifests.push(entry);
    if let Value::Object(fields) = &mut index {
        // lf-edge/edge-containers writes 0.
        fields.insert("schemaVersion".to_owned(), 2.into());
        fields.insert("manifests".to_owned(), Value::Array(manifests));
    }
    write(root, permission, &index)
}

/// Takes off what `keeps` does not want to keep. An entry that has no digest is not ours, and stays.
pub(super) fn retain(root: &Path, permission: Permission, keeps: impl Fn(&Digest) -> bool) -> Result<(), DurableError> {
    let mut index = read(root)?;
    let Some(Value::Array(manifests)) = index.get_mut("manifests") else { return Ok(()) };
    let before = manifests.len();
    manifests.retain(|entry| {
        let digest = entry.get("digest").and_then(Value::as_str).and_then(|digest| digest.parse().ok());
        digest.is_none_or(|digest| keeps(&digest))
    });
    if manifests.len() == before { Ok(()) } else { write(root, permission, &index) }
}

/// Writes it as far as it makes sense, without what `has` does not have.
pub(super) fn mend(root: &Path, permission: Permission, has: impl Fn(&Digest) -> bool) -> Result<(), DurableError> {
    if path(root).exists() && !path(root).is_file() {
        set_aside(&path(root))?;
    }
    let index = read(root)?;
    write(root, permission, &index)?;
    retain(root, permission, has)
}

/// Whether it can be read, and leads only to what `has` has.
pub(super) fn is_sound(root: &Path, has: impl Fn(&Digest) -> bool) -> bool {
    match Document::parse(&read_capped(&path(root), MAX_BYTES).unwrap_or_default()) {
        Ok(Document::Index(index)) => index.manifests.iter().all(|entry| has(&entry.digest)),
        _ => false,
    }
}

/// A damaged index is begun anew: it holds nothing that the next pull does not bring back.
fn read(root: &Path) -> Result<Value, DurableError> {
    let bytes = match read_capped(&path(root), MAX_BYTES) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        // What cannot be read now may be whole.
        result => result.on("read", &path(root))?,
    };
    Ok(match (Document::parse(&bytes), serde_json::from_slice(&bytes)) {
        (Ok(Document::Index(_)), Ok(value)) => value,
        _ => json(&Index::new(Vec::new())),
    })
}

fn write(root: &Path, permission: Permission, index: &Value) -> Result<(), DurableError> {
    write_atomic(&path(root), &serde_json::to_vec_pretty(index).unwrap_or_default(), permission)
}

/// What is made of strings and numbers is always JSON.
fn json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_to_one_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = |text: &str| Descriptor::of(crate::oci::media_type::MANIFEST, text.as_bytes());
        create(dir.path(), 0o644.into()).unwrap();
        for (name, text) in [("a.example/x:1", "one"), ("a.example/y:1", "two"), ("a.example/x:1", "three")] {
            set(dir.path(), 0o644.into(), name, &manifest(text), |_| false).unwrap();
        }
        let names = entries(dir.path());
        let expected = [
            ("a.example/y:1".to_owned(), manifest("two").digest),
            ("a.example/x:1".to_owned(), manifest("three").digest),
        ];
        assert_eq!(names, expected);
    }

    fn entries(root: &Path) -> Vec<(String, crate::oci::Digest)> {
        let Document::Index(index) = Document::parse(&std::fs::read(path(root)).unwrap()).unwrap() else { panic!() };
        index.manifests.iter().map(|entry| (entry.annotations[REF_NAME].clone(), entry.digest)).collect()
    }

    #[test]
    fn what_cannot_be_read_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(path(dir.path())).unwrap();
        let error =
            set(dir.path(), 0o644.into(), "ours", &Descriptor::of(crate::oci::media_type::MANIFEST, b"m"), |_| false)
                .unwrap_err();
        assert!(error.to_string().starts_with("cannot read"), "{error}");
    }

    #[test]
    fn what_others_wrote_stays() {
        let dir = tempfile::tempdir().unwrap();
        let theirs = serde_json::json!({
            "schemaVersion": 2,
            "manifests": [{"mediaType": "x", "digest": crate::oci::Digest::of(b"x"), "size": 1, "artifactType": "y"}],
            "subject": {"z": 1},
        });
        std::fs::write(path(dir.path()), theirs.to_string()).unwrap();
        set(dir.path(), 0o644.into(), "ours", &Descriptor::of(crate::oci::media_type::MANIFEST, b"m"), |_| false)
            .unwrap();
        let now = read(dir.path()).unwrap();
        assert_eq!((&now["subject"], &now["manifests"][0]), (&theirs["subject"], &theirs["manifests"][0]));
        assert_eq!(now["manifests"].as_array().unwrap().len(), 2);
    }
}
