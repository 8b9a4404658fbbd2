//! Reading JSON as the writers in use produce it, where they differ from the specification.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{Digest, DigestError};

/// The `schemaVersion` of OCI's manifests and indexes, and of docker's second schema.
pub(super) const fn schema_version() -> u32 {
    2
}

/// Reads `null` as the default: Go writes an empty map or list so.
pub(super) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads an empty text as an absent one: Go writes an unset text so.
pub(super) fn empty_is_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

/// The algorithm of a descriptor's digest, if it is another one than SHA-256.
pub(super) fn unsupported_algorithm(descriptor: &Value) -> Option<String> {
    match descriptor.get("digest")?.as_str()?.parse::<Digest>() {
        Err(DigestError::Algorithm(name)) => Some(name),
        _ => None,
    }
}
