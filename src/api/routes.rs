//! The routes: one table, and what each does.

use std::sync::Arc;

use hyper::header::{CONNECTION, HeaderValue, TRANSFER_ENCODING};
use hyper::{HeaderMap, Method, Response, StatusCode};
use tokio_util::sync::CancellationToken;

use super::Problem;
use super::body::{Body, json, response};
use super::coalesce::Coalesce;
use super::connections::Connection;
use super::events::stream_events;
use super::metrics;
use super::peer::{Peer, Rights};
use crate::agent::{Event, FsckOrder, Handle, Reject};
use crate::deploy::fsck::Pace;
use crate::desired::WorkloadName;
use crate::failure::{Failure, Kind};
use crate::oci::Digest;

const JSON: &str = "application/json";
/// The API's document, which a test holds to [`ROUTES`].
const OPENAPI: &str = include_str!("openapi.json");

/// How much of a path that leads nowhere is said back.
const LONGEST_ECHO: usize = 100;

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Status,
    Workload,
    Events,
    Reconcile,
    ReconcileWorkload,
    Activate,
    Confirm,
    RollBack,
    Retire,
    Gc,
    Fsck,
    Metrics,
    Health,
    Ready,
    OpenApi,
}

/// Method, path (`{name}` stands for a workload) and what they lead to.
const ROUTES: [(Method, &str, Route); 15] = [
    (Method::GET, "/v1/status", Route::Status),
    (Method::GET, "/v1/workloads/{name}", Route::Workload),
    (Method::GET, "/v1/events", Route::Events),
    (Method::POST, "/v1/reconcile", Route::Reconcile),
    (Method::POST, "/v1/workloads/{name}/reconcile", Route::ReconcileWorkload),
    (Method::POST, "/v1/workloads/{name}/activate", Route::Activate),
    (Method::POST, "/v1/workloads/{name}/confirm", Route::Confirm),
    (Method::POST, "/v1/workloads/{name}/rollback", Route::RollBack),
    (Method::POST, "/v1/retire", Route::Retire),
    (Method::POST, "/v1/gc", Route::Gc),
    (Method::POST, "/v1/fsck", Route::Fsck),
    (Method::GET, "/metrics", Route::Metrics),
    (Method::GET, "/healthz", Route::Health),
    (Method::GET, "/readyz", Route::Ready),
    (Method::GET, "/v1/openapi.json", Route::OpenApi),
];

/// A request, as far as it matters.
pub(super) struct Call<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) headers: &'a HeaderMap,
    pub(super) peer: &'a Peer,
    pub(super) connection: &'a Arc<Connection>,
}

/// What the routes work with.
pub(super) struct Api {
    pub(super) handle: Handle,
    pub(super) rights: Rights,
    /// Reconciles that clients asked for.
    pub(super) reconciles: Coalesce<Option<WorkloadName>, Result<(), Reject>>,
    pub(super) shutdown: CancellationToken,
}

impl Api {
    /// Answers a request.
    pub(super) async fn answer(&self, call: Call<'_>) -> Response<Body> {
        match self.dispatch(call).await {
            Ok(response) => response,
            Err(Refusal::Problem(problem)) => problem.response(),
            Err(Refusal::Encoded) => {
                let detail = "no request has a body: leave out Transfer-Encoding";
                let mut response = Problem::new(Kind::Usage, detail).response();
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                response
            }
            Err(Refusal::Method(problem, allowed)) => {
                let mut response = problem.response();
                if let Ok(value) = allowed.parse() {
                    response.headers_mut().insert(hyper::header::ALLOW, value);
                }
                response
            }
        }
    }

    async fn dispatch(&self, call: Call<'_>) -> Result<Response<Body>, Refusal> {
        if call.headers.contains_key(TRANSFER_ENCODING) {
            return Err(Refusal::Encoded);
        }
        let (route, name) = find(call.method, call.path)?;
        if *call.method == Method::POST {
            self.rights.check(call.peer).await?;
        }
        match route {
            Route::Status => Ok(json(StatusCode::OK, JSON, &self.handle.status().await)),
            Route::Workload => self.workload(&workload(name)?).await,
            Route::Events => Ok(self.events(&call)?),
            Route::Reconcile => self.reconcile(None).await,
            Route::ReconcileWorkload => self.reconcile(Some(workload(name)?)).await,
            Route::Activate => self.decide(workload(name)?, Event::Activate).await,
            Route::Confirm => self.decide(workload(name)?, Event::Confirm).await,
            Route::RollBack => self.decide(workload(name)?, Event::RollBack).await,
            Route::Retire => self.retire(call.query).await,
            Route::Gc => self.collect(call.query).await,
            Route::Fsck => self.fsck(call.query).await,
            Route::Metrics => self.metrics().await,
            Route::Health | Route::Ready => Ok(response(StatusCode::OK, "text/plain", "ok\n")),
            Route::OpenApi => Ok(response(StatusCode::OK, JSON, OPENAPI)),
        }
    }

    async fn workload(&self, name: &WorkloadName) -> Result<Response<Body>, Refusal> {
        let status = self.handle.status().await;
        match status.workloads.get(name) {
            Some(status) => Ok(json(StatusCode::OK, JSON, status)),
            None => Err(Problem::new(Kind::UnknownWorkload, format!("there is no workload {name}")).into()),
        }
    }

    async fn metrics(&self) -> Result<Response<Body>, Refusal> {
        let text = metrics::text(&self.handle.status().await);
        let text = text.map_err(|error| Failure::internal(format!("the metrics could not be written: {error}")))?;
        Ok(response(StatusCode::OK, metrics::TEXT, text))
    }

    /// Has the agent do what a person decided, and shows what has come of it so far.
    async fn decide(&self, name: WorkloadName, event: fn(WorkloadName) -> Event) -> Result<Response<Body>, Refusal> {
        self.handle.ask(event(name.clone())).await?;
        self.workload(&name).await
    }

    fn events(&self, call: &Call<'_>) -> Result<Response<Body>, Problem> {
        let Some(streaming) = call.connection.streaming() else {
            let detail = "too many clients follow the events: end some, or ask for the status";
            return Err(Problem::new(Kind::RateLimited, detail));
        };
        stream_events(&self.handle, call.headers, self.shutdown.clone(), streaming)
    }

    async fn reconcile(&self, workload: Option<WorkloadName>) -> Result<Response<Body>, Refusal> {
        // Only workloads that exist are remembered, so that made-up names cost no memory.
        if let Some(name) = workload.as_ref().filter(|name| !self.handle.has_workload(name)) {
            return Err(Reject::UnknownWorkload(name.clone()).into());
        }
        self.reconciles.run(workload.clone(), || self.handle.reconcile(workload.clone())).await?;
        Ok(json(StatusCode::ACCEPTED, JSON, &serde_json::json!({})))
    }

    /// Retires at once what the desired-state file, as it is now, does not name. The query may say which file that has
    /// to be.
    async fn retire(&self, query: Option<&str>) -> Result<Response<Body>, Refusal> {
        let expected = expected_digest(query)?;
        let read = self.handle.read_desired().await?;
        self.handle.ask(Event::Retire(expected.unwrap_or(read))).await?;
        Ok(json(StatusCode::ACCEPTED, JSON, &serde_json::json!({})))
    }

    async fn collect(&self, query: Option<&str>) -> Result<Response<Body>, Refusal> {
        let report = self.handle.collect(switch(query, "dry-run")?).await.map_err(Failure::from)?;
        Ok(json(StatusCode::OK, JSON, &report))
    }

    async fn fsck(&self, query: Option<&str>) -> Result<Response<Body>, Refusal> {
        let order = FsckOrder { repair: switch(query, "repair")?, pace: Pace::Fast };
        Ok(json(StatusCode::OK, JSON, &self.handle.fsck(order).await?))
    }
}

/// Whether a query asks for the one thing that it may ask for.
fn switch(query: Option<&str>, name: &str) -> Result<bool, Problem> {
    match query.map(|query| query.split_once('=')) {
        None => Ok(false),
        Some(Some((asked, value))) if asked == name && matches!(value, "true" | "false") => Ok(value == "true"),
        Some(_) => Err(Problem::new(Kind::Usage, format!("the query may be {name}=true"))),
    }
}

/// The digest in a query that may be `sha256=sha256:HEX`.
fn expected_digest(query: Option<&str>) -> Result<Option<Digest>, Problem> {
    let wrong =
        || Problem::new(Kind::Usage, "the query may be sha256=sha256:HEX, the digest of the desired-state file");
    let digest = |query: &str| query.strip_prefix("sha256=").and_then(|digest| digest.parse().ok()).ok_or_else(wrong);
    query.map(digest).transpose()
}

enum Refusal {
    Problem(Problem),
    /// The method is not one of the route's, which are named.
    Method(Problem, String),
    /// A body of unknown length. With a Content-Length beside it, which hyper hides, a proxy may see another request.
    Encoded,
}

impl<P: Into<Problem>> From<P> for Refusal {
    fn from(problem: P) -> Self {
        Self::Problem(problem.into())
    }
}

fn workload(name: Option<&str>) -> Result<WorkloadName, Problem> {
    let name = name.unwrap_or_default();
    name.parse().map_err(|error: crate::desired::WorkloadNameError| Problem::new(Kind::Usage, error.to_string()))
}

/// The route of a request, and the workload in its path.
fn find<'a>(method: &Method, path: &'a str) -> Result<(Route, Option<&'a str>), Refusal> {
    let matching: Vec<_> = ROUTES
        .iter()
        .filter_map(|(allowed, template, route)| Some((allowed, *route, matches(template, path)?)))
        .collect();
    if matching.is_empty() {
        return Err(Problem::new(Kind::NotFound, format!("there is nothing at {}", shortened(path))).into());
    }
    // HEAD is GET without the body, which hyper leaves out.
    let wanted = if *method == Method::HEAD { &Method::GET } else { method };
    if let Some((_, route, name)) = matching.iter().find(|(allowed, ..)| *allowed == wanted) {
        return Ok((*route, *name));
    }
    let allowed: Vec<_> = matching.iter().map(|(allowed, ..)| with_head(allowed)).collect();
    let allowed = allowed.join(", ");
    let detail = format!("{} takes {allowed} only", shortened(path));
    Err(Refusal::Method(Problem::with(StatusCode::METHOD_NOT_ALLOWED, Kind::Usage, detail), allowed))
}

/// A method as it stands in `Allow`: whoever may GET may HEAD.
fn with_head(method: &Method) -> &str {
    if *method == Method::GET { "GET, HEAD" } else { method.as_str() }
}

/// A path as far as an answer repeats it.
fn shortened(path: &str) -> String {
    path.chars().take(LONGEST_ECHO).collect()
}

/// The name in `path`, if it has the shape of `template`; none inside where the template has none.
#[allow(clippy::option_option, reason = "whether it matches, and whether there is a name")]
fn matches<'a>(template: &str, path: &'a str) -> Option<Option<&'a str>> {
    let mut name = None;
    let (mut wanted, mut found) = (template.split('/'), path.split('/'));
    loop {
        match (wanted.next(), found.next()) {
            (None, None) => return Some(name),
            (Some("{name}"), Some(part)) => name = Some(part),
            (Some(wanted), Some(part)) if wanted == part => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{EventName, Phase};
    use std::collections::BTreeSet;

    #[test]
    fn the_document_has_the_routes_and_no_others() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let documented: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| {
                item.as_object().unwrap().keys().map(move |method| (method.to_uppercase(), path.clone()))
            })
            .filter(|(method, _)| method != "PARAMETERS")
            .collect();
        let served = ROUTES.iter().map(|(method, path, _)| (method.to_string(), (*path).to_owned())).collect();
        assert_eq!(documented, served);
    }

    #[test]
    fn the_document_has_the_phases_and_no_others() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let phases = serde_json::to_value(Phase::ALL).unwrap();
        assert_eq!(document["components"]["schemas"]["Phase"]["enum"], phases);
    }

    #[test]
    fn the_document_has_the_event_names_and_no_others() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let names = serde_json::to_value(EventName::ALL).unwrap();
        assert_eq!(document["components"]["schemas"]["Event"]["properties"]["event"]["enum"], names);
        assert_eq!(names, serde_json::to_value(EventName::ALL.map(EventName::as_str)).unwrap());
    }

    #[test]
    fn paths_lead_to_routes() {
        let at = |method: Method, path| find(&method, path).ok().map(|(route, name)| (route, name.map(str::to_owned)));
        assert_eq!(at(Method::GET, "/v1/status"), Some((Route::Status, None)));
        assert_eq!(at(Method::HEAD, "/healthz"), Some((Route::Health, None)));
        assert_eq!(
            at(Method::POST, "/v1/workloads/router/reconcile"),
            Some((Route::ReconcileWorkload, Some("router".into())))
        );
        assert_eq!(at(Method::GET, "/v1/workloads/a/b/c"), None);
        assert!(matches!(find(&Method::DELETE, "/v1/status"), Err(Refusal::Method(..))));
        assert!(matches!(find(&Method::GET, "/"), Err(Refusal::Problem(_))));
    }
}
