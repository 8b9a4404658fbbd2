//! Errors as problem documents ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)).

use hyper::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::body::{Body, json};
use crate::agent::Reject;
use crate::failure::{Failure, Kind};
use crate::wording::without_error_numbers;

/// The media type of a problem document.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// A problem document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Always `about:blank`: `kind` tells problems apart.
    #[serde(rename = "type")]
    pub uri: String,
    /// The HTTP status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The stable name of what went wrong.
    pub kind: Kind,
    /// What went wrong, for a person.
    pub detail: String,
}

impl Problem {
    /// A problem of `kind`. The status follows from the kind, by the one table there is.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self::with(status(kind), kind, detail)
    }

    /// The same with a status that says more than the kind does.
    pub(super) fn with(status: StatusCode, kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            uri: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            kind,
            detail: without_error_numbers(&detail.into()).into_owned(),
        }
    }

    pub(super) fn response(&self) -> Response<Body> {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        json(status, PROBLEM_JSON, self)
    }
}

fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::Usage => StatusCode::BAD_REQUEST,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::NotFound | Kind::UnknownWorkload => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::RateLimited => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<Reject> for Problem {
    fn from(reject: Reject) -> Self {
        let kind = match &reject {
            Reject::UnknownWorkload(_) => Kind::UnknownWorkload,
            Reject::Refused { .. } | Reject::OtherDesired(_) => Kind::Conflict,
            Reject::Unsaved(failure) => failure.kind,
            Reject::Ending => Kind::AgentUnreachable,
            Reject::Stale(_) | Reject::OutOfPlace { .. } => Kind::Internal,
        };
        Self::new(kind, reject.to_string())
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self::new(failure.kind, failure.message)
    }
}
