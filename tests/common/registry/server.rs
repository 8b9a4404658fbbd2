//! Sockets: a port that stays ours, the listener on it, and the connections, which end with the listener.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::service::Service;

/// The kernel's buffer for what a client has not taken yet: small, so that counts stay close to what it took.
const SEND_BUFFER: u32 = 256 << 10;

const BACKLOG: u32 = 1024;

/// A port on loopback that stays reserved while nobody listens on it: connections are refused then, and no other
/// process is given the port before we want it back.
pub struct Port {
    address: SocketAddr,
    _reservation: TcpSocket,
}

impl Port {
    pub fn reserve() -> io::Result<Self> {
        let socket = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        Ok(Self { address: socket.local_addr()?, _reservation: socket })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn listen(&self) -> io::Result<TcpListener> {
        let socket = bind(self.address)?;
        socket.set_send_buffer_size(SEND_BUFFER)?;
        socket.listen(BACKLOG)
    }
}

/// Sockets that may share a port as long as one of them listens at most: Linux grants that to `SO_REUSEADDR`.
fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// A registry that is up. Dropping it ends its tasks; [`Listening::stop`] also waits for that.
pub struct Listening {
    stop: oneshot::Sender<()>,
    accepting: JoinHandle<()>,
}

impl Listening {
    pub fn on(port: &Port, tls: Option<TlsAcceptor>, service: Arc<Service>) -> io::Result<Self> {
        let listener = port.listen()?;
        let (stop, stopped) = oneshot::channel();
        let accepting = tokio::spawn(accept(listener, tls, service, stopped));
        Ok(Self { stop, accepting })
    }

    pub async fn stop(self) {
        drop(self.stop);
        // An error would be a panic of the task, which has no connections left then either.
        let _ = self.accepting.await;
    }
}

/// Takes connections until the other end of `stopped` is gone; then cuts them all.
async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    service: Arc<Service>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Ok((stream, peer)) = listener.accept() => {
                connections.spawn(connection(stream, peer, tls.clone(), Arc::clone(&service)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn connection(stream: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>, service: Arc<Service>) {
    // Heads and pieces are flushed one by one: each has to leave at once.
    let _ = stream.set_nodelay(true);
    match tls {
        None => converse(stream, peer, service).await,
        Some(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                converse(stream, peer, service).await;
            }
        }
    }
}

async fn converse<S>(stream: S, peer: SocketAddr, service: Arc<Service>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let flushed = Arc::new(Notify::new());
    let wire = Wire { stream, flushed: Arc::clone(&flushed) };
    let service = service_fn(|request| Arc::clone(&service).serve(peer, Arc::clone(&flushed), request));
    // An error is a peer that left or a fault at work: either is what the test asked for.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(wire), service).await;
}

/// The stream of a connection, which tells whenever all that was written to it has been flushed.
struct Wire<S> {
    stream: S,
    flushed: Arc<Notify>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.flushed.notify_waiters();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
