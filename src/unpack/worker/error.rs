//! Failures of a worker, whatever it was working on.

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::failure::{Classify, Kind, Retry};

/// Failures of a worker.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The program has not said which program works.
    #[error("this program has no worker for untrusted bytes: its main has to call unpack::work_if_asked")]
    NoProgram,
    /// The worker cannot be started.
    #[error("the worker cannot be started")]
    Start(#[source] io::Error),
    /// The worker cannot confine itself, and does nothing.
    #[error("the worker cannot confine itself, and refuses to read untrusted bytes ({0}): allow seccomp and prlimit")]
    Unconfined(String),
    /// The worker ended before its work did.
    #[error("the worker {0}")]
    Ended(End),
    /// Nothing came from the worker for too long.
    #[error("the worker made no progress for {} s and was killed", .0.as_secs())]
    Stalled(Duration),
    /// The worker sent what a worker does not send.
    #[error("the worker sent nonsense ({0}) and was killed")]
    Malformed(&'static str),
}

/// The end of a worker, and what it said at last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    status: Option<ExitStatus>,
    said: String,
}

impl End {
    /// The end of a process.
    pub(super) fn new(status: Option<ExitStatus>, said: &[u8]) -> Self {
        Self { status, said: String::from_utf8_lossy(said).trim().to_owned() }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status.map(|status| (status.signal(), status.code())) {
            Some((Some(signal), _)) => {
                let name = Signal::try_from(signal).map_or_else(|_| signal.to_string(), |known| known.to_string());
                write!(f, "was ended by signal {name}")?;
                if signal == Signal::SIGKILL as i32 {
                    f.write_str(", as the kernel does when memory runs out")?;
                }
            }
            Some((None, Some(code))) => write!(f, "exited with code {code}")?,
            _ => f.write_str("ended")?,
        }
        if self.said.is_empty() { Ok(()) } else { write!(f, ": {}", self.said) }
    }
}

impl Classify for WorkerError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoProgram => Kind::Internal,
            Self::Unconfined(_) => Kind::WorkerUnconfined,
            Self::Start(_) | Self::Ended(_) | Self::Stalled(_) | Self::Malformed(_) => Kind::WorkerFailed,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::NoProgram | Self::Unconfined(_) => Retry::Never,
            Self::Start(_) | Self::Ended(_) | Self::Stalled(_) | Self::Malformed(_) => Retry::Later,
        }
    }
}
