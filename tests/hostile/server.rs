//! A server that answers with any bytes, and counts what it is asked.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Longer than any case waits for a client that neither reads nor leaves.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server on loopback. Its threads wait for clients until the test run ends.
pub(super) struct Server {
    pub(super) host: String,
    heads: Arc<Mutex<Vec<String>>>,
    sent: Arc<AtomicU64>,
}

/// One answer on its way; the connection is closed after it.
pub(super) struct Answer {
    stream: TcpStream,
    sent: Arc<AtomicU64>,
}

impl Server {
    /// Has `answer` write to the connection for each head of a request.
    pub(super) fn start(answer: impl Fn(&str, &mut Answer) + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), answer)
    }

    /// The same on a socket that listens already.
    pub(super) fn on(listener: TcpListener, answer: impl Fn(&str, &mut Answer) + Send + Sync + 'static) -> Self {
        let host = listener.local_addr().unwrap().to_string();
        let (heads, sent) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
        let (answer, server) = (Arc::new(answer), Self { host, heads: Arc::clone(&heads), sent: Arc::clone(&sent) });
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, heads, sent) = (Arc::clone(&answer), Arc::clone(&heads), Arc::clone(&sent));
                std::thread::spawn(move || {
                    stream.set_write_timeout(Some(PATIENCE)).unwrap();
                    let head = head_of(&stream);
                    heads.lock().unwrap().push(head.clone());
                    answer(&head, &mut Answer { stream, sent });
                });
            }
        });
        server
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.host)
    }

    /// A reference to an image there.
    pub(super) fn reference(&self) -> String {
        format!("{}/edge/nginx:v1", self.host)
    }

    /// All heads of requests.
    pub(super) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    /// Bytes that have been sent.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }
}

impl Answer {
    /// Sends bytes as they are; false once the client has gone.
    pub(super) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let sent = self.stream.write_all(bytes.as_ref()).is_ok();
        self.sent.fetch_add(bytes.as_ref().len() as u64, Ordering::SeqCst);
        sent
    }

    /// Sends an answer with these lines of its head.
    pub(super) fn answer(&mut self, status: u16, lines: &str, body: impl AsRef<[u8]>) {
        let body = body.as_ref();
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n{lines}\r\n", body.len());
        self.send([head.as_bytes(), body].concat());
    }

    /// Sends the same bytes until the client has gone, or 256 MiB are sent.
    pub(super) fn send_for_ever(&mut self, bytes: &[u8]) {
        let mut left = 256_usize << 20;
        while left > 0 && self.send(bytes) {
            left = left.saturating_sub(bytes.len());
        }
    }

    /// Waits until the client has gone.
    pub(super) fn until_gone(&mut self) {
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = std::io::copy(&mut self.stream, &mut std::io::sink());
    }
}

fn head_of(stream: &TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        match reader.read_line(&mut head) {
            Ok(count) if count > 0 => {}
            _ => break,
        }
    }
    head
}
