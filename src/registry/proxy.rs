//! Which proxy stands between us and a URL, and what it means when that does not let us through.

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;

use super::RegistryError;
use super::error::{cause_in_words, causes, is_tls};
use super::host::is_loopback;
use super::no_proxy::NoProxy;
use crate::clock;
use crate::config::RegistrySettings;
use crate::failure::Kind;
use crate::oci::host_name;

/// The proxies by which a registry, and the hosts that it leads to, are reached. The HTTP client asks here as well.
#[derive(Clone)]
pub(super) struct Ways {
    /// The proxies' addresses, with user names and passwords.
    http: Option<String>,
    https: Option<String>,
    except: NoProxy,
    is_environment: bool,
}

/// A proxy on the way to some URL.
pub(super) struct ProxyInUse {
    /// `SCHEME://HOST:PORT`, without a name and a password.
    address: String,
    /// The same with them.
    pub(super) url: String,
    /// Where a person changes it.
    place: &'static str,
}

impl Ways {
    /// The proxy that the configuration names for `registry`, else those of the environment.
    pub(super) fn new(registry: &str, settings: &RegistrySettings) -> Self {
        let except = NoProxy::parse(&variable(&["NO_PROXY", "no_proxy"]).unwrap_or_default());
        if let Some(proxy) = &settings.proxy {
            let url = usable(proxy.url().to_owned());
            return Self { http: url.clone(), https: url, except, is_environment: false };
        }
        // The environment's proxies are for other machines. To a CGI program, $HTTP_PROXY is a header of its client.
        if is_loopback(host_name(registry)) || std::env::var_os("REQUEST_METHOD").is_some() {
            return Self { http: None, https: None, except, is_environment: true };
        }
        let named = |names: &[&str]| variable(names).and_then(usable);
        let all = named(&["ALL_PROXY", "all_proxy"]);
        Self {
            http: named(&["HTTP_PROXY", "http_proxy"]).or_else(|| all.clone()),
            https: named(&["HTTPS_PROXY", "https_proxy"]).or(all),
            except,
            is_environment: true,
        }
    }

    /// The proxy by which `url` is reached; none if it is reached directly.
    pub(super) fn to(&self, url: &Url) -> Option<ProxyInUse> {
        let proxy = match url.scheme() {
            "http" => self.http.as_ref()?,
            "https" => self.https.as_ref()?,
            _ => return None,
        };
        let (host, port) = (url.host_str()?, url.port_or_known_default()?);
        let is_own = self.is_environment && is_loopback(host.trim_matches(['[', ']']));
        if is_own || self.except.matches(host, port) {
            return None;
        }
        let place = if self.is_environment {
            "$HTTPS_PROXY, $HTTP_PROXY or $ALL_PROXY"
        } else {
            "proxy in [registry] of agent.toml"
        };
        Some(ProxyInUse { address: address(proxy)?, url: proxy.clone(), place })
    }
}

/// The first variable of these that is set to something.
fn variable(names: &[&str]) -> Option<String> {
    names.iter().filter_map(|name| std::env::var(name).ok()).find(|value| !value.is_empty())
}

/// A proxy's URL; none if it is not one that the HTTP client can use. One without a scheme is reached by HTTP.
fn usable(url: String) -> Option<String> {
    let url = if url.contains("://") { url } else { format!("http://{url}") };
    address(&url).is_some().then_some(url)
}

/// A proxy's address as the HTTP client reads it, without a name and a password.
fn address(proxy: &str) -> Option<String> {
    let anywhere = "http://a.example/".parse().ok()?;
    let found = Matcher::builder().all(proxy).build().intercept(&anywhere)?;
    Some(found.uri().to_string().trim_end_matches('/').to_owned())
}

impl ProxyInUse {
    /// The error of a request to `url` that the proxy did not let through; none where something else is to blame.
    pub(super) fn fault(self, url: &str, error: &reqwest::Error) -> Option<RegistryError> {
        // The types of these errors are not public, so that their texts have to do (tests/proxies.rs holds them).
        let said = causes(error).map(ToString::to_string).collect::<Vec<_>>().join(": ");
        let has = |text: &str| said.contains(text);
        let is_reached = !has("create underlying connection");
        let (kind, what) = if causes(error).any(is_tls) {
            // A tunnel has TLS with the registry in it, and may itself be in TLS with the proxy.
            let is_its_own = !is_reached || error.url().is_some_and(|asked| asked.scheme() == "http");
            // Under a wrong clock nobody can be trusted, and it is the clock that is to be mended.
            if !is_its_own || clock::complaint().is_some() {
                return None;
            }
            (Kind::Tls, "is not trusted (ca in [registry] counts for it as well)")
        } else if !error.is_connect() {
            return None;
        } else if has("authorization required") || has("user/pass authentication") || has("credentials not accepted") {
            return Some(self.wants_login(url));
        } else if has("error resolving for socks proxy") {
            (
                Kind::Unreachable,
                "wants an address, and the name is not known here (socks5h:// has the proxy look it up)",
            )
        } else if is_reached && (has("tunnel error") || has("SOCKS error")) {
            (Kind::Unreachable, "does not lead there")
        } else {
            (Kind::Unreachable, "cannot be reached")
        };
        let cause = cause_in_words(error);
        Some(self.error(url, kind, what, cause))
    }

    /// The error of a request to `url` that the proxy did not let through because of who asks.
    pub(super) fn wants_login(self, url: &str) -> RegistryError {
        let what = "wants another user name and password (as in http://USER:PASSWORD@HOST:PORT)";
        self.error(url, Kind::Unauthorized, what, "proxy authentication required".to_owned())
    }

    fn error(self, url: &str, kind: Kind, what: &'static str, cause: String) -> RegistryError {
        RegistryError::Proxy { url: url.to_owned(), proxy: self.address, place: self.place, kind, what, cause }
    }
}
