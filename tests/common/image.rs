//! Edge container images made on the spot.

use serde_json::{Value, json};

use super::registry::{Registry, digest};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An image: names, roles and bytes.
#[derive(Clone, Debug)]
pub struct Image {
    pub kernel: Vec<u8>,
    pub initrd: Vec<u8>,
    pub root: Vec<u8>,
    pub disks: Vec<Vec<u8>>,
}

impl Image {
    /// A small image that differs from those of other labels in every file but the kernel.
    pub fn new(label: &str) -> Self {
        Self {
            kernel: b"the kernel".to_vec(),
            initrd: format!("initrd of {label}").into_bytes(),
            root: format!("root disk of {label}").into_bytes(),
            disks: Vec::new(),
        }
    }

    /// The same with a root disk of `size` bytes that do not compress or repeat.
    pub fn with_root_of(self, size: usize) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64
            ^ u64::from_le_bytes(
                self.root.iter().rev().chain([&0; 8]).take(8).copied().collect::<Vec<_>>().try_into().unwrap(),
            );
        let mut root = Vec::with_capacity(size + 8);
        while root.len() < size {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            root.extend_from_slice(&state.to_le_bytes());
        }
        root.truncate(size);
        Self { root, ..self }
    }

    /// The files as the manifest has them: role, media type, title, bytes.
    fn files(&self) -> Vec<(&'static str, &'static str, String, &[u8])> {
        let disk = "application/vnd.lfedge.disk.layer.v1+raw";
        let mut files = vec![
            ("kernel", "application/vnd.lfedge.eci.kernel.layer.v1+kernel", "kernel".to_owned(), &self.kernel[..]),
            ("initrd", "application/vnd.lfedge.eci.initrd.layer.v1+cpio", "initrd".to_owned(), &self.initrd[..]),
            ("disk-root", disk, "disk-root-root.raw".to_owned(), &self.root[..]),
        ];
        for (n, bytes) in self.disks.iter().enumerate() {
            files.push(("disk-additional", disk, format!("disk-{n}-data.raw"), bytes));
        }
        files
    }

    /// The manifest.
    pub fn manifest(&self) -> Value {
        let layers: Vec<_> = self
            .files()
            .into_iter()
            .map(|(role, media_type, title, bytes)| {
                json!({
                    "mediaType": media_type, "digest": digest(bytes), "size": bytes.len(),
                    "annotations": {
                        "org.lfedge.eci.mediaType": media_type,
                        "org.lfedge.eci.role": role,
                        "org.opencontainers.image.title": title,
                    }
                })
            })
            .collect();
        json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.lfedge.eci.config.v1+json", "digest": digest(CONFIG), "size": CONFIG.len()},
            "layers": layers,
        })
    }

    /// Puts the image into a registry; its digest.
    pub fn publish(&self, registry: &Registry, repo: &str, tag: &str) -> String {
        for (_, _, _, bytes) in self.files() {
            registry.put_blob(repo, bytes.to_vec());
        }
        registry.put_blob(repo, CONFIG.to_vec());
        registry.put_manifest(repo, Some(tag), MANIFEST, self.manifest().to_string())
    }

    /// Writes the image as an OCI image layout with one entry, `tag`; its digest.
    pub fn write_layout(&self, dir: &std::path::Path, tag: &str) -> String {
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let put = |bytes: &[u8]| {
            let digest = digest(bytes);
            std::fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes).unwrap();
            digest
        };
        self.files().iter().for_each(|(_, _, _, bytes)| drop(put(bytes)));
        put(CONFIG);
        let manifest = self.manifest().to_string();
        let digest = put(manifest.as_bytes());
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [{
            "mediaType": MANIFEST, "digest": digest, "size": manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": tag},
        }]});
        std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
        digest
    }

    /// The bytes of all blobs that are not the manifest's.
    pub fn size(&self) -> u64 {
        (self.files().iter().map(|(_, _, _, bytes)| bytes.len()).sum::<usize>() + CONFIG.len()) as u64
    }
}

const CONFIG: &[u8] = br#"{"os":"linux","architecture":"amd64"}"#;
