//! `--remote`: an image layout in place of the registry that a reference names.

use std::path::PathBuf;
use std::str::FromStr;

use crate::failure::Failure;
use crate::oci::{DEFAULT_TAG, LayoutReference, Reference};

/// The error for containerd's store, which is not reached directly.
const CONTAINERD: &str = "containerd is reached through an image layout. To push: `eci push --remote /DIR … REF`, then \
    `tar -C /DIR -cf - . | ctr image import --no-unpack --base-name NAME -`. To pull: \
    `ctr image export - REF | tar -C /DIR -xf -`, then `eci pull --remote /DIR REF` (docs/formats.md has both)";

/// A layout's directory; none for an empty value, which stands for the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remote(Option<PathBuf>);

impl FromStr for Remote {
    type Err = String;

    /// Reads `oci:DIR`, `file://DIR`, an absolute path, or a relative one that can be nothing else.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        if text.starts_with("containerd:") {
            return Err(CONTAINERD.to_owned());
        }
        let named = text.strip_prefix("oci:").or_else(|| text.strip_prefix("file://"));
        let dir = named.unwrap_or(text);
        if named.is_none() && !is_plain_path(text) {
            return Err(
                "write a directory as oci:DIR, /DIR or ./DIR; a registry is named by REF, without --remote, and \
                        any other place is reached by `skopeo copy` to or from a directory"
                    .to_owned(),
            );
        }
        match dir.rsplit('/').next() {
            Some("") | None if dir.is_empty() => Err("no directory is named".to_owned()),
            // The reference that a push prints would have it for a tag.
            Some(name) if name.contains(':') => {
                Err("a directory's name with \":\" is taken for a tag: the tag is that of REF".to_owned())
            }
            _ => Ok(Self(Some(dir.into()))),
        }
    }
}

/// True if `text` can only be a directory: a relative path must not look like a registry or another tool's
/// transport.
fn is_plain_path(text: &str) -> bool {
    let first = text.split('/').next().unwrap_or_default();
    let is_marked = matches!(first, "" | "." | "..");
    is_marked || !(text.contains(':') || first == "localhost" || first.trim_start_matches('.').contains('.'))
}

/// Where an image is. With `remote`, the reference's tag is what the image is called in that layout; its name tells it from
/// others of the same tag, where the layout has names. Its registry says nothing, and need not be there.
pub(super) fn locate(reference: &str, remote: Option<Remote>) -> Result<Reference, Failure> {
    let Some(Remote(Some(dir))) = remote else { return Ok(reference.parse()?) };
    let named = reference.parse().or_else(|error| format!("localhost/{reference}").parse().map_err(|_| error))?;
    match named {
        Reference::Registry(named) => {
            let tag = match (named.tag, named.digest) {
                (None, None) => Some(DEFAULT_TAG.to_owned()),
                (tag, _) => tag,
            };
            let repository = Some(named.repository);
            Ok(Reference::Layout(LayoutReference { dir, repository, tag, digest: named.digest }))
        }
        Reference::Layout(_) => Err(Failure::usage(format!("{reference} is in a layout already: leave --remote out"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_what_the_image_is_called() {
        const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let locate = |reference: &str, remote: &str| {
            locate(reference, Some(remote.parse().unwrap())).map(|reference| reference.to_string())
        };
        assert_eq!(locate("a.example/edge/nginx:1.4", "oci:dir").unwrap(), "oci:dir:1.4");
        assert_eq!(locate("nginx:1.4", "/media/usb").unwrap(), "oci:/media/usb:1.4");
        assert_eq!(locate("nginx:1.4", "file:///media/usb").unwrap(), "oci:/media/usb:1.4");
        assert_eq!(locate("nginx", "/media/usb").unwrap(), "oci:/media/usb:latest");
        assert_eq!(locate(&format!("nginx@{DIGEST}"), "oci:d").unwrap(), format!("oci:d@{DIGEST}"));
        assert_eq!(locate("a.example/edge/nginx:1.4", "").unwrap(), "a.example/edge/nginx:1.4");
        assert!(locate("oci:other:1", "oci:dir").is_err());
        assert!(locate("UPPER:1", "oci:dir").is_err());
        assert_eq!(locate("nginx:1", "/a:b/images").unwrap(), "oci:/a:b/images:1");
        for text in ["oci:", "file://", "http://a.example", "oci:/x/zz:tag", "oci:zz:tag", "/x/with:colon"] {
            assert!(text.parse::<Remote>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_relative_directory_is_taken_if_unambiguous() {
        for text in
            ["images", "a/b", "a/b.c", "./images", "../images", ".", "./registry.example.com", "./a:b/c", ".oci"]
        {
            assert_eq!(text.parse(), Ok(Remote(Some(text.into()))), "{text}");
        }
        for text in ["registry.example.com", "a.example/b", "localhost/a", "a:b", "host:5000/a", "docker:x", "dir:x"] {
            assert!(text.parse::<Remote>().unwrap_err().contains("skopeo"), "{text}");
        }
        let said = "containerd:/run/containerd/containerd.sock".parse::<Remote>().unwrap_err();
        assert!(said.contains("ctr image import") && said.contains("ctr image export"), "{said}");
    }
}
