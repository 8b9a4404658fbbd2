//! A client that hides nothing: one request a connection, and the answer as it came.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::Registry;

/// A request in the making.
pub struct Ask {
    head: String,
    body: Vec<u8>,
}

impl Ask {
    /// A request of method and URL, such as `GET /v2/`.
    pub fn new(what: &str) -> Self {
        Self { head: format!("{what} HTTP/1.1\r\nHost: registry\r\nConnection: close\r\n"), body: Vec::new() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.head += &format!("{name}: {value}\r\n");
        self
    }

    pub fn body(self, bytes: &[u8]) -> Self {
        Self { body: bytes.to_vec(), ..self }.header("Content-Length", &bytes.len().to_string())
    }

    /// Sends the request, and leaves the answer to be read.
    pub async fn open(self, registry: &Registry) -> TcpStream {
        let mut stream = TcpStream::connect(registry.address()).await.unwrap();
        self.write(&mut stream).await;
        stream
    }

    pub async fn send(self, registry: &Registry) -> Answer {
        self.send_over(TcpStream::connect(registry.address()).await.unwrap()).await
    }

    pub async fn send_over(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Answer {
        self.write(&mut stream).await;
        Answer::read(stream).await
    }

    async fn write(self, stream: &mut (impl AsyncWrite + Unpin)) {
        let request = [format!("{}\r\n", self.head).as_bytes(), &self.body].concat();
        stream.write_all(&request).await.unwrap();
        stream.flush().await.unwrap();
    }
}

/// All that came until the connection ended, in whichever way.
#[derive(Debug)]
pub struct Answer {
    head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub async fn read(mut stream: impl AsyncRead + Unpin) -> Self {
        let mut raw = Vec::new();
        let _ = stream.read_to_end(&mut raw).await;
        let end = raw.windows(4).position(|window| window == b"\r\n\r\n").map_or(raw.len(), |at| at + 4);
        let body = raw.split_off(end);
        Self { head: String::from_utf8(raw).unwrap(), body }
    }

    /// The status; 0 where nothing came at all.
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).map_or(0, |status| status.parse().unwrap())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Reads a head, and the first `length` bytes of body after it.
pub async fn read_body(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    body
}
