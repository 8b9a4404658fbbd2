//! A proxy between a node and a registry: HTTP (with `CONNECT`) and SOCKS5 on one port, told apart by the first byte; with
//! TLS around it where that is wanted.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// It runs until the test's runtime ends.
pub struct Proxy {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    heads: Arc<Mutex<String>>,
}

impl Proxy {
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Reached by HTTPS.
    pub async fn start_secure(acceptor: TlsAcceptor) -> Self {
        Self::start_with(Some(acceptor)).await
    }

    async fn start_with(acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy =
            Self { address: listener.local_addr().unwrap(), connections: Arc::default(), heads: Arc::default() };
        let (connections, heads) = (Arc::clone(&proxy.connections), Arc::clone(&proxy.heads));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                connections.fetch_add(1, SeqCst);
                let (heads, acceptor) = (Arc::clone(&heads), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        Some(acceptor) => http(acceptor.accept(client).await.ok()?, heads).await,
                        None => serve(client, heads).await,
                    }
                });
            }
        });
        proxy
    }

    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    /// The heads of HTTP requests to the proxy itself.
    pub fn heads(&self) -> String {
        self.heads.lock().unwrap().clone()
    }
}

async fn serve(client: TcpStream, heads: Arc<Mutex<String>>) -> Option<()> {
    let mut first = [0];
    client.peek(&mut first).await.ok()?;
    if first == [5] { socks(client, heads).await } else { http(client, heads).await }
}

async fn http(mut client: impl AsyncRead + AsyncWrite + Unpin, heads: Arc<Mutex<String>>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    heads.lock().unwrap().push_str(&text);
    let target = text.split(' ').nth(1)?;
    let mut server = if text.starts_with("CONNECT ") {
        let server = TcpStream::connect(target).await.ok()?;
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
        server
    } else {
        let host = target.strip_prefix("http://")?.split('/').next()?;
        let mut server = TcpStream::connect(host).await.ok()?;
        server.write_all(&head).await.ok()?;
        server
    };
    copy_bidirectional(&mut client, &mut server).await.ok()?;
    Some(())
}

/// RFC 1928, and RFC 1929 where the client has a name and a password, which are taken as a head.
async fn socks(mut client: TcpStream, heads: Arc<Mutex<String>>) -> Option<()> {
    let [_, count] = read(&mut client).await?;
    let methods = counted(&mut client, count).await?;
    let method = if methods.contains(&2) { 2 } else { 0 };
    client.write_all(&[5, method]).await.ok()?;
    if method == 2 {
        client.read_u8().await.ok()?;
        for _ in 0..2 {
            let length = client.read_u8().await.ok()?;
            let text = counted(&mut client, length).await?;
            heads.lock().unwrap().push_str(&format!("{} ", String::from_utf8_lossy(&text)));
        }
        client.write_all(&[1, 0]).await.ok()?;
    }
    let [_, _, _, kind] = read(&mut client).await?;
    let host = match kind {
        1 => std::net::Ipv4Addr::from(read::<4>(&mut client).await?).to_string(),
        _ => {
            let length = client.read_u8().await.ok()?;
            String::from_utf8(counted(&mut client, length).await?).ok()?
        }
    };
    let port = client.read_u16().await.ok()?;
    let mut server = TcpStream::connect((host, port)).await.ok()?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.ok()?;
    copy_bidirectional(&mut client, &mut server).await.ok()?;
    Some(())
}

async fn read<const COUNT: usize>(client: &mut TcpStream) -> Option<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    client.read_exact(&mut bytes).await.ok()?;
    Some(bytes)
}

async fn counted(client: &mut TcpStream, count: u8) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::from(count)];
    client.read_exact(&mut bytes).await.ok()?;
    Some(bytes)
}
