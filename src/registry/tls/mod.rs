//! TLS towards registries: the certificate authorities that are trusted, the certificate that is shown, and errors in words.

mod ecdsa;
mod files;
mod oid;
mod pem;
mod verifier;
mod words;

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls_native_certs::{CertificateResult, load_native_certs};

use self::files::{client_identity, named_certificates};
use self::verifier::Verifier;
use crate::config::RegistrySettings;

pub(super) use self::words::explain;

/// The only protocol that our HTTP client speaks.
const ALPN: &[u8] = b"http/1.1";

/// The cryptography of all TLS connections: ring's, and beside it ECDSA signatures that ring does not verify.
pub(super) fn crypto_provider() -> CryptoProvider {
    CryptoProvider { signature_verification_algorithms: ecdsa::ALGORITHMS, ..ring::default_provider() }
}

/// The TLS client for a registry, or for the hosts that it leads to, which get no certificate of ours. The error says which file cannot be used, and why. Blocks: it reads certificates.
pub(super) fn client_config(
    registry: &str,
    settings: &RegistrySettings,
    shows_identity: bool,
) -> Result<ClientConfig, String> {
    let named = settings.ca.as_deref().map(named_certificates).transpose()?.unwrap_or_default();
    let system = if settings.ca_only { CertificateResult::default() } else { load_native_certs() };
    if system.certs.is_empty() && named.is_empty() {
        // Such a machine needs none for plain HTTP.
        let error = system.errors.first().map(ToString::to_string).unwrap_or_default();
        tracing::warn!(registry, error, "the system has no certificate authorities, and the configuration names none");
    }
    let verifier = Arc::new(Verifier::new(named, system.certs)?);
    let builder = ClientConfig::builder_with_provider(Arc::new(crypto_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| explain(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match settings.client.as_ref().filter(|_| shows_identity) {
        Some(client) => client_identity(client)?.show(builder)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}
