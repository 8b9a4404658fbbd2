//! The demo's node: the real agent, as a process with directories of its own.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::super::client::Client;
use super::super::events::EventStream;
use super::{Stage, failed};
use crate::agent::{Entry, Status};
use crate::durable::write_atomic;
use crate::failure::{Failure, Kind, Retry};

/// How often it is looked whether the agent answers; it has no other way to tell us.
const LOOK: Duration = Duration::from_millis(2);
/// An id of no run, from which a stream of events begins with the first.
const FIRST: &str = "0-0";

pub(super) struct Node {
    process: Child,
    pub(super) client: Client,
    pub(super) events: EventStream,
    /// How long it took from the start until it answered.
    pub(super) ready_after: Duration,
}

pub(super) fn state_dir(stage: &Stage) -> PathBuf {
    stage.path("node")
}

/// Installs what the node should run, as a person or a tool would: by rename.
pub(super) fn desire(stage: &Stage, text: &str) -> Result<(), Failure> {
    Ok(write_atomic(&stage.path("desired.toml"), text.as_bytes(), 0o644)?)
}

impl Node {
    /// Starts the agent and waits until it answers.
    pub(super) async fn start(stage: &Stage) -> Result<Self, Failure> {
        let begun = Instant::now();
        let log = std::fs::File::create(stage.path("log")).map_err(|error| failed("write the agent's log", &error))?;
        let program = std::env::current_exe().map_err(|error| failed("find this program", &error))?;
        let socket = stage.path("agent.sock");
        std::fs::write(stage.path("agent.toml"), "[retry]\ninitial = \"200ms\"\n")
            .map_err(|error| failed("write agent.toml", &error))?;
        let mut process = Command::new(program)
            .arg("agent")
            .arg("--config")
            .arg(stage.path("agent.toml"))
            .arg("--desired")
            .arg(stage.path("desired.toml"))
            .arg("--state-dir")
            .arg(state_dir(stage))
            .arg("--socket")
            .arg(&socket)
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LISTEN_FDS")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed("start the agent", &error))?;
        let client = Client::new(&socket);
        loop {
            if let Ok(events) = EventStream::open(&client, FIRST.parse().ok()).await {
                return Ok(Self { process, client, events, ready_after: begun.elapsed() });
            }
            if let Ok(Some(status)) = process.try_wait() {
                let log = std::fs::read_to_string(stage.path("log")).unwrap_or_default();
                return Err(Failure::internal(format!("the agent ended at once ({status}): {log}")));
            }
            sleep(LOOK).await;
        }
    }

    /// Tells `each` event until one is `last`.
    pub(super) async fn follow(
        &mut self,
        mut each: impl FnMut(&Entry) -> Result<(), Failure>,
        last: impl Fn(&Entry) -> bool,
    ) -> Result<(), Failure> {
        while let Some(entry) = self.events.next(&self.client).await? {
            each(&entry)?;
            if last(&entry) {
                return Ok(());
            }
        }
        Err(Failure { kind: Kind::AgentUnreachable, message: "the agent has stopped".to_owned(), retry: Retry::Later })
    }

    pub(super) async fn status(&self) -> Result<Status, Failure> {
        Ok(self.client.get("/v1/status").await?)
    }

    /// Ends the agent with `signal` and waits for it.
    pub(super) async fn end(mut self, signal: Signal) -> Result<std::process::ExitStatus, Failure> {
        if let Some(pid) = self.process.id().and_then(|pid| i32::try_from(pid).ok()) {
            kill(Pid::from_raw(pid), signal).map_err(|errno| failed("signal the agent", &errno.into()))?;
        }
        self.process.wait().await.map_err(|error| failed("wait for the agent", &error))
    }
}
