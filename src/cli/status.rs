//! `eci status`: what runs, what is on its way, what is wrong.

use std::io::IsTerminal;
use std::time::Duration;

use tokio::time::sleep;

use super::check::Check;
use super::client::{Client, ClientError};
use super::events::EventStream;
use super::options::Options;
use super::output::{Reader, json, json_line, print, print_on};
use super::owner::become_owner;
use super::screen::Screen;
use super::table::{self, NoAgent};
use super::workload;
use crate::agent::{Phase, Status, offline_status};
use crate::config::Settings;
use crate::desired::WorkloadName;
use crate::failure::{Failure, Kind, Retry};

/// How often a transfer's progress is drawn anew while it is watched.
const REDRAW: Duration = Duration::from_secs(1);
/// Clears a terminal and goes to its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

#[derive(clap::Args)]
pub(super) struct Args {
    /// The workload; all of them where none is named.
    workload: Option<String>,
    /// The agent's JSON document.
    #[arg(long)]
    json: bool,
    /// Go on, and show every change; with --json, one line each.
    #[arg(long)]
    watch: bool,
    /// Say in one line a finding whether all is well: exits 0 (ok), 1 (warning), 2 (critical) or 3 (cannot tell).
    #[arg(long, conflicts_with = "watch")]
    check: bool,
}

impl Args {
    /// Shows the status; the exit code.
    pub(super) async fn run(self, options: &Options) -> Result<u8, Failure> {
        if self.check {
            return self.check(options).await;
        }
        let settings = options.client_settings()?.settings;
        let client = Client::for_status(&settings.api.socket);
        let name = self.workload.as_deref().map(workload::named).transpose()?;
        if self.watch {
            return self.watch(&client, name.as_ref()).await.map(|()| 0);
        }
        let (status, no_agent) = match client.get("/v1/status").await {
            Ok(status) => (status, NoAgent::Absent),
            Err(absent @ ClientError::Absent { .. }) => (offline(&settings, absent)?, NoAgent::Absent),
            // Systemd may hold the socket while the agent cannot start, as on a disk that is read-only.
            Err(silent @ ClientError::Silent { .. }) => (offline(&settings, silent)?, NoAgent::Silent),
            Err(error) => return Err(error.into()),
        };
        self.show(&status, name.as_ref(), no_agent, "").map(|_| 0)
    }

    /// Prints the findings; the exit code. Whatever stands in the way of a check is a finding as well.
    async fn check(&self, options: &Options) -> Result<u8, Failure> {
        let check = self.findings(options).await.unwrap_or_else(|error| Check::unknown(error.kind, &error.message));
        if self.json {
            print(&json(&check)?)?;
        } else {
            let (screen, mut text) = (Screen::of_stdout(), String::new());
            for line in check.lines() {
                screen.write(&mut text, "", &line, 4, None);
            }
            print(&text)?;
        }
        Ok(check.exit_code())
    }

    async fn findings(&self, options: &Options) -> Result<Check, Failure> {
        let name = self.workload.as_deref().map(workload::named).transpose()?;
        let settings = options.client_settings()?.settings;
        let status: Status = match Client::for_status(&settings.api.socket).get("/v1/status").await {
            Ok(status) => status,
            Err(error) => return Ok(Check::failed(&error)),
        };
        match &name {
            Some(name) if !status.workloads.contains_key(name) => Err(unknown(name)),
            name => Ok(Check::of(&status, name.as_ref())),
        }
    }

    async fn watch(&self, client: &Client, name: Option<&WorkloadName>) -> Result<(), Failure> {
        let clear = if std::io::stdout().is_terminal() && !self.json { CLEAR } else { "" };
        let mut events = EventStream::open(client, None).await?;
        let reader = Reader::of_stdout();
        loop {
            let status: Status = match client.get("/v1/status").await {
                Ok(status) => status,
                // It may have stopped since the last event: then the stream ends, and ends well.
                Err(ClientError::Absent { .. } | ClientError::Broken { .. }) => {
                    while events.next(client).await?.is_some() {}
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
            if !self.show(&status, name, NoAgent::Absent, clear)? {
                return Ok(());
            }
            // On a terminal, what is left of a time is drawn anew as well; elsewhere that would be no news.
            let is_drawn = !clear.is_empty();
            let moving = is_drawn || status.workloads.values().any(|workload| workload.phase == Phase::Fetching);
            tokio::select! {
                event = events.next(client) => if event?.is_none() { return Ok(()) },
                () = sleep(REDRAW), if moving => {}
                () = reader.gone() => return Ok(()),
            }
        }
    }

    /// Whether anybody still reads it.
    fn show(
        &self,
        status: &Status,
        name: Option<&WorkloadName>,
        no_agent: NoAgent,
        clear: &str,
    ) -> Result<bool, Failure> {
        let one = match name {
            None => None,
            Some(name) => Some(status.workloads.get(name).ok_or_else(|| unknown(name))?),
        };
        match one {
            Some(workload) if self.json => print_on(&self.document(workload)?),
            None if self.json => print_on(&self.document(status)?),
            _ => {
                let (now, screen) = (jiff::Timestamp::now(), Screen::of_stdout());
                print_on(&format!("{clear}{}", table::render(status, name, no_agent, now, &screen)))
            }
        }
    }
}

impl Args {
    /// A JSON document: one line of many while it is watched.
    fn document(&self, value: &impl serde::Serialize) -> Result<String, Failure> {
        if self.watch { json_line(value) } else { json(value) }
    }
}

/// What the state directory says, where no agent does.
fn offline(settings: &Settings, absent: ClientError) -> Result<Status, Failure> {
    if !settings.state_dir.join("workloads").is_dir() {
        return Err(absent.into());
    }
    become_owner(&settings.state_dir)?;
    super::complain(&format!("{absent}; this is what {} says", settings.state_dir.display()));
    Ok(offline_status(settings)?)
}

fn unknown(name: &WorkloadName) -> Failure {
    Failure { kind: Kind::UnknownWorkload, message: format!("there is no workload {name}"), retry: Retry::Never }
}
