//! What the entries of an index in an image layout are called: by a tag alone, as other tools write them, or by a whole
//! reference, as the agent does. A tag alone belongs to every repository.

use std::collections::BTreeSet;

use super::{Descriptor, Index, REF_NAME};

/// The tag of a reference that names none, as everywhere in this field.
pub const DEFAULT_TAG: &str = "latest";

impl Index {
    /// The entry that a tag of a repository names. A name that says the repository counts before one that does not.
    pub fn tagged(&self, repository: &str, tag: &str) -> Option<&Descriptor> {
        let find = |by_name: bool| {
            self.manifests.iter().find(|entry| {
                entry.annotation(REF_NAME).is_some_and(|entry| tag_in(entry, repository) == Some((tag, by_name)))
            })
        };
        find(true).or_else(|| find(false))
    }

    /// The tags of a repository.
    pub fn tags<'a>(&'a self, repository: &str) -> BTreeSet<&'a str> {
        let entries = self.manifests.iter().filter_map(|entry| entry.annotation(REF_NAME));
        let tags = entries.filter_map(|entry| tag_in(entry, repository)).map(|(tag, _)| tag);
        tags.filter(|tag| !tag.is_empty()).collect()
    }
}

/// The tag under which an entry of this name belongs to a repository, and whether the name says so.
fn tag_in<'a>(entry: &'a str, repository: &str) -> Option<(&'a str, bool)> {
    let (entry, digest) = entry.split_once('@').unwrap_or((entry, ""));
    if !entry.contains(['/', ':']) {
        return Some((entry, false));
    }
    let (front, tag) = match entry.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
        Some((front, tag)) => (front, tag),
        None if digest.is_empty() => (entry, DEFAULT_TAG),
        None => return None,
    };
    let is_name = front.strip_suffix(repository).is_some_and(|host| host.is_empty() || host.ends_with('/'));
    is_name.then_some((tag, true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Digest, media_type};

    #[test]
    fn entries_are_found_by_tag_and_by_whole_name() {
        let digest = Digest::of(b"x");
        for (entry, name, tag) in [
            ("v1", "edge/nginx", Some(("v1", false))),
            ("edge/nginx:v1", "edge/nginx", Some(("v1", true))),
            ("registry.example.com:5000/edge/nginx:v1", "edge/nginx", Some(("v1", true))),
            (&format!("a.example/edge/nginx:v1@{digest}"), "edge/nginx", Some(("v1", true))),
            ("a.example/hedge/nginx:v1", "edge/nginx", None),
            ("a.example/edge/nginx", "edge/nginx", Some(("latest", true))),
            ("a.example:5000/edge/nginx", "edge/nginx", Some(("latest", true))),
            (&format!("a.example/edge/nginx@{digest}"), "edge/nginx", None),
            ("a.example/other", "edge/nginx", None),
            ("a.example/other:v1", "edge/nginx", None),
        ] {
            assert_eq!(tag_in(entry, name), tag, "{entry}");
        }
    }

    #[test]
    fn the_more_precise_name_counts() {
        let entry = |name: &str| Descriptor::of(media_type::MANIFEST, name.as_bytes()).with(REF_NAME, name);
        let index = Index::new(vec![entry("v1"), entry("edge/nginx:v1"), entry("other:v2")]);
        let tagged = |name: &str, tag: &str| index.tagged(name, tag).map(|entry| entry.digest);
        assert_eq!(tagged("edge/nginx", "v1"), Some(Digest::of(b"edge/nginx:v1")));
        assert_eq!(tagged("other", "v1"), Some(Digest::of(b"v1")));
        assert_eq!(tagged("edge/nginx", "v2"), None);
        assert_eq!(index.tags("other").into_iter().collect::<Vec<_>>(), ["v1", "v2"]);
    }
}
