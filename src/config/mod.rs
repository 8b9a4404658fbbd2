//! `agent.toml`: fragment → merged → settings.
//!
//! Each file is read into a fragment, which checks its keys and values where they stand; fragments are merged in
//! systemd's order of precedence; the whole becomes [`Settings`], in which nothing is optional that has a default.

mod backoff;
mod document;
mod effective;
mod error;
mod faults;
mod file;
mod fragment;
mod health;
mod hooks;
mod layers;
mod load;
mod mirror;
mod origins;
mod proxy;
mod settings;
mod target;
mod unquoted;
mod value;
mod window;
mod writers;

pub use document::{DocumentError, parse};
pub use effective::EffectiveValue;
pub use error::ConfigError;
pub use health::{CheckSettings, HealthSettings};
pub use hooks::HookSettings;
pub use layers::ConfigFiles;
pub use load::{ConfigSource, load};
pub use mirror::Mirror;
pub use origins::Origin;
pub use proxy::Proxy;
pub use settings::{
    ApiSettings, CacheSettings, ClientCertificate, DesiredSettings, LogSettings, RegistrySettings, RetrySettings,
    Settings, TransferSettings, UnpackSettings,
};
pub use target::{Address, HttpTarget};
pub(crate) use value::Span;
pub use value::{CacheAccess, LogFormat, RedirectScope};
pub use window::WindowSettings;

/// What stands for the name of the workload in a health check.
const WORKLOAD: &str = "{workload}";
