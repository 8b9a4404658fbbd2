//! Answers, and refusals in the form of the distribution specification.

use std::io;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::json;

/// The body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A request that is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// One of the specification's codes.
    code: &'static str,
    message: String,
}

impl Refusal {
    pub(super) fn bad(code: &'static str, message: &str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code, message: message.to_owned() }
    }

    pub(super) fn not_found(code: &'static str, message: &str) -> Self {
        Self { status: StatusCode::NOT_FOUND, code, message: message.to_owned() }
    }

    pub(super) fn no_manifest() -> Self {
        Self::not_found("MANIFEST_UNKNOWN", "there is no such manifest")
    }

    pub(super) fn no_endpoint() -> Self {
        Self::not_found("UNSUPPORTED", "there is no such endpoint")
    }

    pub(super) fn read_only() -> Self {
        let message = "this registry is read-only".to_owned();
        Self { status: StatusCode::METHOD_NOT_ALLOWED, code: "UNSUPPORTED", message }
    }

    /// What the server's side got wrong is in its log; a client has no use for paths.
    pub(super) fn internal() -> Self {
        let message = "the image layout cannot be read".to_owned();
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, code: "UNKNOWN", message }
    }

    pub(super) fn into_response(self) -> Response<Body> {
        json_response(self.status, &json!({"errors": [{"code": self.code, "message": self.message}]}))
    }
}

/// A JSON document that we have made.
pub(super) fn json_response(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    with_type(status, "application/json", value.to_string().into())
}

/// A document.
pub(super) fn with_type(status: StatusCode, media_type: &str, bytes: Bytes) -> Response<Body> {
    let length = bytes.len() as u64;
    let mut response = Response::new(Full::new(bytes).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    header(&mut response, CONTENT_TYPE, media_type);
    header(&mut response, CONTENT_LENGTH, &length.to_string());
    response
}

/// Bytes as they come.
pub(super) fn streamed(pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync()
}

/// No bytes.
pub(super) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Sets a header. What no header can hold, which a damaged layout may want to be in one, is left out.
pub(super) fn header(response: &mut Response<Body>, name: impl Into<HeaderName>, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name.into(), value);
    }
}
