//! Errors that are not damage of a layer's bytes.

use std::io;

use super::Cancel;

/// Bytes that are what they seem to be, and are refused.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

/// The reader was cancelled.
#[derive(Debug, thiserror::Error)]
#[error("cancelled")]
struct Cancelled;

/// An error for bytes that are refused.
pub(super) fn refusal(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, Refusal(reason))
}

/// True if the bytes are right, and refused.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Refusal>)
}

/// Fails once `cancel` is set. The error is not `Interrupted`: the standard library reads again after that.
pub(super) fn check(cancel: &Cancel) -> io::Result<()> {
    if cancel.is_cancelled() { Err(io::Error::other(Cancelled)) } else { Ok(()) }
}

/// True if the reader was cancelled.
#[cfg(test)]
pub(super) fn is_cancelled(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Cancelled>)
}
