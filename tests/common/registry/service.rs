//! The way of one request: recorded, let in, struck by faults, answered by its endpoint, struck again, sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::{Response, StatusCode};
use serde_json::json;
use tokio::sync::Notify;

use super::auth::Guard;
use super::endpoint::{Kind, Query};
use super::faults::{Early, Faults, Rule};
use super::journal::{Journal, Request};
use super::pour::{self, Body};
use super::reply::{Refusal, Reply};
use super::store::Store;
use super::{pull, push};

/// The longest form that the token endpoint reads.
const FORM_LIMIT: usize = 64 << 10;

/// Everything of the registry but its sockets: it outlives a stop and a start.
pub struct Service {
    pub store: Store,
    pub journal: Journal,
    pub faults: Faults,
    pub guard: Guard,
    pub referrers_api: AtomicBool,
}

/// A fault wants the connection to be dropped before an answer.
#[derive(Debug)]
pub struct Disconnected;

impl std::fmt::Display for Disconnected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("dropped by a fault on demand")
    }
}

impl std::error::Error for Disconnected {}

impl Service {
    /// Faults strike only requests that are let in, so that a client that authenticates first does not use them up.
    pub async fn serve(
        self: Arc<Self>,
        peer: SocketAddr,
        flushed: Arc<Notify>,
        incoming: hyper::Request<Incoming>,
    ) -> Result<Response<Body>, Disconnected> {
        let (mut head, body) = incoming.into_parts();
        let request = self.journal.record(Request::new(peer, &head));
        let query = Query::parse(head.uri.query().unwrap_or_default());
        let refusal = self.guard.turn_away(&request);
        let rules = if refusal.is_none() { self.faults.claim(&request) } else { Vec::new() };
        let early = match refusal {
            Some(refusal) => Some(Early::Answer(refusal)),
            None => intercept(&rules, &mut head.headers).await,
        };
        if let (None, Some((rule, bytes))) = (&early, rules.iter().find_map(|rule| Some((rule, rule.cut()?)))) {
            push::take(&self.store, &request.endpoint, body, bytes).await;
            rule.strike();
            return Err(Disconnected);
        }
        let reply = match early {
            None => self.answer(&request, &head.headers, &query, body).await.unwrap_or_else(Reply::from),
            Some(Early::Answer(reply)) => self.guard.explain(reply, &request),
            Some(Early::Disconnect) => return Err(Disconnected),
        };
        let reply = rules.iter().fold(reply, |reply, rule| rule.distort(reply));
        request.answered(reply.status);
        Ok(pour::response(reply, request, &rules, flushed))
    }

    async fn answer(
        &self,
        request: &Request,
        headers: &HeaderMap,
        query: &Query,
        body: Incoming,
    ) -> Result<Reply, Refusal> {
        let (store, at) = (&self.store, &request.endpoint);
        let referrers_api = self.referrers_api.load(Ordering::SeqCst);
        match (at.kind, request.method.as_str()) {
            (Kind::Ping, "GET" | "HEAD") => Ok(ping()),
            (Kind::Token, "GET") => self.guard.issue(request, query),
            (Kind::Token, "POST") => self.guard.issue(request, &form(body).await?),
            (Kind::Manifest, "GET" | "HEAD") => pull::manifest(store, at, headers),
            (Kind::Manifest, "PUT") => push::manifest(store, at, headers, body, referrers_api).await,
            (Kind::Blob, "GET" | "HEAD") => pull::blob(store, at, headers),
            (Kind::Upload, "POST") => push::begin(store, at, query, body).await,
            (Kind::Upload, "PATCH") => push::chunk(store, at, headers, body).await,
            (Kind::Upload, "PUT") => push::finish(store, at, query, body).await,
            (Kind::Upload, "GET") => push::status(store, at),
            (Kind::Upload, "DELETE") => push::cancel(store, at),
            (Kind::Tags, "GET") => pull::tags(store, at, query),
            (Kind::Referrers, "GET") if referrers_api => Ok(pull::referrers(store, at, query)),
            (Kind::Unknown | Kind::Referrers, _) => Err(Refusal::new(StatusCode::NOT_FOUND, "NOT_FOUND", "")),
            _ => Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", request.method.as_str())),
        }
    }
}

async fn intercept(rules: &[Arc<Rule>], headers: &mut HeaderMap) -> Option<Early> {
    for rule in rules {
        if let Some(early) = rule.intercept(headers).await {
            return Some(early);
        }
    }
    None
}

fn ping() -> Reply {
    Reply::json(StatusCode::OK, &json!({})).header("docker-distribution-api-version", "registry/2.0")
}

async fn form(body: Incoming) -> Result<Query, Refusal> {
    let collected = Limited::new(body, FORM_LIMIT).collect().await;
    let bytes = collected
        .map_err(|error| Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", error.to_string()))?
        .to_bytes();
    Ok(Query::parse(&String::from_utf8_lossy(&bytes)))
}
