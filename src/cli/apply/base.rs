//! The desired state that a new one is compared with: the agent's, else the state directory's, else the file's.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::changes::{Changes, Known};
use super::render;
use crate::agent::{DesiredImage, Phase, Status, WorkloadStatus, offline_status};
use crate::cli::client::{Client, ClientError};
use crate::config::Settings;
use crate::desired::{DesiredError, WorkloadName, read};
use crate::failure::Failure;

/// The time in which an agent answers that can answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The desired state before.
pub(super) struct Base {
    pub(super) known: BTreeMap<WorkloadName, Known>,
    pub(super) reader: Reader,
    /// Remarks about the comparison, for the operator.
    pub(super) notes: Vec<String>,
}

/// Who reads the file that is installed.
pub(super) enum Reader {
    /// The agent that answers.
    Agent,
    /// No agent now, as none answers on this socket.
    Absent(String),
    /// No agent, as the one that answers reads another file: this sentence says so.
    Elsewhere(String),
    /// That is not known, and why.
    Unknown(String),
}

impl Reader {
    /// False if no agent reads the file.
    pub(super) fn may_read(&self) -> bool {
        !matches!(self, Self::Absent(_) | Self::Elsewhere(_))
    }

    /// A line for the operator if it is not sure that an agent reads `target` now. The next start of the agent then
    /// retires what `changes` retires, after `retire`.
    pub(super) fn remark(&self, target: &Path, changes: &Changes, retire: Option<Duration>) -> String {
        let target = target.display();
        match self {
            Self::Agent => String::new(),
            Self::Unknown(why) => format!("whether an agent reads {target} is not known: {why}\n"),
            Self::Elsewhere(why) => format!("{why}\n"),
            Self::Absent(socket) => {
                let goes = render::names(changes.retired.iter().chain(&changes.pending));
                let then = if goes.is_empty() {
                    String::new()
                } else {
                    format!(", and retires {goes} {}", render::grace(retire))
                };
                format!(
                    "no agent answers on {socket}: nobody reads {target} now; the agent reads it when it starts{then}\n"
                )
            }
        }
    }
}

impl Base {
    /// Finds what is desired before `target` is replaced.
    pub(super) async fn find(settings: &Settings, client: &Client, target: &Path) -> Self {
        let socket = settings.api.socket.display();
        let reader = match tokio::time::timeout(PATIENCE, client.get::<Status>("/v1/status")).await {
            Ok(Ok(status)) if is_same(&status.desired.path, target) => {
                return Self { known: known(status), reader: Reader::Agent, notes: Vec::new() };
            }
            Ok(Ok(status)) => {
                let path = status.desired.path.display();
                let why = format!("the agent on {socket} reads {path}, and nobody reads {}", target.display());
                return Self::of_file(target, Reader::Elsewhere(why), Vec::new());
            }
            Ok(Err(ClientError::Absent { .. })) => Reader::Absent(socket.to_string()),
            Ok(Err(error)) => Reader::Unknown(Failure::from(error).message),
            Err(_) => {
                let time = PATIENCE.as_secs();
                Reader::Unknown(format!("the agent on {socket} has not answered for {time} s"))
            }
        };
        Self::without_agent(settings, target, reader)
    }

    fn without_agent(settings: &Settings, target: &Path, reader: Reader) -> Self {
        if !settings.state_dir.join("state.json").exists() {
            return Self::of_file(target, reader, Vec::new());
        }
        match offline_status(settings) {
            Ok(status) if is_about(&status, settings, target) => {
                Self { known: known(status), reader, notes: Vec::new() }
            }
            Ok(_) => Self::of_file(target, reader, Vec::new()),
            Err(error) => {
                let note = format!("compared with {} only: {}", target.display(), Failure::from(error).message);
                Self::of_file(target, reader, vec![note])
            }
        }
    }

    fn of_file(target: &Path, reader: Reader, mut notes: Vec<String>) -> Self {
        let known = match read(target) {
            Ok(reading) => reading.desired.workloads.iter().map(|(name, spec)| (name.clone(), spec.into())).collect(),
            Err(DesiredError::Absent(_) | DesiredError::Empty(_)) => BTreeMap::new(),
            Err(error) => {
                let why = Failure::from(error).message;
                notes.push(format!("the changes are not known, as the file in place cannot be read: {why}"));
                BTreeMap::new()
            }
        };
        Self { known, reader, notes }
    }
}

/// True if a state directory is about `target`: the file is the configured one, or its text was accepted last, or it is
/// not valid by itself.
fn is_about(status: &Status, settings: &Settings, target: &Path) -> bool {
    is_same(&settings.desired.path, target)
        || read(target).map_or(true, |reading| status.desired.sha256 == Some(reading.sha256))
}

fn is_same(one: &Path, other: &Path) -> bool {
    let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    resolved(one) == resolved(other)
}

/// The workloads of a status, but those whose links are being removed.
fn known(status: Status) -> BTreeMap<WorkloadName, Known> {
    let is_decided = status.desired.sha256.is_some();
    let is_going = |workload: &WorkloadStatus| {
        let is_nameless = workload.desired.is_none() && workload.retirement.is_none();
        workload.phase == Phase::Retiring || (is_nameless && is_decided)
    };
    let workloads = status.workloads.into_iter().filter(|(_, workload)| !is_going(workload));
    let known = |workload: WorkloadStatus| {
        let WorkloadStatus { desired, current, retirement, .. } = workload;
        // After a restart, a reference is not resolved yet that the current generation was made of.
        let made = |image: &DesiredImage| {
            current.as_ref().filter(|current| current.reference == image.reference).map(|current| current.digest)
        };
        let desired = desired.map(|image| DesiredImage { digest: image.digest.or_else(|| made(&image)), ..image });
        Known { desired, current, retirement }
    };
    workloads.map(|(name, workload)| (name, known(workload))).collect()
}
