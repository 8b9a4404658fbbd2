//! Values that TOML has no type for.

use std::time::Duration;

use bytesize::ByteSize;
use jiff::SpanRelativeTo;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// A length of time such as `"50ms"`, `"15m"` or `"1h 30m"`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span(pub(crate) Duration);

/// A length of time, or `"off"`.
#[derive(Clone, Copy, Debug)]
pub(super) struct SpanOrOff(pub(super) Option<Duration>);

/// A length of time, or `"confirm"`.
#[derive(Clone, Copy, Debug)]
pub(super) struct SpanOrConfirm(pub(super) Option<Duration>);

/// Something that has a parser of its own.
#[derive(Clone, Debug)]
pub(super) struct Text<T>(pub(super) T);

/// Bytes a second such as `"4MiB/s"`, or `"off"`.
#[derive(Clone, Copy, Debug)]
pub(super) struct RateOrOff(pub(super) Option<u64>);

/// Bytes such as `"500MiB"`, or `"off"`.
#[derive(Clone, Copy, Debug)]
pub(super) struct SizeOrOff(pub(super) Option<u64>);

/// Permission bits such as `"0660"`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode(pub(super) u32);

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For the journal under systemd, for a person on a terminal.
    Auto,
    /// One JSON object a line.
    Json,
}

/// The longest time that any setting takes: a timer that never rings hides a mistake.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

fn span(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<jiff::Span>().and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    let parsed = parsed
        .map_err(|_| format!("{text:?} is no length of time: write \"50ms\", \"30s\", \"15m\", \"1h\" or \"30d\""))?;
    let span = Duration::try_from(parsed).map_err(|_| format!("{text:?} is less than no time"))?;
    if span > LONGEST { Err(format!("{text:?} is longer than a year")) } else { Ok(span) }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        span(&String::deserialize(deserializer)?).map(Self).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for SpanOrOff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "off" => Ok(Self(None)),
            text => span(text).map(|span| Self(Some(span))).map_err(D::Error::custom),
        }
    }
}

impl<'de> Deserialize<'de> for SpanOrConfirm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "confirm" => Ok(Self(None)),
            text => span(text).map(|span| Self(Some(span))).map_err(|why| D::Error::custom(why + ", or \"confirm\"")),
        }
    }
}

impl<'de, T: std::str::FromStr<Err = String>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for RateOrOff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "off" {
            return Ok(Self(None));
        }
        match text.strip_suffix("/s").and_then(|size| size.trim().parse::<ByteSize>().ok()) {
            Some(size) => Ok(Self(Some(size.as_u64()))),
            None => Err(D::Error::custom(format!("{text:?} is no speed: write \"4MiB/s\", \"500kB/s\" or \"off\""))),
        }
    }
}

impl<'de> Deserialize<'de> for SizeOrOff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "off" => Ok(Self(None)),
            text => match text.parse::<ByteSize>() {
                Ok(size) => Ok(Self(Some(size.as_u64()))),
                Err(_) => Err(D::Error::custom(format!("{text:?} is no size: write \"500MiB\", \"2GB\" or \"off\""))),
            },
        }
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o777 => Ok(Self(mode)),
            _ => Err(D::Error::custom(format!("{text:?} is no file mode: write octal digits such as \"0660\""))),
        }
    }
}
/// Addresses that a registry may redirect to, or name as those of its token service or of an upload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedirectScope {
    /// From a public address only public ones.
    #[default]
    Public,
    /// All.
    Any,
}

/// Users who may read the cache and the generations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheAccess {
    /// Every local user.
    #[default]
    Everyone,
    /// The agent's user, and the group of hypervisors.
    Group,
}
