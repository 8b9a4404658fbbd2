//! The writing half of the distribution API: upload sessions, and manifests whose parts must be there.

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, LOCATION, RANGE};
use serde_json::Value;

use super::endpoint::{Endpoint, Query};
use super::reply::{CONTENT_DIGEST, Refusal, Reply};
use super::store::{Manifest, Store, digest};

/// The largest manifest that is taken: the limit of Debian's `docker-registry`, and of most others.
const MANIFEST_LIMIT: usize = 4 << 20;

/// Opens an upload session; or does the whole of it, where the blob can be mounted or comes in this very request.
pub async fn begin(store: &Store, at: &Endpoint, query: &Query, body: Incoming) -> Result<Reply, Refusal> {
    if let (Some(digest), Some(from)) = (query.get("mount"), query.get("from"))
        && let Some(bytes) = store.blob(from, digest)
    {
        store.put_blob(&at.repo, digest, bytes);
        return Ok(created(at, "blobs", digest));
    }
    let session = store.begin_upload(&at.repo);
    let at = Endpoint { reference: session, ..at.clone() };
    match query.get("digest") {
        Some(_) => finish(store, &at, query, body).await,
        None => Ok(progress(&at, StatusCode::ACCEPTED, 0)),
    }
}

/// A chunk: it has to begin where the last one ended.
pub async fn chunk(store: &Store, at: &Endpoint, headers: &HeaderMap, body: Incoming) -> Result<Reply, Refusal> {
    let held = held(store, at)?;
    let range = headers.get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let start = range.and_then(|range| range.trim_start_matches("bytes ").split('-').next());
    if start.is_some_and(|start| start != held.to_string()) {
        return Ok(progress(at, StatusCode::RANGE_NOT_SATISFIABLE, held));
    }
    Ok(progress(at, StatusCode::ACCEPTED, receive(store, at, body).await?))
}

/// The last chunk, which may be empty, and the digest that the whole has to have.
pub async fn finish(store: &Store, at: &Endpoint, query: &Query, body: Incoming) -> Result<Reply, Refusal> {
    receive(store, at, body).await?;
    let bytes = store.end_upload(&at.repo, &at.reference).ok_or_else(|| unknown(at))?;
    let wanted = query.get("digest").unwrap_or_default();
    if digest(&bytes) != wanted {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", wanted));
    }
    store.put_blob(&at.repo, wanted, bytes);
    Ok(created(at, "blobs", wanted))
}

pub fn status(store: &Store, at: &Endpoint) -> Result<Reply, Refusal> {
    Ok(progress(at, StatusCode::NO_CONTENT, held(store, at)?))
}

pub fn cancel(store: &Store, at: &Endpoint) -> Result<Reply, Refusal> {
    store.end_upload(&at.repo, &at.reference).ok_or_else(|| unknown(at))?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

/// Takes a manifest, if it is small enough, is what its digest says, and names only what is here.
///
/// Only a registry with a referrers API says which subject it has seen; to the others a client pushes a fallback tag.
pub async fn manifest(
    store: &Store,
    at: &Endpoint,
    headers: &HeaderMap,
    body: Incoming,
    referrers_api: bool,
) -> Result<Reply, Refusal> {
    let bytes = limited(body).await?;
    let invalid = |code, about: &str| Refusal::new(StatusCode::BAD_REQUEST, code, about);
    let content: Value =
        serde_json::from_slice(&bytes).map_err(|error| invalid("MANIFEST_INVALID", &error.to_string()))?;
    let by_digest = at.reference.contains(':');
    if by_digest && digest(&bytes) != at.reference {
        return Err(invalid("DIGEST_INVALID", &at.reference));
    }
    if let Some(missing) = store.missing(&at.repo, &content) {
        return Err(invalid("MANIFEST_BLOB_UNKNOWN", &missing));
    }
    let named = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = named.or(content.get("mediaType").and_then(Value::as_str)).unwrap_or_default().to_owned();
    let tag = (!by_digest).then_some(at.reference.as_str());
    let digest = store.put_manifest(&at.repo, tag, Manifest { media_type, bytes });
    Ok(match content.pointer("/subject/digest").and_then(Value::as_str) {
        Some(subject) if referrers_api => created(at, "manifests", &digest).header("oci-subject", subject),
        _ => created(at, "manifests", &digest),
    })
}

async fn limited(body: Incoming) -> Result<Bytes, Refusal> {
    let collected = Limited::new(body, MANIFEST_LIMIT).collect().await;
    collected
        .map(|whole| whole.to_bytes())
        .map_err(|error| Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", error.to_string()))
}

/// Keeps each piece as it comes, so that an upload which breaks off can go on where it broke off.
async fn receive(store: &Store, at: &Endpoint, mut body: Incoming) -> Result<usize, Refusal> {
    let mut held = held(store, at)?;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", error.to_string()))?;
        let piece = frame.into_data().unwrap_or_default();
        held = store.append(&at.repo, &at.reference, &piece).ok_or_else(|| unknown(at))?;
    }
    Ok(held)
}

/// Keeps the first `left` bytes of an upload.
pub async fn take(store: &Store, at: &Endpoint, mut body: Incoming, mut left: usize) {
    while left > 0 {
        let Some(Ok(frame)) = body.frame().await else { break };
        let piece = frame.into_data().unwrap_or_default();
        let piece = piece.get(..left.min(piece.len())).unwrap_or_default();
        store.append(&at.repo, &at.reference, piece);
        left -= piece.len();
    }
}

fn held(store: &Store, at: &Endpoint) -> Result<usize, Refusal> {
    store.append(&at.repo, &at.reference, b"").ok_or_else(|| unknown(at))
}

fn unknown(at: &Endpoint) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", at.reference.clone())
}

/// How far an upload is. The `Location` is relative and has a query already: a client has to cope with both.
fn progress(at: &Endpoint, status: StatusCode, held: usize) -> Reply {
    let Endpoint { repo, reference: session, .. } = at;
    Reply::empty(status)
        .header(LOCATION, &format!("/v2/{repo}/blobs/uploads/{session}?state={held}"))
        .header(RANGE, &format!("0-{}", held.saturating_sub(1)))
        .header("docker-upload-uuid", session)
}

fn created(at: &Endpoint, kind: &str, digest: &str) -> Reply {
    Reply::empty(StatusCode::CREATED)
        .header(LOCATION, &format!("/v2/{}/{kind}/{digest}", at.repo))
        .header(CONTENT_DIGEST, digest)
}
