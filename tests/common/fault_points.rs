//! The other end of the agent's fault points (`src/durable/fault/`): told of every change of the disk before and after it
//! is made, and asked what is to become of it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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

/// Counts the changes of the disk that a node's agent makes, and can kill it before one of them.
pub struct Killer {
    plan: Arc<Mutex<Plan>>,
    killed: Receiver<Point>,
}

#[derive(Default)]
struct Plan {
    changes: usize,
    /// Who is to be killed, and before which change.
    victim: Option<(Pid, usize)>,
}

impl Killer {
    /// From the agent's next start on.
    pub fn arm(node: &mut Node) -> Self {
        let plan = Arc::<Mutex<Plan>>::default();
        let (tell, killed) = channel();
        let followed = Arc::clone(&plan);
        arm(node, move |point| {
            let mut plan = followed.lock().unwrap();
            if point.is_made {
                return Answer::Go;
            }
            let at = plan.changes;
            if let Some((pid, _)) = plan.victim.take_if(|(_, moment)| *moment <= at) {
                kill(pid, Signal::SIGKILL).unwrap();
                let _ = tell.send(point.clone());
                return Answer::Skip;
            }
            plan.changes += 1;
            Answer::Go
        });
        Self { plan, killed }
    }

    /// How many changes were made so far.
    pub fn changes(&self) -> usize {
        self.plan.lock().unwrap().changes
    }

    /// The agent that runs is to be killed once it has made so many more changes, before the next.
    pub fn kill_after(&self, node: &Node, changes: usize) {
        let pid = Pid::from_raw(node.pid().try_into().unwrap());
        let mut plan = self.plan.lock().unwrap();
        plan.victim = Some((pid, plan.changes + changes));
    }

    /// The change before which it was killed; none where it has not come to that in `time`, and will not be killed any more.
    pub fn until_killed(&self, time: Duration) -> Option<Point> {
        let point = self.killed.recv_timeout(time).ok();
        let is_called_off = self.plan.lock().unwrap().victim.take().is_some();
        // It may have been killed just when the time was up.
        point.or_else(|| if is_called_off { None } else { self.killed.recv().ok() })
    }
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
