//! A wire between a client and a server that is cut once, in the midst of what the client sends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How much is passed on at once, in bytes.
const PIECE: usize = 16 * 1024;

/// The wire.
pub struct Cutter {
    address: SocketAddr,
    sent: Arc<AtomicU64>,
}

impl Cutter {
    /// A wire to `server`. The connection that carries the byte number `after` is cut there; others pass.
    pub async fn new(server: String, after: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cutter = Self { address: listener.local_addr().unwrap(), sent: Arc::default() };
        let sent = Arc::clone(&cutter.sent);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.unwrap();
                tokio::spawn(carry(client, server, Arc::clone(&sent), after));
            }
        });
        cutter
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// How many bytes clients have sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }
}

/// Ends, and closes both connections, when one of them does or when it is cut.
async fn carry(client: TcpStream, server: TcpStream, sent: Arc<AtomicU64>, after: u64) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let there = async {
        let mut piece = vec![0; PIECE];
        while let Ok(count @ 1..) = from_client.read(&mut piece).await {
            let before = sent.fetch_add(count as u64, Ordering::SeqCst);
            if before < after && before + count as u64 >= after {
                return;
            }
            if to_server.write_all(&piece[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = there => {}
        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
    }
}
