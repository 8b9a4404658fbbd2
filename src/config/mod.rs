//! `agent.toml`: fragment → merged → settings.
//!
//! Each file is read into a fragment, which checks its keys and values where they stand; fragments are merged in
//! systemd's order of precedence; the whole becomes [`Settings`], in which nothing is optional that has a default.

mod document;
mod fragment;
mod load;
mod mirror;
mod proxy;
mod settings;
mod value;

pub use document::{DocumentError, parse};
pub use load::{ConfigError, ConfigSource, load};
pub use mirror::Mirror;
pub use proxy::Proxy;
pub use settings::{
    ApiSettings, CacheSettings, ClientCertificate, DesiredSettings, LogSettings, RegistrySettings, RetrySettings,
    Settings, TransferSettings,
};
pub use value::LogFormat;
pub(crate) use value::Span;
