//! An OCI registry for tests, in memory, on loopback, with faults on demand.
//!
//! ```ignore
//! let registry = Registry::http();                      // or Registry::builder().https().auth(…).serve()
//! let layer = registry.put_blob("edge/nginx", vec![7; 1 << 20]);
//! let digest = registry.put_manifest("edge/nginx", Some("v1"), MEDIA_TYPE, manifest);
//! let reference = registry.reference("edge/nginx", "v1");             // 127.0.0.1:PORT/edge/nginx:v1
//!
//! // Faults: on which requests, in whose turn, and what happens to them.
//! registry.inject(On::blobs().get().once(), Fault::DropAfter(1000));
//! registry.inject(On::manifests().repo("edge/nginx").skip(1).times(2), Fault::too_many_requests(3));
//!
//! // Gates and stalls: the test and the registry wait for each other, and nobody sleeps.
//! let gate = registry.inject(On::blobs().reference(&layer), Fault::Hold);
//! gate.struck(1).await;                                 // a request is at the gate
//! gate.release();
//!
//! // What came and what went, by the same patterns.
//! assert_eq!(registry.count(&On::blobs().get()), 2);
//! assert_eq!(registry.body_bytes(&On::blobs().reference(&layer)), (1 << 20) + 1000);
//! ```
//!
//! A request may be struck by several faults, in the order of their injection; one that ends it (a status, a redirect,
//! a dropped connection) leaves the turns of the later ones untouched. A request that is not let in is answered 401 and
//! uses up no fault; a HEAD does use up the turn of a fault that concerns bodies, unless `get()` leaves it out. The
//! registry serves until it is dropped, except between [`Registry::stop`] and [`Registry::start`].

#![allow(dead_code, unreachable_pub, unused_imports, reason = "every test uses a part of its own")]

mod auth;
mod endpoint;
mod faults;
mod journal;
mod matcher;
mod pour;
mod pull;
mod push;
mod reply;
mod server;
mod service;
mod store;
#[cfg(test)]
mod tests;
mod tls;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

pub use self::auth::{Auth, Bearer, Refusals};
pub use self::endpoint::{Endpoint, Kind};
pub use self::faults::{Fault, Injected};
pub use self::journal::Request;
pub use self::matcher::{On, Turns};
pub use self::store::{Manifest, digest};
pub use self::tls::{Identity, Tls};

use self::auth::Guard;
use self::faults::Faults;
use self::journal::Journal;
use self::server::{Listening, Port};
use self::service::Service;
use self::store::Store;

/// What a registry is to be like, before it serves.
#[derive(Debug, Default)]
pub struct Builder {
    auth: Auth,
    https: bool,
    client_certificates: bool,
    certificate: Option<Identity>,
    without_referrers: bool,
}

impl Builder {
    /// HTTPS, with a certificate of [`Registry::ca_pem`].
    pub fn https(self) -> Self {
        Self { https: true, ..self }
    }

    /// HTTPS only for who shows [`Registry::client_identity`].
    pub fn client_certificates(self) -> Self {
        Self { https: true, client_certificates: true, ..self }
    }

    /// HTTPS with this certificate, or a chain of them.
    pub fn certificate(self, certificate: Identity) -> Self {
        Self { https: true, certificate: Some(certificate), ..self }
    }

    pub fn auth(self, auth: impl Into<Auth>) -> Self {
        Self { auth: auth.into(), ..self }
    }

    /// No referrers API: its endpoint answers 404.
    pub fn without_referrers(self) -> Self {
        Self { without_referrers: true, ..self }
    }

    /// # Panics
    ///
    /// Where there is no port on loopback to have, and outside of a tokio runtime.
    #[expect(clippy::expect_used, reason = "without a registry there is no test")]
    pub fn serve(self) -> Registry {
        let port = Port::reserve().expect("a port on loopback");
        let tls = match &self.certificate {
            Some(certificate) => Some(Tls::with(certificate).expect("a certificate with its key")),
            None => self.https.then(|| Tls::new(self.client_certificates).expect("certificates of our own")),
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let host = port.address().to_string();
        let service = Arc::new(Service {
            store: Store::default(),
            journal: Journal::default(),
            faults: Faults::default(),
            guard: Guard::new(self.auth, format!("{scheme}://{host}/token"), host),
            referrers_api: AtomicBool::new(!self.without_referrers),
        });
        let registry = Registry { port, scheme, tls, service, listening: Mutex::new(None) };
        registry.start();
        registry
    }
}

/// The registry: its contents, its faults and its journal, whether it is up or down.
pub struct Registry {
    port: Port,
    scheme: &'static str,
    tls: Option<Tls>,
    service: Arc<Service>,
    listening: Mutex<Option<Listening>>,
}

/// Its life and its addresses.
impl Registry {
    /// Plain HTTP, open to all, with a referrers API.
    pub fn http() -> Self {
        Self::builder().serve()
    }

    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Goes down: connections are cut, and new ones refused. The port stays reserved.
    pub async fn stop(&self) {
        let listening = lock(&self.listening).take();
        if let Some(listening) = listening {
            listening.stop().await;
        }
    }

    /// Comes up again, on the same port and with all it held.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[expect(clippy::expect_used, reason = "the port is reserved")]
    pub fn start(&self) {
        let acceptor = self.tls.as_ref().map(|tls| tls.acceptor.clone());
        lock(&self.listening).get_or_insert_with(|| {
            Listening::on(&self.port, acceptor, Arc::clone(&self.service)).expect("to listen on a port of our own")
        });
    }

    /// Has from now on certificates of another authority, for clients too where it wants theirs. Connections are cut.
    ///
    /// # Panics
    ///
    /// Where they cannot be made, and outside of a tokio runtime.
    #[expect(clippy::expect_used, reason = "without them there is no test")]
    pub async fn renew_certificates(&mut self) {
        self.stop().await;
        let renewed = Tls::new(self.client_identity().is_some()).expect("certificates of our own");
        self.tls = Some(renewed);
        self.start();
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.address().to_string()
    }

    /// The URL of a path, such as `/v2/`.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.host())
    }

    /// An image reference by tag or by digest.
    pub fn reference(&self, repo: &str, reference: &str) -> String {
        let separator = if reference.contains(':') { '@' } else { ':' };
        format!("{}/{repo}{separator}{reference}", self.host())
    }

    /// The certificate authority to trust; none over plain HTTP.
    pub fn ca_pem(&self) -> Option<&str> {
        self.tls.as_ref().map(|tls| tls.ca_pem.as_str())
    }

    /// The certificate to show, where the registry wants one.
    pub fn client_identity(&self) -> Option<&Identity> {
        self.tls.as_ref()?.client.as_ref()
    }
}

/// What it holds. None of the checks of a push apply here.
impl Registry {
    /// Puts a blob under its digest, and tells it.
    pub fn put_blob(&self, repo: &str, bytes: impl Into<Bytes>) -> String {
        let bytes = bytes.into();
        let digest = digest(&bytes);
        self.put_blob_as(repo, &digest, bytes);
        digest
    }

    /// Puts a blob under a digest that may be another's, or that need not be computed again.
    pub fn put_blob_as(&self, repo: &str, digest: &str, bytes: impl Into<Bytes>) {
        self.service.store.put_blob(repo, digest, bytes.into());
    }

    /// Puts a manifest under its digest and a tag, and tells the digest.
    pub fn put_manifest(&self, repo: &str, tag: Option<&str>, media_type: &str, bytes: impl Into<Bytes>) -> String {
        let manifest = Manifest { media_type: media_type.to_owned(), bytes: bytes.into() };
        self.service.store.put_manifest(repo, tag, manifest)
    }

    pub fn blob(&self, repo: &str, digest: &str) -> Option<Bytes> {
        self.service.store.blob(repo, digest)
    }

    /// A manifest by tag or by digest.
    pub fn manifest(&self, repo: &str, reference: &str) -> Option<Manifest> {
        Some(self.service.store.manifest(repo, reference)?.1)
    }

    pub fn tags(&self, repo: &str) -> Vec<String> {
        self.service.store.tags(repo).unwrap_or_default()
    }

    pub fn remove_blob(&self, repo: &str, digest: &str) -> bool {
        self.service.store.remove_blob(repo, digest)
    }

    /// Removes a manifest and the tags that point at it.
    pub fn remove_manifest(&self, repo: &str, digest: &str) -> bool {
        self.service.store.remove_manifest(repo, digest)
    }

    pub fn remove_tag(&self, repo: &str, tag: &str) -> bool {
        self.service.store.remove_tag(repo, tag)
    }
}

/// How it behaves, which a test may change at any time.
impl Registry {
    /// Puts a fault in force, for all matching requests unless the turns say otherwise.
    pub fn inject(&self, on: impl Into<Turns>, fault: Fault) -> Injected {
        self.service.faults.inject(on.into(), fault)
    }

    /// Takes all faults out of force, and lets go what they hold.
    pub fn clear_faults(&self) {
        self.service.faults.clear();
    }

    pub fn set_auth(&self, auth: impl Into<Auth>) {
        self.service.guard.set(auth.into());
    }

    /// Turns requests away in this way from now on.
    pub fn set_refusals(&self, refusals: Refusals) {
        self.service.guard.set_refusals(refusals);
    }

    /// Makes all tokens that are out invalid.
    pub fn revoke_tokens(&self) {
        self.service.guard.revoke();
    }

    pub fn set_referrers_api(&self, on: bool) {
        self.service.referrers_api.store(on, Ordering::SeqCst);
    }
}

/// What came and what went.
impl Registry {
    /// All requests since the last [`Registry::take_log`], refused ones included, in the order of their arrival.
    pub fn log(&self) -> Vec<Arc<Request>> {
        self.service.journal.all()
    }

    /// The log, which begins anew: all counts are zero after it.
    pub fn take_log(&self) -> Vec<Arc<Request>> {
        self.service.journal.take()
    }

    /// How many matching requests came.
    pub fn count(&self, on: &On) -> usize {
        self.log().iter().filter(|request| on.matches(request)).count()
    }

    /// How many bytes of body went out for matching requests; see [`Request::body_bytes`].
    pub fn body_bytes(&self, on: &On) -> u64 {
        self.log().iter().filter(|request| on.matches(request)).map(|request| request.body_bytes()).sum()
    }
}

/// Locks what no code of ours leaves half-changed, even where a test has panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
