//! Programs that are run for an activation: hooks, and health checks that are programs. None of them outlives its run,
//! nor does what it started, unless that is in a process group of its own.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::Launch;
use crate::failure::{Classify, Kind, Retry};
use crate::printable::one_line_char;

/// As much of what a program says as is kept, in bytes: the end of it.
const MAX_OUTPUT: usize = 4096;
/// How much is read at once, in bytes: what a pipe holds.
const PIECE: usize = 64 * 1024;
/// How many pieces are read of what a program leaves in the pipe: as much as the kernel lets a pipe hold.
const MAX_PIECES: usize = 16;
/// Where programs are looked for where the agent itself was not told.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The end of what a program said, on its standard output and its standard error, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output(String);

/// Why a program has not done what it was run for.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It ended with another status than 0; a hook that may refuse does it by that.
    #[error("{program} ended with {}{}", ending(*.status), said(.output))]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        output: Output,
    },
    /// It was not done in time, and was killed.
    #[error("{program} was not done after {timeout:?}, and was killed{}", said(.output))]
    TimedOut {
        /// The program.
        program: String,
        /// How long it had.
        timeout: Duration,
        /// What it had said until then.
        output: Output,
    },
    /// It could not be started or waited for.
    #[error("cannot run {program}")]
    CannotRun {
        /// The program; empty where there was none.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Classify for HookError {
    fn kind(&self) -> Kind {
        Kind::HookFailed
    }

    fn retry(&self) -> Retry {
        Retry::Later
    }
}

/// How a program ended that did not succeed: "exit status 1", "signal 9".
pub(super) fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn said(output: &Output) -> String {
    if output.0.is_empty() { String::new() } else { format!(": {output}") }
}

/// What a hook or a check is told by its environment. `hook` is its name, `dir` the directory of the generation that
/// `launch` describes, and `previous_dir` that of the one that was, or still is, current instead.
pub fn hook_environment(
    hook: &str,
    launch: &Launch,
    dir: &Path,
    previous_dir: Option<&Path>,
) -> Vec<(&'static str, String)> {
    let mut environment = vec![
        ("ECI_HOOK", hook.to_owned()),
        ("ECI_WORKLOAD", launch.workload.to_string()),
        ("ECI_GENERATION", launch.generation.to_string()),
        ("ECI_DIR", dir.display().to_string()),
        ("ECI_REFERENCE", launch.reference.to_string()),
        ("ECI_DIGEST", launch.digest.to_string()),
    ];
    environment.extend(previous_dir.map(|dir| ("ECI_PREVIOUS_DIR", dir.display().to_string())));
    environment
}

/// Runs the program `argv` with no other environment than `$PATH` and `environment`, in `/`, without input. It and all that
/// is left of its process group are killed when it has ended, when it is not done after `timeout`, and when this future is
/// dropped.
pub async fn run_hook(argv: &[String], environment: &[(&str, String)], timeout: Duration) -> Result<Output, HookError> {
    let program = argv.first().cloned().unwrap_or_default();
    let cannot = |source| HookError::CannotRun { program: program.clone(), source };
    let mut group = Group::start(argv, environment).map_err(cannot)?;
    let is_in_time = tokio::time::timeout(timeout, group.leader_ends()).await.is_ok();
    group.kill();
    let output = group.output();
    if !is_in_time {
        return Err(HookError::TimedOut { program, timeout, output });
    }
    let status = group.reap().await.map_err(cannot)?;
    if status.success() { Ok(output) } else { Err(HookError::Failed { program, status, output }) }
}

/// A program, and what it started. All of it is killed when this is dropped.
#[derive(Debug)]
struct Group {
    leader: Child,
    /// The group's number, which is the leader's; none once the leader was reaped, after which it may be another's.
    id: Option<Pid>,
    /// The ends of children of this process.
    ends: tokio::signal::unix::Signal,
    pipe: pipe::Receiver,
    tail: Tail,
}

impl Group {
    fn start(argv: &[String], environment: &[(&str, String)]) -> io::Result<Self> {
        let Some((program, arguments)) = argv.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no program"));
        };
        // From before the start, so that no end is missed.
        let ends = signal(SignalKind::child())?;
        // One pipe for both, so that what was said stays in its order.
        let (reader, writer) = io::pipe()?;
        let pipe = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
        let mut command = Command::new(program);
        command.args(arguments).process_group(0).current_dir("/");
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_else(|| PATH.into()));
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let leader = command.spawn()?;
        let id = leader.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Ok(Self { leader, id, ends, pipe, tail: Tail::default() })
    }

    /// Takes what the group says until its leader has ended, which stays unreaped: its number is not given to another then.
    async fn leader_ends(&mut self) {
        let mut piece = vec![0; PIECE];
        let mut is_open = true;
        while !self.has_ended() {
            tokio::select! {
                _ = self.ends.recv() => {}
                read = self.pipe.read(&mut piece), if is_open => match read {
                    Ok(0) | Err(_) => is_open = false,
                    Ok(length) => self.tail.push(piece.get(..length).unwrap_or_default()),
                },
            }
        }
    }

    fn has_ended(&self) -> bool {
        let Some(id) = self.id else { return true };
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(waitid(Id::Pid(id), flags), Ok(WaitStatus::StillAlive))
    }

    fn kill(&mut self) {
        if let Some(id) = self.id {
            // An error means that none is left.
            let _ = killpg(id, Signal::SIGKILL);
        }
        // It may have left its group.
        let _ = self.leader.start_kill();
    }

    /// The end of what was said, with what is in the pipe now. Nobody is waited for who has it open.
    fn output(&mut self) -> Output {
        let mut piece = vec![0; PIECE];
        for _ in 0..MAX_PIECES {
            match nix::unistd::read(&self.pipe, &mut piece) {
                Ok(length) if length > 0 => self.tail.push(piece.get(..length).unwrap_or_default()),
                _ => break,
            }
        }
        self.tail.output()
    }

    /// How the leader ended, which it has.
    async fn reap(&mut self) -> io::Result<ExitStatus> {
        self.id = None;
        self.leader.wait().await
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last bytes of many.
#[derive(Debug, Default)]
struct Tail {
    bytes: Vec<u8>,
    /// Whether there were bytes before these.
    is_cut: bool,
}

impl Tail {
    fn push(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
        let excess = self.bytes.len().saturating_sub(MAX_OUTPUT);
        self.bytes.drain(..excess);
        self.is_cut |= excess > 0;
    }

    /// As lines of plain text: what a program says can neither speak to a terminal nor be taken for what it is not.
    fn output(&self) -> Output {
        let is_rest = |byte: &&u8| (0x80..0xc0).contains(*byte);
        let cut = if self.is_cut { self.bytes.iter().take(3).take_while(is_rest).count() } else { 0 };
        let text = String::from_utf8_lossy(self.bytes.get(cut..).unwrap_or_default());
        let plain = |character: char| match character {
            '\n' | '\r' => '\n',
            other => one_line_char(other),
        };
        let text: String = text.replace("\r\n", "\n").trim_end().chars().map(plain).collect();
        Output(if self.is_cut { format!("…{text}") } else { text })
    }
}

impl Output {
    /// It as lines, without the last one's end; it begins with `…` where more came before. No more than a few KiB, and of
    /// control characters only the ends of lines.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The last line that is not empty.
    pub fn last_line(&self) -> Option<&str> {
        self.0.lines().rev().map(str::trim).find(|line| !line.is_empty())
    }
}

/// In one line.
impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.lines().enumerate().try_for_each(|(n, line)| {
            if n > 0 {
                f.write_str(" ")?;
            }
            f.write_str(line)
        })
    }
}
