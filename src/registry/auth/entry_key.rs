//! Keys in a credentials file: `HOST[:PORT][/PATH]`, or an older tool's URL of a registry.

use crate::oci::is_docker_hub;

/// One key, in its parts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EntryKey<'a> {
    host: &'a str,
    /// The path of the repository, or of the namespace, without slashes around it; empty for the whole registry.
    path: &'a str,
    is_url: bool,
}

impl<'a> EntryKey<'a> {
    /// Reads a key. In URLs, the path begins after the version of the API: `https://HOST/v1/` is for the whole registry.
    pub(super) fn parse(key: &'a str) -> Self {
        let key = key.trim();
        let (is_url, rest) = match key.split_once("://") {
            Some((scheme, rest)) if is_http(scheme) => (true, rest),
            _ => (false, key),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = match path.split_once('/') {
            Some(("v1" | "v2", rest)) if is_url || rest.is_empty() => rest,
            None if is_url && matches!(path, "v1" | "v2") => "",
            _ => path,
        };
        Self { host, path: path.trim_matches('/'), is_url }
    }

    /// The rank of the key for a repository: the greater, the nearer. None if the key is for something else.
    pub(super) fn rank(&self, registry: &str, repository: &str) -> Option<(usize, bool)> {
        let is_within = self.path.is_empty()
            || repository.strip_prefix(self.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        (is_within && is_same_host(self.host, registry)).then_some((self.path.len(), !self.is_url))
    }
}

fn is_http(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http")
}

fn is_same_host(host: &str, registry: &str) -> bool {
    host.eq_ignore_ascii_case(registry) || (is_docker_hub(host) && is_docker_hub(registry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(key: &str, registry: &str, repository: &str) -> Option<(usize, bool)> {
        EntryKey::parse(key).rank(registry, repository)
    }

    #[test]
    fn keys_are_matched_by_whole_components() {
        for key in [
            "H:5000",
            "h:5000/edge",
            "H:5000/edge/nginx",
            "h:5000/edge/",
            "https://h:5000/v2/edge",
            "h:5000/edge/nginx/x/y",
        ] {
            assert!(rank(key, "h:5000", "edge/nginx/x/y").is_some(), "{key}");
        }
        for key in [
            "h",
            "h:50000",
            "h:5000/ed",
            "h:5000/Edge",
            "h:5000/edge/nginx/x/y/z",
            "h:5000/aaa",
            "x:5000/edge",
            "",
            "/edge",
        ] {
            assert_eq!(rank(key, "h:5000", "edge/nginx/x/y"), None, "{key}");
        }
        // A namespace may be called as a version of the API is.
        assert!(rank("h/v1", "h", "v1/app").is_some());
        assert_eq!(rank("h/v1", "h", "edge/app"), None);
    }

    #[test]
    fn urls_are_for_the_registry() {
        for key in [
            "https://h/v1/",
            "https://h/v2/",
            "https://h/v1",
            "https://h",
            "http://h/",
            "HTTPS://H/",
            "h/v1/",
            "h/",
            "h",
        ] {
            assert_eq!(rank(key, "h", "edge/nginx").map(|(length, _)| length), Some(0), "{key}");
        }
        assert!(rank("h", "h", "x") > rank("https://h/v1/", "h", "x"), "the plain name is nearer");
        assert!(rank("https://h/x", "h", "x") > rank("h", "h", "x"), "the longer path is nearer");
    }

    #[test]
    fn docker_hub_has_many_names() {
        for key in ["docker.io", "index.docker.io", "registry-1.docker.io", "https://index.docker.io/v1/", "Docker.io"]
        {
            for registry in ["docker.io", "index.docker.io", "registry-1.docker.io"] {
                assert!(rank(key, registry, "library/app").is_some(), "{key} {registry}");
            }
            assert_eq!(rank(key, "docker.io.example", "library/app"), None, "{key}");
        }
        assert!(rank("docker.io/library", "docker.io", "library/app").is_some());
    }
}
