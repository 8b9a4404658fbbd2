//! Image indexes: manifests by platform.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::lenient::{empty_is_none, null_is_default, schema_version, unsupported_algorithm};
use super::{Descriptor, Platform, media_type};

/// The longest reason for leaving out an entry, in bytes: parsers quote the input.
const MAX_REASON: usize = 200;

/// An image index: manifests, one for each platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2 when written. Not read: writers in use leave it at 0, and the media type decides.
    #[serde(skip_deserializing, default = "schema_version")]
    pub schema_version: u32,
    /// The index's own media type.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "empty_is_none")]
    pub media_type: Option<String>,
    /// The well-formed entries, in order of preference; also those of media types that are not images.
    #[serde(default, deserialize_with = "null_is_default")]
    pub manifests: Vec<Descriptor>,
    /// Annotations of the index as a whole.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
    /// Entries that break a rule of the format, or have a digest that cannot be checked here. They spoil no other entry.
    #[serde(skip)]
    pub unsupported: Vec<UnsupportedEntry>,
}

/// An entry of an index that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedEntry {
    /// Position in the index, from 0.
    pub position: usize,
    /// The platform, if the entry names a valid one.
    pub platform: Option<Platform>,
    /// The reason for leaving it out.
    pub reason: EntryFault,
}

/// Reasons for leaving out an entry of an index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// A digest of another algorithm than SHA-256.
    #[error("its digest is of the algorithm {0:?}, and only sha256 is supported")]
    Algorithm(String),
    /// A rule of the format is broken.
    #[error("it is invalid: {0}")]
    Invalid(String),
}

impl Index {
    /// An index of `manifests`.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: schema_version(),
            media_type: Some(media_type::INDEX.to_owned()),
            manifests,
            annotations: BTreeMap::new(),
            unsupported: Vec::new(),
        }
    }

    /// Reads an index. Entries that cannot be followed are set apart in [`Index::unsupported`].
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes).or_else(|error| Self::without_unsupported(bytes).ok_or(error))
    }

    fn without_unsupported(bytes: &[u8]) -> Option<Self> {
        let mut value: Value = serde_json::from_slice(bytes).ok()?;
        let entries = std::mem::take(value.get_mut("manifests")?.as_array_mut()?);
        let mut index = Self::deserialize(value).ok()?;
        for (position, entry) in entries.into_iter().enumerate() {
            match Descriptor::deserialize(&entry) {
                Ok(entry) => index.manifests.push(entry),
                Err(error) => index.unsupported.push(UnsupportedEntry::new(position, &entry, &error)),
            }
        }
        Some(index)
    }

    /// The entries that lead to images. Other media types have to be ignored (image specification, "Image Index").
    pub fn images(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifests.iter().filter(|entry| media_type::is_image(&entry.media_type))
    }

    /// The entries to follow for `wanted`.
    pub fn choose(&self, wanted: &Platform) -> Choice<'_> {
        let fit = |entry: &Descriptor| entry.platform.as_ref().and_then(|platform| platform.fit(wanted));
        let named = self.images().filter_map(|entry| Some((fit(entry)?, entry)));
        // Of two that fit as well, the first: an index is in order of preference.
        match named.min_by_key(|(fit, _)| Reverse(*fit)) {
            Some((_, entry)) => Choice::Named(entry),
            None => Choice::Unnamed(self.images().filter(|entry| entry.platform.is_none()).collect()),
        }
    }

    /// The algorithm of an entry that would be followed for `wanted` if its digest could be checked.
    pub fn unsupported_algorithm(&self, wanted: &Platform) -> Option<&str> {
        let may_fit = |entry: &&UnsupportedEntry| entry.platform.as_ref().is_none_or(|it| it.serves(wanted));
        self.unsupported.iter().filter(may_fit).find_map(|entry| match &entry.reason {
            EntryFault::Algorithm(name) => Some(name.as_str()),
            EntryFault::Invalid(_) => None,
        })
    }

    /// The platforms that the entries name, and the number of entries that cannot be followed, for a message.
    pub fn offers(&self) -> Vec<String> {
        let mut offers: Vec<_> = self.images().filter_map(|entry| Some(entry.platform.as_ref()?.to_string())).collect();
        let others = self.manifests.len() - self.images().count();
        for (count, what) in [(others, "of another media type"), (self.unsupported.len(), "left out as unsupported")] {
            match count {
                0 => {}
                1 => offers.push(format!("1 entry {what}")),
                more => offers.push(format!("{more} entries {what}")),
            }
        }
        offers
    }
}

impl UnsupportedEntry {
    fn new(position: usize, entry: &Value, error: &serde_json::Error) -> Self {
        let platform = entry.get("platform").and_then(|platform| Platform::deserialize(platform).ok());
        let reason = match unsupported_algorithm(entry) {
            Some(algorithm) => EntryFault::Algorithm(algorithm),
            None => EntryFault::Invalid(error.to_string().chars().take(MAX_REASON).collect()),
        };
        Self { position, platform, reason }
    }
}

/// The entries of an index to follow for a platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice<'a> {
    /// The first that names the platform with its variant, else the first of those that fit best.
    Named(&'a Descriptor),
    /// If there is none: those that name no platform, any of which may lead there.
    Unnamed(Vec<&'a Descriptor>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Digest, Document, DocumentError};
    use proptest::prelude::*;
    use serde_json::json;

    prop_compose! {
        fn entries()(
            media_type in prop::sample::select(vec![media_type::MANIFEST, media_type::INDEX, "application/x"]),
            content: [u8; 4],
            platform in proptest::option::of("(linux|windows)/(arm|arm64|amd64)(/v[678])?"),
        ) -> Descriptor {
            let platform = platform.map(|platform| platform.parse().unwrap());
            Descriptor { platform, ..Descriptor::of(media_type, &content) }
        }
    }

    proptest! {
        #[test]
        fn what_is_chosen_serves_and_nothing_fits_better(
            entries in proptest::collection::vec(entries(), 2..6), wanted in "linux/(arm|arm64|amd64)(/v[678])?",
        ) {
            let (index, wanted) = (Index::new(entries), wanted.parse::<Platform>().unwrap());
            let platforms = || index.images().filter_map(|entry| entry.platform.as_ref());
            match index.choose(&wanted) {
                Choice::Named(chosen) => {
                    let chosen = chosen.platform.as_ref().unwrap();
                    prop_assert!(chosen.serves(&wanted));
                    prop_assert!(platforms().all(|other| other.fit(&wanted) <= chosen.fit(&wanted)));
                }
                Choice::Unnamed(entries) => {
                    prop_assert!(!platforms().any(|other| other.serves(&wanted)));
                    prop_assert_eq!(entries.len() + platforms().count(), index.images().count());
                }
            }
        }
    }

    fn parse(value: &Value) -> Result<Index, DocumentError> {
        match Document::parse(&serde_json::to_vec(value).unwrap())? {
            Document::Index(index) => Ok(index),
            Document::Manifest(_) => panic!("{value} is a manifest"),
        }
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

    fn entry(content: &str, platform: &Value) -> Value {
        let digest = Digest::of(content.as_bytes()).to_string();
        json!({"mediaType": media_type::MANIFEST, "digest": digest, "size": 1, "platform": platform})
    }

    /// The content of the entry that is followed for linux/amd64.
    fn chosen(entries: &[Value]) -> Option<Digest> {
        let index = parse(&json!({"schemaVersion": 2, "manifests": entries})).unwrap();
        match index.choose(&"linux/amd64".parse().unwrap()) {
            Choice::Named(entry) => Some(entry.digest),
            Choice::Unnamed(_) => None,
        }
    }

    #[test]
    fn a_platform_matches_in_every_spelling() {
        for platform in [
            json!({"os": "linux", "architecture": "amd64"}),
            json!({"os": "linux", "architecture": "amd64", "variant": ""}),
            json!({"os": "linux", "architecture": "amd64", "variant": null}),
            json!({"os": "Linux", "architecture": "AMD64"}),
            json!({"os": "linux", "architecture": "x86_64"}),
            json!({"os": "linux", "architecture": "x86-64"}),
            json!({"os": "linux", "architecture": "amd64", "variant": "v1", "os.version": "5"}),
        ] {
            assert_eq!(chosen(&[entry("a", &platform)]), Some(Digest::of(b"a")), "{platform}");
        }
        for platform in [
            json!({"os": "windows", "architecture": "amd64"}),
            json!({"os": "linux", "architecture": "arm64"}),
            json!({"os": "linux", "architecture": "amd64", "variant": "v3"}),
            json!({"os": "linux/amd64", "architecture": "v1"}),
        ] {
            assert_eq!(chosen(&[entry("a", &platform)]), None, "{platform}");
        }
    }

    #[test]
    fn a_broken_entry_spoils_no_other() {
        let amd64 = json!({"os": "linux", "architecture": "amd64"});
        let right = entry("right", &amd64);
        let change = |key: &str, value: Value| {
            let mut entry = entry("wrong", &amd64);
            entry[key] = value;
            entry
        };
        for broken in [
            change("platform", json!({})),
            change("platform", json!({"os": "linux"})),
            change("platform", json!({"os": "", "architecture": ""})),
            change("platform", json!("linux/amd64")),
            change("size", json!(-1)),
            change("size", json!(null)),
            change("size", json!("1")),
            change("digest", json!("sha256:12")),
            change("digest", json!(format!("sha512:{}", "0".repeat(128)))),
            change("mediaType", json!(null)),
            change("annotations", json!({"a": 1})),
            json!(null),
            json!(7),
        ] {
            assert_eq!(chosen(&[broken.clone(), right.clone()]), Some(Digest::of(b"right")), "{broken}");
            let index = parse(&json!({"manifests": [broken]})).unwrap();
            assert_eq!((index.manifests.len(), index.unsupported.len()), (0, 1));
            assert_eq!(index.offers(), ["1 entry left out as unsupported"]);
        }
    }

    #[test]
    fn an_entry_of_another_media_type_is_ignored() {
        let amd64 = json!({"os": "linux", "architecture": "amd64"});
        for platform in [amd64.clone(), json!(null)] {
            let mut other = entry("other", &platform);
            other["mediaType"] = "application/vnd.example+json".into();
            assert_eq!(chosen(&[other.clone(), entry("right", &amd64)]), Some(Digest::of(b"right")));
            let index = parse(&json!({"manifests": [other]})).unwrap();
            assert_eq!(index.choose(&"linux/amd64".parse().unwrap()), Choice::Unnamed(vec![]));
        }
    }

    #[test]
    fn the_algorithm_of_an_unsupported_digest_is_named() {
        let [amd64, arm64] = ["linux/amd64", "linux/arm64"].map(|platform| platform.parse().unwrap());
        let mut foreign = entry("", &json!({"os": "linux", "architecture": "arm64"}));
        foreign["digest"] = format!("sha512:{}", "0".repeat(128)).into();
        let index = parse(&json!({"manifests": [foreign]})).unwrap();
        assert_eq!((index.unsupported_algorithm(&amd64), index.unsupported_algorithm(&arm64)), (None, Some("sha512")));
    }
}
