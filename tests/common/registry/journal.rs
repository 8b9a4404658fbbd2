//! What was asked of the registry, and what was sent for it. Every count is read off this one log.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION, HOST, HeaderName, RANGE};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};

use super::endpoint::Endpoint;
use super::lock;

/// One request, written down when its head arrived and completed as its answer goes out.
#[derive(Debug)]
pub struct Request {
    pub at: Instant,
    /// The client's end of the connection: as many peers, as many connections.
    pub peer: SocketAddr,
    pub method: Method,
    /// Path and query, as sent.
    pub uri: String,
    pub endpoint: Endpoint,
    pub host: Option<String>,
    pub range: Option<String>,
    /// The whole header: a test can then tell whose credentials came to which host.
    pub authorization: Option<String>,
    pub accept_encoding: Option<String>,
    status: OnceLock<StatusCode>,
    body_bytes: AtomicU64,
}

impl Request {
    pub fn new(peer: SocketAddr, head: &Parts) -> Self {
        let header = |name: HeaderName| {
            let value = head.headers.get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        Self {
            at: Instant::now(),
            peer,
            method: head.method.clone(),
            uri: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            endpoint: Endpoint::parse(head.uri.path()),
            host: header(HOST),
            range: header(RANGE),
            authorization: header(AUTHORIZATION),
            accept_encoding: header(ACCEPT_ENCODING),
            status: OnceLock::new(),
            body_bytes: AtomicU64::new(0),
        }
    }

    /// The status that was answered; none while the answer is held back, or where the connection was dropped before it.
    pub fn status(&self) -> Option<StatusCode> {
        self.status.get().copied()
    }

    /// How many bytes of body were handed to the socket so far.
    ///
    /// A piece is counted as it is handed over, not later, so that a client never holds a byte that is not counted yet.
    /// On a connection that the client cuts, the count is therefore ahead of what arrived: by one piece of
    /// [`pour::PIECE`](super::pour::PIECE) bytes, and by what the two kernels hold in their buffers.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes.load(Ordering::SeqCst)
    }

    pub fn answered(&self, status: StatusCode) {
        let _ = self.status.set(status);
    }

    pub fn sent(&self, bytes: usize) {
        self.body_bytes.fetch_add(bytes as u64, Ordering::SeqCst);
    }
}

/// All requests, in the order of their arrival.
#[derive(Default)]
pub struct Journal(Mutex<Vec<Arc<Request>>>);

impl Journal {
    pub fn record(&self, request: Request) -> Arc<Request> {
        let request = Arc::new(request);
        lock(&self.0).push(Arc::clone(&request));
        request
    }

    pub fn all(&self) -> Vec<Arc<Request>> {
        lock(&self.0).clone()
    }

    pub fn take(&self) -> Vec<Arc<Request>> {
        std::mem::take(&mut *lock(&self.0))
    }
}
