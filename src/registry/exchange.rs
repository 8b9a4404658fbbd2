//! Log lines of requests to registries and of their answers, without secrets.

use std::fmt::Write;
use std::time::Instant;

use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderName, LOCATION, RANGE};
use reqwest::{Method, Request, Response, Url};

use super::RegistryError;
use crate::failure::full_text;

/// The log target of requests and answers, which a command shows with `--debug` only.
pub const EXCHANGE_TARGET: &str = "eci_agent::exchange";
/// Keys of a query whose values are shown; those of others may be signatures or tokens.
const SHOWN_KEYS: [&str; 8] = ["ns", "mount", "from", "digest", "service", "scope", "n", "last"];
/// Longest query that is shown, in bytes.
const MAX_QUERY: usize = 400;

/// A request that is under way.
pub(super) struct Exchange {
    method: Method,
    url: String,
    started: Instant,
}

impl Exchange {
    /// Logs a request; none if nobody reads it.
    pub(super) fn begin(request: &Request) -> Option<Self> {
        if !tracing::enabled!(target: EXCHANGE_TARGET, tracing::Level::DEBUG) {
            return None;
        }
        let (method, url) = (request.method().clone(), shown(request.url()));
        let header = |name: HeaderName| text(request.headers(), &name);
        let (range, length) = (header(RANGE).or_else(|| header(CONTENT_RANGE)), header(CONTENT_LENGTH));
        tracing::debug!(target: EXCHANGE_TARGET, range, length, "request {method} {url}");
        Some(Self { method, url, started: Instant::now() })
    }

    /// Logs the answer, or the failure.
    pub(super) fn end(self, answer: &Result<Response, RegistryError>) {
        let Self { method, url, started } = self;
        let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match answer {
            Ok(answer) => {
                let (status, from) = (answer.status().as_u16(), shown(answer.url()));
                let length = text(answer.headers(), &CONTENT_LENGTH);
                let range = text(answer.headers(), &CONTENT_RANGE);
                let to = answer.headers().get(LOCATION).and_then(|to| answer.url().join(to.to_str().ok()?).ok());
                let (from, location) = ((from != url).then_some(from), to.as_ref().map(shown));
                tracing::debug!(target: EXCHANGE_TARGET, length, range, from, location, ms, "answer {status} to {method} {url}");
            }
            Err(error) => {
                tracing::debug!(target: EXCHANGE_TARGET, ms, "no answer to {method} {url}: {}", full_text(error));
            }
        }
    }
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(ToOwned::to_owned)
}

/// A URL without its user, and without the values of query parameters that may be secret.
fn shown(url: &Url) -> String {
    let mut text = format!("{}{}", url.origin().ascii_serialization(), url.path());
    let mut separator = '?';
    for (key, value) in url.query_pairs() {
        let (key, value) = if SHOWN_KEYS.contains(&key.as_ref()) {
            (key.as_ref(), value.as_ref())
        } else if value.is_empty() {
            // A parameter without a value may itself be a token.
            ("…", "")
        } else {
            (key.as_ref(), "…")
        };
        if text.len() + key.len() + value.len() > url.path().len() + MAX_QUERY {
            text.push_str("&…");
            break;
        }
        let _ = write!(text, "{separator}{key}={value}");
        separator = '&';
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_secrets() {
        for (url, wanted) in [
            ("https://user:pass@a.example/v2/b/manifests/c", "https://a.example/v2/b/manifests/c"),
            (
                "http://a.example:5000/v2/b/blobs/uploads/?mount=sha256:1&from=x",
                "http://a.example:5000/v2/b/blobs/uploads/?mount=sha256:1&from=x",
            ),
            (
                "https://s3.example/o?X-Amz-Signature=secret&X-Amz-Date=1",
                "https://s3.example/o?X-Amz-Signature=…&X-Amz-Date=…",
            ),
            (
                "https://t.example/token?service=s&scope=repository:a:pull&account=u",
                "https://t.example/token?service=s&scope=repository:a:pull&account=…",
            ),
            ("https://s.example/o?secret", "https://s.example/o?…="),
        ] {
            assert_eq!(shown(&url.parse().unwrap()), wanted);
        }
        let long: Url = format!("https://a.example/o?{}", "k=v&".repeat(10_000)).parse().unwrap();
        assert!(shown(&long).len() < 1000);
    }
}
