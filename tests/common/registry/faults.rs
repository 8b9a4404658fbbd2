//! What a fault is, and the three moments at which one strikes: before an answer, on its head, on its body.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{CONTENT_RANGE, HeaderMap, LOCATION, RANGE, RETRY_AFTER};
use tokio::sync::{Semaphore, watch};

use super::journal::Request;
use super::lock;
use super::matcher::Turns;
use super::reply::{CONTENT_DIGEST, Refusal, Reply};

/// One way in which a registry, or the link to it, can fail.
#[derive(Clone, Debug)]
pub enum Fault {
    /// None at all: the request is only counted, and can be waited for.
    Watch,
    /// The request is held at the gate until the test releases it; then it goes on.
    Hold,
    /// The connection is dropped before an answer. On a connection that was in use before, a pooling client may well
    /// send the request again by itself.
    Disconnect,
    /// This status in place of the answer; a 401 carries the challenge of the registry.
    Status(StatusCode),
    /// As `Status`, with a `Retry-After` of seconds or of an HTTP date.
    RetryAfter(StatusCode, String),
    /// A 307 to this URL.
    Redirect(String),
    /// The whole blob where a range was asked for.
    IgnoreRange,
    /// This `Content-Range`, whatever the body is.
    ContentRange(String),
    /// No `Docker-Content-Digest`.
    NoContentDigest,
    /// This `Docker-Content-Digest`.
    ContentDigest(String),
    /// This content coding, whatever the request accepts; `gzip` is carried out.
    Coding(String),
    /// This `Location`, with `{path}` for the path and query of the right one.
    Location(String),
    /// A `Content-Length` that promises so many bytes more than will come; then the connection is dropped.
    PromiseMore(u64),
    /// A body that lacks its last bytes, and a `Content-Length` that agrees with it.
    PromiseLess(u64),
    /// A body filled up with blanks to this size: a manifest still parses, but has another digest.
    PadTo(usize),
    /// The byte at this offset of the content inverted, in whichever range it is sent.
    FlipByte(u64),
    /// A body that goes on for ever, chunked and without a `Content-Length`.
    Endless,
    /// The connection is dropped after so many bytes of body.
    DropAfter(u64),
    /// The connection is dropped once so many bytes of an upload have come; they are kept.
    CutUpload(usize),
    /// The body stalls after so many bytes until the test releases it; then it goes on.
    StallAfter(u64),
    /// At most so many bytes of body at each tick.
    Trickle(usize, Duration),
}

impl Fault {
    /// # Panics
    ///
    /// On a number that is no status code: the test is wrong then.
    #[expect(clippy::expect_used, reason = "the caller is the test, not a peer")]
    pub fn status(code: u16) -> Self {
        Self::Status(StatusCode::from_u16(code).expect("three digits"))
    }

    /// A 429 with `Retry-After`.
    pub fn too_many_requests(retry_after: impl Display) -> Self {
        Self::RetryAfter(StatusCode::TOO_MANY_REQUESTS, retry_after.to_string())
    }

    /// Whether a request struck by it gets no further: its turn is then not counted by the faults injected later.
    fn is_final(&self) -> bool {
        matches!(self, Self::Disconnect | Self::Status(_) | Self::RetryAfter(..) | Self::Redirect(_))
    }
}

/// How a request ends before the registry has looked at it.
pub enum Early {
    Answer(Reply),
    Disconnect,
}

/// A fault in force: what it is, whom it strikes, how often it has.
#[derive(Debug)]
pub struct Rule {
    turns: Turns,
    fault: Fault,
    matched: AtomicU64,
    removed: AtomicBool,
    strikes: watch::Sender<u64>,
    /// Closed by a release for good; a permit lets one request through.
    gate: Semaphore,
}

impl Rule {
    pub fn fault(&self) -> &Fault {
        &self.fault
    }

    /// After how many bytes an upload is cut off, if it is.
    pub fn cut(&self) -> Option<usize> {
        match self.fault {
            Fault::CutUpload(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Notes that the fault has done its deed, and wakes the tests that wait for it.
    pub fn strike(&self) {
        self.strikes.send_modify(|strikes| *strikes += 1);
    }

    /// Waits at the gate.
    pub async fn released(&self) {
        if let Ok(permit) = self.gate.acquire().await {
            permit.forget();
        }
    }

    /// Whether this request is one of those that are meant; asking counts as its turn.
    fn claims(&self, request: &Request) -> bool {
        !self.removed.load(Ordering::SeqCst)
            && self.turns.matches(request)
            && self.turns.include(self.matched.fetch_add(1, Ordering::SeqCst))
    }

    /// Strikes before the request is answered.
    pub async fn intercept(&self, headers: &mut HeaderMap) -> Option<Early> {
        let early = match &self.fault {
            Fault::Hold => {
                self.strike();
                self.released().await;
                return None;
            }
            Fault::Watch => None,
            Fault::IgnoreRange => {
                headers.remove(RANGE)?;
                None
            }

            Fault::Disconnect => Some(Early::Disconnect),
            Fault::Status(status) => Some(Early::Answer(refusal(*status))),
            Fault::RetryAfter(status, after) => Some(Early::Answer(refusal(*status).header(RETRY_AFTER, after))),
            Fault::Redirect(url) => {
                Some(Early::Answer(Reply::empty(StatusCode::TEMPORARY_REDIRECT).header(LOCATION, url)))
            }
            _ => return None,
        };
        self.strike();
        early
    }

    /// Strikes the head of an answer, and what of its body the head has to agree with.
    pub fn distort(&self, mut reply: Reply) -> Reply {
        reply = match &self.fault {
            Fault::Coding(coding) => reply.coded(coding),
            Fault::Location(location) => reply.located(location),
            Fault::ContentRange(value) => reply.header(CONTENT_RANGE, value),
            Fault::ContentDigest(value) => reply.header(CONTENT_DIGEST, value),
            Fault::NoContentDigest => reply.without(CONTENT_DIGEST),
            Fault::PromiseMore(bytes) => reply.promising_more(*bytes),
            Fault::PromiseLess(bytes) => reply.shortened(*bytes),
            Fault::PadTo(length) => reply.padded(*length),
            _ => return reply,
        };
        self.strike();
        reply
    }
}

fn refusal(status: StatusCode) -> Reply {
    let code = match status {
        StatusCode::UNAUTHORIZED => "UNAUTHORIZED",
        StatusCode::FORBIDDEN => "DENIED",
        StatusCode::NOT_FOUND => "NOT_FOUND",
        StatusCode::TOO_MANY_REQUESTS => "TOOMANYREQUESTS",
        _ => "UNKNOWN",
    };
    Refusal::new(status, code, "a fault on demand").into()
}

/// The faults in force, in the order in which they were injected.
#[derive(Default)]
pub struct Faults(Mutex<Vec<Arc<Rule>>>);

impl Faults {
    pub fn inject(&self, turns: Turns, fault: Fault) -> Injected {
        let rule = Arc::new(Rule {
            turns,
            fault,
            matched: AtomicU64::new(0),
            removed: AtomicBool::new(false),
            strikes: watch::Sender::new(0),
            gate: Semaphore::new(0),
        });
        lock(&self.0).push(Arc::clone(&rule));
        Injected(rule)
    }

    /// The faults that a request is in for.
    pub fn claim(&self, request: &Request) -> Vec<Arc<Rule>> {
        let mut claimed = Vec::new();
        for rule in lock(&self.0).iter().filter(|rule| rule.claims(request)) {
            claimed.push(Arc::clone(rule));
            if rule.fault.is_final() {
                break;
            }
        }
        claimed
    }

    /// Takes all faults out of force, and lets go what they hold.
    pub fn clear(&self) {
        for rule in lock(&self.0).drain(..) {
            Injected(rule).remove();
        }
    }
}

/// A fault that a test has injected. It stays in force when this is dropped.
#[derive(Clone, Debug)]
pub struct Injected(Arc<Rule>);

impl Injected {
    /// How long a test waits for a strike: far beyond what a loaded machine needs, and short of a hanging test run.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// How often the fault has struck. A stall and a drop strike at their byte, not when their request comes in.
    pub fn strikes(&self) -> u64 {
        *self.0.strikes.borrow()
    }

    /// Waits until the fault has struck `count` times: a request is at the gate, a body has stalled.
    ///
    /// # Panics
    ///
    /// When that has not come about within half a minute.
    #[expect(clippy::panic, reason = "a test that waits in vain has failed")]
    pub async fn struck(&self, count: u64) {
        let mut strikes = self.0.strikes.subscribe();
        let enough = strikes.wait_for(|strikes| *strikes >= count);
        if tokio::time::timeout(Self::PATIENCE, enough).await.is_err() {
            panic!("{:?} on {:?} has struck {} times, not {count}", self.0.fault, self.0.turns, self.strikes());
        }
    }

    /// Lets go all that the fault holds, and all that it would hold from now on.
    pub fn release(&self) {
        self.0.gate.close();
    }

    /// Lets go one request, or the next one to come.
    pub fn release_one(&self) {
        self.0.gate.add_permits(1);
    }

    /// Takes the fault out of force, and lets go what it holds.
    pub fn remove(&self) {
        self.0.removed.store(true, Ordering::SeqCst);
        self.release();
    }
}
