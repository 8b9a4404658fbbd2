//! An image's config, as much of it as matters here (image specification, "OCI Image Configuration").

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Digest, Platform};

/// An image's config. Of one that is read, only what decides something is kept: who made it and what its layers unpacked
/// are may be as wrong as it likes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Who made the image.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What it is for, where it says so.
    #[serde(flatten)]
    pub platform: Option<Platform>,
    /// How a container is to be run from it.
    #[serde(rename = "config", skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerConfig>,
    /// What its layers are.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<RootFs>,
}

/// How a container is to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Notes by key.
    #[serde(rename = "Labels")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// What the layers of an image are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The digests of the layers' uncompressed contents, in order.
    pub diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Reads a config.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_decides_nothing_may_be_wrong() {
        for (text, platform, labels) in [
            ("{}", None, None),
            (r#"{"os": "linux", "config": {"Labels": null}}"#, None, None),
            (r#"{"os": 1, "architecture": "arm", "author": 2, "config": null}"#, None, None),
            (r#"{"os": "linux", "architecture": "arm", "variant": "v7", "rootfs": 3}"#, Some("linux/arm/v7"), None),
            (r#"{"config": {"Labels": {"a": "b"}, "Cmd": 1}, "created": "x"}"#, None, Some("b")),
        ] {
            let config = ImageConfig::parse(text.as_bytes()).unwrap();
            assert_eq!(config.platform, platform.map(|platform| platform.parse().unwrap()), "{text}");
            let found =
                config.container.and_then(|container| container.labels).and_then(|labels| labels.get("a").cloned());
            assert_eq!(found.as_deref(), labels, "{text}");
        }
        for text in ["", "[]", r#"{"config": {"Labels": {"a": 1}}}"#] {
            assert!(ImageConfig::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
