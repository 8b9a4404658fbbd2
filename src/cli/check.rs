//! `eci status --check`: the status as findings and an exit code, as monitoring plugins give them.

use serde::Serialize;

use super::client::ClientError;
use super::output::{counted, plain};
use crate::agent::{Phase, ProblemStatus, Status, WorkloadStatus};
use crate::desired::WorkloadName;
use crate::failure::Kind;

/// Severity of a finding; the exit code is that of the worst, with "cannot tell" above all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// Everything desired runs.
    Ok,
    /// The workloads run fine, but something is wrong or waits.
    Warning,
    /// Something does not run as desired, and waiting does not help; or no agent runs.
    Critical,
    /// No answer, or no permission to ask.
    Unknown,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// The workload; none if it is about the node.
    pub(super) workload: Option<WorkloadName>,
    /// The kind of failure, if it is one.
    pub(super) kind: Option<Kind>,
    pub(super) message: String,
}

/// The findings, the worst first, and their sum.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Check {
    level: Level,
    exit_code: u8,
    findings: Vec<Finding>,
}

impl Level {
    fn exit_code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Critical => 2,
            Self::Unknown => 3,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

impl Check {
    fn new(mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
        let level = findings.first().map_or(Level::Unknown, |worst| worst.level);
        Self { level, exit_code: level.exit_code(), findings }
    }

    /// The findings of a status, of one workload or of all.
    pub(super) fn of(status: &Status, only: Option<&WorkloadName>) -> Self {
        let mut findings = Vec::new();
        if only.is_none() {
            node(&mut findings, status);
        }
        let shown = status.workloads.iter().filter(|(name, _)| only.is_none_or(|only| only == *name));
        let mut count = 0_u64;
        for (name, checked) in shown {
            count += 1;
            let found = workload(checked).into_iter();
            findings.extend(found.map(|finding| Finding { workload: Some(name.clone()), ..finding }));
        }
        if findings.is_empty() {
            let message = match (count, only) {
                (_, Some(name)) => format!("{name} runs what is desired"),
                (0, _) => "nothing is desired, and nothing runs".to_owned(),
                (1, _) => "1 workload runs what is desired".to_owned(),
                (more, _) => format!("{more} workloads run what is desired"),
            };
            findings.push(finding(Level::Ok, None, message));
        }
        Self::new(findings)
    }

    /// The finding of a status that could not be had.
    pub(super) fn failed(error: &ClientError) -> Self {
        let level = if matches!(error, ClientError::Absent { .. }) { Level::Critical } else { Level::Unknown };
        Self::new(vec![finding(level, None, error.to_string())])
    }

    /// The finding of a check that could not be made.
    pub(super) fn unknown(kind: Kind, message: &str) -> Self {
        Self::new(vec![finding(Level::Unknown, Some(kind), message.to_owned())])
    }

    pub(super) fn exit_code(&self) -> u8 {
        self.exit_code
    }

    /// One line a finding.
    pub(super) fn lines(&self) -> Vec<String> {
        let line = |finding: &Finding| {
            let workload = finding.workload.as_ref().map_or_else(String::new, |name| format!("{name}: "));
            let kind = finding.kind.map_or_else(String::new, |kind| format!("{kind}: "));
            format!("{}: {workload}{kind}{}", finding.level.as_str(), plain(&finding.message))
        };
        self.findings.iter().map(line).collect()
    }
}

fn finding(level: Level, kind: Option<Kind>, message: String) -> Finding {
    Finding { level, workload: None, kind, message }
}

fn failure(level: Level, error: &ProblemStatus) -> Finding {
    finding(level, Some(error.kind), error.message.clone())
}

/// Findings about the node as a whole.
fn node(findings: &mut Vec<Finding>, status: &Status) {
    let mut add = |finding| findings.push(finding);
    match &status.agent {
        None => add(finding(Level::Critical, None, "the agent is not running".to_owned())),
        Some(agent) => {
            if let Some(error) = &agent.error {
                add(failure(Level::Critical, error));
            }
            if let Some(error) = &agent.config_error {
                let message = format!("the configuration is not reloaded: {}", error.message);
                add(Finding { message, ..failure(Level::Warning, error) });
            }
        }
    }
    if let Some(error) = &status.desired.error {
        add(Finding {
            message: format!("the desired state is rejected: {}", error.message),
            ..failure(Level::Critical, error)
        });
    } else if status.desired.sha256.is_none() {
        add(finding(Level::Warning, None, "no desired state is accepted yet".to_owned()));
    }
    if status.fsck.left > 0 {
        let message = format!("{} damaged on disk (eci fsck says which)", counted(status.fsck.left, "part"));
        add(finding(Level::Critical, Some(Kind::Damaged), message));
    }
}

/// Findings about a workload.
fn workload(workload: &WorkloadStatus) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |finding| findings.push(finding);
    let is_bootable = workload.current.is_some();
    let is_rolled_back = |digest| workload.quarantined.contains(digest);
    let wants_rolled_back =
        workload.desired.as_ref().and_then(|desired| desired.digest.as_ref()).is_some_and(is_rolled_back);
    if let Some(error) = &workload.error {
        let is_critical = workload.phase == Phase::Blocked || wants_rolled_back || !is_bootable;
        let is_critical = is_critical || matches!(error.kind, Kind::Quarantined | Kind::Damaged);
        add(failure(if is_critical { Level::Critical } else { Level::Warning }, error));
    } else if wants_rolled_back {
        add(finding(Level::Critical, Some(Kind::Quarantined), "the desired image was rolled back".to_owned()));
    } else if workload.drift && !workload.quarantined.is_empty() {
        let count = counted(workload.quarantined.len() as u64, "image");
        add(finding(Level::Critical, Some(Kind::Quarantined), format!("{count} rolled back, and not tried again")));
    }
    if !is_bootable && workload.desired.is_some() {
        add(finding(Level::Critical, None, format!("there is nothing to boot ({})", workload.phase)));
    }
    if let Some(health) = workload.health.as_ref().filter(|health| health.healthy == Some(false)) {
        let why = health.message.as_deref().unwrap_or("its check fails");
        add(finding(Level::Critical, None, format!("not healthy: {why}")));
    }
    if workload.retirement.is_some() {
        add(finding(Level::Warning, None, "no longer in the desired state: its retirement is pending".to_owned()));
    }
    if workload.probation.is_some() {
        add(finding(Level::Warning, None, "it has to be confirmed".to_owned()));
    }
    let is_said = workload.error.is_some() || !is_bootable;
    let waits = match workload.phase {
        Phase::Staged => Some("a generation is staged, and waits".to_owned()),
        Phase::Active | Phase::Probation => None,
        phase if !is_said => Some(format!("it is {phase}")),
        _ => None,
    };
    if let Some(message) = waits {
        add(finding(Level::Warning, None, message));
    }
    let should = workload.current.as_ref().map(|current| current.generation);
    if let Some(running) = workload.running.iter().find(|running| Some(**running) != should) {
        add(finding(Level::Warning, None, format!("generation {running} still runs")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Retry;
    use serde_json::{Value, json};

    /// A status of one workload that runs what is desired, but for `node` and `workload`.
    fn check(node: &Value, workload: &Value) -> Check {
        let generation = |number: u64| {
            json!({
                "generation": number, "reference": format!("a.example/vm:{number}"),
                "digest": format!("sha256:{number:064}"), "index_digest": null, "activated_at": null, "confirmed": true,
            })
        };
        let merge = |base: &mut Value, changes: &Value| {
            base.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        };
        let mut vm = json!({
            "phase": "active", "current": generation(7), "previous": generation(6), "staged": null, "waits_for": null,
            "desired": {"reference": "a.example/vm:7", "digest": null, "index_digest": null}, "progress": null,
            "error": null, "quarantined": [], "probation": null, "health": null, "running": [7], "drift": false,
        });
        merge(&mut vm, workload);
        let mut status = json!({
            "agent": {
                "version": "1", "pid": 1, "started_at": "2026-11-30T08:00:00Z", "uptime_s": 1.0, "error": null,
                "config_error": null,
            },
            "desired": {
                "path": "/d", "sha256": format!("sha256:{:064}", 1), "accepted_at": "2026-11-30T08:00:00Z", "error": null,
            },
            "cache": {"blobs": 0, "bytes": 0, "allocated_bytes": 0, "free_bytes": 0},
            "fsck": {"running": false, "bytes_total": 0, "bytes_done": 0, "finished_at": null, "damaged": 0, "left": 0},
            "workloads": {"vm": vm},
        });
        merge(&mut status, node);
        Check::of(&serde_json::from_value(status).unwrap(), None)
    }

    fn error(kind: &str) -> Value {
        json!({"kind": kind, "message": "why", "since": "2026-11-30T08:00:00Z", "attempts": 1, "retry_at": null})
    }

    #[test]
    fn each_state_has_its_exit_code() {
        let digest = format!("sha256:{:064}", 8);
        for (code, workload) in [
            (0, json!({})),
            (0, json!({"quarantined": [digest]})),
            (1, json!({"error": error("unreachable")})),
            (1, json!({"phase": "backoff", "error": error("unreachable"), "drift": true})),
            (1, json!({"phase": "fetching", "drift": true})),
            (1, json!({"phase": "staged", "drift": true})),
            (1, json!({"phase": "probation", "probation": {"ends_in_s": 1.0, "restarts": 0}})),
            (1, json!({"phase": "retiring", "desired": null, "drift": true})),
            (1, json!({"retirement": {"ends_in_s": 1.0}})),
            (1, json!({"running": [6]})),
            (2, json!({"phase": "blocked", "error": error("not-bootable"), "drift": true})),
            (2, json!({"phase": "blocked", "error": error("quarantined"), "quarantined": [digest], "drift": true})),
            (2, json!({"quarantined": [digest], "drift": true})),
            (2, json!({"phase": "backoff", "error": error("unreachable"), "current": null, "drift": true})),
            (2, json!({"phase": "fetching", "current": null, "drift": true})),
            (2, json!({"error": error("damaged")})),
        ] {
            assert_eq!(check(&json!({}), &workload).exit_code(), code, "{workload}");
        }
        let fsck = json!({
            "running": false, "bytes_total": 0, "bytes_done": 0, "finished_at": null, "damaged": 1, "left": 1,
        });
        let desired = |error: Value, sha256: Value| json!({"desired": {"path": "/d", "sha256": sha256, "accepted_at": null, "error": error}});
        for (code, node) in [
            (2, json!({"agent": null})),
            (2, json!({"fsck": fsck})),
            (2, desired(error("desired-invalid"), json!(digest))),
            (1, desired(Value::Null, Value::Null)),
        ] {
            assert_eq!(check(&node, &json!({})).exit_code(), code, "{node}");
        }
    }

    #[test]
    fn an_agent_that_is_away_is_critical_and_one_that_cannot_be_asked_unknown() {
        let (socket, source) = ("/s".into(), std::io::ErrorKind::NotFound.into());
        assert_eq!(Check::failed(&ClientError::Absent { socket, error: source }).exit_code(), 2);
        let after = std::time::Duration::from_secs(2);
        assert_eq!(Check::failed(&ClientError::Silent { socket: "/s".into(), after }).exit_code(), 3);
        assert_eq!(Check::failed(&ClientError::Forbidden("/s".into())).exit_code(), 3);
        let failure = crate::failure::Failure { kind: Kind::Usage, message: "no".into(), retry: Retry::Never };
        assert_eq!(Check::unknown(failure.kind, &failure.message).lines(), ["UNKNOWN: usage: no"]);
    }

    #[test]
    fn the_worst_finding_comes_first_and_one_line_each() {
        let desired =
            json!({"desired": {"path": "/d", "sha256": null, "accepted_at": null, "error": error("desired-invalid")}});
        let lines = check(&desired, &json!({"error": error("unreachable")})).lines();
        assert_eq!(
            lines,
            ["CRITICAL: desired-invalid: the desired state is rejected: why", "WARNING: vm: unreachable: why"]
        );
        assert_eq!(check(&json!({}), &json!({})).lines(), ["OK: 1 workload runs what is desired"]);
    }
}
