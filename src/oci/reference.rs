//! References: where an image is, as a person writes it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Digest, DigestError};
use crate::failure::{Classify, Kind, Retry};

/// The prefix of a reference to an image layout on disk.
const LAYOUT_PREFIX: &str = "oci:";
/// The longest reference that is read, in bytes: a host of 253, a name of 255 and a digest leave room.
const MAX_BYTES: usize = 1024;

/// The hosts of Docker Hub.
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];
/// The longest name of a repository, in bytes (distribution specification, "Pulling manifests").
const MAX_REPOSITORY: usize = 255;

/// An image in a registry or in an image layout on disk. Displayed as it was written, but for the registry's host, which
/// is in lower case: `Registry.example.com` is no other registry than `registry.example.com`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Reference {
    /// `HOST[:PORT]/NAME[:TAG][@DIGEST]`
    Registry(RegistryReference),
    /// `oci:DIR[:TAG][@DIGEST]`
    Layout(LayoutReference),
}

/// An image in a registry. Where it names a digest, the digest counts and the tag is for people.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegistryReference {
    /// `HOST[:PORT]` of the registry, in lower case.
    pub host: String,
    /// The repository's name.
    pub repository: String,
    /// The tag, where one is written.
    pub tag: Option<String>,
    /// The manifest's digest, where one is written.
    pub digest: Option<Digest>,
}

/// An image in an OCI image layout. Where it names a digest, the digest counts and the tag is for people.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LayoutReference {
    /// The layout's directory.
    pub dir: PathBuf,
    /// The repository that the tag is one of, where the layout is to stand in for a registry. It is not part of the text.
    pub repository: Option<String>,
    /// The `org.opencontainers.image.ref.name` in its index; not needed where the index has one entry, or one called
    /// `latest`.
    pub tag: Option<String>,
    /// The manifest's digest, where one is written.
    pub digest: Option<Digest>,
}

/// Why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// No registry is named.
    #[error(
        "reference {0:?} names no registry: write HOST[:PORT]/NAME[:TAG], such as registry.example.com/edge/nginx:1.4"
    )]
    NoHost(String),
    /// The grammar of the distribution specification is broken.
    #[error("reference {text:?} is malformed: {reason}")]
    Malformed {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The digest is malformed.
    #[error("reference {text:?} is malformed: {source}")]
    Digest {
        /// The text.
        text: String,
        /// What is wrong with the digest.
        #[source]
        source: DigestError,
    },
}

impl Classify for ReferenceError {
    fn kind(&self) -> Kind {
        Kind::ReferenceInvalid
    }

    fn retry(&self) -> Retry {
        Retry::Never
    }
}

/// True if a host is Docker Hub, by any of its names.
pub fn is_docker_hub(host: &str) -> bool {
    DOCKER_HUB.iter().any(|name| name.eq_ignore_ascii_case(host))
}

impl RegistryReference {
    /// What a manifest request asks for: the digest, else the tag, else `latest`.
    pub fn target(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// The host's name without a port.
    pub fn host_name(&self) -> &str {
        host_name(&self.host)
    }

    /// The same image under the name that its registry's API has for it: Docker Hub keeps images of one name in
    /// `library/`, as in docker's own reference grammar.
    #[must_use]
    pub fn for_api(&self) -> Self {
        let is_short = is_docker_hub(&self.host) && !self.repository.contains('/');
        let prefix = if is_short { "library/" } else { "" };
        Self { repository: format!("{prefix}{}", self.repository), ..self.clone() }
    }
}

/// The name in `HOST[:PORT]`, brackets of IPv6 addresses removed.
pub fn host_name(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

impl Reference {
    /// The digest that the reference pins, if it pins one.
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::Registry(reference) => reference.digest,
            Self::Layout(reference) => reference.digest,
        }
    }

    fn registry(text: &str) -> Result<Self, ReferenceError> {
        let malformed = |reason: &str| ReferenceError::Malformed { text: text.to_owned(), reason: reason.to_owned() };
        let (host, rest) = text.split_once('/').ok_or_else(|| ReferenceError::NoHost(text.to_owned()))?;
        if !host.contains(['.', ':']) && !host.eq_ignore_ascii_case("localhost") {
            return Err(ReferenceError::NoHost(text.to_owned()));
        }
        if !is_host(host) {
            return Err(malformed("the registry's host name is wrong"));
        }
        let (name, digest) = match rest.split_once('@') {
            None => (rest, None),
            Some((name, digest)) => {
                let digest =
                    digest.parse().map_err(|source| ReferenceError::Digest { text: text.to_owned(), source })?;
                (name, Some(digest))
            }
        };
        let (repository, tag) = match name.split_once(':') {
            None => (name, None),
            Some((repository, tag)) => (repository, Some(tag)),
        };
        if !is_repository(repository) {
            return Err(malformed(
                "the name has parts of a-z and 0-9, with \".\", \"_\", \"__\" or \"-\" between them",
            ));
        }
        if !tag.is_none_or(is_tag) {
            return Err(malformed(
                "a tag has 1 to 128 of letters, digits, \"_\", \".\" and \"-\", and starts with none of the last two",
            ));
        }
        Ok(Self::Registry(RegistryReference {
            host: host.to_ascii_lowercase(),
            repository: repository.to_owned(),
            tag: tag.map(ToOwned::to_owned),
            digest,
        }))
    }

    fn layout(text: &str, rest: &str) -> Result<Self, ReferenceError> {
        let (rest, digest) = match rest.rsplit_once('@') {
            // A directory's name may have the sign as well.
            Some((rest, digest)) if digest.starts_with("sha256:") => {
                let digest =
                    digest.parse().map_err(|source| ReferenceError::Digest { text: text.to_owned(), source })?;
                (rest, Some(digest))
            }
            _ => (rest, None),
        };
        // The tag follows the last colon after the last slash, so that a directory may have colons further up.
        let base = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (dir, tag) = match rest.get(base..).and_then(|name| name.find(':')) {
            Some(colon) => (rest.get(..base + colon), rest.get(base + colon + 1..).map(ToOwned::to_owned)),
            None => (Some(rest), None),
        };
        match (dir, &tag) {
            (Some(dir), tag)
                if !dir.is_empty() && !tag.as_deref().is_some_and(|tag| tag.is_empty() || tag.contains(' ')) =>
            {
                let dir = PathBuf::from(dir);
                Ok(Self::Layout(LayoutReference { dir, repository: None, tag: tag.clone(), digest }))
            }
            _ => Err(ReferenceError::Malformed {
                text: text.to_owned(),
                reason: "write oci:DIR or oci:DIR:TAG, with @DIGEST after it where one is meant".to_owned(),
            }),
        }
    }
}

/// `HOST[:PORT]`: a DNS name, an IPv4 address, or an IPv6 address in brackets.
fn is_host(host: &str) -> bool {
    let is_label = |label: &str| {
        let inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty() && label.bytes().all(inside) && !label.starts_with('-') && !label.ends_with('-')
    };
    let (name, port) = match host.rfind(']') {
        Some(end) => host.split_at(end + 1),
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_name = match is_address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.split('.').all(is_label),
    };
    // The parser of numbers takes a sign as well, which no URL has there.
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    is_name && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

/// Whether `name` can be that of a repository, without its registry.
pub fn is_repository(name: &str) -> bool {
    name.len() <= MAX_REPOSITORY && name.split('/').all(is_component)
}

/// A part of a repository's name: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`. By hand, because the pattern as a regular
/// expression takes 35 ms and 18 MiB to compile.
fn is_component(part: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends_plain = part.bytes().next().is_some_and(plain) && part.bytes().last().is_some_and(plain);
    let separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends_plain
        && separators
            .into_iter()
            .all(|run| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|byte| byte == b'-'))
}

/// Whether `tag` can be one: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
pub fn is_tag(tag: &str) -> bool {
    let first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let all = tag.bytes().all(|byte| first(byte) || byte == b'.' || byte == b'-');
    tag.len() <= 128 && all && tag.bytes().next().is_some_and(first)
}

/// The text as it may be shown: what stands before an `@` in place of a host would be a login.
fn shown(text: &str) -> String {
    match text.split_once('@') {
        Some((login, rest)) if !login.contains('/') => format!("…@{rest}"),
        _ => text.to_owned(),
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if let Some((scheme, rest)) = text.split_once("://").filter(|_| !text.starts_with(LAYOUT_PREFIX)) {
            let scheme: String = scheme.chars().take(20).collect();
            let reason = format!("leave out {scheme}://, a reference begins with the registry's host");
            let text = format!("{scheme}://{}", shown(rest)).chars().take(100).collect();
            return Err(ReferenceError::Malformed { text, reason });
        }
        if !text.starts_with(LAYOUT_PREFIX) && shown(text) != text {
            let reason = "a login does not belong into a reference: put it into the credentials file".to_owned();
            return Err(ReferenceError::Malformed { text: shown(text).chars().take(100).collect(), reason });
        }
        // A stick may be called "USB DISK".
        let may_have_spaces = text.starts_with(LAYOUT_PREFIX);
        let is_odd = |c: char| c.is_control() || (c.is_whitespace() && !(may_have_spaces && c == ' '));
        if text.len() > MAX_BYTES || text.chars().any(is_odd) {
            return Err(ReferenceError::Malformed {
                text: text.chars().take(100).collect(),
                reason: format!("it has white space or control characters, or is longer than {MAX_BYTES} bytes"),
            });
        }
        match text.strip_prefix(LAYOUT_PREFIX) {
            Some(rest) => Self::layout(text, rest),
            None => Self::registry(text),
        }
    }
}

impl fmt::Display for RegistryReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

impl fmt::Display for LayoutReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{LAYOUT_PREFIX}{}", self.dir.display())?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => reference.fmt(f),
            Self::Layout(reference) => reference.fmt(f),
        }
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;
    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn registry(text: &str) -> RegistryReference {
        match text.parse() {
            Ok(Reference::Registry(reference)) => reference,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_reference_is_displayed_as_it_was_written() {
        let pinned = format!("registry.example.com/edge/nginx:1.4.2@{DIGEST}");
        let digest = format!("localhost:5000/nginx@{DIGEST}");
        let layout = format!("oci:/media/a@b:c/images:v1@{DIGEST}");
        for text in [
            "registry.example.com/edge/nginx",
            "10.0.0.2:5000/a/b/c:v1",
            "[::1]:5000/a:b",
            "a-b.example:1/a.b_c__d---e/f0:V_1.2-3",
            &pinned,
            &digest,
            "oci:/media/usb:v1",
            "oci:dir",
            "oci:/media/a@b",
            "oci:/media/USB DISK/images:v1",
            &layout,
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
        assert_eq!(layout.parse::<Reference>().unwrap().digest().unwrap().to_string(), DIGEST);
    }

    #[test]
    fn a_login_in_a_reference_is_refused_and_not_shown() {
        let error = "user:s3cret@a.example/b:c".parse::<Reference>().unwrap_err().to_string();
        assert!(error.contains("a.example/b:c") && !error.contains("s3cret"), "{error}");
        let error = "https://user:s3cret@a.example/b:c".parse::<Reference>().unwrap_err().to_string();
        assert!(error.contains("a.example/b:c") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn a_malformed_digest_is_told_in_the_error_itself() {
        let error = "a.example/b@sha256:123".parse::<Reference>().unwrap_err();
        assert!(error.to_string().contains("64 hexadecimal digits"), "{error}");
        let full = crate::failure::full_text(&error);
        assert_eq!(full.matches("64 hexadecimal digits").count(), 1, "{full}");
    }

    #[test]
    fn a_scheme_is_to_be_left_out() {
        for text in ["https://a.example/b:c", "http://localhost:5000/b", "docker://a.example/b"] {
            let error = text.parse::<Reference>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("reference {text:?} is malformed: leave out ")), "{error}");
            assert!(error.contains(&format!("leave out {}://", text.split_once("://").unwrap().0)), "{error}");
        }
        assert!("oci://media/usb:v1".parse::<Reference>().is_ok());
    }

    #[test]
    fn a_host_is_one_however_it_is_written() {
        let reference = registry("Registry.Example.COM:5000/edge/nginx:V1");
        assert_eq!(reference, registry("registry.example.com:5000/edge/nginx:V1"));
        assert_eq!(reference.to_string(), "registry.example.com:5000/edge/nginx:V1");
        assert_eq!(registry("LocalHost/a").host, "localhost");
    }

    #[test]
    fn the_digest_counts_before_the_tag() {
        assert_eq!(registry(&format!("a.example/b:c@{DIGEST}")).target(), DIGEST);
        assert_eq!(registry("a.example/b:c").target(), "c");
        assert_eq!(registry("a.example/b").target(), "latest");
    }

    proptest! {
        /// The client library's grammar is a regular expression; ours by hand says the same.
        #[test]
        fn the_grammar_is_that_of_the_client_library(text in "[a-z0-9]{1,3}(\\.[a-z-]{1,3})?(:[0-9]{1,4})?/[a-z0-9._/-]{1,12}(:[A-Za-z0-9._-]{1,5})?") {
            let (host, _) = text.split_once('/').unwrap();
            prop_assume!(host.contains(['.', ':']));
            let theirs = text.parse::<oci_distribution::Reference>().ok().filter(|theirs| theirs.registry() == host);
            match (text.parse::<Reference>(), theirs) {
                (Ok(Reference::Registry(ours)), Some(theirs)) => {
                    prop_assert_eq!(ours.repository.as_str(), theirs.repository());
                    prop_assert_eq!(Some(ours.tag.as_deref().unwrap_or("latest")), theirs.tag());
                }
                (Err(_), None) => {}
                (ours, theirs) => prop_assert!(false, "{text}: {ours:?} {theirs:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_displayed_as_it_was_written(text in "(oci:)?[a-z0-9.:/@_ -]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string(), text);
            }
        }

        #[test]
        fn a_reference_has_the_parts_that_it_is_made_of(
            host in "[a-z0-9]{1,8}\\.[a-z]{2,4}(:[1-9][0-9]{0,3})?",
            repository in "[a-z0-9]{1,6}(/[a-z0-9]{1,4}(-[a-z0-9]{1,4})?){0,3}",
            tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9._-]{0,20}"),
            content in proptest::option::of(any::<[u8; 4]>()),
        ) {
            let digest = content.map(|content| Digest::of(&content));
            let wanted = RegistryReference { host, repository, tag, digest };
            prop_assert_eq!(wanted.to_string().parse(), Ok(Reference::Registry(wanted)));
        }
    }

    #[test]
    fn a_layout_may_have_colons_in_its_path() {
        let Ok(Reference::Layout(layout)) = "oci:/media/a:b/images:nginx-1.4".parse() else { panic!() };
        assert_eq!((layout.dir.to_str().unwrap(), layout.tag.as_deref()), ("/media/a:b/images", Some("nginx-1.4")));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let long = format!("a.example/{}", "b".repeat(2000));
        for text in [
            "",
            "nginx",
            "edge/nginx:1",
            "a.example/",
            "a.example/UPPER",
            "a.example/b:",
            "a.example/b@sha256:12",
            ":5000/a",
            "a.example/b c",
            "a.example/../b",
            "oci:",
            "oci::v1",
            "oci:/media/usb:v 1",
            "oci:/media/a\u{2028}b:v1",
            "oci:dir:",
            "oci:dir@sha256:12",
            "oci:@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "user@host.example/a",
            "a..example/b",
            "-a.example/b",
            "a.example:70000/b",
            "a.example:/b",
            "a.example:+80/b",
            "[::1/b",
            "[x]:1/b",
            "a.example/b//c",
            "a.example/-b",
            "a.example/b.",
            "a.example/b..c",
            "a.example/b___c",
            "a.example/b:-c",
            "a.example/b:c:d",
            &long,
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    #[test]
    fn dockers_hub_keeps_short_names_in_its_library() {
        for (text, repository) in [
            ("docker.io/app", "library/app"),
            ("Docker.io/app:1", "library/app"),
            ("index.docker.io/app", "library/app"),
            ("docker.io/library/app", "library/app"),
            ("docker.io/edge/app", "edge/app"),
            ("registry.example.com/app", "app"),
            ("docker.io.example.com/app", "app"),
        ] {
            let reference = registry(text);
            assert_eq!(reference.for_api().repository, repository, "{text}");
            assert_eq!(reference.for_api().tag, reference.tag);
        }
        assert_eq!(registry("docker.io/app:1").to_string(), "docker.io/app:1");
    }
}
