//! Manifests and indexes, as registries serve them.

use eci_agent::oci::{Choice, Document, Index, Platform};

pub fn fuzz(data: &[u8]) {
    match Document::parse(data) {
        Ok(Document::Manifest(manifest)) => {
            let bytes = serde_json::to_vec(&manifest).unwrap_or_default();
            assert_eq!(serde_json::from_slice(&bytes).ok(), Some(manifest), "it is read back as written");
        }
        Ok(Document::Index(index)) => {
            choose(&index);
            let bytes = serde_json::to_vec(&index).unwrap_or_default();
            // Entries that cannot be followed are listed apart, and not written.
            let written = Index { unsupported: Vec::new(), ..index };
            assert_eq!(serde_json::from_slice(&bytes).ok(), Some(written), "it is read back as written");
        }
        Err(_) => {}
    }
}

fn choose(index: &Index) {
    let wanted = Platform::host();
    if let Choice::Named(chosen) = index.choose(&wanted) {
        assert!(chosen.platform.as_ref().is_some_and(|platform| platform.serves(&wanted)));
    }
}
