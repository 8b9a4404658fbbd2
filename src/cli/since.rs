//! `eci events --since`: the event to begin after, or a length of time to look back.

use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error;

use crate::agent::{Entry, EntryId};
use crate::config::Span;

/// An id that is of no run of the agent: after it come all events that are kept.
const OF_NO_RUN: &str = "0-0";

/// The start of a list of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// The events after this one.
    Id(EntryId),
    /// The events of the last so much time.
    Ago(Duration),
}

impl Since {
    /// The id to ask the agent with.
    pub(super) fn id(self) -> Option<EntryId> {
        match self {
            Self::Id(id) => Some(id),
            Self::Ago(_) => OF_NO_RUN.parse().ok(),
        }
    }

    /// The time before which events are left out, if `now` is the time.
    pub(super) fn earliest(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Id(_) => None,
            Self::Ago(ago) => Some(now.checked_sub(ago).unwrap_or(Timestamp::MIN)),
        }
    }
}

/// True if `entry` is not before `earliest`.
pub(super) fn is_in(entry: &Entry, earliest: Option<Timestamp>) -> bool {
    earliest.is_none_or(|earliest| entry.at >= earliest)
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        let deserializer: serde::de::value::StrDeserializer<'_, Error> = text.into_deserializer();
        if let Ok(Span(ago)) = Span::deserialize(deserializer) {
            return Ok(Self::Ago(ago));
        }
        let text: String = text.chars().take(40).collect();
        Err(format!("{text:?} is neither the id of an event nor a length of time: write 10m, 1h or 1d"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_lengths_of_time_are_read() {
        assert_eq!("1764-3".parse(), Ok(Since::Id("1764-3".parse().unwrap())));
        assert_eq!("0-0".parse(), Ok(Since::Id("0-0".parse().unwrap())));
        for (text, seconds) in [("1h", 3600), ("10m", 600), ("90s", 90), ("1d", 86400), ("1h 30m", 5400)] {
            assert_eq!(text.parse(), Ok(Since::Ago(Duration::from_secs(seconds))), "{text}");
        }
        for text in ["", "yesterday", "1", "-1h", "1-1\n", "1x"] {
            assert!(text.parse::<Since>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_length_of_time_leaves_earlier_events_out() {
        let now = Timestamp::from_second(10_000).unwrap();
        let since: Since = "10m".parse().unwrap();
        assert_eq!(since.earliest(now), Some(Timestamp::from_second(9_400).unwrap()));
        assert_eq!(since.id().map(|id| id.to_string()).as_deref(), Some("0-0"));
        assert_eq!("5-1".parse::<Since>().unwrap().earliest(now), None);
    }
}
