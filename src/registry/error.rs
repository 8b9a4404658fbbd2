//! What goes wrong with sources, and whether to try again.

use std::path::PathBuf;
use std::time::Duration;

use super::{LayoutFault, tls};
use crate::clock;
use crate::durable::DurableError;
use crate::failure::{Classify, Kind, Retry};
use crate::oci::{Digest, DocumentError};
use crate::wording::exact_size;

/// The words of an error of a connection that did not come about.
const UNREACHED: &str = "the registry cannot be reached";

/// A source that did not give what it was asked for. No message holds a credential: URLs are those that were asked,
/// never those that a server redirected to.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The settings for a registry cannot be used.
    #[error("registry {registry}: {reason}")]
    Setup {
        /// The registry's host.
        registry: String,
        /// What is wrong.
        reason: String,
    },
    /// No answer, or one that broke off.
    #[error("{url}: {what}: {cause}")]
    Transport {
        /// The URL that was asked.
        url: String,
        /// The kind, told by the error's cause.
        kind: Kind,
        /// The same in words.
        what: &'static str,
        /// The innermost cause; those around it only say that a request failed.
        cause: String,
    },
    /// A proxy on the way that does not let the request through.
    #[error("{url}: the proxy {proxy} {what}: {cause} (it is set by {place})")]
    Proxy {
        /// The URL that was asked.
        url: String,
        /// The proxy's address, without a name and a password.
        proxy: String,
        /// What names it.
        place: &'static str,
        /// The kind, told by the error's cause.
        kind: Kind,
        /// The same in words.
        what: &'static str,
        /// The innermost cause.
        cause: String,
    },
    /// An answer that refuses.
    #[error("{url}: the registry answers {status}{detail}{}{}", advice(url, *.status, detail), asked(*.retry_after))]
    Status {
        /// The URL that was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the answer's body says, after a colon.
        detail: String,
        /// How long the registry asks to wait.
        retry_after: Option<Duration>,
    },
    /// A registry that asked to be left alone, and was.
    #[error("{url}: the registry asked for no more requests for now")]
    Resting {
        /// The URL that was to be asked.
        url: String,
        /// How much longer.
        wait: Duration,
    },
    /// An upload that the registry does not know any more, or not as far as it went.
    #[error("{url}: the registry has lost the upload: it answers {status}{detail}")]
    UploadLost {
        /// The URL that was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the answer's body says, after a colon.
        detail: String,
    },
    /// An answer that makes no sense.
    #[error("{url}: {reason}")]
    Protocol {
        /// The URL that was asked.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A document or blob whose length is not what its descriptor says.
    #[error("{url}: the registry has {} where the manifest says {}", exact_size(*.actual), exact_size(*.expected))]
    Size {
        /// The URL that was asked.
        url: String,
        /// What the descriptor says.
        expected: u64,
        /// What the registry says.
        actual: u64,
    },
    /// A document whose bytes have another digest than the one that it was asked by.
    #[error("{url}: the bytes have the digest {actual}, not {expected}")]
    Digest {
        /// The URL that was asked.
        url: String,
        /// The digest that was asked for.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// A document that is too large.
    #[error("{url}")]
    Document {
        /// The URL that was asked.
        url: String,
        /// What is wrong with it.
        #[source]
        source: DocumentError,
    },
    /// An image layout that lacks something.
    #[error("image layout {}: {reason}", .dir.display())]
    Layout {
        /// The layout's directory.
        dir: PathBuf,
        /// What it lacks.
        reason: String,
    },
    /// A path that is not an image layout.
    #[error("{} is not an OCI image layout ({reason})", .dir.display())]
    NoLayout {
        /// The path.
        dir: PathBuf,
        /// What it lacks.
        reason: &'static str,
    },
    /// An image layout that is not there, or has no image of the name.
    #[error("image layout {}: {reason}", .dir.display())]
    NotInLayout {
        /// The layout's directory.
        dir: PathBuf,
        /// What there is not, and what there is.
        reason: String,
    },
    /// An image layout that lacks blobs, or has damaged ones.
    #[error("image layout {}: of the blobs of this image {}", .dir.display(), list(.faults))]
    LayoutBlobs {
        /// The layout's directory.
        dir: PathBuf,
        /// Every blob that is missing or damaged.
        faults: Vec<LayoutFault>,
    },
    /// A file of an image layout that cannot be read.
    #[error(transparent)]
    Disk(#[from] DurableError),
}

fn list(faults: &[LayoutFault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Advice for plain HTTP that is sent to a port of TLS.
const SPEAKS_TLS: &str = "set ca = \"FILE\", or insecure = false, for the registry in [registry] of agent.toml";

fn advice(url: &str, status: u16, detail: &str) -> String {
    let is_plain = url.starts_with("http://");
    let names_tls = ["https", "tls", "ssl"].iter().any(|word| detail.to_ascii_lowercase().contains(word));
    match status {
        400 | 497 if is_plain && names_tls => return format!(" (this port speaks TLS: {SPEAKS_TLS})"),
        400 if is_plain => {
            return format!(" (it does not take the request; if this port speaks TLS, {SPEAKS_TLS})");
        }
        _ => {}
    }
    let advice = match status {
        400 => " (it does not take the request; is it another service that answers here?)",
        403 => " (its credentials do not allow this)",
        404 => " (there is no such image; check name, tag and digest)",
        405 => " (it does not take this; is it read-only?)",
        500..=599 => " (the fault is the registry's, or that of a proxy before it)",
        _ => "",
    };
    advice.to_owned()
}

/// The wait that an answer asks for, for a message.
fn asked(retry_after: Option<Duration>) -> String {
    let wait = retry_after.filter(|wait| !wait.is_zero());
    wait.map(|wait| format!(" (it asks to wait {} s)", wait.as_secs())).unwrap_or_default()
}

impl RegistryError {
    /// A request that got no whole answer. Of the client's error only the innermost cause is kept: the outer ones may
    /// hold a URL that a redirect has filled with signatures.
    pub(super) fn transport(url: &str, error: &reqwest::Error) -> Self {
        // A connection that does not come about in time is both: then nobody has stopped answering.
        let (kind, what) = if causes(error).any(is_tls) {
            if let Some(complaint) = clock::complaint() {
                let what = "no secure connection";
                return Self::Transport { url: url.to_owned(), kind: Kind::ClockWrong, what, cause: complaint };
            }
            (Kind::Tls, "no secure connection")
        } else if url.starts_with("http://") && is_not_http(error) {
            let cause = format!("if this port speaks TLS, {SPEAKS_TLS}");
            return Self::Transport {
                url: url.to_owned(),
                kind: Kind::Unreachable,
                what: "the answer is not HTTP",
                cause,
            };
        } else if error.is_connect() {
            (Kind::Unreachable, UNREACHED)
        } else if error.is_timeout() {
            (Kind::Timeout, "the registry stopped answering")
        } else if error.is_redirect() {
            (Kind::Protocol, "the registry redirects where it must not")
        } else {
            (Kind::Unreachable, "the connection broke off")
        };
        let cause = cause_in_words(error);
        Self::Transport { url: url.to_owned(), kind, what, cause }
    }

    /// A connection that brings nothing any more.
    pub(super) fn stalled(url: &str) -> Self {
        let cause = "no bytes came for too long".to_owned();
        Self::Transport { url: url.to_owned(), kind: Kind::Timeout, what: "the registry stopped answering", cause }
    }

    /// An answer that ends too early.
    pub(super) fn cut_short(url: &str) -> Self {
        let cause = "the answer ends before the blob does".to_owned();
        Self::Transport { url: url.to_owned(), kind: Kind::Unreachable, what: "the connection broke off", cause }
    }

    /// True if nothing has come from the registry, which may not be there at all.
    pub(super) fn is_without_contact(&self) -> bool {
        match self {
            Self::Transport { kind, what, .. } => *kind == Kind::Timeout || *what == UNREACHED,
            Self::Proxy { .. } => true,
            _ => false,
        }
    }

    /// Adds to a refusal the credentials that were tried.
    pub(super) fn with_account(self, account: &str) -> Self {
        match self {
            Self::Status { url, status, detail, retry_after } => {
                let separator = if detail.is_empty() { ": " } else { "; " };
                let detail = format!("{detail}{separator}{account}");
                Self::Status { url, status, detail, retry_after }
            }
            other => other,
        }
    }

    /// Takes secrets out of the reason of a refusal, in which a server may repeat them.
    pub(super) fn without(self, secrets: &[String]) -> Self {
        match self {
            Self::Status { url, status, detail, retry_after } => {
                let secrets = secrets.iter().filter(|secret| !secret.is_empty());
                let detail = secrets.fold(detail, |detail, secret| detail.replace(secret.as_str(), "…"));
                Self::Status { url, status, detail, retry_after }
            }
            other => other,
        }
    }

    /// Whether the same request may well be answered in a moment: a connection that broke, a registry that is busy. From 520
    /// to 524 are a content delivery network's statuses for a server behind it that did not answer.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Transport { kind, .. } | Self::Proxy { kind, .. } => {
                matches!(kind, Kind::Unreachable | Kind::Timeout)
            }
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502..=504 | 520..=524),
            Self::UploadLost { .. } | Self::Resting { .. } => true,
            _ => false,
        }
    }
}

/// The errors that led to `error`, the nearest first.
pub(super) fn causes<'a>(error: &'a reqwest::Error) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(error), |cause| cause.source())
}

/// The innermost cause of an error, for a person.
pub(super) fn cause_in_words(error: &reqwest::Error) -> String {
    let tls = causes(error).find_map(tls_error).map(tls::explain);
    tls.or_else(|| causes(error).last().map(in_words)).unwrap_or_default()
}

/// The text of a cause without the terms of the libraries that report it.
fn in_words(cause: &(dyn std::error::Error + 'static)) -> String {
    if cause.downcast_ref().is_some_and(hyper::Error::is_incomplete_message) {
        return "the connection was closed before the answer was complete".to_owned();
    }
    match cause.to_string() {
        text if text == "tls handshake eof" => "the connection was closed during the TLS handshake; if this port is \
            that of plain HTTP, set insecure = true for the registry in [registry] of agent.toml"
            .to_owned(),
        text => text,
    }
}

/// True if what came was not HTTP.
fn is_not_http(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| cause.downcast_ref().is_some_and(hyper::Error::is_parse))
}

/// True if the error is of TLS.
pub(super) fn is_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    tls_error(error).is_some()
}

/// The TLS error in an error: itself, or what an I/O error wraps. Those do not give what they wrap as their source.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.downcast_ref().or_else(|| wrapped.and_then(|wrapped| tls_error(wrapped)))
}

impl Classify for RegistryError {
    fn kind(&self) -> Kind {
        match self {
            Self::Setup { .. } => Kind::ConfigInvalid,
            Self::Transport { kind, .. } | Self::Proxy { kind, .. } => *kind,
            Self::Status { status, .. } => match status {
                401 => Kind::Unauthorized,
                403 | 405 => Kind::Forbidden,
                404 => Kind::NotFound,
                429 => Kind::RateLimited,
                _ => Kind::RegistryError,
            },
            Self::Resting { .. } => Kind::RateLimited,
            Self::UploadLost { .. } => Kind::RegistryError,
            Self::Protocol { .. } => Kind::Protocol,
            Self::Size { .. } => Kind::SizeMismatch,
            Self::Digest { .. } => Kind::DigestMismatch,
            Self::Document { source, .. } => source.kind(),
            Self::Layout { .. } | Self::NoLayout { .. } | Self::LayoutBlobs { .. } => Kind::LayoutInvalid,
            Self::NotInLayout { .. } => Kind::NotFound,
            Self::Disk(error) => error.kind(),
        }
    }

    /// All of it may pass without anyone coming to the node: registries are mended, images pushed, sticks plugged in.
    fn retry(&self) -> Retry {
        match self {
            Self::Status { retry_after: Some(wait), .. } | Self::Resting { wait, .. } => Retry::After(*wait),
            Self::Document { source, .. } => source.retry(),
            _ => Retry::Later,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do() {
        let said = |url: &str, status, detail: &str| {
            let (url, detail) = (url.to_owned(), detail.to_owned());
            RegistryError::Status { url, status, detail, retry_after: None }.to_string()
        };
        let (plain, secure) = ("http://127.0.0.1:5000/v2/", "https://a.example/v2/");
        for detail in
            [": Client sent an HTTP request to an HTTPS server.", ": 400 The plain HTTP request was sent to HTTPS port"]
        {
            assert!(said(plain, 400, detail).contains(" (this port speaks TLS: set ca = "), "{detail}");
            assert!(!said(secure, 400, detail).contains("speaks TLS"), "{detail}");
        }
        assert!(said(plain, 400, ": Bad Request").ends_with(
            "(it does not take the request; if this port speaks TLS, set \
            ca = \"FILE\", or insecure = false, for the registry in [registry] of agent.toml)"
        ));
        assert!(said(secure, 400, "").contains("is it another service that answers here?"));
        assert!(!said(plain, 404, ": https").contains("speaks TLS"));
        assert!(said(plain, 503, "").contains("the fault is the registry's"));
        assert!(said(plain, 418, "").ends_with("the registry answers 418"));
    }

    #[test]
    fn sizes_that_differ_are_told_to_the_byte() {
        let error = RegistryError::Size { url: "u".to_owned(), expected: 1 << 20, actual: (1 << 20) + 1 };
        assert_eq!(
            error.to_string(),
            "u: the registry has 1.0 MiB (1048577 bytes) where the manifest says 1.0 MiB (1048576 bytes)"
        );
    }

    #[tokio::test]
    async fn tls_that_answers_plain_http_is_told() {
        // The beginning of a TLS alert, and of an answer that is HTTP.
        for (answer, is_told) in [(&b"\x15\x03\x01\x00\x02\x02\x46"[..], true), (b"HTTP/1.1 200 OK\r\n\r\n", false)] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/", listener.local_addr().unwrap());
            let server = async {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await.unwrap();
                stream.write_all(answer).await.unwrap();
                stream.shutdown().await.unwrap();
            };
            super::super::host::install_crypto();
            let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
            let (answered, ()) = tokio::join!(client.get(&url).send(), server);
            let said = answered.err().map(|error| RegistryError::transport(&url, &error).to_string());
            assert_eq!(said.as_ref().is_some_and(|said| said.contains("if this port speaks TLS")), is_told, "{said:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_does_not_come_about_is_no_silence() {
        super::super::host::install_crypto();
        // It takes connections and says nothing, so that no TLS session comes about.
        let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = reqwest::Client::builder().no_proxy().connect_timeout(Duration::from_millis(50));
        let url = format!("https://{}/", mute.local_addr().unwrap());
        let error = client.tls_certs_only([]).build().unwrap().get(&url).send().await.unwrap_err();
        assert!(error.is_timeout());
        assert_eq!(RegistryError::transport(&url, &error).kind(), Kind::Unreachable);
    }
}
