//! Which proxy stands between us and a URL, and what it means when that does not let us through.

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;

use super::RegistryError;
use super::error::{causes, is_tls};
use super::host::is_loopback;
use crate::clock;
use crate::config::RegistrySettings;
use crate::failure::Kind;
use crate::oci::host_name;

/// A proxy as messages name it.
#[derive(Debug)]
pub(super) struct Named {
    /// `SCHEME://HOST:PORT`, without a name and a password.
    address: String,
    /// Where a person changes it.
    place: &'static str,
}

impl Named {
    /// The proxy by which the HTTP client of `registry` reaches `url`, by the rules that the client itself goes by.
    pub(super) fn between(settings: &RegistrySettings, registry: &str, url: &Url) -> Option<Self> {
        let (proxies, place) = match &settings.proxy {
            Some(proxy) => {
                let except = ["NO_PROXY", "no_proxy"].into_iter().find_map(|name| std::env::var(name).ok());
                let proxies = Matcher::builder().all(proxy.url()).no(except.unwrap_or_default()).build();
                (proxies, "proxy in [registry] of agent.toml")
            }
            None if is_loopback(host_name(registry)) => return None,
            None => (Matcher::from_system(), "$HTTPS_PROXY, $HTTP_PROXY or $ALL_PROXY"),
        };
        let found = proxies.intercept(&url.as_str().parse().ok()?)?;
        Some(Self { address: found.uri().to_string().trim_end_matches('/').to_owned(), place })
    }

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
        let cause = causes(error).last().map_or_else(String::new, ToString::to_string);
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
