//! Up, down and up again; over TLS; and gone.

use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::super::{Fault, Identity, On, Registry};
use super::client::{Answer, Ask};

async fn over_tls(ca_pem: &str, identity: Option<&Identity>, to: &Registry) -> std::io::Result<Answer> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(Identity { certificate_pem, key_pem }) => {
            let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    };
    let stream = TcpStream::connect(to.address()).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    Ok(Ask::new("GET /v2/edge/nginx/manifests/v1").send_over(stream).await)
}

#[tokio::test]
async fn https_is_trusted_by_its_own_authority_only() {
    let [registry, other] = [(); 2].map(|()| Registry::builder().https().serve());
    registry.put_manifest("edge/nginx", Some("v1"), "x/y", "{}");
    assert!(registry.url("/v2/").starts_with("https://127.0.0.1:"));
    assert_eq!(over_tls(registry.ca_pem().unwrap(), None, &registry).await.unwrap().body, b"{}");
    assert!(over_tls(other.ca_pem().unwrap(), None, &registry).await.is_err());
}

#[tokio::test]
async fn faults_strike_over_tls_too() {
    let registry = Registry::builder().https().serve();
    registry.put_manifest("edge/nginx", Some("v1"), "x/y", vec![b' '; 1 << 20]);
    registry.inject(On::manifests(), Fault::DropAfter(500_000));
    assert_eq!(over_tls(registry.ca_pem().unwrap(), None, &registry).await.unwrap().body.len(), 500_000);
}

#[tokio::test]
async fn a_client_certificate_can_be_demanded() {
    let registry = Registry::builder().client_certificates().serve();
    registry.put_manifest("edge/nginx", Some("v1"), "x/y", "{}");
    let (ca_pem, identity) = (registry.ca_pem().unwrap(), registry.client_identity());
    assert!(identity.is_some());
    assert_eq!(over_tls(ca_pem, identity, &registry).await.unwrap().status(), 200);
    // Under TLS 1.3 the client learns of the refusal when it reads.
    assert!(over_tls(ca_pem, None, &registry).await.is_ok_and(|answer| answer.status() == 0));
}

#[tokio::test]
async fn a_registry_that_is_down_cuts_and_refuses_and_comes_up_as_it_was() {
    let registry = Registry::http();
    registry.put_manifest("edge/nginx", Some("v1"), "x/y", "{}");
    let gate = registry.inject(On::manifests().once(), Fault::Hold);
    let held = Ask::new("GET /v2/edge/nginx/manifests/v1").open(&registry).await;
    gate.struck(1).await;

    registry.stop().await;
    assert_eq!(Answer::read(held).await.status(), 0);
    let refused = TcpStream::connect(registry.address()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    registry.stop().await;

    for _ in 0..2 {
        registry.start();
        assert_eq!(Ask::new("GET /v2/edge/nginx/manifests/v1").send(&registry).await.status(), 200);
    }
}

#[tokio::test]
async fn a_registry_that_is_dropped_leaves_nothing_behind() {
    let registry = Registry::http();
    let address = registry.address();
    let mut stream = TcpStream::connect(address).await.unwrap();
    drop(registry);
    assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
    assert!(TcpStream::connect(address).await.is_err());
}
