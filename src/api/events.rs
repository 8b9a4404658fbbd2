//! `GET /v1/events`: the journal as server-sent events.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Response};
use tokio_util::sync::CancellationToken;

use super::Problem;
use super::body::Body;
use super::connections::Busy;
use crate::agent::{Entry, EntryId, Handle, Subscription};
use crate::failure::Kind;
use crate::printable::escaped;

/// The media type of server-sent events.
pub(super) const EVENT_STREAM: &str = "text/event-stream";

/// Streams events until the client goes or the agent stops; `streaming` is kept for as long.
pub(super) fn stream_events(
    handle: &Handle,
    headers: &HeaderMap,
    shutdown: CancellationToken,
    streaming: Busy,
) -> Result<Response<Body>, Problem> {
    let after = match headers.get("last-event-id") {
        None => None,
        Some(value) => Some(parse(value).map_err(|detail| Problem::new(Kind::Usage, detail))?),
    };
    let begin = (handle.subscribe(after), shutdown, streaming);
    let frames = stream::unfold(begin, |(mut subscription, shutdown, streaming)| async move {
        let text = next(&mut subscription, &shutdown).await?;
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(text))), (subscription, shutdown, streaming)))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn parse(value: &HeaderValue) -> Result<EntryId, String> {
    value.to_str().map_err(|_| "Last-Event-ID is no text".to_owned())?.parse()
}

async fn next(subscription: &mut Subscription, shutdown: &CancellationToken) -> Option<String> {
    tokio::select! {
        entries = subscription.next() => Some(entries?.iter().map(event).collect()),
        () = shutdown.cancelled() => None,
    }
}

/// One event in the form of the HTML standard, section "Server-sent events". JSON has no line breaks of its own.
fn event(entry: &Entry) -> String {
    let data = serde_json::to_string(entry).unwrap_or_default();
    format!("id: {}\nevent: {}\ndata: {}\n\n", entry.id, entry.event, escaped(&data))
}
