//! An answer before it goes out: whole, in memory, and open to what faults do to it.

use std::io::Write;

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, IntoHeaderName, LOCATION};
use serde_json::{Value, json};

/// The header that names the digest of what is answered.
pub const CONTENT_DIGEST: &str = "docker-content-digest";

/// Status, headers and body of an answer; for HEAD, the body is what GET would have sent.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Where the body begins in the content that it is a range of.
    pub offset: u64,
}

impl Reply {
    pub fn empty(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: Bytes::new(), offset: 0 }
    }

    pub fn content(status: StatusCode, media_type: &str, body: Bytes) -> Self {
        let length = body.len() as u64;
        Self { body, ..Self::empty(status) }.header(CONTENT_TYPE, media_type).promising(length)
    }

    pub fn json(status: StatusCode, value: &Value) -> Self {
        Self::content(status, "application/json", value.to_string().into())
    }

    /// Sets a header, or leaves it out where the value cannot stand in one: values can come from the peer.
    pub fn header(mut self, name: impl IntoHeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Adds a header line of any bytes that can stand in one.
    pub fn line(mut self, name: impl IntoHeaderName, value: &[u8]) -> Self {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            self.headers.append(name, value);
        }
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.remove(name);
        self
    }

    /// With a content coding; gzip is carried out.
    pub fn coded(mut self, coding: &str) -> Self {
        if coding == "gzip" {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            if encoder.write_all(&self.body).is_ok() {
                self.body = encoder.finish().unwrap_or_default().into();
            }
        }
        let length = self.body.len() as u64;
        self.header(CONTENT_ENCODING, coding).promising(length)
    }

    /// With another `Location`, in which `{path}` stands for path and query of the right one.
    pub fn located(self, location: &str) -> Self {
        let Some(path) = self.headers.get(LOCATION).and_then(|right| right.to_str().ok()).map(str::to_owned) else {
            return self;
        };
        self.header(LOCATION, &location.replace("{path}", &path))
    }

    /// Promises more than the body holds.
    pub fn promising_more(self, bytes: u64) -> Self {
        let length = (self.body.len() as u64).saturating_add(bytes);
        self.promising(length)
    }

    /// Drops the last bytes of the body, and says so.
    pub fn shortened(mut self, bytes: u64) -> Self {
        let left = (self.body.len() as u64).saturating_sub(bytes);
        self.body.truncate(left as usize);
        self.promising(left)
    }

    /// Fills the body up with blanks, which JSON allows after its end.
    pub fn padded(mut self, length: usize) -> Self {
        let mut body = BytesMut::from(&*self.body);
        body.resize(length.max(body.len()), b' ');
        self.body = body.freeze();
        let length = self.body.len() as u64;
        self.promising(length)
    }

    fn promising(mut self, length: u64) -> Self {
        self.headers.insert(CONTENT_LENGTH, length.into());
        self
    }
}

/// A request that is refused, with the code that the distribution specification has for it.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    code: &'static str,
    about: String,
}

impl Refusal {
    pub fn new(status: StatusCode, code: &'static str, about: impl Into<String>) -> Self {
        Self { status, code, about: about.into() }
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        let Refusal { status, code, about } = refusal;
        let error = json!({"code": code, "message": status.canonical_reason(), "detail": about});
        Self::json(status, &json!({"errors": [error]}))
    }
}
