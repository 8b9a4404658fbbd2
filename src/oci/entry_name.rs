//! What the entries of an index in an image layout are called: by a tag alone, as other tools write them, or by a whole
//! reference, as the agent does. A tag alone belongs to every repository.

use std::collections::BTreeSet;

use super::{Descriptor, Index, REF_NAME};

/// The tag of a reference that names none, as everywhere in this field.
pub const DEFAULT_TAG: &str = "latest";

impl Index {
    /// The entries that a tag of a repository names. Names that say the repository count before those that do not.
    pub fn tagged(&self, repository: &str, tag: &str) -> Vec<&Descriptor> {
        let find = |by_name: bool| self.called(|name| tag_in(name, repository) == Some((tag, by_name)));
        let exact = find(true);
        if exact.is_empty() { find(false) } else { exact }
    }

    /// The entries of the name `tag`; else those whose names end with this tag.
    pub fn named(&self, tag: &str) -> Vec<&Descriptor> {
        let exact = self.called(|name| name == tag);
        if exact.is_empty() { self.called(|name| front_and_tag(name).is_some_and(|(_, it)| it == tag)) } else { exact }
    }

    /// The entries that a reference without a tag leads to: all if they have one name or none, else those called
    /// [`DEFAULT_TAG`].
    pub fn untold(&self) -> Vec<&Descriptor> {
        let all = self.called_or_not(|_| true);
        let mut names = all.iter().map(|entry| entry.annotation(REF_NAME));
        let first = names.next().flatten();
        if names.all(|name| name == first) { all } else { self.called(|name| name == DEFAULT_TAG) }
    }

    fn called(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<&Descriptor> {
        self.called_or_not(|name| name.is_some_and(&is_wanted))
    }

    /// Entries by their names. Those of other media types than images count only if there is no image.
    fn called_or_not(&self, is_wanted: impl Fn(Option<&str>) -> bool) -> Vec<&Descriptor> {
        let is_wanted = |entry: &&Descriptor| is_wanted(entry.annotation(REF_NAME));
        let images: Vec<_> = self.images().filter(is_wanted).collect();
        if images.is_empty() { self.manifests.iter().filter(is_wanted).collect() } else { images }
    }

    /// The tags of a repository.
    pub fn tags<'a>(&'a self, repository: &str) -> BTreeSet<&'a str> {
        let entries = self.manifests.iter().filter_map(|entry| entry.annotation(REF_NAME));
        let tags = entries.filter_map(|entry| tag_in(entry, repository)).map(|(tag, _)| tag);
        tags.filter(|tag| !tag.is_empty()).collect()
    }
}

/// The name of an entry, split into its tag and what stands before it; none if it is pinned without a tag.
fn front_and_tag(entry: &str) -> Option<(&str, &str)> {
    let (entry, digest) = entry.split_once('@').unwrap_or((entry, ""));
    if !entry.contains(['/', ':']) {
        return Some(("", entry));
    }
    match entry.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
        Some(parts) => Some(parts),
        None if digest.is_empty() => Some((entry, DEFAULT_TAG)),
        None => None,
    }
}

/// True if an entry's name is the tag of the repository and names the repository.
pub fn is_tag_of(entry: &str, repository: &str, tag: &str) -> bool {
    tag_in(entry, repository) == Some((tag, true))
}

/// The tag that an entry's name has in a repository, and true if the name names the repository.
fn tag_in<'a>(entry: &'a str, repository: &str) -> Option<(&'a str, bool)> {
    let (front, tag) = front_and_tag(entry)?;
    if front.is_empty() {
        return Some((tag, false));
    }
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
        let tagged = |name: &str, tag: &str| index.tagged(name, tag).first().map(|entry| entry.digest);
        assert_eq!(tagged("edge/nginx", "v1"), Some(Digest::of(b"edge/nginx:v1")));
        assert_eq!(tagged("other", "v1"), Some(Digest::of(b"v1")));
        assert_eq!(tagged("edge/nginx", "v2"), None);
        assert_eq!(index.tags("other").into_iter().collect::<Vec<_>>(), ["v1", "v2"]);
    }

    #[test]
    fn an_lf_edge_name_is_found_by_tag_and_repository() {
        let name = format!("lfedge/eci-nginx:1@{}", Digest::of(b"x"));
        let entry = Descriptor::of(media_type::MANIFEST, b"x").with(REF_NAME, &name);
        let index = Index::new(vec![entry.clone()]);
        assert_eq!(index.untold(), [&entry]);
        assert_eq!(index.named("1"), [&entry]);
        assert_eq!(index.named(&name), [&entry]);
        assert_eq!(index.tagged("lfedge/eci-nginx", "1"), [&entry]);
        assert!(index.named("2").is_empty() && index.tagged("lfedge/eci-other", "1").is_empty());
    }

    #[test]
    fn without_a_tag_one_name_or_the_default_tag_counts() {
        let entry =
            |content: &str, name: &str| Descriptor::of(media_type::MANIFEST, content.as_bytes()).with(REF_NAME, name);
        let untold = |entries: &[(&str, &str)]| {
            Index::new(entries.iter().map(|(content, name)| entry(content, name)).collect()).untold().len()
        };
        assert_eq!(untold(&[("a", "v1"), ("b", "v1")]), 2);
        assert_eq!(untold(&[("a", "v1"), ("b", "latest")]), 1);
        assert_eq!(untold(&[("a", "v1"), ("b", "v2")]), 0);
        assert_eq!(untold(&[]), 0);
        // A signature beside the image is not an image.
        let signature = Descriptor { media_type: "application/x".to_owned(), ..entry("s", "v2") };
        assert_eq!(Index::new(vec![signature, entry("a", "v1")]).untold(), [&entry("a", "v1")]);
    }
}
