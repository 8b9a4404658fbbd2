//! What the endpoints answer from the layout.

use std::collections::BTreeSet;
use std::io::SeekFrom;

use hyper::body::Incoming;
use hyper::header::{ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, RANGE};
use hyper::header::{HeaderName, LINK};
use hyper::{Method, Request, Response, StatusCode};
use nix::fcntl::OFlag;
use serde_json::json;
use tokio::fs::OpenOptions;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::range::Wanted;
use super::reply::{Body, Refusal, empty, header, json_response, streamed, with_type};
use super::route::{Route, Target};
use crate::failure::full_text;
use crate::oci::{Digest, Document, Index, media_type};
use crate::registry::LayoutSource;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
/// How much of a blob is read at once, in bytes.
const PIECE: usize = 128 * 1024;

/// A layout behind the API.
#[derive(Debug)]
pub(super) struct Content {
    layout: LayoutSource,
}

impl Content {
    pub(super) fn new(layout: LayoutSource) -> Self {
        Self { layout }
    }

    /// Answers any request.
    pub(super) async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let mut response = match Route::of(request.uri().path()) {
            // Uploads have paths that lead nowhere here: a push is told as much, rather than that there is nothing.
            _ if !matches!(*request.method(), Method::GET | Method::HEAD) => {
                let mut response = Refusal::read_only().into_response();
                header(&mut response, ALLOW, "GET, HEAD");
                response
            }
            Ok(route) => self.look_up(route, request).await.unwrap_or_else(Refusal::into_response),
            Err(refusal) => refusal.into_response(),
        };
        header(&mut response, API_VERSION, "registry/2.0");
        if request.method() == Method::HEAD {
            *response.body_mut() = empty();
        }
        response
    }

    async fn look_up(&self, route: Route, request: &Request<Incoming>) -> Result<Response<Body>, Refusal> {
        match route {
            Route::Base => Ok(json_response(StatusCode::OK, &json!({}))),
            Route::Manifest { target: Target::Digest(digest), .. } => self.manifest(&digest).await,
            Route::Manifest { name, target: Target::Tag(tag) } => {
                let index = self.index().await?;
                let entries = index.tagged(&name, &tag);
                self.manifest(&entries.first().ok_or_else(Refusal::no_manifest)?.digest).await
            }
            Route::Blob(digest) => self.blob(&digest, request).await,
            Route::Tags(name) => {
                let index = self.index().await?;
                list(&name, index.tags(&name), request.uri().query().unwrap_or_default())
            }
        }
    }

    async fn index(&self) -> Result<Index, Refusal> {
        self.layout.index().await.map_err(|error| {
            tracing::warn!(error = full_text(&error), "cannot read the layout's index");
            Refusal::internal()
        })
    }

    /// A manifest or index; another blob is none, whoever asks for it as one.
    async fn manifest(&self, digest: &Digest) -> Result<Response<Body>, Refusal> {
        let bytes = self.layout.document(digest).await.map_err(|error| {
            tracing::debug!(error = full_text(&error), "cannot read a manifest");
            Refusal::no_manifest()
        })?;
        let media_type = match Document::parse(&bytes).map_err(|_| Refusal::no_manifest())? {
            Document::Manifest(manifest) => manifest.media_type.unwrap_or_else(|| media_type::MANIFEST.to_owned()),
            Document::Index(index) => index.media_type.unwrap_or_else(|| media_type::INDEX.to_owned()),
        };
        Ok(addressed(with_type(StatusCode::OK, &media_type, bytes), digest))
    }

    async fn blob(&self, digest: &Digest, request: &Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let unknown = |_| Refusal::not_found("BLOB_UNKNOWN", "there is no such blob");
        let path = self.layout.blob_path(digest);
        // A link in `blobs` could lead to any file of this machine.
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let mut file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(&path).await.map_err(unknown)?;
        let found = file.metadata().await.map_err(unknown)?;
        if !found.is_file() {
            return Err(Refusal::not_found("BLOB_UNKNOWN", "there is no such blob"));
        }
        let size = found.len();
        let (status, range) = match wanted(request, digest, size) {
            Wanted::Whole => (StatusCode::OK, 0..size),
            Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
            // No body: some clients read an error's body without end.
            Wanted::Beyond => (StatusCode::RANGE_NOT_SATISFIABLE, 0..0),
        };
        file.seek(SeekFrom::Start(range.start)).await.map_err(|_| Refusal::internal())?;
        let length = range.end - range.start;
        let mut response = Response::new(streamed(ReaderStream::with_capacity(file.take(length), PIECE)));
        *response.status_mut() = status;
        header(&mut response, CONTENT_LENGTH, &length.to_string());
        header(&mut response, CONTENT_TYPE, "application/octet-stream");
        header(&mut response, ACCEPT_RANGES, "bytes");
        match status {
            StatusCode::PARTIAL_CONTENT => {
                header(&mut response, CONTENT_RANGE, &format!("bytes {}-{}/{size}", range.start, range.end - 1));
            }
            StatusCode::RANGE_NOT_SATISFIABLE => header(&mut response, CONTENT_RANGE, &format!("bytes */{size}")),
            _ => {}
        }
        Ok(addressed(response, digest))
    }
}

/// Says what the content's digest is.
fn addressed(mut response: Response<Body>, digest: &Digest) -> Response<Body> {
    header(&mut response, CONTENT_DIGEST, &digest.to_string());
    header(&mut response, ETAG, &etag(digest));
    response
}

fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

fn wanted(request: &Request<Incoming>, digest: &Digest, size: u64) -> Wanted {
    let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let of_this_content = text(IF_RANGE).is_none_or(|condition| condition == etag(digest));
    // RFC 9110 has ranges for GET only.
    let range = text(RANGE).filter(|_| of_this_content && request.method() == Method::GET);
    Wanted::of(range, size)
}

/// The tags in lexical order, in pages where the client asks for pages (`n`, `last`).
fn list(name: &str, tags: BTreeSet<&str>, query: &str) -> Result<Response<Body>, Refusal> {
    if tags.is_empty() {
        return Err(Refusal::not_found("NAME_UNKNOWN", "there is no such repository"));
    }
    let parameter = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    let last = parameter("last").unwrap_or_default();
    let size = parameter("n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    let mut rest = tags.into_iter().filter(|tag| *tag > last);
    let page: Vec<&str> = rest.by_ref().take(size).collect();
    let mut response = json_response(StatusCode::OK, &json!({"name": name, "tags": page}));
    if let (Some(last), true) = (page.last(), rest.next().is_some()) {
        header(&mut response, LINK, &format!("</v2/{name}/tags/list?n={size}&last={last}>; rel=\"next\""));
    }
    Ok(response)
}
