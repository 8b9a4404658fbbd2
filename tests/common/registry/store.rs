//! What the registry holds: repositories in memory, and the uploads on their way into them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::lock;

/// A manifest as it was pushed, to the byte.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub media_type: String,
    pub bytes: Bytes,
}

#[derive(Default)]
struct Repo {
    blobs: HashMap<String, Bytes>,
    manifests: BTreeMap<String, Manifest>,
    tags: BTreeMap<String, String>,
}

#[derive(Default)]
struct Contents {
    repos: HashMap<String, Repo>,
    /// By repository and session: a session is known in its own repository only.
    uploads: HashMap<(String, String), BytesMut>,
    sessions: u64,
}

/// The contents of the registry. Content is addressed by the digest it is put under, which a test may choose wrongly.
#[derive(Default)]
pub struct Store(Mutex<Contents>);

impl Store {
    pub fn put_blob(&self, repo: &str, digest: &str, bytes: Bytes) {
        let mut contents = lock(&self.0);
        contents.repo(repo).blobs.insert(digest.to_owned(), bytes);
    }

    pub fn blob(&self, repo: &str, digest: &str) -> Option<Bytes> {
        lock(&self.0).repos.get(repo)?.blobs.get(digest).cloned()
    }

    pub fn remove_blob(&self, repo: &str, digest: &str) -> bool {
        lock(&self.0).repo(repo).blobs.remove(digest).is_some()
    }

    pub fn put_manifest(&self, repo: &str, tag: Option<&str>, manifest: Manifest) -> String {
        let digest = digest(&manifest.bytes);
        let mut contents = lock(&self.0);
        let repo = contents.repo(repo);
        repo.manifests.insert(digest.clone(), manifest);
        if let Some(tag) = tag {
            repo.tags.insert(tag.to_owned(), digest.clone());
        }
        digest
    }

    /// A manifest by tag or digest, and its digest.
    pub fn manifest(&self, repo: &str, reference: &str) -> Option<(String, Manifest)> {
        let contents = lock(&self.0);
        let repo = contents.repos.get(repo)?;
        let digest = repo.tags.get(reference).map_or(reference, String::as_str);
        Some((digest.to_owned(), repo.manifests.get(digest)?.clone()))
    }

    pub fn remove_manifest(&self, repo: &str, digest: &str) -> bool {
        let mut contents = lock(&self.0);
        let repo = contents.repo(repo);
        repo.tags.retain(|_, target| target != digest);
        repo.manifests.remove(digest).is_some()
    }

    pub fn remove_tag(&self, repo: &str, tag: &str) -> bool {
        lock(&self.0).repo(repo).tags.remove(tag).is_some()
    }

    /// The tags of a repository in lexical order; none where there is no such repository.
    pub fn tags(&self, repo: &str) -> Option<Vec<String>> {
        Some(lock(&self.0).repos.get(repo)?.tags.keys().cloned().collect())
    }

    /// Descriptors of the manifests whose `subject` is `digest`.
    pub fn referrers(&self, repo: &str, digest: &str) -> Vec<Value> {
        let contents = lock(&self.0);
        let manifests = contents.repos.get(repo).map(|repo| &repo.manifests);
        let all = manifests.into_iter().flatten();
        all.filter_map(|(own, manifest)| referrer(own, manifest, digest)).collect()
    }

    /// The first digest that a manifest names and the repository lacks. A `subject` may be missing, says the specification.
    pub fn missing(&self, repo: &str, manifest: &Value) -> Option<String> {
        let contents = lock(&self.0);
        let repo = contents.repos.get(repo);
        let blobs = manifest.get("config").into_iter().chain(list(manifest.get("layers")));
        let blob = digests(blobs).find(|digest| repo.is_none_or(|repo| !repo.blobs.contains_key(*digest)));
        let child = digests(list(manifest.get("manifests")))
            .find(|digest| repo.is_none_or(|repo| !repo.manifests.contains_key(*digest)));
        blob.or(child).map(str::to_owned)
    }

    /// Opens an upload session.
    pub fn begin_upload(&self, repo: &str) -> String {
        let mut contents = lock(&self.0);
        contents.sessions += 1;
        let session = format!("upload-{}", contents.sessions);
        contents.uploads.insert((repo.to_owned(), session.clone()), BytesMut::new());
        session
    }

    /// Appends to an upload, and tells how much it holds now.
    pub fn append(&self, repo: &str, session: &str, bytes: &[u8]) -> Option<usize> {
        let mut contents = lock(&self.0);
        let upload = contents.uploads.get_mut(&(repo.to_owned(), session.to_owned()))?;
        upload.extend_from_slice(bytes);
        Some(upload.len())
    }

    /// Ends an upload session, whatever is to become of its bytes.
    pub fn end_upload(&self, repo: &str, session: &str) -> Option<Bytes> {
        let mut contents = lock(&self.0);
        let upload = contents.uploads.remove(&(repo.to_owned(), session.to_owned()))?;
        Some(upload.freeze())
    }
}

impl Contents {
    fn repo(&mut self, name: &str) -> &mut Repo {
        self.repos.entry(name.to_owned()).or_default()
    }
}

/// The SHA-256 digest of content, as OCI writes it.
pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// The descriptor of a manifest in the list of what refers to `subject`, if it does.
fn referrer(digest: &str, manifest: &Manifest, subject: &str) -> Option<Value> {
    let content: Value = serde_json::from_slice(&manifest.bytes).ok()?;
    (content.pointer("/subject/digest")? == subject).then(|| {
        let artifact_type = content.get("artifactType").or_else(|| content.pointer("/config/mediaType"));
        json!({
            "mediaType": manifest.media_type,
            "digest": digest,
            "size": manifest.bytes.len(),
            "artifactType": artifact_type,
            "annotations": content.get("annotations").unwrap_or(&json!({})),
        })
    })
}

fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

fn digests<'a>(descriptors: impl Iterator<Item = &'a Value>) -> impl Iterator<Item = &'a str> {
    descriptors.filter_map(|descriptor| descriptor.get("digest")?.as_str())
}
