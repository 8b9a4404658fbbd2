//! Certificates and keys in files. An error names the file, and the certificate in it.

use std::io::Read;
use std::path::Path;

use rustls::client::WantsClientCert;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};

use super::oid::SUPPORTED_KEYS;
use super::pem::{Section, sections};
use super::words::explain;
use crate::config::ClientCertificate;

/// The size of the largest certificate file that is read, in bytes; a system's bundle of authorities has a quarter of a
/// mebibyte.
const MAX_FILE: u64 = 4 << 20;
const CERTIFICATE: &str = "CERTIFICATE";

/// A certificate with its key, as a client shows it.
pub(super) struct ClientIdentity {
    files: ClientCertificate,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// The certificates in the file that `ca` names.
pub(super) fn named_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let name = format!("the CA file {}", path.display());
    let sections = read(&name, path)?;
    let certificates = certificates(&name, &sections)?;
    if certificates.is_empty() {
        return Err(format!("{name} holds no certificate, but {}", kinds(&sections)));
    }
    if sections.iter().any(|section| section.label.ends_with("PRIVATE KEY")) {
        tracing::warn!(file = %path.display(), "the CA file holds a private key as well, which should not be there");
    }
    for (n, certificate) in certificates.iter().enumerate() {
        RootCertStore::empty().add(certificate.clone()).map_err(|error| {
            format!("{}: it cannot be an authority: {}", place(&name, &sections, n), explain(&error))
        })?;
    }
    Ok(certificates)
}

/// The certificate that we show, with its key. Either file may hold both.
pub(super) fn client_identity(files: &ClientCertificate) -> Result<ClientIdentity, String> {
    let certificate_name = format!("the client certificate {}", files.cert.display());
    let key_name = format!("the client key {}", files.key.display());
    let (in_cert, in_key) = (read(&certificate_name, &files.cert)?, read(&key_name, &files.key)?);
    let mut chain = certificates(&certificate_name, &in_cert)?;
    if files.key != files.cert {
        chain.extend(certificates(&key_name, &in_key)?);
    }
    if chain.is_empty() {
        return Err(format!("{certificate_name} holds no certificate, but {}", kinds(&in_cert)));
    }
    let key = match key(&key_name, &in_key)? {
        Some(key) => key,
        None => key(&certificate_name, &in_cert)?
            .ok_or_else(|| format!("{key_name} holds no private key, but {}", kinds(&in_key)))?,
    };
    Ok(ClientIdentity { files: files.clone(), chain, key })
}

impl ClientIdentity {
    /// Completes a TLS client with the certificate.
    pub(super) fn show(self, builder: ConfigBuilder<ClientConfig, WantsClientCert>) -> Result<ClientConfig, String> {
        let (cert, key) = (self.files.cert.display(), self.files.key.display());
        builder.with_client_auth_cert(self.chain, self.key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => format!(
                "the client certificate {cert} and the key {key} do not belong together; has only one been replaced?"
            ),
            rustls::Error::General(_) => {
                format!("the client key {key} cannot be used: supported are {SUPPORTED_KEYS}")
            }
            error => format!("the client certificate {cert} with the key {key} cannot be used: {}", explain(&error)),
        })
    }
}

/// The sections of a file that has at least one.
fn read(name: &str, path: &Path) -> Result<Vec<Section>, String> {
    let unreadable = |error: std::io::Error| format!("cannot read {name}: {error}");
    // Opening a pipe would wait for a writer.
    let found = std::fs::metadata(path).map_err(unreadable)?;
    if found.is_dir() {
        return Err(format!("{name} is a directory; name a file with PEM certificates"));
    }
    if !found.is_file() {
        return Err(format!("{name} is not a regular file"));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("{name} has more than {} MiB, which is all that is read of one", MAX_FILE >> 20));
    }
    let sections = sections(&bytes);
    match bytes.first() {
        _ if !sections.is_empty() => Ok(sections),
        None => Err(format!("{name} is empty")),
        // A sequence, which certificates, keys and PKCS #12 files are.
        Some(0x30) => Err(format!(
            "{name} is in DER or PKCS #12 form, not PEM: convert it (openssl x509 -inform der, openssl pkcs12)"
        )),
        Some(_) => Err(format!("{name} holds no PEM certificate: it has no line -----BEGIN CERTIFICATE-----")),
    }
}

/// The certificates among the sections of a file, each looked at.
fn certificates(name: &str, sections: &[Section]) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut found = Vec::new();
    for section in sections.iter().filter(|section| section.label == CERTIFICATE) {
        let damaged = |reason: &str| format!("{} is damaged: {reason}", place(name, sections, found.len()));
        let contents = section.contents.as_ref().map_err(|reason| damaged(reason))?;
        let certificate = CertificateDer::from(contents.clone());
        if is_cut_short(contents) {
            return Err(damaged("it is cut short, or longer than it says"));
        }
        // A root of the first version of X.509 cannot be a server's, but is an authority all the same.
        if ParsedCertificate::try_from(&certificate).is_err() {
            RootCertStore::empty().add(certificate.clone()).map_err(|error| damaged(&explain(&error)))?;
        }
        found.push(certificate);
    }
    Ok(found)
}

/// The first private key among the sections of a file.
fn key(name: &str, sections: &[Section]) -> Result<Option<PrivateKeyDer<'static>>, String> {
    let Some(section) = sections.iter().find(|section| section.label.ends_with("PRIVATE KEY")) else { return Ok(None) };
    let at = format!("{name} (line {})", section.line);
    if section.is_encrypted || section.label.starts_with("ENCRYPTED") {
        return Err(format!("{at}: the private key is encrypted; store it without a passphrase (openssl pkey)"));
    }
    let contents = section.contents.clone().map_err(|reason| format!("{at}: the private key is damaged: {reason}"))?;
    Ok(Some(match section.label.as_str() {
        "RSA PRIVATE KEY" => PrivatePkcs1KeyDer::from(contents).into(),
        "EC PRIVATE KEY" => PrivateSec1KeyDer::from(contents).into(),
        "PRIVATE KEY" => PrivatePkcs8KeyDer::from(contents).into(),
        other => return Err(format!("{at}: a key of the kind {other:?} is not supported; convert it (openssl pkey)")),
    }))
}

/// The certificate with the number `n`, counted from 0, for a message.
fn place(name: &str, sections: &[Section], n: usize) -> String {
    let line = sections.iter().filter(|section| section.label == CERTIFICATE).nth(n).map_or(0, |section| section.line);
    format!("{name}: certificate {} (line {line})", n + 1)
}

/// The kinds of sections in a file, for a message.
fn kinds(sections: &[Section]) -> String {
    let mut kinds: Vec<String> = sections.iter().map(|section| format!("{:?}", section.label)).collect();
    kinds.dedup();
    kinds.truncate(5);
    crate::wording::list(&kinds)
}

/// True if a DER sequence has another length than the bytes that there are.
fn is_cut_short(der: &[u8]) -> bool {
    let Some((&[0x30, first], rest)) = der.split_first_chunk() else { return true };
    let length = match first {
        short @ ..0x80 => usize::from(short),
        long => {
            let count = usize::from(long & 0x7f);
            let Some(bytes) = rest.get(..count).filter(|_| count <= 4) else { return true };
            count + bytes.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte))
        }
    };
    length != rest.len()
}
