//! Manifests and indexes: the two documents that a reference can lead to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::lenient::{empty_is_none, null_is_default, schema_version, unsupported_algorithm};
use super::{Descriptor, Index, Platform, media_type};
use crate::failure::{Classify, Kind, Retry};
use crate::wording::{exact_size, short_list};

/// The largest manifest or index that is read, in bytes; registries refuse larger ones as well.
pub const MAX_DOCUMENT_BYTES: usize = 4 * 1024 * 1024;
/// More layers, or more manifests in an index, than any image has.
const MAX_ENTRIES: usize = 4096;

/// An image manifest: a config and layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2 when written. Not read: writers in use leave it at 0, and the media type decides.
    #[serde(skip_deserializing, default = "schema_version")]
    pub schema_version: u32,
    /// The document's own media type; older writers leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "empty_is_none")]
    pub media_type: Option<String>,
    /// What kind of artifact it is, where it is no container image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image's config.
    pub config: Descriptor,
    /// The image's contents, in order.
    #[serde(deserialize_with = "null_is_default")]
    pub layers: Vec<Descriptor>,
    /// Notes on the image as a whole.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
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
    #[error("the manifest has {}, more than the 4 MiB that are read", exact_size(*.0 as u64))]
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
    /// Several images of one name that fit the platform equally well.
    #[error("several images have this name and fit {wanted}: choose one by its digest: {}", list(.digests))]
    Ambiguous {
        /// The platform asked for.
        wanted: String,
        /// The digests to choose from, each with an `@` before it.
        digests: Vec<String>,
    },
}

impl Classify for DocumentError {
    fn kind(&self) -> Kind {
        match self {
            Self::TooLarge(_) => Kind::ManifestTooLarge,
            Self::Malformed(_) | Self::NotOurs(_) => Kind::ManifestInvalid,
            Self::Algorithm(_) | Self::Unnamed(_) => Kind::Unsupported,
            Self::Nested(_) => Kind::IndexNested,
            Self::NoPlatformMatch { .. } | Self::Ambiguous { .. } => Kind::NoPlatformMatch,
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
    if names.is_empty() { "nothing".to_owned() } else { short_list(names, 20) }
}

/// The fields that tell one document from another.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    #[serde(default)]
    schema_version: Value,
    #[serde(default, deserialize_with = "empty_is_none")]
    media_type: Option<String>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
}

impl Outline {
    fn is_docker_schema_1(&self) -> bool {
        self.schema_version.as_f64() == Some(1.0)
            || self.media_type.as_deref().is_some_and(media_type::is_docker_schema_1)
    }
}

impl Document {
    /// Reads a manifest or an index. Its own media type decides which one; else its fields do, of which only one kind can
    /// be there. A server's header decides nothing.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.len() > MAX_DOCUMENT_BYTES {
            return Err(DocumentError::TooLarge(bytes.len()));
        }
        let outline: Outline = serde_json::from_slice(bytes).map_err(DocumentError::Malformed)?;
        if outline.is_docker_schema_1() {
            return Err(DocumentError::NotOurs(
                "the manifest is in docker's schema 1, which is not supported: push the image again with a current tool"
                    .to_owned(),
            ));
        }
        let has_manifest_fields = outline.config.is_some() || outline.layers.is_some();
        // A document that is both could be verified as the one and run as the other (CVE-2021-41190).
        if has_manifest_fields && outline.manifests.is_some() {
            return Err(DocumentError::NotOurs("it has both layers and manifests".to_owned()));
        }
        match outline.media_type.as_deref() {
            Some(name) if media_type::is_manifest(name) => Self::manifest(bytes),
            Some(name) if media_type::is_index(name) => Self::index(bytes),
            Some(other) => Err(DocumentError::NotOurs(format!("its media type {other:?} is not that of an image"))),
            None if outline.manifests.is_some() => Self::index(bytes),
            None if has_manifest_fields => Self::manifest(bytes),
            None => Err(DocumentError::NotOurs("it has neither a media type, nor layers, nor manifests".to_owned())),
        }
    }

    fn manifest(bytes: &[u8]) -> Result<Self, DocumentError> {
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| {
            let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
            let layers = value.get("layers").and_then(Value::as_array).into_iter().flatten();
            let foreign = value.get("config").into_iter().chain(layers).find_map(unsupported_algorithm);
            foreign.map_or(DocumentError::Malformed(error), DocumentError::Algorithm)
        })?;
        check_count("layers", manifest.layers.len())?;
        Ok(Self::Manifest(manifest))
    }

    fn index(bytes: &[u8]) -> Result<Self, DocumentError> {
        let index = Index::parse(bytes).map_err(DocumentError::Malformed)?;
        check_count("manifests", index.manifests.len() + index.unsupported.len())?;
        Ok(Self::Index(index))
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
            schema_version: schema_version(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;
    use proptest::prelude::*;
    use serde_json::json;

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
    fn the_schema_version_counts_only_for_dockers_first_schema() {
        for version in [json!(0), json!(2), json!(3), json!("2"), json!(null), json!(-1)] {
            let mut value = manifest_json();
            value["schemaVersion"] = version.clone();
            let Ok(Document::Manifest(manifest)) = parse(&value) else { panic!("{version}") };
            assert_eq!(manifest.schema_version, 2, "{version}");
            let index = json!({"schemaVersion": version, "mediaType": media_type::INDEX});
            assert!(matches!(parse(&index), Ok(Document::Index(_))), "{version}");
        }
        let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        let one = json!({"schemaVersion": 1, "mediaType": media_type::MANIFEST, "config": {}, "layers": []});
        for refused in [one, json!({"schemaVersion": 1.0, "fsLayers": []}), json!({"mediaType": signed})] {
            assert!(parse(&refused).unwrap_err().to_string().contains("schema 1"), "{refused}");
        }
    }

    #[test]
    fn an_empty_media_type_and_null_lists_are_absent() {
        let mut value = manifest_json();
        value["mediaType"] = "".into();
        value["layers"] = json!(null);
        let Ok(Document::Manifest(manifest)) = parse(&value) else { panic!() };
        assert_eq!((manifest.media_type, manifest.layers), (None, vec![]));
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
        assert!(parse(&schema1).unwrap_err().to_string().contains("docker's schema 1"));
        assert!(matches!(parse(&serde_json::json!({})), Err(DocumentError::NotOurs(_))));
        assert!(matches!(Document::parse(b"<html>"), Err(DocumentError::Malformed(_))));
        assert!(matches!(Document::parse(&vec![b' '; MAX_DOCUMENT_BYTES + 1]), Err(DocumentError::TooLarge(_))));
    }

    #[test]
    fn a_digest_of_another_algorithm_is_named() {
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
    }

    #[test]
    fn an_error_without_a_match_says_what_there_is() {
        let wanted = "linux/amd64".parse().unwrap();
        let error = DocumentError::NoPlatformMatch { wanted, available: vec!["linux/arm64".to_owned()] };
        assert_eq!(error.to_string(), "no image for linux/amd64; the index has linux/arm64");
    }
}
