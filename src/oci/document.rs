//! Manifests and indexes: the two documents that a reference can lead to.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::descriptor::null_is_default;
use super::{Descriptor, Digest, DigestError, Platform, media_type};
use crate::failure::{Classify, Kind, Retry};

/// The largest manifest or index that is read, in bytes; registries refuse larger ones as well.
pub const MAX_DOCUMENT_BYTES: usize = 4 * 1024 * 1024;
/// More layers, or more manifests in an index, than any image has.
const MAX_ENTRIES: usize = 4096;

/// An image manifest: a config and layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// The document's own media type; older writers leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What kind of artifact it is, where it is no container image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image's config.
    pub config: Descriptor,
    /// The image's contents, in order.
    pub layers: Vec<Descriptor>,
    /// Notes on the image as a whole.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
}

/// An image index: manifests, one for each platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// The document's own media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What it leads to, in order of preference.
    #[serde(default, deserialize_with = "null_is_default")]
    pub manifests: Vec<Descriptor>,
    /// Notes on the index as a whole.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
    /// Entries that were left out: their digests are by other algorithms than SHA-256.
    #[serde(skip)]
    pub foreign: Vec<Foreign>,
}

/// An entry of an index that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// What it is for, where it says so.
    pub platform: Option<Platform>,
    /// The algorithm of its digest.
    pub algorithm: String,
}

/// What a reference leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Images for several platforms.
    Index(Index),
}

/// Why bytes are neither a manifest nor an index.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Over [`MAX_DOCUMENT_BYTES`].
    #[error("the manifest has {0} bytes, more than the 4 MiB that are read")]
    TooLarge(usize),
    /// No JSON, or not of the document's shape.
    #[error("the manifest cannot be read")]
    Malformed(#[source] serde_json::Error),
    /// JSON of another kind.
    #[error("{0}")]
    NotOurs(String),
    /// A digest by an algorithm that is not known here.
    #[error("the manifest has a digest of the algorithm {0:?}, and only sha256 is supported")]
    Algorithm(String),
    /// Nobody says which of many entries is for us.
    #[error("the index leads to more than {0} documents that name no platform: let its entries name theirs")]
    Unnamed(usize),
    /// Indexes that lead to indexes.
    #[error("the index leads through more than {0} indexes, or in a circle")]
    Nested(usize),
    /// An index in which nothing fits.
    #[error("no image for {wanted}; the index has {}", list(.available))]
    NoPlatformMatch {
        /// The platform asked for.
        wanted: Platform,
        /// What the index offers.
        available: Vec<String>,
    },
}

impl Classify for DocumentError {
    fn kind(&self) -> Kind {
        match self {
            Self::TooLarge(_) => Kind::ManifestTooLarge,
            Self::Malformed(_) | Self::NotOurs(_) => Kind::ManifestInvalid,
            Self::Algorithm(_) | Self::Unnamed(_) => Kind::Unsupported,
            Self::Nested(_) => Kind::IndexNested,
            Self::NoPlatformMatch { .. } => Kind::NoPlatformMatch,
        }
    }

    /// The same digest leads to the same document; but what is no document at all may come from a captive portal, which
    /// goes away without anybody's coming here.
    fn retry(&self) -> Retry {
        match self {
            Self::Malformed(_) => Retry::Later,
            _ => Retry::Never,
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// The fields that tell one document from another.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    schema_version: Option<u32>,
    media_type: Option<String>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a manifest or an index; which one, the document's own fields decide, never a server's header.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.len() > MAX_DOCUMENT_BYTES {
            return Err(DocumentError::TooLarge(bytes.len()));
        }
        let outline: Outline = serde_json::from_slice(bytes).map_err(DocumentError::Malformed)?;
        if outline.schema_version != Some(2) {
            return Err(DocumentError::NotOurs(match outline.schema_version {
                Some(other) => format!("its schemaVersion is {other}, not 2"),
                None => "it has no schemaVersion, which is to be 2".to_owned(),
            }));
        }
        let looks_like_manifest = outline.config.is_some() || outline.layers.is_some();
        // A document that is both could be verified as the one and run as the other (CVE-2021-41190).
        if looks_like_manifest && outline.manifests.is_some() {
            return Err(DocumentError::NotOurs("it has both layers and manifests".to_owned()));
        }
        let is_index = match outline.media_type.as_deref() {
            Some(name) if media_type::is_manifest(name) => false,
            Some(name) if media_type::is_index(name) => true,
            Some(other) => {
                return Err(DocumentError::NotOurs(format!("its media type {other:?} is not that of an image")));
            }
            None => outline.manifests.is_some(),
        };
        if is_index { Self::index(bytes) } else { Self::manifest(bytes) }
    }

    fn manifest(bytes: &[u8]) -> Result<Self, DocumentError> {
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| {
            let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
            let layers = value.get("layers").and_then(Value::as_array).into_iter().flatten();
            let foreign = value.get("config").into_iter().chain(layers).find_map(algorithm);
            foreign.map_or(DocumentError::Malformed(error), DocumentError::Algorithm)
        })?;
        check_count("layers", manifest.layers.len())?;
        Ok(Self::Manifest(manifest))
    }

    fn index(bytes: &[u8]) -> Result<Self, DocumentError> {
        let index: Index = serde_json::from_slice(bytes)
            .or_else(|error| Index::without_foreign(bytes).ok_or(error))
            .map_err(DocumentError::Malformed)?;
        check_count("manifests", index.manifests.len())?;
        Ok(Self::Index(index))
    }
}

/// The algorithm of an entry's digest, where it is another one than ours.
fn algorithm(entry: &Value) -> Option<String> {
    match entry.get("digest")?.as_str()?.parse::<Digest>() {
        Err(DigestError::Algorithm(name)) => Some(name),
        _ => None,
    }
}

fn check_count(what: &str, count: usize) -> Result<(), DocumentError> {
    if count > MAX_ENTRIES {
        return Err(DocumentError::NotOurs(format!("it lists {count} {what}, more than {MAX_ENTRIES}")));
    }
    Ok(())
}

impl Manifest {
    /// A manifest as this project writes it.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::MANIFEST.to_owned()),
            artifact_type: None,
            config,
            layers,
            annotations: BTreeMap::new(),
        }
    }

    /// The config, then the layers in order.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

impl Index {
    /// An index of `manifests`.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::INDEX.to_owned()),
            manifests,
            annotations: BTreeMap::new(),
            foreign: Vec::new(),
        }
    }

    /// An index in which some entries have digests that we cannot check. The others are as good as ever.
    fn without_foreign(bytes: &[u8]) -> Option<Self> {
        let mut value: Value = serde_json::from_slice(bytes).ok()?;
        let mut foreign = Vec::new();
        value.get_mut("manifests")?.as_array_mut()?.retain(|entry| {
            let Some(algorithm) = algorithm(entry) else { return true };
            let platform = entry.get("platform").and_then(|platform| Platform::deserialize(platform).ok());
            foreign.push(Foreign { platform, algorithm });
            false
        });
        Some(Self { foreign, ..Self::deserialize(value).ok()? })
    }

    /// The entries to follow for `wanted`.
    pub fn choose(&self, wanted: &Platform) -> Choice<'_> {
        let fit = |entry: &Descriptor| entry.platform.as_ref().and_then(|platform| platform.fit(wanted));
        let named = self.manifests.iter().filter_map(|entry| Some((fit(entry)?, entry)));
        // Of two that fit as well, the first: an index is in order of preference.
        match named.min_by_key(|(fit, _)| Reverse(*fit)) {
            Some((_, entry)) => Choice::Named(entry),
            None => Choice::Unnamed(self.manifests.iter().filter(|entry| entry.platform.is_none()).collect()),
        }
    }

    /// The algorithm of an entry that would be followed for `wanted`, could its digest be checked.
    pub fn unsupported(&self, wanted: &Platform) -> Option<&str> {
        let may_fit = |entry: &&Foreign| entry.platform.as_ref().is_none_or(|platform| platform.serves(wanted));
        self.foreign.iter().find(may_fit).map(|entry| entry.algorithm.as_str())
    }

    /// The platforms that its entries name, for a person.
    pub fn platforms(&self) -> impl Iterator<Item = String> {
        self.manifests.iter().filter_map(|entry| entry.platform.as_ref().map(ToString::to_string))
    }
}

/// Which entries of an index to follow for a platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice<'a> {
    /// The first that names the platform with its variant, else the first of those that fit best.
    Named(&'a Descriptor),
    /// Where there is none: those that name no platform, any of which may lead there.
    Unnamed(Vec<&'a Descriptor>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;
    use proptest::prelude::*;

    prop_compose! {
        fn descriptors()(
            media_type in "[a-z/.+]{1,20}",
            content: [u8; 4],
            size: u64,
            annotations in proptest::collection::btree_map("[a-z.]{1,8}", ".{0,8}", 0..3),
            platform in proptest::option::of("(linux|windows)/(arm|arm64|amd64)(/v[678])?"),
        ) -> Descriptor {
            let platform = platform.map(|platform| platform.parse().unwrap());
            Descriptor { media_type, digest: Digest::of(&content), size, annotations, platform }
        }
    }

    proptest! {
        #[test]
        fn documents_are_read_back_as_written(
            config in descriptors(), others in proptest::collection::vec(descriptors(), 0..6),
        ) {
            let manifest = Manifest::new(config, others.clone());
            let read = Document::parse(&serde_json::to_vec(&manifest).unwrap()).unwrap();
            prop_assert_eq!(read, Document::Manifest(manifest));
            let index = Index::new(others);
            let read = Document::parse(&serde_json::to_vec(&index).unwrap()).unwrap();
            prop_assert_eq!(read, Document::Index(index));
        }

        #[test]
        fn a_document_that_is_damaged_is_no_panic(config in descriptors(), at: prop::sample::Index, value: u8) {
            let mut bytes = serde_json::to_vec(&Manifest::new(config, vec![])).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = value;
            let _ = Document::parse(&bytes);
            let _ = Document::parse(&bytes[..at]);
        }

        #[test]
        fn what_is_chosen_serves_and_nothing_fits_better(
            entries in proptest::collection::vec(descriptors(), 2..6), wanted in "linux/(arm|arm64|amd64)(/v[678])?",
        ) {
            let (index, wanted) = (Index::new(entries), wanted.parse::<Platform>().unwrap());
            let platforms = || index.manifests.iter().filter_map(|entry| entry.platform.as_ref());
            match index.choose(&wanted) {
                Choice::Named(chosen) => {
                    let chosen = chosen.platform.as_ref().unwrap();
                    prop_assert!(chosen.serves(&wanted));
                    prop_assert!(platforms().all(|other| other.fit(&wanted) <= chosen.fit(&wanted)));
                }
                Choice::Unnamed(entries) => {
                    prop_assert!(!platforms().any(|other| other.serves(&wanted)));
                    prop_assert_eq!(entries.len() + platforms().count(), index.manifests.len());
                }
            }
        }
    }

    fn manifest_json() -> serde_json::Value {
        serde_json::to_value(Manifest::new(Descriptor::of("application/json", b"{}"), vec![])).unwrap()
    }

    fn parse(value: &serde_json::Value) -> Result<Document, DocumentError> {
        Document::parse(&serde_json::to_vec(value).unwrap())
    }

    #[test]
    fn a_manifest_without_a_media_type_is_told_by_its_fields() {
        let mut value = manifest_json();
        value.as_object_mut().unwrap().remove("mediaType");
        value["annotations"] = serde_json::Value::Null;
        assert!(matches!(parse(&value), Ok(Document::Manifest(_))));
        let index = serde_json::json!({"schemaVersion": 2, "manifests": []});
        assert!(matches!(parse(&index), Ok(Document::Index(_))));
    }

    #[test]
    fn a_document_of_two_kinds_is_refused() {
        let mut value = manifest_json();
        value["manifests"] = serde_json::json!([]);
        assert!(matches!(parse(&value), Err(DocumentError::NotOurs(_))));
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let mut other = manifest_json();
        other["mediaType"] = "text/html".into();
        let mut negative = manifest_json();
        negative["config"]["size"] = (-1).into();
        let schema1 = serde_json::json!({"schemaVersion": 1});
        assert!(matches!(parse(&other), Err(DocumentError::NotOurs(_))));
        assert!(matches!(parse(&negative), Err(DocumentError::Malformed(_))));
        assert_eq!(parse(&schema1).unwrap_err().to_string(), "its schemaVersion is 1, not 2");
        assert!(matches!(parse(&serde_json::json!({})), Err(DocumentError::NotOurs(_))));
        assert!(matches!(Document::parse(b"<html>"), Err(DocumentError::Malformed(_))));
        assert!(matches!(Document::parse(&vec![b' '; MAX_DOCUMENT_BYTES + 1]), Err(DocumentError::TooLarge(_))));
    }

    #[test]
    fn the_highest_variant_that_runs_there_is_chosen() {
        let entries = |platforms: &str| {
            let entry = |platform: &str| {
                let mut entry = Descriptor::of(media_type::MANIFEST, platform.as_bytes());
                entry.platform = Some(format!("linux/{platform}").parse().unwrap());
                entry
            };
            Index::new(platforms.split(' ').map(entry).collect())
        };
        for (platforms, wanted, chosen) in [
            ("arm arm/v6 arm/v7", "arm/v7", Some("arm/v7")),
            ("arm/v6 arm", "arm/v7", Some("arm")),
            ("arm/v6 arm", "arm", Some("arm")),
            ("arm/v6 arm/v7", "arm", Some("arm/v6")),
            ("arm/v5 arm/v6", "arm/v7", Some("arm/v6")),
            ("arm/v6 arm/v5", "arm/v7", Some("arm/v6")),
            ("arm/v7", "arm/v6", None),
            ("arm64/v9 arm64/v8", "arm64", Some("arm64/v8")),
            ("arm64/v9", "arm64", None),
            ("arm64", "arm64/v9", Some("arm64")),
            ("amd64/v3 amd64/v1", "amd64", Some("amd64/v1")),
            ("amd64/v3 amd64", "amd64", Some("amd64")),
            ("amd64/v3", "amd64", None),
            ("amd64 amd64/v2 amd64/v4", "amd64/v3", Some("amd64/v2")),
            ("amd64 amd64/v4", "amd64/v3", Some("amd64")),
            ("ppc64le/power8 ppc64le/power9", "ppc64le/power9", Some("ppc64le/power9")),
            ("ppc64le/power8", "ppc64le/power9", None),
        ] {
            let (index, wanted) = (entries(platforms), format!("linux/{wanted}").parse().unwrap());
            let found = match index.choose(&wanted) {
                Choice::Named(found) => found.platform.as_ref().map(ToString::to_string),
                Choice::Unnamed(_) => None,
            };
            assert_eq!(found, chosen.map(|chosen| format!("linux/{chosen}")), "{wanted} of {platforms}");
        }
    }

    #[test]
    fn a_digest_of_another_algorithm_is_told_and_spoils_no_other_entry() {
        let foreign = format!("sha512:{}", "0".repeat(128));
        for key in ["config", "layers"] {
            let mut value = manifest_json();
            let mut entry = value["config"].clone();
            entry["digest"] = foreign.clone().into();
            value[key] = if key == "config" { entry } else { serde_json::json!([entry]) };
            let error = parse(&value).unwrap_err();
            assert!(error.to_string().contains("sha512"), "{error}");
            assert_eq!((error.kind(), error.retry()), (Kind::Unsupported, Retry::Never));
        }
        let entry = |digest: &str, architecture: &str| {
            let platform = serde_json::json!({"os": "linux", "architecture": architecture});
            serde_json::json!({"mediaType": media_type::MANIFEST, "digest": digest, "size": 1, "platform": platform})
        };
        let ours = Digest::of(b"").to_string();
        let mut value = serde_json::json!({
            "schemaVersion": 2, "manifests": [entry(&foreign, "arm64"), entry(&ours, "amd64")],
        });
        let Ok(Document::Index(index)) = parse(&value) else { panic!() };
        let [amd64, arm64] = ["linux/amd64", "linux/arm64"].map(|platform| platform.parse().unwrap());
        assert!(matches!(index.choose(&amd64), Choice::Named(_)));
        assert_eq!((index.unsupported(&amd64), index.unsupported(&arm64)), (None, Some("sha512")));
        value["manifests"][1]["size"] = (-1).into();
        assert!(matches!(parse(&value), Err(DocumentError::Malformed(_))), "what else is wrong stays wrong");
    }

    #[test]
    fn an_error_without_a_match_says_what_there_is() {
        let wanted = "linux/amd64".parse().unwrap();
        let error = DocumentError::NoPlatformMatch { wanted, available: vec!["linux/arm64".to_owned()] };
        assert_eq!(error.to_string(), "no image for linux/amd64; the index has linux/arm64");
    }
}
