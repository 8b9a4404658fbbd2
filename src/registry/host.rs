//! How a registry is reached: scheme, trust, time-outs.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use oci_distribution::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use reqwest::Client;
use reqwest::redirect::{Attempt, Policy};

use super::RegistryError;
use crate::blocking;
use crate::config::{RegistrySettings, TransferSettings};
use crate::oci::host_name;

/// What a request says of us.
pub(super) const USER_AGENT: &str = concat!("eci-agent/", env!("CARGO_PKG_VERSION"));
/// As many redirects as browsers follow at least; registries need one or two.
const MAX_REDIRECTS: usize = 10;

/// Whether `host` (a name without a port) is reached by plain HTTP: only loopback, and registries marked insecure. A
/// loopback host that has a CA of its own, or is marked not insecure, is reached by HTTPS.
pub(super) fn is_plain_http(host: &str, settings: &RegistrySettings) -> bool {
    settings.insecure.unwrap_or_else(|| is_loopback(host) && settings.ca.is_none())
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The certificates in a PEM file, as the token client takes them.
fn certificates(file: &Path) -> Result<Vec<Certificate>, String> {
    let pem = std::fs::read(file).map_err(|error| format!("cannot read the CA file {}: {error}", file.display()))?;
    let found = reqwest::Certificate::from_pem_bundle(&pem).map_or(0, |bundle| bundle.len());
    if found == 0 {
        return Err(format!("the CA file {} holds no PEM certificate", file.display()));
    }
    Ok(vec![Certificate { encoding: CertificateEncoding::Pem, data: pem }])
}

/// The HTTP client for one registry. `read_timeout` runs from the moment a request is sent, its body included, to the
/// answer, and then between the pieces of that. Blocks: it reads certificates.
pub(super) fn http_client(
    registry: &str,
    host: &str,
    settings: &RegistrySettings,
    transfer: &TransferSettings,
    read_timeout: Option<Duration>,
) -> Result<Client, RegistryError> {
    install_crypto();
    let setup = |reason: String| RegistryError::Setup { registry: registry.to_owned(), reason };
    let mut own = Vec::new();
    for certificate in settings.ca.iter().map(|file| certificates(file)) {
        for pem in certificate.map_err(setup)? {
            own.extend(reqwest::Certificate::from_pem_bundle(&pem.data).map_err(|error| setup(error.to_string()))?);
        }
    }
    let builder = || {
        let builder = Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(transfer.connect_timeout)
            .redirect(Policy::custom(follow))
            .referer(false);
        let builder = if let Some(limit) = read_timeout { builder.read_timeout(limit) } else { builder };
        // A proxy is for other machines.
        if is_loopback(host) { builder.no_proxy() } else { builder }
    };
    // A machine without any system roots still has its own CA, or needs none for plain HTTP.
    builder().tls_certs_merge(own.clone()).build().or_else(|error| {
        tracing::warn!(registry, %error, "no certificate authorities of the system; using the configured ones only");
        builder().tls_certs_only(own).build().map_err(|error| setup(error.to_string()))
    })
}

/// The host of a registry's API. Docker Hub's is not the one that its images are named by.
pub(super) fn api_host(registry: &str) -> &str {
    if registry == "docker.io" { "index.docker.io" } else { registry }
}

/// The client for tokens. It keeps the credentials that it sees first, so it is made anew for others.
pub(super) async fn oci_client(
    registry: &str,
    plain_http: bool,
    settings: &RegistrySettings,
    transfer: &TransferSettings,
) -> Result<oci_distribution::Client, RegistryError> {
    let (registry, settings, transfer) = (registry.to_owned(), settings.clone(), transfer.clone());
    blocking::run(move || new_oci_client(&registry, plain_http, &settings, &transfer)).await
}

fn new_oci_client(
    registry: &str,
    plain_http: bool,
    settings: &RegistrySettings,
    transfer: &TransferSettings,
) -> Result<oci_distribution::Client, RegistryError> {
    install_crypto();
    let setup = |reason: String| RegistryError::Setup { registry: registry.to_owned(), reason };
    // A proxy is for other machines; this client has no other way to say so than one that is used for none.
    let proxy = is_loopback(host_name(registry))
        .then(|| ("http://localhost".to_owned(), "localhost,127.0.0.0/8,::1".to_owned()));
    let config = ClientConfig {
        protocol: if plain_http { ClientProtocol::Http } else { ClientProtocol::Https },
        extra_root_certificates: settings
            .ca
            .as_deref()
            .map(certificates)
            .transpose()
            .map_err(setup)?
            .unwrap_or_default(),
        connect_timeout: Some(transfer.connect_timeout),
        read_timeout: Some(transfer.idle_timeout),
        user_agent: USER_AGENT,
        http_proxy: proxy.as_ref().map(|(proxy, _)| proxy.clone()),
        no_proxy: proxy.map(|(_, exceptions)| exceptions),
        ..ClientConfig::default()
    };
    oci_distribution::Client::try_from(config).map_err(|error| setup(error.to_string()))
}

/// Redirects are followed, but never from HTTPS to HTTP. The client drops credentials when the host changes.
fn follow(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let was_secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if was_secure && attempt.url().scheme() != "https" {
        attempt.error("a redirect from https to http is not followed")
    } else if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("too many redirects")
    } else {
        attempt.follow()
    }
}

/// The HTTP and token clients are built without a provider of cryptography, so that only one is linked.
pub(super) fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // It fails only where another part of the process has chosen one, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_and_what_is_marked() {
        let marked = RegistrySettings { insecure: Some(true), ..RegistrySettings::default() };
        let plain = RegistrySettings::default();
        let own_ca = RegistrySettings { ca: Some("/ca.pem".into()), ..RegistrySettings::default() };
        for host in ["localhost", "127.0.0.1", "127.8.9.1", "::1"] {
            assert!(is_plain_http(host, &plain), "{host}");
            assert!(!is_plain_http(host, &own_ca), "{host}");
        }
        for host in ["10.0.0.2", "registry.example.com", "localhost.example.com", "127.0.0.1.example.com"] {
            assert!(!is_plain_http(host, &plain), "{host}");
            assert!(is_plain_http(host, &marked), "{host}");
        }
    }
}
