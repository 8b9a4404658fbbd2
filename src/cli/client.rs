//! Talking to the agent over its socket.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::api::Problem;
use crate::failure::{Classify, Failure, Kind, Retry};

/// No answer of the agent is larger.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// The agent behind a socket.
pub(super) struct Client {
    socket: PathBuf,
}

/// Why the agent gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Nobody listens.
    #[error("no agent answers on {} (is it running? another socket is named with --socket)", .socket.display())]
    Absent {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The socket is for others.
    #[error("the socket {} may not be opened (become a member of its group)", .0.display())]
    Forbidden(PathBuf),
    /// The connection failed half way.
    #[error("the agent on {} does not answer", .socket.display())]
    Broken {
        socket: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The agent refused.
    #[error("{}", .0.detail)]
    Refused(Problem),
}

impl Classify for ClientError {
    fn kind(&self) -> Kind {
        match self {
            Self::Absent { .. } | Self::Broken { .. } => Kind::AgentUnreachable,
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
        Self { socket: socket.to_owned() }
    }

    /// Sends a request; the answer is one that succeeded.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        last_event: Option<&str>,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.no_connection(error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(error))?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(HOST, "localhost");
        if let Some(id) = last_event {
            request = request.header("last-event-id", id);
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
        let response = self.send(Method::GET, path, None).await?;
        let bytes = self.read(response).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.broken(error))
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        body.map(http_body_util::Collected::to_bytes)
            .map_err(|source| ClientError::Broken { socket: self.socket.clone(), source })
    }

    fn no_connection(&self, source: io::Error) -> ClientError {
        match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Forbidden(self.socket.clone()),
            _ => ClientError::Absent { socket: self.socket.clone(), source },
        }
    }

    pub(super) fn broken(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), source: source.into() }
    }
}

/// The name of a workload as it stands in a path. It needs no escaping, once it is checked.
pub(super) fn workload(name: &str) -> Result<crate::desired::WorkloadName, Failure> {
    name.parse().map_err(|error: crate::desired::WorkloadNameError| Failure::usage(error.to_string()))
}
