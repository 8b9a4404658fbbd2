//! The reading half of the distribution API: manifests, blobs and their ranges, tags, referrers.

use std::ops::Range;

use hyper::StatusCode;
use hyper::header::{ACCEPT, ACCEPT_RANGES, CONTENT_RANGE, HeaderMap, LINK, RANGE};
use serde_json::json;

use super::endpoint::{Endpoint, Query};
use super::reply::{CONTENT_DIGEST, Refusal, Reply};
use super::store::Store;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub fn manifest(store: &Store, at: &Endpoint, headers: &HeaderMap) -> Result<Reply, Refusal> {
    let unknown = |about| Refusal::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", about);
    let (digest, manifest) = store.manifest(&at.repo, &at.reference).ok_or_else(|| unknown(at.reference.clone()))?;
    if !accepts(headers, &manifest.media_type) {
        return Err(unknown(format!("none of {} is accepted", manifest.media_type)));
    }
    let reply = Reply::content(StatusCode::OK, &manifest.media_type, manifest.bytes);
    Ok(reply.header(CONTENT_DIGEST, &digest))
}

/// Whether a client that names media types names this one; one that names none takes all.
fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let named: Vec<&str> = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|entry| entry.split(';').next())
        .map(str::trim)
        .collect();
    named.is_empty() || named.iter().any(|name| [media_type, "*/*", "application/*"].contains(name))
}

pub fn blob(store: &Store, at: &Endpoint, headers: &HeaderMap) -> Result<Reply, Refusal> {
    let whole = store
        .blob(&at.repo, &at.reference)
        .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", at.reference.clone()))?;
    let size = whole.len();
    let range = headers.get(RANGE).and_then(|value| value.to_str().ok());
    let reply = match Wanted::parse(range, size) {
        Wanted::Whole => Reply::content(StatusCode::OK, "application/octet-stream", whole),
        Wanted::Part(part) => {
            let content_range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
            let offset = part.start as u64;
            let body = whole.slice(part);
            Reply { offset, ..Reply::content(StatusCode::PARTIAL_CONTENT, "application/octet-stream", body) }
                .header(CONTENT_RANGE, &content_range)
        }
        Wanted::Nothing => {
            let refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID", "");
            return Ok(Reply::from(refusal).header(CONTENT_RANGE, &format!("bytes */{size}")));
        }
    };
    Ok(reply.header(ACCEPT_RANGES, "bytes").header(CONTENT_DIGEST, &at.reference))
}

/// How much of a blob a `Range` header wants.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Whole,
    Part(Range<usize>),
    /// Nothing that the blob has.
    Nothing,
}

impl Wanted {
    /// A header that is malformed, or that names several ranges, is ignored, as RFC 9110 allows.
    fn parse(header: Option<&str>, size: usize) -> Self {
        header
            .and_then(|header| header.strip_prefix("bytes=")?.split_once('-'))
            .and_then(|(first, last)| Self::bounds(first, last, size))
            .unwrap_or(Self::Whole)
    }

    fn bounds(first: &str, last: &str, size: usize) -> Option<Self> {
        let (start, end) = match (first, last) {
            ("", suffix) => (size.saturating_sub(suffix.parse().ok()?), size),
            (first, "") => (first.parse().ok()?, size),
            (first, last) => {
                let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
                if last < first {
                    return None;
                }
                (first, size.min(last.saturating_add(1)))
            }
        };
        Some(if start < end { Self::Part(start..end) } else { Self::Nothing })
    }
}

/// The tags in lexical order, in pages where the client asks for pages.
pub fn tags(store: &Store, at: &Endpoint, query: &Query) -> Result<Reply, Refusal> {
    let unknown = || Refusal::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", at.repo.clone());
    let mut tags = store.tags(&at.repo).ok_or_else(unknown)?;
    if let Some(last) = query.get("last") {
        tags.retain(|tag| tag.as_str() > last);
    }
    let page = query.get("n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    let more = tags.len() > page;
    tags.truncate(page);
    let reply = Reply::json(StatusCode::OK, &json!({"name": at.repo, "tags": tags}));
    Ok(match tags.last() {
        Some(last) if more => {
            let next = format!("</v2/{}/tags/list?n={page}&last={last}>; rel=\"next\"", at.repo);
            reply.header(LINK, &next)
        }
        _ => reply,
    })
}

/// An index of what refers to a digest: empty, never 404, where nothing does.
pub fn referrers(store: &Store, at: &Endpoint, query: &Query) -> Reply {
    let mut manifests = store.referrers(&at.repo, &at.reference);
    let filter = query.get("artifactType");
    if let Some(wanted) = filter {
        manifests.retain(|descriptor| descriptor.get("artifactType").is_some_and(|own| own == wanted));
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    let reply = Reply::content(StatusCode::OK, INDEX, index.to_string().into());
    match filter {
        Some(_) => reply.header("oci-filters-applied", "artifactType"),
        None => reply,
    }
}
