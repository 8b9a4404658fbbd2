//! The agent's settings, complete and checked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tracing::Level;

use super::fragment::{self, Fragment};
use super::value::LogFormat;
use super::{CacheAccess, HealthSettings, HookSettings, Mirror, Proxy, RedirectScope, WindowSettings};

/// Everything that `agent.toml` can say, with defaults in place of what it leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where state, cache and generations are.
    pub state_dir: PathBuf,
    /// The desired-state file.
    pub desired: DesiredSettings,
    /// The socket.
    pub api: ApiSettings,
    /// What is logged, and how.
    pub log: LogSettings,
    /// Limits on moving bytes.
    pub transfer: TransferSettings,
    /// Limits on decompression.
    pub unpack: UnpackSettings,
    /// When to try again.
    pub retry: RetrySettings,
    /// What the cache keeps.
    pub cache: CacheSettings,
    /// When an image may be activated; none: at any time.
    pub window: Option<WindowSettings>,
    /// Programs that have a say in an activation, or are told of it.
    pub hooks: HookSettings,
    /// How it is told whether what runs is healthy.
    pub health: HealthSettings,
    /// What is special about a registry, by `HOST[:PORT]`.
    pub registries: BTreeMap<String, RegistrySettings>,
}

/// `[desired]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredSettings {
    /// The file to watch.
    pub path: PathBuf,
    /// How long a file that is written in place has to be quiet before it is read.
    pub debounce: Duration,
    /// How often tags are resolved again; none: only when asked.
    pub poll: Option<Duration>,
    /// The time that a workload runs on after the file lost its name; none: until an operator retires it.
    pub retire: Option<Duration>,
}

/// `[api]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiSettings {
    /// Path of the Unix socket.
    pub socket: PathBuf,
    /// The socket's permission bits.
    pub mode: u32,
    /// The group that the socket belongs to and that may change things.
    pub group: String,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// The least severe level that is logged.
    pub level: Level,
    /// How lines look.
    pub format: LogFormat,
}

/// `[transfer]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferSettings {
    /// Over how many connections a large file is fetched.
    pub connections: u8,
    /// How fast everything together is fetched, in bytes a second; none for as fast as it goes.
    pub bandwidth: Option<u64>,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// How long a connection may send nothing.
    pub idle_timeout: Duration,
    /// The largest file that an image may have, in bytes.
    pub max_file_bytes: u64,
    /// How many bytes one update may take from the network; none for as many as it needs.
    pub max_wire_bytes: Option<u64>,
}

/// `[unpack]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnpackSettings {
    /// The largest window of zstd, in bytes.
    pub max_window: u64,
    /// Memory of all decompression together, in bytes.
    pub memory: u64,
}

/// `[retry]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetrySettings {
    /// The longest wait after the first failure.
    pub initial: Duration,
    /// The longest wait after any.
    pub max: Duration,
}

/// `[cache]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// How many generations of each workload are kept beside the current one.
    pub keep: u32,
    /// How much of the file system is never used, in bytes.
    pub reserve: u64,
    /// How often everything on disk is looked at; none: only when asked.
    pub scrub: Option<Duration>,
    /// Whether a layer of the legacy format is kept beside the file that it became.
    pub keep_layers: bool,
    /// The users who may read the cache and the generations.
    pub access: CacheAccess,
}

/// `[registry."HOST[:PORT]"]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistrySettings {
    /// Where to look first, in this order.
    pub mirrors: Vec<Mirror>,
    /// True if this host, as a mirror, may say which manifest a tag of the registry leads to.
    pub resolve_tags: bool,
    /// The proxy to reach it by; where none is named, those of the environment count.
    pub proxy: Option<Proxy>,
    /// A PEM file of the certificate to show, and one of its key. Both or neither.
    pub client: Option<ClientCertificate>,
    /// A PEM file of further certificate authorities to trust.
    pub ca: Option<PathBuf>,
    /// A file of credentials in the form of docker's `config.json`.
    pub credentials: Option<PathBuf>,
    /// Whether to speak plain HTTP; where nothing is said, only to loopback hosts that have no `ca`.
    pub insecure: Option<bool>,
    /// True if `ca` replaces the system's certificate authorities.
    pub ca_only: bool,
    /// The only token service to use: its URL.
    pub token_service: Option<String>,
    /// Addresses that the registry may lead to.
    pub redirects: RedirectScope,
}

/// What proves to a registry who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The PEM file of the certificate, and of those that it depends on.
    pub cert: PathBuf,
    /// The PEM file of its key.
    pub key: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/eci-agent".into(),
            desired: DesiredSettings {
                path: "/etc/eci-agent/desired.toml".into(),
                debounce: Duration::from_millis(50),
                poll: Some(Duration::from_secs(15 * 60)),
                retire: Some(Duration::from_secs(10 * 60)),
            },
            api: ApiSettings { socket: "/run/eci-agent/agent.sock".into(), mode: 0o660, group: "eci-agent".to_owned() },
            log: LogSettings { level: Level::INFO, format: LogFormat::Auto },
            transfer: TransferSettings {
                connections: 4,
                bandwidth: None,
                connect_timeout: Duration::from_secs(10),
                idle_timeout: Duration::from_secs(30),
                max_file_bytes: 64 << 30,
                max_wire_bytes: None,
            },
            unpack: UnpackSettings { max_window: 32 << 20, memory: 64 << 20 },
            retry: RetrySettings { initial: Duration::from_secs(1), max: Duration::from_secs(600) },
            cache: CacheSettings {
                keep: 1,
                reserve: 256 << 20,
                scrub: Some(Duration::from_secs(30 * 24 * 3600)),
                keep_layers: false,
                access: CacheAccess::default(),
            },
            window: None,
            hooks: HookSettings::default(),
            health: HealthSettings::default(),
            registries: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// Defaults, overridden by what `fragment` says. The error names the key and what is wrong with its value.
    pub(super) fn from_fragment(fragment: Fragment) -> Result<Self, (&'static str, String)> {
        let mut settings = Self::default();
        let Fragment { state_dir, desired, api, log, transfer, unpack, retry, cache, window, hooks, health, registry } =
            fragment;
        set(&mut settings.state_dir, state_dir);
        set(&mut settings.desired.path, desired.path);
        set(&mut settings.desired.debounce, desired.debounce.map(|span| span.0));
        set(&mut settings.desired.poll, desired.poll.map(|span| span.0));
        set(&mut settings.desired.retire, desired.retire.map(|span| span.0));
        set(&mut settings.api.socket, api.socket);
        set(&mut settings.api.mode, api.mode.map(|mode| mode.0));
        set(&mut settings.api.group, api.group);
        set(&mut settings.log.level, log.level.map(Level::from));
        set(&mut settings.log.format, log.format);
        set(&mut settings.transfer.connections, transfer.connections);
        set(&mut settings.transfer.bandwidth, transfer.bandwidth.map(|rate| rate.0));
        set(&mut settings.transfer.connect_timeout, transfer.connect_timeout.map(|span| span.0));
        set(&mut settings.transfer.idle_timeout, transfer.idle_timeout.map(|span| span.0));
        set(&mut settings.transfer.max_file_bytes, transfer.max_file_bytes.map(|size| size.0));
        set(&mut settings.transfer.max_wire_bytes, transfer.max_wire_bytes.map(|size| size.0));
        set(&mut settings.unpack.max_window, unpack.max_window.map(|size| size.0));
        set(&mut settings.unpack.memory, unpack.memory.map(|size| size.0));
        set(&mut settings.retry.initial, retry.initial.map(|span| span.0));
        set(&mut settings.retry.max, retry.max.map(|span| span.0));
        set(&mut settings.cache.keep, cache.keep);
        set(&mut settings.cache.reserve, cache.reserve.map(|size| size.0));
        set(&mut settings.cache.scrub, cache.scrub.map(|span| span.0));
        set(&mut settings.cache.keep_layers, cache.keep_layers);
        set(&mut settings.cache.access, cache.access);
        settings.window = WindowSettings::from_fragment(window)?;
        settings.hooks = HookSettings::from_fragment(hooks)?;
        settings.health = HealthSettings::from_fragment(health)?;
        for (host, registry) in registry {
            // As references have them.
            if settings.registries.insert(host.to_ascii_lowercase(), registry.try_into()?).is_some() {
                return Err(("registry", format!("{host:?} is there twice, once in small letters and once not")));
            }
        }
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let second = Duration::from_secs(1);
        // It would match no reference, and its CA or credentials would be missed without a word.
        if let Some(host) = self.registries.keys().find(|host| host.is_empty() || host.contains('/')) {
            return Err(("registry", format!("{host:?} is no registry: write HOST or HOST:PORT")));
        }
        let is_trusted = |mirror: &&Mirror| self.registries.get(&mirror.host).is_some_and(|table| table.resolve_tags);
        let mut mirrors = self.registries.values().flat_map(|registry| &registry.mirrors);
        if let Some(mirror) = mirrors.find(|mirror| mirror.plain_http && is_trusted(mirror)) {
            return Err((
                "registry",
                format!("resolve_tags of {:?} needs a mirror that is reached by https", mirror.host),
            ));
        }
        let absolute =
            [("state_dir", &self.state_dir), ("desired.path", &self.desired.path), ("api.socket", &self.api.socket)];
        if let Some((key, path)) = absolute.into_iter().find(|(_, path)| !path.is_absolute()) {
            return Err((key, format!("{} is not an absolute path", path.display())));
        }
        if self.desired.debounce > Duration::from_secs(60) {
            return Err(("desired.debounce", "more than a minute would look like a hang".to_owned()));
        }
        if self.desired.poll.is_some_and(|poll| poll < second) {
            return Err(("desired.poll", "less than a second would burden the registry".to_owned()));
        }
        if self.cache.scrub.is_some_and(|scrub| scrub < Duration::from_secs(3600)) {
            return Err(("cache.scrub", "less than an hour would wear the disk".to_owned()));
        }
        if self.transfer.connect_timeout.is_zero() || self.transfer.idle_timeout.is_zero() {
            return Err(("transfer", "a time-out of nothing would fail every transfer".to_owned()));
        }
        if !(1..=16).contains(&self.transfer.connections) {
            return Err(("transfer.connections", "from 1 to 16: more would be a burden to the registry".to_owned()));
        }
        if self.transfer.bandwidth.is_some_and(|rate| rate < 1024) {
            return Err(("transfer.bandwidth", "less than 1 KiB/s would look like a hang".to_owned()));
        }
        if !(1 << 20..=1 << 30).contains(&self.unpack.max_window) {
            return Err(("unpack.max_window", "from \"1MiB\" to \"1GiB\"".to_owned()));
        }
        if self.unpack.memory < 2 << 20 {
            return Err(("unpack.memory", "less than \"2MiB\" would be too little for any layer".to_owned()));
        }
        if self.retry.initial < Duration::from_millis(10) || self.retry.max < self.retry.initial {
            return Err(("retry", "initial is at least \"10ms\", and max at least initial".to_owned()));
        }
        Ok(())
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

impl TryFrom<fragment::Registry> for RegistrySettings {
    type Error = (&'static str, String);

    fn try_from(registry: fragment::Registry) -> Result<Self, Self::Error> {
        let client = match (registry.client_cert, registry.client_key) {
            (Some(cert), Some(key)) => Some(ClientCertificate { cert, key }),
            (None, None) => None,
            _ => return Err(("registry", "client_cert and client_key go together".to_owned())),
        };
        let ca_only = registry.ca_only.unwrap_or(false);
        if ca_only && registry.ca.is_none() {
            return Err(("registry", "ca_only needs ca, or nothing could be trusted".to_owned()));
        }
        let is_url = |text: &String| ["https://", "http://"].iter().any(|scheme| text.starts_with(scheme));
        if let Some(service) = registry.token_service.as_ref().filter(|service| !is_url(service)) {
            return Err((
                "registry",
                format!("token_service {service:?} is not a URL: write https://HOST[:PORT]/PATH"),
            ));
        }
        Ok(Self {
            mirrors: registry.mirrors.into_iter().map(|mirror| mirror.0).collect(),
            resolve_tags: registry.resolve_tags.unwrap_or(false),
            proxy: registry.proxy.map(|proxy| proxy.0),
            client,
            ca: registry.ca,
            credentials: registry.credentials,
            insecure: registry.insecure,
            ca_only,
            token_service: registry.token_service,
            redirects: registry.redirects.unwrap_or_default(),
        })
    }
}

impl From<fragment::Level> for Level {
    fn from(level: fragment::Level) -> Self {
        match level {
            fragment::Level::Error => Self::ERROR,
            fragment::Level::Warn => Self::WARN,
            fragment::Level::Info => Self::INFO,
            fragment::Level::Debug => Self::DEBUG,
            fragment::Level::Trace => Self::TRACE,
        }
    }
}
