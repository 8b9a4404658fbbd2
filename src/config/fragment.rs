//! One `agent.toml` or drop-in as it is written: every key may be absent.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytesize::ByteSize;
use serde::Deserialize;

use super::health::Unit;
use super::hooks::Argv;
use super::mirror::Mirror;
use super::proxy::Proxy;
use super::target::{Address, HttpTarget};
use super::value::{
    CacheAccess, LogFormat, Mode, RateOrOff, RedirectScope, SizeOrOff, Span, SpanOrConfirm, SpanOrOff, Text,
};
use super::window::{Days, TimeOfDay, Zone};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Fragment {
    pub(super) state_dir: Option<PathBuf>,
    pub(super) desired: Desired,
    pub(super) api: Api,
    pub(super) log: Log,
    pub(super) transfer: Transfer,
    pub(super) unpack: Unpack,
    pub(super) retry: Retry,
    pub(super) cache: Cache,
    pub(super) window: Window,
    pub(super) hooks: Hooks,
    pub(super) health: Health,
    pub(super) registry: BTreeMap<String, Registry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Desired {
    pub(super) path: Option<PathBuf>,
    pub(super) debounce: Option<Span>,
    pub(super) poll: Option<SpanOrOff>,
    pub(super) retire: Option<SpanOrConfirm>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Api {
    pub(super) socket: Option<PathBuf>,
    pub(super) mode: Option<Mode>,
    pub(super) group: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    pub(super) level: Option<Level>,
    pub(super) format: Option<LogFormat>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Transfer {
    pub(super) connections: Option<u8>,
    pub(super) bandwidth: Option<RateOrOff>,
    pub(super) connect_timeout: Option<Span>,
    pub(super) idle_timeout: Option<Span>,
    pub(super) max_file_bytes: Option<ByteSize>,
    pub(super) max_wire_bytes: Option<SizeOrOff>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Unpack {
    pub(super) max_window: Option<ByteSize>,
    pub(super) memory: Option<ByteSize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Retry {
    pub(super) initial: Option<Span>,
    pub(super) max: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Cache {
    pub(super) keep: Option<u32>,
    pub(super) reserve: Option<ByteSize>,
    pub(super) scrub: Option<SpanOrOff>,
    pub(super) keep_layers: Option<bool>,
    pub(super) access: Option<CacheAccess>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Registry {
    pub(super) mirrors: Vec<Text<Mirror>>,
    pub(super) resolve_tags: Option<bool>,
    pub(super) proxy: Option<Text<Proxy>>,
    pub(super) client_cert: Option<PathBuf>,
    pub(super) client_key: Option<PathBuf>,
    pub(super) ca: Option<PathBuf>,
    pub(super) credentials: Option<PathBuf>,
    pub(super) insecure: Option<bool>,
    pub(super) ca_only: Option<bool>,
    pub(super) token_service: Option<String>,
    pub(super) redirects: Option<RedirectScope>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Window {
    pub(super) days: Option<Days>,
    pub(super) start: Option<Text<TimeOfDay>>,
    pub(super) end: Option<Text<TimeOfDay>>,
    pub(super) timezone: Option<Text<Zone>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Hooks {
    pub(super) pre_activate: Option<Argv>,
    pub(super) post_activate: Option<Argv>,
    pub(super) on_rollback: Option<Argv>,
    pub(super) timeout: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Health {
    pub(super) command: Option<Argv>,
    pub(super) tcp: Option<Text<Address>>,
    pub(super) http: Option<Text<HttpTarget>>,
    pub(super) unit: Option<Text<Unit>>,
    pub(super) interval: Option<Span>,
    pub(super) timeout: Option<Span>,
    pub(super) threshold: Option<u32>,
    pub(super) healthy_after: Option<Span>,
    pub(super) max_attempts: Option<u32>,
}
