//! The check of a registry's certificate: by the rules of web PKI, or as one of those that are themselves trusted.

use std::collections::HashSet;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::ecdsa::ALGORITHMS;
use super::words::explain;
use crate::oci::Digest;

/// The certificates that are trusted.
#[derive(Debug)]
pub(super) struct Verifier {
    roots: RootCertStore,
    /// The digests of the same certificates. A server that shows one of them is trusted even if it is marked as an
    /// authority, as self-signed certificates are by default.
    pinned: HashSet<Digest>,
}

impl Verifier {
    /// Trusts the `named` certificates, and those of the system that can be read.
    pub(super) fn new(
        named: Vec<CertificateDer<'static>>,
        system: Vec<CertificateDer<'static>>,
    ) -> Result<Self, String> {
        let pinned = named.iter().chain(&system).map(|certificate| Digest::of(certificate)).collect();
        let mut roots = RootCertStore::empty();
        for certificate in named {
            roots.add(certificate).map_err(|error| explain(&error))?;
        }
        roots.add_parsable_certificates(system);
        Ok(Self { roots, pinned })
    }

    /// Checks the validity period of a pinned certificate. It needs no signature by another.
    fn check_pinned(
        certificate: &CertificateDer<'_>,
        parsed: &ParsedCertificate<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let mut itself = RootCertStore::empty();
        itself.add(certificate.clone().into_owned())?;
        match verify_server_cert_signed_by_trust_anchor(parsed, &itself, &[], now, ALGORITHMS.all) {
            // The time is checked first; these come after it.
            Err(Error::InvalidCertificate(
                CertificateError::UnknownIssuer
                | CertificateError::BadSignature
                | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
                | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. },
            )) => Ok(()),
            Err(Error::InvalidCertificate(CertificateError::Other(other)))
                if matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity)) =>
            {
                Ok(())
            }
            checked => checked,
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        if self.pinned.contains(&Digest::of(end_entity)) {
            Self::check_pinned(end_entity, &parsed, now)?;
        } else {
            verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, ALGORITHMS.all)?;
        }
        verify_server_name(&parsed, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::*;

    const NAME: &str = "registry.example";

    fn now() -> UnixTime {
        UnixTime::now()
    }

    fn params(is_ca: IsCa) -> CertificateParams {
        let mut params = CertificateParams::new([NAME.to_owned(), "10.0.0.2".to_owned()]).unwrap();
        params.is_ca = is_ca;
        params
    }

    fn self_signed(params: &CertificateParams) -> CertificateDer<'static> {
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn verify(
        trusted: &[&CertificateDer<'static>],
        shown: &CertificateDer<'_>,
        name: &str,
        now: UnixTime,
    ) -> Result<(), String> {
        let verifier = Verifier::new(trusted.iter().map(|one| (*one).clone()).collect(), Vec::new()).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier.verify_server_cert(shown, &[], &name, &[], now).map(|_| ()).map_err(|error| explain(&error))
    }

    fn fails(trusted: &[&CertificateDer<'static>], shown: &CertificateDer<'_>, name: &str, now: UnixTime, text: &str) {
        let said = verify(trusted, shown, name, now).unwrap_err();
        assert!(said.contains(text), "{said}");
        assert!(!said.contains(['{', '"']) && !said.contains("Error"), "{said}");
    }

    #[test]
    fn a_pinned_certificate_needs_its_name_and_time() {
        let authority = IsCa::Ca(BasicConstraints::Unconstrained);
        for is_ca in [authority, IsCa::ExplicitNoCa, IsCa::NoCa] {
            let (pinned, other) = (self_signed(&params(is_ca)), self_signed(&params(is_ca)));
            for name in [NAME, "10.0.0.2"] {
                assert_eq!(verify(&[&other, &pinned], &pinned, name, now()), Ok(()), "{is_ca:?}");
            }
            for name in ["other.example", "10.0.0.3", "a.registry.example"] {
                fails(&[&pinned], &pinned, name, now(), "is not valid for");
            }
            let refused = verify(&[&other], &pinned, NAME, now()).unwrap_err();
            assert!(
                refused.contains("self-signed") || refused.contains("issued by") || refused.contains("not signed"),
                "{refused}"
            );
            assert!(verify(&[], &pinned, NAME, now()).is_err());
        }
    }

    #[test]
    fn a_pinned_certificate_expires_as_others_do() {
        for is_ca in [IsCa::Ca(BasicConstraints::Unconstrained), IsCa::ExplicitNoCa] {
            let mut short = params(is_ca);
            (short.not_before, short.not_after) = (rcgen::date_time_ymd(2026, 1, 1), rcgen::date_time_ymd(2026, 2, 1));
            let pinned = self_signed(&short);
            let at = |date: &str| {
                let time = format!("{date}T00:00:01Z").parse::<jiff::Timestamp>().unwrap();
                UnixTime::since_unix_epoch(Duration::from_secs(time.as_second().try_into().unwrap()))
            };
            assert_eq!(verify(&[&pinned], &pinned, NAME, at("2026-01-15")), Ok(()));
            fails(&[&pinned], &pinned, NAME, at("2026-02-02"), "has expired: it was valid until 2026-02-01T00:00:00Z");
            fails(&[&pinned], &pinned, NAME, at("2025-12-31"), "not valid yet: it is so from 2026-01-01T00:00:00Z");
        }
    }

    #[test]
    fn an_authority_that_is_trusted_vouches_for_others() {
        let authority = CertifiedIssuer::self_signed(
            params(IsCa::Ca(BasicConstraints::Unconstrained)),
            KeyPair::generate().unwrap(),
        )
        .unwrap();
        let leaf = params(IsCa::NoCa).signed_by(&KeyPair::generate().unwrap(), &authority).unwrap();
        assert_eq!(verify(&[authority.der()], leaf.der(), NAME, now()), Ok(()));
        fails(&[authority.der()], leaf.der(), "other.example", now(), "it is for registry.example and 10.0.0.2");
        fails(&[&self_signed(&params(IsCa::NoCa))], leaf.der(), NAME, now(), "");
        let purpose = {
            let mut params = params(IsCa::NoCa);
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            params.signed_by(&KeyPair::generate().unwrap(), &authority).unwrap()
        };
        fails(&[authority.der()], purpose.der(), NAME, now(), "serverAuth");
    }
}
