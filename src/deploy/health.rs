//! Whether what runs is healthy: one look at it. When to look, and what follows, is decided elsewhere.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::hook::{HookError, Output, ending, run_hook};
use crate::config::{Address, CheckSettings, HttpTarget};
use crate::desired::WorkloadName;
use crate::wording::without_error_numbers;

/// So many names are looked up at a time: each look-up keeps one of the few threads that all that blocks shares.
static LOOKUPS: Semaphore = Semaphore::const_new(2);
/// The longest line of a program that is repeated, in characters.
const MAX_LINE: usize = 200;

/// How a workload is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check(CheckSettings);

/// Why something is not healthy, in a few words for a person. It is what was found, and no failure of the agent's.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Nobody listens.
    #[error("{}", short(.0))]
    Connect(#[source] io::Error),
    /// The answer is no HTTP.
    #[error("no answer in HTTP")]
    Protocol(#[source] hyper::Error),
    /// The answer's status is neither 2xx nor 3xx.
    #[error("HTTP {}", .0.as_u16())]
    Status(StatusCode),
    /// The program ended with another status than 0.
    #[error("{ending}{}", last_line(.output))]
    Ended {
        /// How it ended.
        ending: String,
        /// What it said.
        output: Output,
    },
    /// There was no answer in this time.
    #[error("no answer after {0:?}")]
    TimedOut(Duration),
    /// The program cannot be run.
    #[error("cannot run {program}: {}", short(.source))]
    CannotRun {
        /// The program.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Check {
    /// The check that is written down so, of one workload.
    pub fn new(settings: &CheckSettings, workload: &WorkloadName) -> Self {
        Self(settings.of_workload(workload.as_str()))
    }
}

/// Looks once, for no longer than `timeout`. A program has the environment that [`run_hook`] gives it.
pub async fn check(check: &Check, environment: &[(&str, String)], timeout: Duration) -> Result<(), CheckError> {
    let looked = match &check.0 {
        CheckSettings::Command(argv) => return run(argv, environment, timeout).await,
        CheckSettings::Unit(unit) => {
            let argv = ["systemctl", "is-active", "--", unit].map(str::to_owned);
            return run(&argv, environment, timeout).await;
        }
        CheckSettings::Tcp(address) => tokio::time::timeout(timeout, async { connect(address).await.map(drop) }).await,
        CheckSettings::Http(target) => tokio::time::timeout(timeout, ask(target)).await,
    };
    looked.unwrap_or(Err(CheckError::TimedOut(timeout)))
}

async fn run(argv: &[String], environment: &[(&str, String)], timeout: Duration) -> Result<(), CheckError> {
    match run_hook(argv, environment, timeout).await {
        Ok(_) => Ok(()),
        Err(HookError::Failed { status, output, .. }) => Err(CheckError::Ended { ending: ending(status), output }),
        Err(HookError::TimedOut { timeout, .. }) => Err(CheckError::TimedOut(timeout)),
        Err(HookError::CannotRun { program, source }) => Err(CheckError::CannotRun { program, source }),
    }
}

async fn connect(address: &Address) -> Result<TcpStream, CheckError> {
    let (host, port) = (address.host.clone(), address.port);
    if let Ok(ip) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return TcpStream::connect((ip, port)).await.map_err(CheckError::Connect);
    }
    // It is never closed.
    let place = LOOKUPS.acquire().await;
    // A look-up cannot be ended: it goes on for as long as name servers are silent, whoever has stopped waiting, and keeps
    // its place for so long.
    let found = tokio::spawn(async move {
        let found = tokio::net::lookup_host((host.as_str(), port)).await.map(Iterator::collect::<Vec<_>>);
        drop(place);
        found
    });
    let found = found.await.map_err(io::Error::other).and_then(|found| found).map_err(CheckError::Connect)?;
    TcpStream::connect(found.as_slice()).await.map_err(CheckError::Connect)
}

async fn ask(target: &HttpTarget) -> Result<(), CheckError> {
    let stream = connect(&target.address).await?;
    // Nothing but the head is read, and of that no more than hyper's limit of some 400 KiB.
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(CheckError::Protocol)?;
    let mut request = Request::new(Empty::<Bytes>::new());
    // Both were looked at when the configuration was read.
    *request.uri_mut() = parsed(&target.path)?;
    let headers = request.headers_mut();
    headers.insert(HOST, parsed(&target.address.to_string())?);
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("eci-agent/", env!("CARGO_PKG_VERSION"))));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let mut answer = std::pin::pin!(sender.send_request(request));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // It may have ended with the answer.
        _ = connection => answer.await,
    };
    let status = answer.map_err(CheckError::Protocol)?.status();
    if status.is_success() || status.is_redirection() { Ok(()) } else { Err(CheckError::Status(status)) }
}

fn parsed<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(text: &str) -> Result<T, CheckError> {
    text.parse().map_err(|error| CheckError::Connect(io::Error::new(io::ErrorKind::InvalidInput, error)))
}

/// "connection refused" rather than "Connection refused (os error 111)".
fn short(error: &io::Error) -> String {
    match (error.raw_os_error(), error.kind()) {
        (Some(_), kind) if kind.to_string() != "uncategorized error" => kind.to_string(),
        _ => without_error_numbers(&error.to_string()).into_owned(),
    }
}

fn last_line(output: &Output) -> String {
    let Some(line) = output.last_line() else { return String::new() };
    let mut characters = line.chars();
    let kept: String = characters.by_ref().take(MAX_LINE).collect();
    format!(": {kept}{}", if characters.next().is_some() { "…" } else { "" })
}
