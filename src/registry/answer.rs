//! What an answer says: its body with a cap, its refusal as an error, how long it asks to wait.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::Response;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use tokio::time::{Instant, timeout_at};

use super::RegistryError;
use super::reason::reason;
use super::retry_after::parse_retry_after;

/// Fewer bytes than these within that time are as good as none.
const LEAST: usize = 1024;
/// How long an error's body may take: some registries never end it.
const DETAIL_TIMEOUT: Duration = Duration::from_secs(2);
/// As much of an error's body as is read, in bytes.
const MAX_DETAIL: usize = 16 * 1024;

/// As much of a body as `limit` bytes. One that brings next to nothing for as long as `idle` is given up.
pub(super) async fn read_up_to(
    url: &str,
    mut response: Response,
    limit: usize,
    idle: Duration,
) -> Result<Bytes, RegistryError> {
    let mut bytes = BytesMut::new();
    let mut since = (Instant::now(), 0);
    while bytes.len() < limit {
        let next = timeout_at(since.0 + idle, response.chunk()).await.map_err(|_| RegistryError::stalled(url))?;
        match next.map_err(|error| RegistryError::transport(url, &error))? {
            Some(chunk) => bytes.extend_from_slice(&chunk),
            None => break,
        }
        if bytes.len() >= since.1 + LEAST {
            since = (Instant::now(), bytes.len());
        }
    }
    Ok(bytes.freeze())
}

/// The error that a refusing answer stands for.
pub(super) async fn refusal(url: &str, response: Response) -> RegistryError {
    let status = response.status().as_u16();
    let retry_after = retry_after(response.headers());
    let body = tokio::time::timeout(DETAIL_TIMEOUT, read_up_to(url, response, MAX_DETAIL, DETAIL_TIMEOUT)).await;
    let reason = body.ok().and_then(Result::ok).and_then(|bytes| reason(&bytes));
    let detail = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    RegistryError::Status { url: url.to_owned(), status, detail, retry_after }
}

/// The wait that an answer asks for, if it is plausible.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    parse_retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?, SystemTime::now())
}
