//! Response bodies.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::header::CONTENT_TYPE;
use hyper::{Response, StatusCode};

use crate::printable::escaped;

/// Any body that we send.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A response of one piece.
pub(super) fn response(status: StatusCode, content_type: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(bytes.into()).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}

/// A JSON document, with what a terminal does not show escaped.
pub(super) fn json(status: StatusCode, content_type: &'static str, value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_string(value) {
        Ok(text) => response(status, content_type, escaped(&text).into_owned()),
        // Only a map whose keys are no strings could fail, and there is none.
        Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string()),
    }
}
