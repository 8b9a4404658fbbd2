//! Which of the API's endpoints a path names. Names, tags and digests are checked by their own types; none of them ever
//! becomes part of a file's path as it was sent.

use super::reply::Refusal;
use crate::oci::{Digest, is_repository, is_tag};

/// An endpoint.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Whether this is a registry at all.
    Base,
    /// A manifest or index.
    Manifest {
        /// The repository.
        name: String,
        /// By which it is asked for.
        target: Target,
    },
    /// A blob.
    Blob(Digest),
    /// The tags of a repository.
    Tags(String),
}

/// How a manifest is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    Tag(String),
    Digest(Digest),
}

impl Route {
    pub(super) fn of(path: &str) -> Result<Self, Refusal> {
        let rest = match path.strip_prefix("/v2") {
            Some("" | "/") => return Ok(Self::Base),
            Some(rest) => rest.strip_prefix('/').ok_or_else(Refusal::no_endpoint)?,
            None => return Err(Refusal::no_endpoint()),
        };
        // From the end: a repository may have such words in its name.
        let (front, last) = rest.rsplit_once('/').ok_or_else(Refusal::no_endpoint)?;
        let (name, kind) = front.rsplit_once('/').ok_or_else(Refusal::no_endpoint)?;
        match (kind, last) {
            ("manifests", target) if target.contains(':') => {
                Ok(Self::Manifest { name: repository(name)?, target: Target::Digest(digest(target)?) })
            }
            ("manifests", tag) => {
                let name = repository(name)?;
                let target = is_tag(tag).then(|| Target::Tag(tag.to_owned())).ok_or_else(Refusal::no_manifest)?;
                Ok(Self::Manifest { name, target })
            }
            ("blobs", target) => repository(name).and_then(|_| Ok(Self::Blob(digest(target)?))),
            ("tags", "list") => Ok(Self::Tags(repository(name)?)),
            _ => Err(Refusal::no_endpoint()),
        }
    }
}

fn repository(name: &str) -> Result<String, Refusal> {
    if is_repository(name) {
        Ok(name.to_owned())
    } else {
        Err(Refusal::bad("NAME_INVALID", "the name is not one that a repository can have"))
    }
}

fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|error: crate::oci::DigestError| Refusal::bad("DIGEST_INVALID", &error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::StatusCode;

    #[test]
    fn endpoints_are_told_from_the_end() {
        let digest = Digest::of(b"x");
        assert_eq!(Route::of("/v2/"), Ok(Route::Base));
        assert_eq!(Route::of("/v2/a/blobs/b/tags/list"), Ok(Route::Tags("a/blobs/b".to_owned())));
        assert_eq!(Route::of(&format!("/v2/a/blobs/{digest}")), Ok(Route::Blob(digest)));
        let manifest = |target| Ok(Route::Manifest { name: "edge/nginx".to_owned(), target });
        assert_eq!(Route::of("/v2/edge/nginx/manifests/1.4"), manifest(Target::Tag("1.4".to_owned())));
        assert_eq!(Route::of(&format!("/v2/edge/nginx/manifests/{digest}")), manifest(Target::Digest(digest)));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let hex = Digest::of(b"x").hex();
        for (path, status) in [
            ("/", StatusCode::NOT_FOUND),
            ("/v2x/", StatusCode::NOT_FOUND),
            ("/v2/a", StatusCode::NOT_FOUND),
            ("/v2/a/referrers/b", StatusCode::NOT_FOUND),
            ("/v2/../manifests/v1", StatusCode::BAD_REQUEST),
            ("/v2/a%2f..%2fb/manifests/v1", StatusCode::BAD_REQUEST),
            ("/v2/A/manifests/v1", StatusCode::BAD_REQUEST),
            ("/v2//manifests/v1", StatusCode::BAD_REQUEST),
            ("/v2/a/manifests/..", StatusCode::NOT_FOUND),
            ("/v2/a/blobs/..", StatusCode::BAD_REQUEST),
            ("/v2/a/blobs/sha256:..%2f..%2findex.json", StatusCode::BAD_REQUEST),
            (&format!("/v2/a/blobs/{hex}"), StatusCode::BAD_REQUEST),
        ] {
            assert_eq!(Route::of(path).map_err(|refusal| refusal.status), Err(status), "{path}");
        }
    }
}
