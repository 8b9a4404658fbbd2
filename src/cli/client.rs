//! Talking to the agent over its socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::sleep;

use super::denied::access_advice;
use crate::agent::EntryId;
use crate::api::Problem;
use crate::failure::{Classify, Kind, Retry, full_text};
use crate::registry::EXCHANGE_TARGET;
use crate::wording::without_error_numbers;

/// No answer of the agent is larger.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// How long to wait for an answer. Where systemd holds the socket, a connection may wait for the agent's restart, which
/// comes 5 s after its end.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The time to wait for a status. With what the command does else, a hung agent is told within 3 s.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// The time between two attempts to connect while the queue of the socket is full.
const CONNECT_PAUSE: Duration = Duration::from_millis(50);

/// The agent behind a socket.
pub(super) struct Client {
    socket: PathBuf,
    timeout: Duration,
}

/// Why the agent gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Nobody listens.
    #[error(
        "no agent answers on {} ({}): is eci-agent.service running? (use --socket for another path)",
        .socket.display(),
        cause(.error)
    )]
    Absent { socket: PathBuf, error: io::Error },
    /// The socket is for others.
    #[error("permission denied on {}: {}", .0.display(), access_advice(.0))]
    Forbidden(PathBuf),
    /// The connection failed half way.
    #[error("the agent on {} does not answer", .socket.display())]
    Broken {
        socket: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It listens and says nothing.
    #[error("the agent on {} has not answered for {} s", .socket.display(), .after.as_secs())]
    Silent { socket: PathBuf, after: Duration },
    /// The agent refused.
    #[error("{}", .0.detail)]
    Refused(Problem),
}

/// The reason that no connection came about.
fn cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        _ => without_error_numbers(&error.to_string()).into_owned(),
    }
}

impl Classify for ClientError {
    fn kind(&self) -> Kind {
        match self {
            Self::Absent { .. } | Self::Broken { .. } => Kind::AgentUnreachable,
            Self::Silent { .. } => Kind::Timeout,
            Self::Forbidden(_) => Kind::Forbidden,
            Self::Refused(problem) => problem.kind,
        }
    }

    fn retry(&self) -> Retry {
        Retry::Later
    }
}

impl Client {
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), timeout: ANSWER_TIMEOUT }
    }

    /// A client that shows a status: an operator who looks is told soon of an agent that hangs.
    pub(super) fn for_status(socket: &Path) -> Self {
        Self { timeout: STATUS_TIMEOUT, ..Self::new(socket) }
    }

    /// Sends a request; the answer is one that succeeded.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        last_event: Option<EntryId>,
    ) -> Result<Response<Incoming>, ClientError> {
        self.in_time(self.exchange(method, path, last_event)).await
    }

    /// Connects; waits if more clients than the kernel keeps in its queue are there already.
    async fn connect(&self) -> Result<UnixStream, ClientError> {
        loop {
            match UnixStream::connect(&self.socket).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(CONNECT_PAUSE).await,
                connected => return connected.map_err(|error| self.no_connection(error)),
            }
        }
    }

    /// Logs the decision to work on the state directory, because no agent answers.
    pub(super) fn note_absent(&self, state_dir: &Path) {
        let (socket, dir) = (self.socket.display(), state_dir.display());
        tracing::debug!("no agent answers on {socket}; going on with the state directory {dir}");
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        last_event: Option<EntryId>,
    ) -> Result<Response<Incoming>, ClientError> {
        let (socket, started) = (self.socket.display(), Instant::now());
        tracing::debug!(target: EXCHANGE_TARGET, "request {method} {path} on {socket}");
        let answer = self.exchange_once(method.clone(), path, last_event).await;
        let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match &answer {
            Ok(answer) => {
                let status = answer.status().as_u16();
                tracing::debug!(target: EXCHANGE_TARGET, ms, "answer {status} to {method} {path} on {socket}");
            }
            Err(error) => {
                let error = full_text(error);
                tracing::debug!(target: EXCHANGE_TARGET, ms, "no good answer to {method} {path} on {socket}: {error}");
            }
        }
        answer
    }

    async fn exchange_once(
        &self,
        method: Method,
        path: &str,
        last_event: Option<EntryId>,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = self.in_time(self.connect()).await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(error))?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(HOST, "localhost");
        if let Some(id) = last_event {
            request = request.header("last-event-id", id.to_string());
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| self.broken(error))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = self.read(response).await?;
        Err(match serde_json::from_slice(&bytes) {
            Ok(problem) => ClientError::Refused(problem),
            Err(_) => self.broken(format!("it answers {status}")),
        })
    }

    /// A JSON document.
    pub(super) async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path).await
    }

    /// The JSON document that another method brings.
    pub(super) async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> Result<T, ClientError> {
        self.in_time(self.wait_for(method, path)).await
    }

    /// The same of what takes as long as it takes.
    pub(super) async fn wait_for<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> Result<T, ClientError> {
        let response = self.exchange(method, path, None).await?;
        let bytes = self.read(response).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.broken(error))
    }

    async fn in_time<T>(&self, answer: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        let silent = |_| ClientError::Silent { socket: self.socket.clone(), after: self.timeout };
        tokio::time::timeout(self.timeout, answer).await.map_err(silent)?
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        body.map(http_body_util::Collected::to_bytes)
            .map_err(|source| ClientError::Broken { socket: self.socket.clone(), source })
    }

    fn no_connection(&self, source: io::Error) -> ClientError {
        match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Forbidden(self.socket.clone()),
            _ => ClientError::Absent { socket: self.socket.clone(), error: source },
        }
    }

    pub(super) fn broken(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), source: source.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;
    use tokio::net::UnixListener;

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_is_not_an_absent_agent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let socket = tokio::net::UnixSocket::new_stream().unwrap();
        socket.bind(&path).unwrap();
        let _listener = socket.listen(1).unwrap();
        let mut waiting = Vec::new();
        let full = loop {
            match UnixStream::connect(&path).await {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let error = Client::new(&path).get::<serde_json::Value>("/v1/status").await.unwrap_err();
        assert!(matches!(error, ClientError::Silent { .. }), "{error}");
        let absent = Client::new(&dir.path().join("none")).get::<serde_json::Value>("/v1/status").await.unwrap_err();
        assert!(matches!(absent, ClientError::Absent { .. }), "{absent}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_says_nothing_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let client = Client::new(&path);
        let begun = tokio::time::Instant::now();
        let soon = Client::for_status(&path).get::<serde_json::Value>("/v1/status").await.unwrap_err();
        assert!(matches!(soon, ClientError::Silent { .. }) && begun.elapsed() < Duration::from_secs(3), "{soon}");
        let sent = client.send(Method::POST, "/v1/reconcile", None).await.map(|_| ());
        let got = client.get::<serde_json::Value>("/v1/status").await.map(|_| ());
        for answer in [sent, got] {
            let failure = Failure::from(answer.unwrap_err());
            assert_eq!((failure.kind, failure.kind.exit_code()), (Kind::Timeout, 75), "{failure}");
        }
    }
}
