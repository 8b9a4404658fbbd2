//! How a registry is reached: scheme, trust, time-outs.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Once};
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderValue};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Method, Request, RequestBuilder, Response, StatusCode, Url};

use super::answer::refusal;
use super::exchange::Exchange;
use super::follow::OtherHosts;
use super::proxy::{ProxyInUse, Ways};
use super::redirect_filter::PublicOnly;
use super::{Caller, RegistryError, tls};
use crate::config::{RegistrySettings, TransferSettings};
use crate::durable::DurableError;
use crate::failure::full_text;

/// What a request says of us.
pub(super) const USER_AGENT: &str = concat!("eci-agent/", env!("CARGO_PKG_VERSION"));
/// As many redirects as browsers follow at least; registries need one or two.
pub(super) const MAX_REDIRECTS: usize = 10;

/// Whether `host` (a name without a port) is reached by plain HTTP: only loopback, and registries marked insecure. A
/// loopback host that has a CA of its own, or is marked not insecure, is reached by HTTPS.
pub(super) fn is_plain_http(host: &str, settings: &RegistrySettings) -> bool {
    settings.insecure.unwrap_or_else(|| is_loopback(host) && settings.ca.is_none())
}

pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The hosts that a client is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Destination {
    /// The registry's own origin, which gets the client certificate.
    Registry,
    /// Other hosts, which get none.
    Other {
        /// True to connect to public addresses only, if the host has a name.
        public_only: bool,
    },
}

/// What tells one state of the files that a client is made of from another: of each the inode, the length and the time
/// of its last change; nothing of one that is not there.
pub(super) type FileStates = Vec<Option<(u64, u64, i64, i64)>>;

/// How one registry is reached.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    /// `HOST[:PORT]`
    pub(super) registry: String,
    pub(super) settings: RegistrySettings,
    pub(super) transfer: TransferSettings,
    /// The URL of its API: `http://HOST[:PORT]` or `https://…`
    pub(super) base: String,
    /// The process that asks.
    pub(super) caller: Caller,
    /// The clients for hosts that it leads to.
    pub(super) others: Arc<OtherHosts>,
}

impl Reach {
    /// The way of the agent.
    pub(super) fn new(base: &str, registry: &str, settings: RegistrySettings, transfer: TransferSettings) -> Self {
        let (base, registry) = (base.to_owned(), registry.to_owned());
        Self { registry, settings, transfer, base, caller: Caller::Agent, others: Arc::default() }
    }

    /// The same for `caller`.
    pub(super) fn of(self, caller: Caller) -> Self {
        Self { caller, ..self }
    }

    /// The states of the CA file, the client certificate and its key. Asked before a client is made, so that what changes
    /// meanwhile is a change. Blocks.
    pub(super) fn file_states(&self) -> FileStates {
        let client = self.settings.client.iter().flat_map(|client| [&client.cert, &client.key]);
        let state = |path: &PathBuf| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.ino(), found.len(), found.ctime(), found.ctime_nsec()))
        };
        self.settings.ca.iter().chain(client).map(state).collect()
    }

    /// Refuses certificate files that this user may not read.
    fn check_readable(&self) -> Result<(), RegistryError> {
        let client = self.settings.client.iter().flat_map(|client| [&client.cert, &client.key]);
        for path in self.settings.ca.iter().chain(client) {
            // Opening a pipe would wait for a writer.
            let opened = std::fs::metadata(path)
                .and_then(|found| if found.is_file() { std::fs::File::open(path).map(drop) } else { Ok(()) });
            if let Err(error) = opened
                && error.kind() == std::io::ErrorKind::PermissionDenied
            {
                return Err(DurableError::new("read", path, error).into());
            }
        }
        Ok(())
    }

    /// An HTTP client. `read_timeout` runs from the moment a request is sent, its body included, to the answer, and then
    /// between the pieces of that. It follows redirects within an origin only. Blocks: it reads certificates.
    pub(super) fn client(
        &self,
        read_timeout: Option<Duration>,
        destination: Destination,
    ) -> Result<Client, RegistryError> {
        install_crypto();
        let (registry, settings) = (&self.registry, &self.settings);
        let setup = |reason: String| RegistryError::Setup { registry: registry.clone(), reason };
        let shows_identity = matches!(destination, Destination::Registry);
        self.check_readable()?;
        let tls = tls::client_config(registry, settings, shows_identity).map_err(setup)?;
        let ways = Ways::new(registry, settings);
        let builder = Client::builder()
            .tls_backend_preconfigured(tls)
            .default_headers([(ACCEPT_ENCODING, HeaderValue::from_static("identity"))].into_iter().collect())
            .user_agent(USER_AGENT)
            .connect_timeout(self.transfer.connect_timeout)
            .redirect(Policy::custom(follow_within_origin))
            .referer(false)
            // A header over several lines is a client's to accept (RFC 9112, section 5.2).
            .http1_allow_obsolete_multiline_headers_in_responses(true)
            .proxy(reqwest::Proxy::custom(move |url| ways.to(url).map(|proxy| proxy.url)));
        let builder = match destination {
            Destination::Other { public_only: true } => builder.dns_resolver(Arc::new(PublicOnly::of_system())),
            _ => builder,
        };
        let builder = if let Some(limit) = read_timeout { builder.read_timeout(limit) } else { builder };
        builder.build().map_err(|error| setup(full_text(&error)))
    }
}

/// Sends requests, and tells whose fault it is when no answer comes: the registry's, or that of a proxy on the way.
impl Reach {
    /// Sends a request to `url`. Its own URL may be another, which is not shown: a redirect may have filled it with
    /// signatures.
    pub(super) async fn send(&self, url: &str, request: RequestBuilder) -> Result<Response, RegistryError> {
        let (client, request) = request.build_split();
        let request = request.map_err(|error| RegistryError::transport(url, &error))?;
        let answer = self.execute(url, &client, request).await?;
        self.note_address(&answer);
        Ok(answer)
    }

    /// Sends a request by `client`.
    pub(super) async fn execute(
        &self,
        url: &str,
        client: &Client,
        request: Request,
    ) -> Result<Response, RegistryError> {
        let exchange = Exchange::begin(&request);
        let answer = self.run(url, client, request).await;
        if let Some(exchange) = exchange {
            exchange.end(&answer);
        }
        answer
    }

    async fn run(&self, url: &str, client: &Client, request: Request) -> Result<Response, RegistryError> {
        let has_content = request.method() == Method::GET;
        match client.execute(request).await {
            Ok(answer) if answer.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Err(match self.proxy(answer.url()) {
                    Some(proxy) => proxy.wants_login(url),
                    None => refusal(url, answer).await,
                })
            }
            Ok(answer) => {
                if has_content && answer.status().is_success() {
                    check_coding(url, &answer)?;
                }
                Ok(answer)
            }
            Err(error) => {
                let proxy = error.url().and_then(|asked| self.proxy(asked));
                let fault = proxy.and_then(|proxy| proxy.fault(url, &error));
                Err(fault.unwrap_or_else(|| RegistryError::transport(url, &error)))
            }
        }
    }

    pub(super) fn proxy(&self, url: &Url) -> Option<ProxyInUse> {
        Ways::new(&self.registry, &self.settings).to(url)
    }
}

/// Refuses content with a coding that was not asked for: its digest is that of other bytes. `aws-chunked` is no coding of the
/// content; some object stores repeat it from the upload.
fn check_coding(url: &str, answer: &Response) -> Result<(), RegistryError> {
    let codings = answer.headers().get_all(CONTENT_ENCODING).iter();
    let text = codings.map(|value| value.to_str().unwrap_or("unreadable")).collect::<Vec<_>>().join(", ");
    let is_coding = |coding: &&str| !["", "identity", "aws-chunked"].contains(&coding.to_ascii_lowercase().as_str());
    let Some(coding) = text.split(',').map(str::trim).find(is_coding) else { return Ok(()) };
    let coding: String = coding.chars().take(40).collect();
    let host = answer.url().host_str().unwrap_or_default();
    let reason = format!(
        "{host} answers with the content coding {coding:?}, although the request accepts none (Accept-Encoding: identity)"
    );
    Err(RegistryError::Protocol { url: url.to_owned(), reason })
}

/// True if the URL that has answered is of the host that was asked.
pub(super) fn is_same_origin(answered: &Url, asked: &str) -> bool {
    Url::parse(asked).is_ok_and(|asked| asked.origin() == answered.origin())
}

/// The host of a registry's API. Docker Hub's is not the one that its images are named by.
pub(super) fn api_host(registry: &str) -> &str {
    if registry == "docker.io" { "index.docker.io" } else { registry }
}

/// Redirects within an origin are followed. The others are for [`Reach::send_following`]: credentials in a request's body stay
/// in it at a redirect, and the client certificate is the registry's alone.
fn follow_within_origin(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    if attempt.previous().last().is_none_or(|from| from.origin() != attempt.url().origin()) {
        attempt.stop()
    } else if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("too many redirects")
    } else {
        attempt.follow()
    }
}

/// The HTTP client is built without a provider of cryptography, so that only one is linked.
pub(super) fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // It fails only where another part of the process has chosen one, which serves as well.
        let _ = tls::crypto_provider().install_default();
    });
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::config::Settings;

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

    #[tokio::test]
    async fn headers_over_several_lines_are_read() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v2/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 1024];
            assert!(stream.read(&mut asked).await.unwrap() > 0);
            let answer = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"u\",\r\n service=\"s\"\r\n\
                Content-Length: 0\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let (settings, transfer) = (RegistrySettings::default(), Settings::default().transfer);
        let reach = Reach::new("http://127.0.0.1", "127.0.0.1", settings, transfer);
        let client = tokio::task::spawn_blocking({
            let reach = reach.clone();
            move || reach.client(None, Destination::Registry).unwrap()
        });
        let answer = reach.send(&url, client.await.unwrap().get(&url)).await.unwrap();
        let challenge = answer.headers()["www-authenticate"].to_str().unwrap();
        assert_eq!(challenge.split_whitespace().collect::<Vec<_>>(), ["Bearer", "realm=\"u\",", "service=\"s\""]);
    }
}
