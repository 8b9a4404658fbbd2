//! HTTP/1.1 by hand over the agent's socket: a test sees status, headers and bytes as they are, and may break the rules.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use super::agent::PATIENCE;
use super::schema;

/// One connection.
pub struct Socket {
    stream: BufReader<UnixStream>,
}

/// An answer, complete but for what a test leaves unread.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// One server-sent event.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    pub id: String,
    pub event: String,
    pub data: Value,
}

/// A stream of events over a connection of its own.
pub struct Events {
    socket: Socket,
    text: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn content_type(&self) -> &str {
        self.header("content-type").unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Socket {
    pub fn open(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    /// Sends bytes as they are. A server that has hung up meanwhile is no mistake of the test: the answer tells.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _ = self.stream.get_mut().write_all(bytes.as_ref());
        self
    }

    /// Sends the head of a request.
    pub fn request(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) -> &mut Self {
        let mut text = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        self.send(text + "\r\n")
    }

    /// A request and its answer; the connection stays open.
    pub fn ask(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
        self.request(method, target, headers);
        if method == "HEAD" { self.head() } else { self.answer() }
    }

    pub fn get(&mut self, target: &str) -> Answer {
        self.ask("GET", target, &[])
    }

    /// Status and headers of an answer, without its body.
    pub fn head(&mut self) -> Answer {
        let line = self.line();
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {line:?}"));
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            match line.split_once(':') {
                Some((name, value)) => headers.push((name.to_owned(), value.trim().to_owned())),
                None => return Answer { status, headers, body: Vec::new() },
            }
        }
    }

    /// An answer with its body.
    pub fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        match answer.header("content-length") {
            Some(length) => {
                answer.body = vec![0; length.parse().unwrap()];
                self.stream.read_exact(&mut answer.body).unwrap();
            }
            None => {
                while let Some(chunk) = self.chunk() {
                    answer.body.extend(chunk);
                }
            }
        }
        answer
    }

    /// The next chunk of a chunked body; none at its end.
    fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = usize::from_str_radix(&self.line(), 16).unwrap();
        let mut chunk = vec![0; size];
        self.stream.read_exact(&mut chunk).unwrap();
        assert_eq!(self.line(), "");
        (size > 0).then_some(chunk)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.trim_end_matches(['\r', '\n']).to_owned()
    }

    /// Whether the server has hung up, or does so now.
    pub fn is_closed(&mut self) -> bool {
        match self.stream.fill_buf() {
            Ok(bytes) => bytes.is_empty(),
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

impl Events {
    /// Opens a stream, from `after` where it is given.
    pub fn open(path: &Path, after: Option<&str>) -> Self {
        let mut socket = Socket::open(path);
        let headers: Vec<_> = after.map(|id| ("Last-Event-ID", id)).into_iter().collect();
        let head = socket.request("GET", "/v1/events", &headers).head();
        assert_eq!((head.status, head.content_type()), (200, "text/event-stream"), "{head:?}");
        Self { socket, text: String::new() }
    }

    /// The next event; none where the stream ends as it should.
    pub fn next(&mut self) -> Option<Sent> {
        let end = loop {
            match self.text.find("\n\n") {
                Some(end) => break end,
                None => self.text += &String::from_utf8(self.socket.chunk()?).unwrap(),
            }
        };
        let block: String = self.text.drain(..end + 2).collect();
        let field = |name: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.unwrap_or_else(|| panic!("no {name} in {block:?}")).to_owned()
        };
        let data = serde_json::from_str(&field("data")).unwrap();
        schema::check_event(&data);
        Some(Sent { id: field("id"), event: field("event"), data })
    }

    /// Events up to the first that `wanted` accepts, that one included.
    pub fn until(&mut self, wanted: impl Fn(&Sent) -> bool) -> Vec<Sent> {
        let mut seen = Vec::new();
        loop {
            let sent = self.next().unwrap_or_else(|| panic!("the stream ended after {seen:#?}"));
            seen.push(sent);
            if seen.last().is_some_and(&wanted) {
                return seen;
            }
        }
    }
}
