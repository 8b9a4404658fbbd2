//! The statements of an image's config about the image. Nothing depends on them, so any of them may be missing or wrong.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The fields of a config that describe the image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatedConfig {
    /// The operating system.
    pub os: Option<String>,
    /// The architecture.
    pub architecture: Option<String>,
    /// The architecture's variant.
    pub variant: Option<String>,
    /// Who made the image.
    pub author: Option<String>,
    /// The labels. A value that is not a string stands here as its JSON text.
    pub labels: BTreeMap<String, String>,
    /// The reason if the config cannot be read.
    pub problem: Option<String>,
}

impl StatedConfig {
    /// Reads a config. A field of the wrong type counts as missing.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let fields = match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => return Self { problem: Some("it is not a JSON object".to_owned()), ..Self::default() },
            Err(error) => return Self { problem: Some(format!("it is not JSON: {error}")), ..Self::default() },
        };
        let text = |key: &str| fields.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let text = |key: &str| text(key).map(ToOwned::to_owned);
        let labels = fields.get("config").and_then(|inner| inner.get("Labels")).and_then(Value::as_object);
        Self {
            os: text("os"),
            architecture: text("architecture"),
            variant: text("variant"),
            author: text("author"),
            labels: labels.map(strings).unwrap_or_default(),
            problem: None,
        }
    }

    /// The platform, if the config states both of its parts.
    pub fn platform(&self) -> Option<String> {
        let (os, architecture) = (self.os.as_deref()?, self.architecture.as_deref()?);
        Some(match &self.variant {
            Some(variant) => format!("{os}/{architecture}/{variant}"),
            None => format!("{os}/{architecture}"),
        })
    }
}

fn strings(fields: &Map<String, Value>) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    fields.iter().map(|(key, value)| (key.clone(), text(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_wrong_type_count_as_missing() {
        let whole = r#"{"os": "linux", "architecture": "arm", "variant": "v7", "author": "A", "config": {"Labels": {"a": "b"}}}"#;
        let whole = StatedConfig::read(whole.as_bytes());
        assert_eq!((whole.platform().as_deref(), whole.author.as_deref()), (Some("linux/arm/v7"), Some("A")));
        assert_eq!((whole.labels["a"].as_str(), whole.problem), ("b", None));
        for text in ["{}", r#"{"os": 1, "author": ["A"], "config": null}"#, r#"{"os": "", "config": {"Labels": []}}"#] {
            assert_eq!(StatedConfig::read(text.as_bytes()), StatedConfig::default(), "{text}");
        }
        let odd = StatedConfig::read(br#"{"os": "linux", "config": {"Labels": {"a": 1, "b": null}}}"#);
        assert_eq!((odd.platform(), odd.labels["a"].as_str(), odd.labels["b"].as_str()), (None, "1", "null"));
        for text in ["", "[]", "text", "{"] {
            assert!(StatedConfig::read(text.as_bytes()).problem.is_some(), "{text}");
        }
    }
}
