//! `--remote`: an image layout in place of the registry that a reference names.

use std::path::PathBuf;
use std::str::FromStr;

use crate::failure::Failure;
use crate::oci::{DEFAULT_TAG, LayoutReference, Reference};

/// `oci:DIR`, or a directory's absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remote(PathBuf);

impl FromStr for Remote {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let dir = match text.strip_prefix("oci:") {
            Some(dir) => dir,
            None if text.starts_with('/') => text,
            None => return Err("write oci:DIR, or a directory as /DIR".to_owned()),
        };
        match dir.rsplit('/').next() {
            Some("") | None if dir.is_empty() => Err("no directory is named".to_owned()),
            // The reference that a push prints would have it for a tag.
            Some(name) if name.contains(':') => {
                Err("a directory's name with \":\" is taken for a tag: the tag is that of REF".to_owned())
            }
            _ => Ok(Self(dir.into())),
        }
    }
}

/// Where an image is. With `remote`, the reference's tag is what the image is called in that layout; its name tells it from
/// others of the same tag, where the layout has names. Its registry says nothing, and need not be there.
pub(super) fn locate(reference: &str, remote: Option<Remote>) -> Result<Reference, Failure> {
    let Some(Remote(dir)) = remote else { return Ok(reference.parse()?) };
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
        assert_eq!(locate("nginx", "/media/usb").unwrap(), "oci:/media/usb:latest");
        assert_eq!(locate(&format!("nginx@{DIGEST}"), "oci:d").unwrap(), format!("oci:d@{DIGEST}"));
        assert!(locate("oci:other:1", "oci:dir").is_err());
        assert!(locate("UPPER:1", "oci:dir").is_err());
        assert_eq!(locate("nginx:1", "/a:b/images").unwrap(), "oci:/a:b/images:1");
        for text in ["dir", "oci:", "", "http://a.example", "oci:/x/zz:tag", "oci:zz:tag", "/x/with:colon"] {
            assert!(text.parse::<Remote>().is_err(), "{text}");
        }
    }
}
