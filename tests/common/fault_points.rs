//! The other end of the agent's fault points (`src/durable/fault.rs`): told of every change of the disk before and after it
//! is made, and asked what is to become of it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::agent::Node;

/// A change of the disk that is about to be made, or was made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    pub is_made: bool,
    pub operation: String,
    /// From the state directory on.
    pub path: PathBuf,
}

/// What is to become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Go,
    /// It is not made, and counts as made.
    Skip,
    /// Half of a write is made, then the disk is full.
    Short,
    Fail(Errno),
}

/// Arms the points of `node`'s agent from its next start on, and has them answered one after the other.
pub fn arm(node: &mut Node, mut answer: impl FnMut(&Point) -> Answer + Send + 'static) {
    let socket = node.path("points");
    let listener = UnixListener::bind(&socket).unwrap();
    node.environment.push(("ECI_FAULT_POINTS", socket));
    let state = node.state_dir();
    // Ends with the test program: it has nothing to clean up.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut lines = BufReader::new(stream.unwrap());
            let mut line = String::new();
            // An agent that is killed while it tells of a point leaves half of the line.
            while lines.read_line(&mut line).is_ok() && line.ends_with('\n') {
                let point = Point::parse(line.trim_end_matches('\n'), &state);
                let text = match answer(&point) {
                    Answer::Go => "go".to_owned(),
                    Answer::Skip => "skip".to_owned(),
                    Answer::Short => "short".to_owned(),
                    Answer::Fail(errno) => (errno as i32).to_string(),
                };
                // An agent that was killed meanwhile hears nothing.
                let _ = writeln!(lines.get_mut(), "{text}");
                line.clear();
            }
        }
    });
}

impl Point {
    fn parse(line: &str, state: &Path) -> Self {
        let mut parts = line.splitn(3, '\t');
        let mut next = || parts.next().unwrap();
        let (when, operation, path) = (next(), next().to_owned(), Path::new(next()));
        let path = path.strip_prefix(state).unwrap_or(path).to_owned();
        Self { is_made: when == "after", operation, path }
    }
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", if self.is_made { "after" } else { "before" }, self.operation, self.path.display())
    }
}
