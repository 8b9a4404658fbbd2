//! The agent's side of a worker: its start, what it sends, and its end.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, prlimit};

use super::super::Cancel;
use super::channel::Channel;
use super::confine::address_limit;
use super::error::{End, WorkerError};
use super::frames::{Frame, FrameError};
use super::program::{Program, Worker};
use super::request::Request;
use super::serve::ARGUMENT;

/// Interval at which a reader looks whether it is cancelled.
const CANCEL_CHECK: Duration = Duration::from_millis(100);
/// Time after which a worker is killed whatever it says of itself. The largest image on the slowest disk takes hours.
const MAX_TIME: Duration = Duration::from_secs(24 * 3600);
/// Most of a worker's last words that are read, in bytes.
const MAX_SAID: u64 = 2048;

/// A worker at work. Dropped, it is killed.
pub(in super::super) struct Process {
    worker: Running,
    stream: UnixStream,
    cancel: Cancel,
    max_idle: Duration,
    started_at: Instant,
    /// The address space that the worker had before it was confined, and the most that decompression may use.
    address_space: u64,
    memory: u64,
}

enum Running {
    Child(Child),
    Thread(Option<JoinHandle<()>>),
}

/// Reasons for not getting a frame.
#[derive(Debug)]
pub(in super::super) enum ReadError {
    /// The work was cancelled.
    Cancelled,
    /// The worker failed.
    Worker(WorkerError),
}

impl From<WorkerError> for ReadError {
    fn from(error: WorkerError) -> Self {
        Self::Worker(error)
    }
}

/// The error of a start. Without `/proc`, this program cannot start itself; to try again does not help.
fn not_started(program: &Path, error: io::Error) -> WorkerError {
    match error.kind() {
        ErrorKind::NotFound if program.starts_with("/proc") => {
            WorkerError::Unconfined(format!("there is no {}: mount /proc", program.display()))
        }
        _ => WorkerError::Start(error),
    }
}

impl Process {
    /// Starts a worker on `file`, and waits until it is confined. `memory` is the most that decompression may use, in
    /// bytes.
    pub(in super::super) fn start(
        worker: &Worker,
        file: File,
        request: &Request,
        memory: u64,
        cancel: &Cancel,
    ) -> Result<Self, ReadError> {
        let (stream, theirs) = UnixStream::pair().map_err(WorkerError::Start)?;
        stream.set_read_timeout(Some(CANCEL_CHECK)).map_err(WorkerError::Start)?;
        stream.set_write_timeout(Some(worker.max_idle)).map_err(WorkerError::Start)?;
        let is_thread = matches!(worker.program, Program::Thread(_));
        let running = match &worker.program {
            Program::Unknown => return Err(WorkerError::NoProgram.into()),
            Program::Thread(work) => {
                let work = *work;
                let channel = Channel::new(File::from(OwnedFd::from(theirs)));
                // One that fails has nobody to tell, and ends.
                let thread = std::thread::Builder::new().spawn(move || drop(work(file, channel)));
                Running::Thread(Some(thread.map_err(WorkerError::Start)?))
            }
            Program::File { path, arguments } => {
                let mut command = Command::new(path);
                command.args(arguments).arg(ARGUMENT).arg(memory.to_string());
                if arguments.is_empty() {
                    command.arg0("eci");
                }
                // The environment may hold secrets. One heap, and large blocks apart from it, so that what is freed is
                // free, and limits on memory are exact.
                command.env_clear().envs([("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "131072")]);
                command.stdin(file).stdout(OwnedFd::from(theirs)).stderr(Stdio::piped());
                Running::Child(command.spawn().map_err(|error| not_started(path, error))?)
            }
        };
        let (cancel, max_idle) = (cancel.clone(), worker.max_idle);
        let started_at = Instant::now();
        let mut process = Self { worker: running, stream, cancel, max_idle, started_at, address_space: 0, memory };
        if !is_thread {
            process.wait_until_confined()?;
        }
        process.request(request)?;
        Ok(process)
    }

    fn wait_until_confined(&mut self) -> Result<(), ReadError> {
        let mut buffer = Vec::new();
        match self.read(&mut buffer)? {
            Frame::Ready(address_space) => {
                self.address_space = address_space;
                if let Running::Child(child) = &self.worker {
                    tracing::debug!(pid = child.id(), "a worker is confined, and reads untrusted bytes");
                }
                Ok(())
            }
            Frame::Unconfined(reason) => {
                Err(WorkerError::Unconfined(String::from_utf8_lossy(reason).into_owned()).into())
            }
            _ => Err(WorkerError::Malformed("it begins before it is confined").into()),
        }
    }

    fn request(&mut self, request: &Request) -> Result<(), ReadError> {
        let request = serde_json::to_vec(request).unwrap_or_default();
        let length = u32::try_from(request.len()).unwrap_or(u32::MAX).to_le_bytes();
        self.write(&[&length[..], &request].concat())
    }

    /// The next frame. `buffer` holds its payload.
    pub(in super::super) fn read<'b>(&mut self, buffer: &'b mut Vec<u8>) -> Result<Frame<'b>, ReadError> {
        if self.started_at.elapsed() > MAX_TIME {
            return Err(WorkerError::Stalled(MAX_TIME).into());
        }
        let mut patient = Patient { stream: &self.stream, cancel: &self.cancel, max_idle: self.max_idle };
        match Frame::read(&mut patient, buffer) {
            Ok(frame) => Ok(frame),
            Err(FrameError::Malformed(reason)) => Err(WorkerError::Malformed(reason).into()),
            Err(FrameError::Io(error)) => Err(self.ended(&error)),
        }
    }

    /// Grants `bytes` of memory in place of what was granted before.
    pub(in super::super) fn grant(&mut self, bytes: u64) -> Result<(), ReadError> {
        if let Running::Child(child) = &self.worker
            && let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
        {
            let limit = address_limit(self.address_space, bytes, self.memory);
            // A worker that has ended is told by the next read.
            if let Err(error) = prlimit(Some(pid), Resource::As, limit)
                && error != rustix::io::Errno::SRCH
            {
                return Err(WorkerError::Unconfined(format!("RLIMIT_AS: {error}")).into());
            }
        }
        self.write(&[1])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ReadError> {
        match (&self.stream).write_all(bytes) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.ended(&error)),
        }
    }

    /// The reason for which a worker can neither be read nor written.
    fn ended(&mut self, error: &io::Error) -> ReadError {
        match error.kind() {
            _ if self.cancel.is_cancelled() => ReadError::Cancelled,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => WorkerError::Stalled(self.max_idle).into(),
            _ => WorkerError::Ended(self.end()).into(),
        }
    }

    /// Ends the worker if it has not ended yet, and takes it away.
    fn end(&mut self) -> End {
        match &mut self.worker {
            Running::Child(child) => {
                // One that is on its way out keeps the reason for that.
                let _ = child.kill();
                let status = child.wait().ok();
                let mut said = Vec::new();
                if let Some(stderr) = child.stderr.take() {
                    let _ = stderr.take(MAX_SAID).read_to_end(&mut said);
                }
                End::new(status, &said)
            }
            Running::Thread(thread) => {
                let _ = self.stream.shutdown(std::net::Shutdown::Both);
                let _ = thread.take().map(JoinHandle::join);
                End::new(None, b"")
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// A stream whose reads wait until they are cancelled, or nothing came for too long.
struct Patient<'a> {
    stream: &'a UnixStream,
    cancel: &'a Cancel,
    max_idle: Duration,
}

impl Read for Patient<'_> {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        let begun = Instant::now();
        loop {
            match (&mut &*self.stream).read(piece) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if error.kind() == ErrorKind::WouldBlock
                        && !self.cancel.is_cancelled()
                        && begun.elapsed() < self.max_idle => {}
                ended => return ended,
            }
        }
    }
}
