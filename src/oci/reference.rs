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

/// An image in a registry or in an image layout on disk. Displayed as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Reference {
    /// `HOST[:PORT]/NAME[:TAG][@DIGEST]`
    Registry(RegistryReference),
    /// `oci:DIR[:TAG]`
    Layout(LayoutReference),
}

/// An image in a registry. Where it names a digest, the digest counts and the tag is for people.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegistryReference {
    /// `HOST[:PORT]` of the registry.
    pub host: String,
    /// The repository's name.
    pub repository: String,
    /// The tag, where one is written.
    pub tag: Option<String>,
    /// The manifest's digest, where one is written.
    pub digest: Option<Digest>,
}

/// An image in an OCI image layout.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LayoutReference {
    /// The layout's directory.
    pub dir: PathBuf,
    /// The `org.opencontainers.image.ref.name` in its index; not needed where the index has one entry.
    pub tag: Option<String>,
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
    #[error("reference {text:?} is malformed")]
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
            Self::Layout(_) => None,
        }
    }

    fn registry(text: &str) -> Result<Self, ReferenceError> {
        let malformed = |reason: &str| ReferenceError::Malformed { text: text.to_owned(), reason: reason.to_owned() };
        let (host, _) = text.split_once('/').ok_or_else(|| ReferenceError::NoHost(text.to_owned()))?;
        if !host.contains(['.', ':']) && host != "localhost" {
            return Err(ReferenceError::NoHost(text.to_owned()));
        }
        if host.contains('@') || host_name(host).is_empty() {
            return Err(malformed("the registry's host name is wrong"));
        }
        let digest = match text.split_once('@') {
            None => None,
            Some((_, digest)) => {
                Some(digest.parse().map_err(|source| ReferenceError::Digest { text: text.to_owned(), source })?)
            }
        };
        let parsed: oci_distribution::Reference =
            text.parse().map_err(|error: oci_distribution::ParseError| malformed(&error.to_string()))?;
        if parsed.registry() != host {
            return Err(malformed("the registry's host name is wrong"));
        }
        let tag_is_written =
            text.split('@').next().and_then(|name| name.rsplit('/').next()).is_some_and(|last| last.contains(':'));
        Ok(Self::Registry(RegistryReference {
            host: host.to_owned(),
            repository: parsed.repository().to_owned(),
            tag: parsed.tag().filter(|_| tag_is_written).map(ToOwned::to_owned),
            digest,
        }))
    }

    fn layout(text: &str, rest: &str) -> Result<Self, ReferenceError> {
        // The tag follows the last colon after the last slash, so that a directory may have colons further up.
        let base = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (dir, tag) = match rest.get(base..).and_then(|name| name.find(':')) {
            Some(colon) => (rest.get(..base + colon), rest.get(base + colon + 1..).map(ToOwned::to_owned)),
            None => (Some(rest), None),
        };
        match (dir, &tag) {
            (Some(dir), tag) if !dir.is_empty() && tag.as_deref() != Some("") => {
                Ok(Self::Layout(LayoutReference { dir: PathBuf::from(dir), tag: tag.clone() }))
            }
            _ => Err(ReferenceError::Malformed {
                text: text.to_owned(),
                reason: "write oci:DIR or oci:DIR:TAG".to_owned(),
            }),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.len() > MAX_BYTES || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
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
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))
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
        for text in [
            "registry.example.com/edge/nginx",
            "10.0.0.2:5000/a/b/c:v1",
            &pinned,
            &digest,
            "oci:/media/usb:v1",
            "oci:dir",
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_digest_counts_before_the_tag() {
        assert_eq!(registry(&format!("a.example/b:c@{DIGEST}")).target(), DIGEST);
        assert_eq!(registry("a.example/b:c").target(), "c");
        assert_eq!(registry("a.example/b").target(), "latest");
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
            "oci:dir:",
            "user@host.example/a",
            &long,
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
