//! Hosts that a registry leads to, by a redirect or as its token service: they get no client certificate.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};

use super::{Bounds, mib, secs};
use crate::common::image::Image;
use crate::common::registry::{Auth, Fault, On, Refusals, Registry, digest};
use crate::common::workstation::Workstation;

const REPO: &str = "edge/nginx";
const BOUNDS: Bounds = Bounds { memory: mib(128), wire: mib(1), requests: 40, within: secs(40) };

/// Takes any client certificate, and requires none.
#[derive(Debug)]
struct AnyCertificate(CryptoProvider);

impl ClientCertVerifier for AnyCertificate {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A host that asks for a client certificate, and answers every request with the same body.
struct Target {
    url: String,
    certificate_pem: String,
    requests: Arc<AtomicUsize>,
    certificates: Arc<AtomicUsize>,
}

impl Target {
    async fn start(body: Vec<u8>) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(Arc::new(AnyCertificate(ring::default_provider())))
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/there", listener.local_addr().unwrap());
        let (requests, certificates) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let target = Self {
            url,
            certificate_pem: certificate.pem(),
            requests: requests.clone(),
            certificates: certificates.clone(),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let shown = stream.get_ref().1.peer_certificates().map_or(0, <[_]>::len);
                certificates.fetch_add(shown, Ordering::SeqCst);
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { break };
                    head.push(byte);
                }
                requests.fetch_add(1, Ordering::SeqCst);
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                let _ = stream.write_all(&[answer.as_bytes(), &body].concat()).await;
                let _ = stream.shutdown().await;
            }
        });
        target
    }

    /// A workstation that trusts the registry and this host, and has a certificate for the registry.
    fn workstation(&self, registry: &Registry) -> Workstation {
        let workstation = Workstation::new();
        let identity = registry.client_identity().unwrap();
        let ca = workstation.write("ca.pem", format!("{}{}", registry.ca_pem().unwrap(), self.certificate_pem));
        let cert = workstation.write("cert.pem", &identity.certificate_pem);
        let key = workstation.write("key.pem", &identity.key_pem);
        let table =
            format!("[registry.\"{}\"]\nca = {ca:?}\nclient_cert = {cert:?}\nclient_key = {key:?}\n", registry.host());
        workstation.write("agent.toml", table);
        workstation
    }

    fn seen(&self) -> (usize, usize) {
        (self.requests.load(Ordering::SeqCst), self.certificates.load(Ordering::SeqCst))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirect_target_gets_no_client_certificate() {
    let case = BOUNDS.start();
    let image = Image::new("v1");
    let registry = Registry::builder().client_certificates().serve();
    image.publish(&registry, REPO, "v1");
    let target = Target::start(image.root.clone()).await;
    registry.inject(On::blobs().get().reference(&digest(&image.root)), Fault::Redirect(target.url.clone()));
    let workstation = target.workstation(&registry);
    case.must(&workstation.command(&["pull", "--dir", "out", &registry.reference(REPO, "v1")]));
    workstation.has_pulled("out", &image);
    assert_eq!(target.seen(), (1, 0), "requests, and certificates");
    case.registry(&registry);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_service_of_another_origin_gets_no_client_certificate() {
    let case = BOUNDS.start();
    let target = Target::start(br#"{"token": "T"}"#.to_vec()).await;
    let registry = Registry::builder().client_certificates().auth(Auth::bearer()).serve();
    let challenge = vec![format!("Bearer realm=\"{}\"", target.url).into_bytes()];
    registry.set_refusals(Refusals { challenge, ..Refusals::default() });
    Image::new("v1").publish(&registry, REPO, "v1");
    let workstation = target.workstation(&registry);
    // The registry does not know the token.
    case.fails(&workstation.command(&["pull", "--dir", "out", &registry.reference(REPO, "v1")]), 77);
    let (requests, certificates) = target.seen();
    assert!(requests > 0 && certificates == 0, "{requests} {certificates}");
    let tokens = registry.log().iter().filter(|request| request.authorization.as_deref() == Some("Bearer T")).count();
    assert!(tokens > 0, "its token is used");
    case.registry(&registry);
}
