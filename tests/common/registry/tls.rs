//! HTTPS with a certificate authority of the registry's own, made on the spot.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

type Anyhow<T> = Result<T, Box<dyn std::error::Error>>;

/// A certificate and its private key, in PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// What a client has to know of the registry's TLS, and the registry's end of it.
pub struct Tls {
    pub acceptor: TlsAcceptor,
    pub ca_pem: String,
    /// A client certificate that the registry wants to see, where it wants one.
    pub client: Option<Identity>,
}

impl Tls {
    /// A server certificate for loopback; with `mutual`, a client certificate by the same authority too.
    pub fn new(mutual: bool) -> Anyhow<Self> {
        let mut params = CertificateParams::new([])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

        let provider = Arc::new(ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
        let builder = if mutual {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der().clone())?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };

        let key = KeyPair::generate()?;
        let names = ["127.0.0.1", "localhost", "0.0.0.0"].map(str::to_owned);
        let certificate = CertificateParams::new(names)?.signed_by(&key, &authority)?;
        let key = PrivateKeyDer::try_from(key.serialize_der())?;
        let config = builder.with_single_cert(vec![certificate.der().clone()], key)?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            ca_pem: authority.pem(),
            client: mutual.then(|| client(&authority)).transpose()?,
        })
    }
}

/// With a certificate that a test has made.
impl Tls {
    /// A server with this certificate, which is its own authority for [`Tls::ca_pem`].
    pub fn with(certificate: &Identity) -> Anyhow<Self> {
        let chain = CertificateDer::pem_slice_iter(certificate.certificate_pem.as_bytes()).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes())?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Self { acceptor, ca_pem: certificate.certificate_pem.clone(), client: None })
    }
}

fn client(authority: &CertifiedIssuer<'_, KeyPair>) -> Anyhow<Identity> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(["client".to_owned()])?.signed_by(&key, authority)?;
    Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
}
