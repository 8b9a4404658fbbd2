//! The program that works.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use super::channel::Channel;
use super::serve::answer;

/// Time without a sign of life after which a worker is killed. A disk that hangs holds a worker up as well.
const MAX_IDLE: Duration = Duration::from_secs(120);

/// The worker of this process.
pub(super) static OF_PROCESS: OnceLock<Worker> = OnceLock::new();

/// A program that works. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Worker {
    pub(super) program: Program,
    pub(super) max_idle: Duration,
}

/// The form of a worker.
#[derive(Clone, Debug)]
pub(super) enum Program {
    /// None is known.
    Unknown,
    /// A function on a thread of this program, unconfined.
    Thread(fn(File, Channel) -> io::Result<()>),
    /// A program, and its arguments before those of a worker.
    File { path: PathBuf, arguments: Vec<OsString> },
}

impl Worker {
    /// The program at `path`. Started with `arguments` and those of a worker, it calls
    /// [`work_if_asked`](super::work_if_asked).
    pub fn program(path: impl Into<PathBuf>, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(OsString::from).collect();
        Self { program: Program::File { path: path.into(), arguments }, max_idle: MAX_IDLE }
    }

    /// A thread of this program. It is not confined: for tests, and for bytes that are trusted.
    pub fn unconfined() -> Self {
        Self { program: Program::Thread(answer), max_idle: MAX_IDLE }
    }

    /// The worker of this process: this program, if its `main` calls [`work_if_asked`](super::work_if_asked).
    pub fn of_process() -> Self {
        OF_PROCESS.get().cloned().unwrap_or_else(|| {
            // A program of tests has no main of its own.
            let program = if cfg!(test) { Program::Thread(answer) } else { Program::Unknown };
            Self { program, max_idle: MAX_IDLE }
        })
    }

    /// A worker that does something else.
    #[cfg(test)]
    pub(in super::super) fn pretending(work: fn(File, Channel) -> io::Result<()>) -> Self {
        Self { program: Program::Thread(work), max_idle: MAX_IDLE }
    }

    /// The same, killed after another time without a sign of life.
    #[must_use]
    pub fn with_max_idle(self, max_idle: Duration) -> Self {
        Self { max_idle, ..self }
    }
}
