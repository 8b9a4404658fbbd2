//! Connections: accepted, bounded, drained.

use std::convert::Infallible;
use std::future::Future;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::body::Body;
use super::coalesce::Coalesce;
use super::connections::{Connection, Connections};
use super::peer::Peer;
use super::problem::PROBLEM_JSON;
use super::routes::{Api, Call};
use super::{Listener, Problem};
use crate::agent::Handle;
use crate::failure::Kind;
use crate::write_timeout::WriteTimeout;

/// How long a client may take to send a request's head, and how long it may rest between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for which a client may take no byte of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Reconciles of one workload, or of all workloads, are at least this far apart, however often clients ask.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(1);
/// The longest head of a request.
const MAX_HEAD: usize = 64 * 1024;
/// How long to rest when accepting fails, which it does while descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often to say so: descriptors may be short for long.
const ACCEPT_REMINDER: Duration = Duration::from_secs(60);

/// Serves until `shutdown`, then lets running requests end.
pub async fn serve(listener: Listener, handle: Handle, shutdown: CancellationToken) {
    let api = Arc::new(Api {
        handle,
        rights: listener.rights.clone(),
        reconciles: Coalesce::new(RECONCILE_INTERVAL),
        shutdown: shutdown.clone(),
    });
    let connections = Connections::default();
    let mut tasks = JoinSet::new();
    let mut said: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.socket.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        while tasks.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                // A client that has gone has no peer.
                let Ok(peer) = Peer::of(&stream) else { continue };
                match connections.admit(peer.uid()) {
                    Some(connection) => {
                        tasks.spawn(serve_connection(stream, peer, connection, Arc::clone(&api)));
                    }
                    None => refuse(stream),
                }
            }
            Err(error) => {
                if said.is_none_or(|at| at.elapsed() > ACCEPT_REMINDER) {
                    said = Some(Instant::now());
                    tracing::warn!(%error, "a connection could not be accepted; it is tried again");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

/// Tells a client that too many requests are being answered. The answer fits into the buffer of a new socket.
fn refuse(stream: UnixStream) {
    let problem = Problem::new(Kind::RateLimited, "too many requests are being answered: ask again later");
    let body = serde_json::to_string(&problem).unwrap_or_default();
    let (title, length) = (&problem.title, body.len());
    let head = format!("HTTP/1.1 {} {title}\r\ncontent-type: {PROBLEM_JSON}\r\n", problem.status);
    let answer = format!("{head}content-length: {length}\r\nconnection: close\r\n\r\n{body}");
    // A client that has gone needs no answer. Its request is taken: closing with unread bytes would reset the connection.
    let _ = stream.into_std().and_then(|mut stream| {
        stream.write_all(answer.as_bytes())?;
        stream.read(&mut [0; 4096])
    });
}

async fn serve_connection(stream: UnixStream, peer: Peer, connection: Connection, api: Arc<Api>) {
    let stop = api.shutdown.clone();
    let (peer, connection) = (Arc::new(peer), Arc::new(connection));
    let own = Arc::clone(&connection);
    let answer = move |request: Request<Incoming>| {
        let (api, peer, connection) = (Arc::clone(&api), Arc::clone(&peer), Arc::clone(&own));
        async move {
            let _answering = connection.answering();
            let call = Call {
                method: request.method(),
                path: request.uri().path(),
                query: request.uri().query(),
                headers: request.headers(),
                peer: &peer,
                connection: &connection,
            };
            api.answer(call).await
        }
    };
    converse(stream, answer, stop, &connection).await;
}

/// Answers one request after another until the client goes or is too slow, `counted` is closed, or until `stop`.
async fn converse<F>(
    stream: UnixStream,
    answer: impl Fn(Request<Incoming>) -> F,
    stop: CancellationToken,
    counted: &Connection,
) where
    F: Future<Output = Response<Body>>,
{
    let service = service_fn(|request| {
        let answered = answer(request);
        async { Ok::<_, Infallible>(answered.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(WriteTimeout::new(stream, WRITE_TIMEOUT)), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = counted.closed() => Ok(()),
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended badly");
    }
}

#[cfg(test)]
mod tests {
    use super::super::body::response;
    use super::*;
    use hyper::StatusCode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    /// A client's end of a connection whose requests are all answered with "ok".
    fn connected(stop: &CancellationToken) -> UnixStream {
        let (client, server) = UnixStream::pair().unwrap();
        let ok = |_| async { response(StatusCode::OK, "text/plain", "ok") };
        let stop = stop.clone();
        tokio::spawn(async move {
            let counted = Connections::default().admit(nix::unistd::getuid()).unwrap();
            converse(server, ok, stop, &counted).await;
        });
        client
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_slow_to_ask_is_cut() {
        let stop = CancellationToken::new();
        for begun in ["", "GET / HTTP/1.1\r\nHo"] {
            let mut client = connected(&stop);
            client.write_all(begun.as_bytes()).await.unwrap();
            let since = Instant::now();
            client.read_to_end(&mut Vec::new()).await.unwrap();
            assert!((HEAD_TIMEOUT..HEAD_TIMEOUT * 2).contains(&since.elapsed()), "{begun:?}: {:?}", since.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_rests_between_requests_is_cut() {
        let stop = CancellationToken::new();
        let mut client = connected(&stop);
        client.write_all(REQUEST).await.unwrap();
        let since = Instant::now();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("ok") && since.elapsed() < HEAD_TIMEOUT * 2, "{answer}");
    }

    #[tokio::test]
    async fn refused_client_is_told_so() {
        let (mut client, server) = UnixStream::pair().unwrap();
        client.write_all(REQUEST).await.unwrap();
        refuse(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
        assert!(answer.contains("application/problem+json") && answer.contains("\"rate-limited\""), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_never_reads_is_cut() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let large = |_| async { response(StatusCode::OK, "text/plain", vec![b'x'; 1 << 20]) };
        let counted = Connections::default().admit(nix::unistd::getuid()).unwrap();
        client.write_all(REQUEST).await.unwrap();
        let since = Instant::now();
        converse(server, large, CancellationToken::new(), &counted).await;
        assert!((WRITE_TIMEOUT..WRITE_TIMEOUT * 2).contains(&since.elapsed()), "{:?}", since.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_ask_for_nothing_do_not_hold_up_the_end() {
        let stop = CancellationToken::new();
        let mut clients = [connected(&stop), connected(&stop)];
        clients[1].write_all(REQUEST).await.unwrap();
        let mut answer = [0; 1024];
        assert!(clients[1].read(&mut answer).await.unwrap() > 0);
        // The clock is paused: it moves once there is nothing else to do.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let since = Instant::now();
        stop.cancel();
        for client in &mut clients {
            client.read_to_end(&mut Vec::new()).await.unwrap();
        }
        assert!(since.elapsed().is_zero(), "{:?}", since.elapsed());
    }
}
