//! A read-only distribution API over an OCI image layout, for a workstation, a test bench or an edge site of its own.
//!
//! Every repository name leads to the one layout; tags are told apart by the names in its index, which is read anew for
//! each request. Nothing is kept in memory but the pieces that are on their way.

mod content;
mod range;
mod reply;
mod route;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::failure::{Classify, Kind, Retry};
use crate::oci::LayoutReference;
use crate::registry::{LayoutSource, RegistryError};
use crate::write_timeout::WriteTimeout;
use content::Content;

pub use range::Wanted;

/// As many clients as are served at a time; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 256;
/// How long a client may take to say what it wants, the time between two requests included.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take nothing of an answer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long answers that are on their way may take once the server is to end.
const DRAIN: Duration = Duration::from_secs(3);
/// How long nothing is accepted after a failure to accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A server that has its address, and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    layout: LayoutSource,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The directory is no layout.
    #[error(transparent)]
    Layout(#[from] RegistryError),
    /// The address cannot be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Classify for ServeError {
    fn kind(&self) -> Kind {
        match self {
            Self::Layout(error) => error.kind(),
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Kind::Forbidden,
            Self::Listen { .. } => Kind::Io,
        }
    }

    fn retry(&self) -> Retry {
        Retry::Later
    }
}

impl Server {
    /// Takes `address` for the layout in `dir`. Port 0 gives a free one.
    pub async fn bind(dir: &Path, address: SocketAddr) -> Result<Self, ServeError> {
        let layout =
            LayoutSource::new(LayoutReference { dir: PathBuf::from(dir), repository: None, tag: None, digest: None });
        layout.index().await?;
        let listen = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Self { listener, address, layout })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is done, and then for as long as answers under way take, but not for long.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let content = Arc::new(Content::new(self.layout));
        let (stop, stopping) = watch::channel(false);
        let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let next = async {
                let seat = Arc::clone(&seats).acquire_owned().await;
                (seat, self.listener.accept().await)
            };
            tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                (seat, accepted) = next => match accepted {
                    Ok((stream, peer)) => {
                        tracing::debug!(%peer, "connected");
                        let (content, stopping) = (Arc::clone(&content), stopping.clone());
                        connections.spawn(async move {
                            let _seat = seat;
                            converse(stream, content, stopping).await;
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(self.listener);
        let _ = stop.send(true);
        let drained = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(DRAIN, drained).await;
    }
}

/// Answers one client's requests until it leaves or stops reading, or until the server stops and the answer under way is out.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    content: Arc<Content>,
    mut stopping: watch::Receiver<bool>,
) {
    let service = service_fn(|request| {
        let content = Arc::clone(&content);
        async move { Ok::<_, Infallible>(content.answer(&request).await) }
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(WriteTimeout::new(stream, IDLE_TIMEOUT)), service)
    );
    let stop = async {
        let _ = stopping.wait_for(|stop| *stop).await;
    };
    // A client that breaks off is its own affair.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stop => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Disk, Image, Silent, pull, push};
    use super::*;
    use crate::config::Settings;
    use crate::eci::DiskFormat;
    use crate::oci::Platform;

    #[tokio::test]
    async fn it_runs_as_a_task_of_another_program() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, out) = (dir.path().join("layout"), dir.path().join("out"));
        assert!(matches!(Server::bind(dir.path(), ([127, 0, 0, 1], 0).into()).await, Err(ServeError::Layout(_))));
        let root = dir.path().join("root.raw");
        std::fs::write(&root, "root").unwrap();
        let image = Image { root: Some(Disk { path: root, format: DiskFormat::Raw }), ..Image::default() };
        let target = format!("oci:{}:v1", layout.display()).parse().unwrap();
        tokio::spawn(async move { push(&Settings::default(), &target, &image, &[], &Silent).await })
            .await
            .unwrap()
            .unwrap();

        let server = Server::bind(&layout, ([127, 0, 0, 1], 0).into()).await.unwrap();
        let reference = format!("{}/edge/nginx:v1", server.local_addr()).parse().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(server.run(async { drop(stopped.await) }));
        let place = out.clone();
        let pulling =
            async move { pull(&Settings::default(), &reference, &Platform::host(), &place, false, &Silent).await };
        tokio::spawn(pulling).await.unwrap().unwrap();
        assert_eq!(std::fs::read(out.join("disk-root-root.raw")).unwrap(), b"root");
        drop(stop);
        serving.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_reading_loses_its_seat() {
        let dir = tempfile::tempdir().unwrap();
        let blob = crate::oci::Digest::of(b"x");
        std::fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        std::fs::write(dir.path().join("blobs/sha256").join(blob.hex()), vec![0; 1 << 20]).unwrap();
        let layout = LayoutSource::new(LayoutReference {
            dir: dir.path().to_owned(),
            repository: None,
            tag: None,
            digest: None,
        });
        let (_stop, stopping) = watch::channel(false);
        let (near, mut far) = tokio::io::duplex(1000);
        let request = format!("GET /v2/a/blobs/{blob} HTTP/1.1\r\nHost: x\r\n\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut far, request.as_bytes()).await.unwrap();
        converse(near, Arc::new(Content::new(layout)), stopping).await;
        // All that went out before is there to be read.
        let mut answer = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut far, &mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.len() == 1000, "{answer:?}");
    }
}
