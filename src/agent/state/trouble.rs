//! Something that went wrong.

use jiff::Timestamp;

use crate::failure::{Failure, Kind};

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The stable name.
    pub kind: Kind,
    /// The text for a person.
    pub message: String,
    /// When it first went wrong; later failures of the same kind keep it.
    pub since: Timestamp,
    /// How often in a row.
    pub attempts: u32,
    /// When it is tried again; none where it is not, by itself.
    pub retry_at: Option<Timestamp>,
}

impl Trouble {
    /// The first of its kind, or the next one after `before`.
    pub fn after(before: Option<&Self>, failure: &Failure, now: Timestamp, retry_at: Option<Timestamp>) -> Self {
        Self {
            kind: failure.kind,
            message: failure.message.clone(),
            since: before.filter(|before| before.kind == failure.kind).map_or(now, |before| before.since),
            attempts: before.map_or(1, |before| before.attempts.saturating_add(1)),
            retry_at,
        }
    }
}
