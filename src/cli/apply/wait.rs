//! The wait for what a desired state names.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::changes::Changes;
use crate::agent::{Phase, Status, WorkloadStatus};
use crate::cli::client::{Client, ClientError};
use crate::cli::complain;
use crate::desired::{Reading, WorkloadName};
use crate::failure::{Failure, Kind, Retry};
use crate::oci::Digest;

/// The time between two looks at the status.
const EVERY: Duration = Duration::from_millis(300);
/// The time in which one look is answered.
const ANSWER: Duration = Duration::from_secs(10);
/// The time after which a transfer that goes on is mentioned again.
const AGAIN: Duration = Duration::from_secs(10);

/// A wait until the agent has come to rest.
pub(super) struct Wait<'a> {
    client: &'a Client,
    sha256: Digest,
    named: Vec<WorkloadName>,
    /// The workloads that have to be gone.
    retired: Vec<WorkloadName>,
    is_accepted: bool,
    /// The last line about each workload, and its time.
    said: BTreeMap<WorkloadName, (String, Instant)>,
}

/// The result of one look at the status.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Done,
    Failed(Failure),
    /// Not yet, and the reason; the failure is that of a workload that is tried again.
    Waits(String, Option<Failure>),
}

impl<'a> Wait<'a> {
    /// For the workloads that `reading` names, and for those to be gone that an operator agreed to retire.
    pub(super) fn new(client: &'a Client, reading: &Reading, changes: &Changes, is_agreed: bool) -> Self {
        let goes = changes.retired.iter().chain(&changes.pending).filter(|_| is_agreed);
        Self {
            client,
            sha256: reading.sha256,
            named: reading.desired.workloads.keys().cloned().collect(),
            retired: goes.map(|(name, _)| name.clone()).collect(),
            is_accepted: false,
            said: BTreeMap::new(),
        }
    }

    /// Waits for `limit` at most.
    pub(super) async fn run(mut self, limit: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + limit;
        loop {
            let found = match timeout(ANSWER, self.client.get::<Status>("/v1/status")).await {
                Ok(Ok(status)) => self.look(&status),
                Ok(Err(error @ ClientError::Forbidden(_))) => return Err(error.into()),
                Ok(Err(error)) => {
                    let failure = Failure::from(error);
                    Found::Waits(failure.message.clone(), Some(failure))
                }
                Err(_) => Found::Waits(format!("the agent has not answered for {} s", ANSWER.as_secs()), None),
            };
            match found {
                Found::Done => return Ok(()),
                Found::Failed(failure) => return Err(failure),
                Found::Waits(what, failure) if Instant::now() >= deadline => {
                    let kind = failure.map_or(Kind::Timeout, |failure| failure.kind);
                    let message = format!("the desired state is not reached after {} s: {what}", limit.as_secs());
                    return Err(Failure { kind, message, retry: Retry::Later });
                }
                Found::Waits(..) => sleep(EVERY.min(deadline.saturating_duration_since(Instant::now()))).await,
            }
        }
    }

    fn look(&mut self, status: &Status) -> Found {
        if status.desired.sha256 != Some(self.sha256) {
            if self.is_accepted {
                let message = "another desired state came into force meanwhile".to_owned();
                return Found::Failed(Failure { kind: Kind::Conflict, message, retry: Retry::Later });
            }
            let error = status.desired.error.as_ref();
            let error =
                error.map(|error| Failure { kind: error.kind, message: error.message.clone(), retry: Retry::Later });
            return Found::Waits("the agent has not accepted the file".to_owned(), error);
        }
        self.is_accepted = true;
        let mut waits = Vec::new();
        let (mut failed, mut last) = (None, None);
        for name in self.named.clone() {
            let Some(workload) = status.workloads.get(&name) else {
                waits.push(format!("{name} is not known yet"));
                continue;
            };
            self.tell(&name, workload);
            match workload.phase {
                Phase::Active | Phase::Probation | Phase::Staged => {}
                Phase::Blocked if workload.error.is_some() => failed = failed.or(failure(&name, workload)),
                phase => {
                    waits.push(format!("{name} is {phase}"));
                    last = last.or(failure(&name, workload));
                }
            }
        }
        let there = self.retired.iter().filter(|name| status.workloads.contains_key(name));
        waits.extend(there.map(|name| format!("{name} is being retired")));
        match failed {
            Some(failure) => Found::Failed(failure),
            None if waits.is_empty() => Found::Done,
            None => {
                let why = last.as_ref().map_or_else(String::new, |failure| format!(" ({})", failure.message));
                Found::Waits(waits.join(", ") + &why, last)
            }
        }
    }

    /// Says on stderr what a workload is at, when that is news.
    fn tell(&mut self, name: &WorkloadName, workload: &WorkloadStatus) {
        let (is_moving, now) = (workload.phase == Phase::Fetching, Instant::now());
        let news = format!("{} {:?}", workload.phase, workload.error.as_ref().map(|error| &error.message));
        if let Some((before, at)) = self.said.get(name)
            && *before == news
            && !(is_moving && now.duration_since(*at) >= AGAIN)
        {
            return;
        }
        self.said.insert(name.clone(), (news, now));
        complain(&line(name, workload));
    }
}

fn line(name: &WorkloadName, workload: &WorkloadStatus) -> String {
    let more = match (workload.phase, &workload.progress, &workload.current, &workload.error) {
        (Phase::Fetching, Some(progress), ..) => {
            let percent = progress.bytes_done.saturating_mul(100) / progress.bytes_total.max(1);
            format!(", {percent} % of {}", bytesize::ByteSize(progress.bytes_total))
        }
        (Phase::Active, _, Some(current), _) => format!(", boots generation {}", current.generation),
        (Phase::Probation, ..) => format!(", has to be confirmed (eci confirm {name})"),
        (Phase::Staged, ..) => waits_for(name, workload),
        (Phase::Backoff | Phase::Blocked, _, _, Some(error)) => format!(": {}", error.message),
        _ => String::new(),
    };
    format!("{name}: {}{more}", workload.phase)
}

fn waits_for(name: &WorkloadName, workload: &WorkloadStatus) -> String {
    match &workload.waits_for {
        Some(waits) if waits.person => format!(", waits for \"eci activate {name}\""),
        Some(_) => ", waits for the window".to_owned(),
        None => String::new(),
    }
}

fn failure(name: &WorkloadName, workload: &WorkloadStatus) -> Option<Failure> {
    let error = workload.error.as_ref()?;
    let message = format!("{name} is {}: {}", workload.phase, error.message);
    Some(Failure { kind: error.kind, message, retry: Retry::Later })
}
