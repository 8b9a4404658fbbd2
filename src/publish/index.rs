//! An index at a tag: manifests of ours, beside those that are there for other platforms.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::PublishError;
use crate::oci::{Descriptor, Document, Platform, media_type};

/// The index that lists `ours`, and of the document `existing` all entries for platforms that are none of theirs, as they
/// stand. A manifest that is no index has no entries.
///
/// Entries are in the order of their platforms, so that it does not matter in which order several pushes were made. One
/// with a variant stands before one without, which would serve in its place; those of no platform come last.
pub(super) fn merge(existing: Option<&[u8]>, ours: &[Descriptor]) -> Result<Vec<u8>, PublishError> {
    let (mut fields, kept) = existing.map_or_else(|| (Map::new(), Vec::new()), |bytes| others(bytes, ours));
    let mut entries = Vec::with_capacity(kept.len() + ours.len());
    for entry in ours {
        entries.push((entry.platform.clone(), serde_json::to_value(entry)?));
    }
    entries.extend(kept);
    entries.sort_by_cached_key(|(platform, _)| rank(platform.as_ref()));
    let entries = entries.into_iter().map(|(_, entry)| entry).collect();
    fields.insert("schemaVersion".to_owned(), 2.into());
    fields.insert("mediaType".to_owned(), media_type::INDEX.into());
    fields.insert("manifests".to_owned(), Value::Array(entries));
    Ok(serde_json::to_vec(&fields)?)
}

type Entry = (Option<Platform>, Value);

/// What stays of a document: the fields of an index, what we do not know of them included, and its other entries.
fn others(bytes: &[u8], ours: &[Descriptor]) -> (Map<String, Value>, Vec<Entry>) {
    let (Ok(Document::Index(_)), Ok(Value::Object(mut fields))) =
        (Document::parse(bytes), serde_json::from_slice(bytes))
    else {
        return (Map::new(), Vec::new());
    };
    let is_ours = |platform: &Platform| {
        ours.iter().filter_map(|entry| entry.platform.as_ref()).any(|other| other.is_same(platform))
    };
    let raw = match fields.remove("manifests") {
        Some(Value::Array(entries)) => entries,
        _ => Vec::new(),
    };
    // Read from the entries as they stand: of those that we could not follow, the document has nothing.
    let platform = |entry: &Value| entry.get("platform").and_then(|platform| Platform::deserialize(platform).ok());
    let platforms = raw.into_iter().map(|entry| (platform(&entry), entry));
    let kept = platforms.filter(|(platform, _)| !platform.as_ref().is_some_and(is_ours));
    (fields, kept.collect())
}

fn rank(platform: Option<&Platform>) -> (bool, String, bool, String) {
    match platform {
        None => (true, String::new(), true, String::new()),
        Some(platform) => (
            false,
            format!("{}/{}", platform.os, platform.architecture),
            platform.variant.is_none(),
            platform.variant.clone().unwrap_or_default(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Index;

    fn entry(platform: &str, content: &str) -> Descriptor {
        let mut entry = Descriptor::of(media_type::MANIFEST, content.as_bytes());
        entry.platform = Some(platform.parse().unwrap());
        entry
    }

    fn platforms(index: &[u8]) -> Vec<String> {
        let Document::Index(Index { manifests, .. }) = Document::parse(index).unwrap() else { panic!() };
        manifests.iter().map(|entry| entry.platform.as_ref().map_or("none".to_owned(), ToString::to_string)).collect()
    }

    #[test]
    fn the_order_of_pushes_does_not_matter() {
        let [arm, v7, amd] = ["linux/arm", "linux/arm/v7", "linux/amd64"].map(|platform| entry(platform, platform));
        let one = merge(None, &[arm.clone(), v7.clone(), amd.clone()]).unwrap();
        let other = [amd, v7, arm].iter().fold(None, |index: Option<Vec<u8>>, entry| {
            Some(merge(index.as_deref(), std::slice::from_ref(entry)).unwrap())
        });
        assert_eq!(one, other.unwrap());
        assert_eq!(platforms(&one), ["linux/amd64", "linux/arm/v7", "linux/arm"]);
    }

    #[test]
    fn an_entry_of_the_same_platform_is_replaced_and_the_rest_stays_as_it_is() {
        let existing = serde_json::json!({
            "schemaVersion": 2, "manifests": [
                entry("linux/arm64/v8", "old"),
                {"mediaType": "x", "digest": crate::oci::Digest::of(b"s"), "size": 1, "unknown": true},
                {"mediaType": "x", "digest": "sha512:0", "size": 1},
            ], "annotations": {"a": "b"}, "futureField": 1,
        });
        let merged = merge(Some(existing.to_string().as_bytes()), &[entry("linux/arm64", "new")]).unwrap();
        let value: Value = serde_json::from_slice(&merged).unwrap();
        assert_eq!(platforms(&merged), ["linux/arm64", "none"]);
        assert_eq!((&value["manifests"][1]["unknown"], &value["futureField"]), (&true.into(), &1.into()));
        assert_eq!(value["manifests"][2]["digest"], "sha512:0");
        assert_eq!(value["annotations"]["a"], "b");
        let manifest = serde_json::json!({"schemaVersion": 2, "config": entry("a/b", ""), "layers": []}).to_string();
        assert_eq!(platforms(&merge(Some(manifest.as_bytes()), &[entry("a/b", "")]).unwrap()), ["a/b"]);
    }
}
