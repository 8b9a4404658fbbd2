//! TLS errors in words.

use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

use super::oid::{SUPPORTED, name};
use crate::wording::short_list;

/// Names of a certificate that a message shows.
const MAX_NAMES: usize = 5;

/// A TLS error in plain words, for a message.
pub(in crate::registry) fn explain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => certificate(error),
        Error::AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity) => format!(
            "no common cipher suite or signature algorithm: the server ends the handshake, probably because its \
             certificate has a key of a kind that is not supported; supported are {SUPPORTED}"
        ),
        Error::PeerIncompatible(
            PeerIncompatible::NoSignatureSchemesInCommon
            | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon
            | PeerIncompatible::NoCipherSuitesInCommon
            | PeerIncompatible::NoKxGroupsInCommon,
        ) => format!("no common cipher suite or signature algorithm; supported are {SUPPORTED}"),
        Error::AlertReceived(AlertDescription::ProtocolVersion)
        | Error::PeerIncompatible(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig) => {
            "the server speaks neither TLS 1.2 nor TLS 1.3".to_owned()
        }
        Error::AlertReceived(AlertDescription::CertificateRequired | AlertDescription::NoCertificate) => {
            "the server asks for a client certificate (client_cert and client_key in [registry] of agent.toml)"
                .to_owned()
        }
        Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError,
        ) => {
            "the server does not accept our client certificate, or wants one (client_cert and client_key in [registry] \
             of agent.toml)"
                .to_owned()
        }
        Error::AlertReceived(AlertDescription::UnrecognisedName) => "the server knows no host of this name".to_owned(),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "this port does not speak TLS: if it is that of plain HTTP, set insecure = true for the registry in \
             [registry] of agent.toml"
                .to_owned()
        }
        Error::NoCertificatesPresented => "the server shows no certificate".to_owned(),
        Error::FailedToGetCurrentTime => "this machine's clock cannot be read".to_owned(),
        Error::AlertReceived(alert) => format!("the server ended the handshake: {}", kebab(alert)),
        Error::PeerIncompatible(reason) => format!("the server's TLS is not supported: {}", kebab(reason)),
        Error::PeerMisbehaved(reason) => format!("the server breaks the TLS protocol: {}", kebab(reason)),
        Error::InvalidMessage(reason) => format!("the server's answer is not valid TLS: {}", kebab(reason)),
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            "the server breaks the TLS protocol: a message out of turn".to_owned()
        }
        other => format!("{other} (check the CA, the host name and this machine's clock)"),
    }
}

fn certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::BadEncoding => "the certificate is damaged".to_owned(),
        CertificateError::Expired => "the certificate has expired".to_owned(),
        CertificateError::ExpiredContext { time, not_after } => {
            format!("the certificate has expired: it was valid until {}, and it is {}", date(*not_after), date(*time))
        }
        CertificateError::NotValidYet => "the certificate is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { time, not_before } => {
            format!("the certificate is not valid yet: it is so from {}, and it is {}", date(*not_before), date(*time))
        }
        CertificateError::Revoked => "the certificate has been revoked".to_owned(),
        CertificateError::UnknownIssuer => {
            "the certificate was issued by an unknown authority (ca in [registry] of agent.toml names one)".to_owned()
        }
        CertificateError::BadSignature => {
            "the certificate is not signed by the authority that it names, or the handshake by its key; an RSA key may \
             also be too short (supported are 2048 to 8192 bits)"
                .to_owned()
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { signature_algorithm_id, .. } => {
            format!("a certificate is signed by {}; supported are {SUPPORTED}", name(signature_algorithm_id))
        }
        CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id,
            public_key_algorithm_id,
        } => format!(
            "a certificate is signed by {} with a key of {}; supported are {SUPPORTED}",
            name(signature_algorithm_id),
            name(public_key_algorithm_id)
        ),
        CertificateError::NotValidForName => "the certificate is not valid for this host".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            format!("the certificate is not valid for {}: {}", expected.to_str(), names(presented))
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the certificate is not for servers: its extended key usage lacks serverAuth".to_owned()
        }
        CertificateError::UnhandledCriticalExtension => {
            "the certificate has a critical extension that is not known".to_owned()
        }
        CertificateError::Other(other) => other.0.downcast_ref().map_or_else(|| rejected("unknown"), webpki),
        other => rejected(&kebab(other)),
    }
}

fn webpki(error: &webpki::Error) -> String {
    use webpki::Error;
    match error {
        Error::CaUsedAsEndEntity => {
            "the server's certificate is that of an authority; if it is self-signed, name it as ca in [registry] of \
             agent.toml"
                .to_owned()
        }
        Error::EndEntityUsedAsCa => "the certificate was issued by one that is not an authority".to_owned(),
        Error::PathLenConstraintViolated | Error::MaximumPathDepthExceeded => {
            "the chain of certificates is longer than allowed".to_owned()
        }
        Error::NameConstraintViolation => "the authority may not issue certificates for this host".to_owned(),
        Error::UnsupportedCertVersion => "the certificate is not of version 3 of X.509".to_owned(),
        Error::SignatureAlgorithmMismatch => "the certificate names two signature algorithms".to_owned(),
        other => rejected(&kebab(other)),
    }
}

fn rejected(reason: &str) -> String {
    format!("the certificate is refused: {reason}")
}

/// The name of an error without fields, in words.
fn kebab(error: &impl std::fmt::Debug) -> String {
    let mut words = String::new();
    for character in format!("{error:?}").chars().take_while(char::is_ascii_alphanumeric) {
        if character.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(character.to_ascii_lowercase());
    }
    words
}

fn names(presented: &[String]) -> String {
    if presented.is_empty() {
        return "it names no host (a subjectAltName is needed; the common name does not count)".to_owned();
    }
    let shown: Vec<_> = presented.iter().map(|name| plain(name)).collect();
    format!("it is for {}", short_list(&shown, MAX_NAMES))
}

/// A name as the library shows it, without the words of its own types: `DnsName("a.example")`, `IpAddress(10.0.0.2)`.
fn plain(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, inner)| inner.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"').to_owned()
}

fn date(time: UnixTime) -> String {
    let time = i64::try_from(time.as_secs()).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| "an invalid time".to_owned(), |time| time.to_string())
}
