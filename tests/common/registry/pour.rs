//! The body of an answer on its way out, piece by piece, and what faults do to it there.

use std::cmp::Reverse;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Frame;
use hyper::header::CONTENT_LENGTH;
use hyper::{Method, Response};
use tokio::sync::Notify;
use tokio::time::{Interval, MissedTickBehavior};

use super::faults::{Fault, Rule};
use super::journal::Request;
use super::reply::Reply;

/// The body of a response: it fails where a fault drops the connection.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Bytes in one piece: large enough to be fast, small enough for counts to be close to what a client got.
pub const PIECE: usize = 64 << 10;

static ZEROS: [u8; PIECE] = [0; PIECE];

/// Makes a response of a reply, whose body pours out under the faults of `rules`.
pub fn response(reply: Reply, request: Arc<Request>, rules: &[Arc<Rule>], flushed: Arc<Notify>) -> Response<Body> {
    let Reply { status, mut headers, body, offset } = reply;
    let only_head = request.method == Method::HEAD;
    let mut pour = Pour::new(body, offset, request, flushed);
    for rule in rules {
        pour.shape(rule);
    }
    if pour.endless {
        headers.remove(CONTENT_LENGTH);
    }
    let body = if only_head || pour.is_empty() {
        Empty::new().map_err(|never| match never {}).boxed_unsync()
    } else {
        StreamBody::new(stream::unfold(pour, Pour::step)).boxed_unsync()
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

struct Pour {
    rest: Bytes,
    /// Where in the content the body begins.
    offset: u64,
    sent: u64,
    request: Arc<Request>,
    /// Told by the connection whenever all that it was handed is with the kernel.
    flushed: Arc<Notify>,
    endless: bool,
    flips: Vec<u64>,
    /// Where the body stalls or is cut; the next one is the last.
    stops: Vec<(u64, Arc<Rule>)>,
    pace: Option<(usize, Interval)>,
}

impl Pour {
    fn new(rest: Bytes, offset: u64, request: Arc<Request>, flushed: Arc<Notify>) -> Self {
        let (flips, stops) = (Vec::new(), Vec::new());
        Self { rest, offset, sent: 0, request, flushed, endless: false, flips, stops, pace: None }
    }

    /// Takes up what a fault wants of the body. Drops and stalls strike later, once they are reached.
    fn shape(&mut self, rule: &Arc<Rule>) {
        match *rule.fault() {
            Fault::DropAfter(at) | Fault::StallAfter(at) => {
                self.stops.insert(0, (at, Arc::clone(rule)));
                return self.stops.sort_by_key(|(at, _)| Reverse(*at));
            }
            Fault::FlipByte(at) => self.flips.push(at),
            Fault::Endless => self.endless = true,
            Fault::Trickle(bytes, every) => self.pace = Some((bytes.max(1), ticks(every))),
            _ => return,
        }
        rule.strike();
    }

    fn is_empty(&self) -> bool {
        self.rest.is_empty() && !self.endless
    }

    /// Hands out the next piece once the last one has left: what is cut off then is exactly what was not handed out.
    async fn step(mut self) -> Option<(io::Result<Frame<Bytes>>, Self)> {
        self.flushed.notified().await;
        while let Some((_, rule)) = self.stops.pop_if(|(at, _)| *at <= self.sent) {
            rule.strike();
            if matches!(rule.fault(), Fault::DropAfter(_)) {
                return Some((Err(io::ErrorKind::ConnectionAborted.into()), self));
            }
            rule.released().await;
        }
        if let Some((_, ticks)) = &mut self.pace {
            ticks.tick().await;
        }
        let piece = self.piece()?;
        self.request.sent(piece.len());
        Some((Ok(Frame::data(piece)), self))
    }

    fn piece(&mut self) -> Option<Bytes> {
        let pace = self.pace.as_ref().map_or(PIECE, |(bytes, _)| PIECE.min(*bytes));
        let stop = self.stops.last().map_or(PIECE as u64, |(at, _)| at - self.sent);
        let room = pace.min(usize::try_from(stop).unwrap_or(PIECE));
        let piece = match self.rest.len() {
            0 if self.endless => Bytes::from_static(&ZEROS).split_to(room),
            0 => return None,
            left => self.rest.split_to(room.min(left)),
        };
        let piece = self.flip(piece);
        self.sent += piece.len() as u64;
        Some(piece)
    }

    /// Inverts the bytes that faults chose, on a copy: the content itself may be shared, and large.
    fn flip(&self, piece: Bytes) -> Bytes {
        let start = self.offset + self.sent;
        let within = start..start + piece.len() as u64;
        if !self.flips.iter().any(|at| within.contains(at)) {
            return piece;
        }
        within.zip(&piece).map(|(at, byte)| if self.flips.contains(&at) { !byte } else { *byte }).collect()
    }
}

/// A tick that comes late is late for good: a link does not catch up.
fn ticks(every: Duration) -> Interval {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
