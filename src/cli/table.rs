//! The status as a person reads it at a glance.

use std::fmt::Write;

use bytesize::ByteSize;
use jiff::Timestamp;

use super::output::{counted, plain};
use crate::agent::{HealthStatus, Phase, ProblemStatus, RetirementStatus, Status, WaitStatus, WorkloadStatus};
use crate::desired::WorkloadName;
use crate::failure::Kind;
use crate::oci::Digest;
use crate::transfer::ProgressNow;

/// As many of the images that were rolled back are named, the last ones; the status has all.
const NAMED: usize = 3;

/// The reason that a status comes from the state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoAgent {
    /// No process listens on the socket.
    Absent,
    /// The socket takes connections, and no answer comes.
    Silent,
}

/// Draws `status`, of one workload or of all. `no_agent` is shown if the status has no agent.
pub(super) fn render(status: &Status, only: Option<&WorkloadName>, no_agent: NoAgent, now: Timestamp) -> String {
    let mut text = String::new();
    if only.is_none() {
        heading(&mut text, status, no_agent, now);
    }
    let shown = status.workloads.iter().filter(|(name, _)| only.is_none_or(|only| only == *name));
    text.push_str(&workloads(shown, now));
    text
}

/// Draws one workload.
pub(super) fn line(name: &WorkloadName, workload: &WorkloadStatus, now: Timestamp) -> String {
    workloads([(name, workload)].into_iter(), now)
}

fn workloads<'a>(shown: impl Iterator<Item = (&'a WorkloadName, &'a WorkloadStatus)>, now: Timestamp) -> String {
    let mut rows = vec![["WORKLOAD", "PHASE", "CURRENT", "GEN", "DIGEST", "SINCE"].map(str::to_owned)];
    let mut notes = vec![Vec::new()];
    for (name, workload) in shown {
        rows.push(row(name, workload, now));
        notes.push(remarks(name, workload, now));
    }
    if rows.len() == 1 {
        return "no workloads\n".to_owned();
    }
    let widths = rows.iter().fold([0; 6], |mut widths, row| {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
        widths
    });
    let mut text = String::new();
    for (row, notes) in rows.iter().zip(notes) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
        for note in notes {
            let _ = writeln!(text, "  {note}");
        }
    }
    text
}

fn heading(text: &mut String, status: &Status, no_agent: NoAgent, now: Timestamp) {
    let agent = match &status.agent {
        Some(agent) => format!("{}, pid {}, up {}", agent.version, agent.pid, span(agent.uptime_s)),
        None if no_agent == NoAgent::Silent => "does not answer".to_owned(),
        None => "not running".to_owned(),
    };
    let _ = writeln!(text, "agent    {agent}");
    if let Some(error) = status.agent.as_ref().and_then(|agent| agent.error.as_ref()) {
        let _ = writeln!(text, "  {}", problem(error, now));
    }
    if let Some(error) = status.agent.as_ref().and_then(|agent| agent.config_error.as_ref()) {
        let _ = writeln!(text, "  {}", problem(error, now));
        let _ = writeln!(text, "  the configuration before it is in force (eci config check)");
    }
    let desired = match (&status.desired.sha256, status.desired.accepted_at) {
        (Some(sha256), Some(at)) => format!("{} in force for {}", sha256.short(), age(at, now)),
        _ => "nothing accepted yet".to_owned(),
    };
    let _ = writeln!(text, "desired  {}: {desired}", status.desired.path.display());
    if let Some(error) = &status.desired.error {
        let _ = writeln!(text, "  ! {}: {} (for {})", error.kind, plain(&error.message), age(error.since, now));
    }
    let cache = status.cache;
    let (used, free) = (ByteSize(cache.allocated_bytes), ByteSize(cache.free_bytes));
    let _ = writeln!(text, "cache    {}, {used} on disk, {free} free", counted(cache.blobs, "blob"));
    if status.fsck.running {
        let percent = status.fsck.bytes_done.saturating_mul(100) / status.fsck.bytes_total.max(1);
        let _ = writeln!(text, "fsck     {percent} % of {}", ByteSize(status.fsck.bytes_total));
    }
    if status.fsck.left > 0 {
        let _ = writeln!(
            text,
            "  ! damaged: {} of what is on disk (eci fsck says which)",
            counted(status.fsck.left, "part")
        );
    }
    text.push('\n');
}

fn row(name: &WorkloadName, workload: &WorkloadStatus, now: Timestamp) -> [String; 6] {
    let none = || "-".to_owned();
    let current = workload.current.as_ref();
    [
        name.to_string(),
        workload.phase.to_string(),
        current.map_or_else(none, |current| plain(&current.reference.to_string())),
        current.map_or_else(none, |current| current.generation.to_string()),
        current.map_or_else(none, |current| current.digest.short()),
        current.and_then(|current| current.activated_at).map_or_else(none, |at| age(at, now)),
    ]
}

/// What does not fit into the row: what is wanted instead, how far it is, what it waits for, what is wrong.
fn remarks(name: &WorkloadName, workload: &WorkloadStatus, now: Timestamp) -> Vec<String> {
    let mut remarks = Vec::new();
    let running = workload.current.as_ref().map(|current| &current.reference);
    if let Some(desired) = workload.desired.as_ref().filter(|desired| running != Some(&desired.reference)) {
        remarks.push(format!("> wanted: {}", plain(&desired.reference.to_string())));
    }
    if workload.phase == Phase::Fetching
        && let Some(progress) = workload.progress
    {
        remarks.push(format!("> {}", transfer(progress)));
    }
    if workload.phase == Phase::Verifying {
        remarks.push("> what the cache had before is being read".to_owned());
    }
    if let Some(staged) = &workload.staged {
        let awaited = workload.waits_for.as_ref().map_or_else(String::new, |waits| awaited(name, waits));
        remarks.push(format!("> staged: generation {} ({}){awaited}", staged.generation, staged.digest.short()));
    }
    remarks.extend(workload.retirement.as_ref().map(retirement));
    remarks.extend(trial(name, workload));
    remarks.extend(workload.health.as_ref().and_then(health));
    let should = workload.current.as_ref().map(|current| current.generation);
    for running in workload.running.iter().filter(|running| Some(**running) != should) {
        remarks.push(format!("! generation {running} still runs"));
    }
    remarks.extend(quarantined(&workload.quarantined));
    if let Some(error) = &workload.error {
        remarks.push(problem(error, now));
    }
    remarks
}

/// What has to come before a staged generation is activated.
fn awaited(name: &WorkloadName, waits: &WaitStatus) -> String {
    let person = waits.person.then(|| format!("a person (eci activate {name})"));
    let window = waits.window.then(|| match waits.window_opens_in_s {
        Some(time) => format!("the window (opens in {})", span(time)),
        None => "the window (the clock is wrong, so nobody can say when it opens)".to_owned(),
    });
    let awaited: Vec<_> = [person, window].into_iter().flatten().collect();
    if awaited.is_empty() { String::new() } else { format!(", waits for {}", awaited.join(" and ")) }
}

/// A retirement that is pending, and the ways to end it.
fn retirement(retirement: &RetirementStatus) -> String {
    let when = match retirement.ends_in_s {
        Some(time) => format!("retired in {}, at once by \"eci apply --retire\"", span(time)),
        None => "retired only by \"eci apply --retire\"".to_owned(),
    };
    format!("! no longer in the desired state: {when}; name it again to keep it")
}

/// How long what runs has to be confirmed, and what becomes of it else.
fn trial(name: &WorkloadName, workload: &WorkloadStatus) -> Option<String> {
    let probation = workload.probation.as_ref()?;
    let Some(time) = probation.ends_in_s else { return Some(format!("> not confirmed (eci confirm {name})")) };
    let back = match &workload.previous {
        Some(previous) => format!("else back to generation {}", previous.generation),
        None => "with nothing to go back to".to_owned(),
    };
    let starts = match probation.restarts {
        0 => String::new(),
        1 => "; started once since".to_owned(),
        more => format!("; started {more} times since"),
    };
    Some(format!("> to be confirmed within {} (eci confirm {name}), {back}{starts}", span(time)))
}

/// What is wrong with what runs; none where the last check passed.
fn health(health: &HealthStatus) -> Option<String> {
    let state = match health.healthy {
        Some(true) if health.failures == 0 => return None,
        Some(true) => "> healthy, but not at the last check",
        Some(false) => "! not healthy",
        None => "> not healthy yet",
    };
    let times = if health.failures > 1 { format!(" ({} times in a row)", health.failures) } else { String::new() };
    let message = health.message.as_deref().map_or_else(String::new, |message| format!(": {}", plain(message)));
    Some(format!("{state}{times}{message}"))
}

/// What was rolled back; none where nothing was.
fn quarantined(digests: &[Digest]) -> Option<String> {
    let named: Vec<_> = digests.iter().rev().take(NAMED).map(Digest::short).collect();
    let more = match digests.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!named.is_empty()).then(|| format!("> rolled back, and not tried again: {}{more}", named.join(", ")))
}

#[allow(clippy::cast_precision_loss, reason = "whole units are what is shown")]
fn transfer(progress: ProgressNow) -> String {
    let percent = progress.bytes_done.saturating_mul(100) / progress.bytes_total.max(1);
    let left = progress.eta_s.map_or_else(String::new, |eta| format!(", {} left", whole(eta)));
    format!("{percent} % of {}, {}/s{left}", ByteSize(progress.bytes_total), ByteSize(progress.bytes_per_s))
}

fn problem(error: &ProblemStatus, now: Timestamp) -> String {
    let attempts = if error.attempts == 1 { "once".to_owned() } else { format!("{} times", error.attempts) };
    let next = match error.retry_at {
        Some(at) if error.kind == Kind::Quarantined => format!("looked up again in {}", age(now, at)),
        Some(at) => format!("next try in {}", age(now, at)),
        None => "not tried again by itself".to_owned(),
    };
    format!("! {}: {} ({attempts} in {}, {next})", error.kind, plain(&error.message), age(error.since, now))
}

/// The time from `from` to `to`, in the unit that says it best.
fn age(from: Timestamp, to: Timestamp) -> String {
    span(to.duration_since(from).as_secs_f64())
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole units are what is shown")]
fn span(seconds: f64) -> String {
    whole(seconds.max(0.0) as u64)
}

fn whole(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn generation(number: u64) -> Value {
        json!({
            "generation": number, "reference": format!("a.example/nginx:v{number}"),
            "digest": format!("sha256:{number}{:063}", 0), "index_digest": null, "activated_at": null, "confirmed": true,
        })
    }

    /// The lines about a workload that is quiet but for `changes`.
    fn lines(changes: &Value) -> Vec<String> {
        let mut document = json!({
            "phase": "active", "current": generation(7), "previous": generation(6), "staged": null, "waits_for": null,
            "desired": {"reference": "a.example/nginx:v7", "digest": null, "index_digest": null}, "progress": null,
            "error": null, "quarantined": [], "probation": null, "health": null, "running": [7],
        });
        document.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let status = serde_json::from_value(document).unwrap();
        let text = line(&"router".parse().unwrap(), &status, Timestamp::UNIX_EPOCH);
        text.lines().skip(2).map(|line| line.trim_start().to_owned()).collect()
    }

    #[test]
    fn what_is_staged_says_whom_it_waits_for() {
        let staged = |waits: Value| lines(&json!({"phase": "staged", "staged": generation(8), "waits_for": waits}));
        let waits = |person: bool, window: bool, opens_in: Option<f64>| {
            let [line] = &staged(json!({"person": person, "window": window, "window_opens_in_s": opens_in}))[..] else {
                panic!("one line")
            };
            line.strip_prefix("> staged: generation 8 (800000000000)").unwrap().to_owned()
        };
        assert_eq!(waits(true, false, None), ", waits for a person (eci activate router)");
        assert_eq!(waits(false, true, Some(7261.0)), ", waits for the window (opens in 2h)");
        assert_eq!(
            waits(true, true, Some(30.0)),
            ", waits for a person (eci activate router) and the window (opens in 30s)"
        );
        assert!(waits(false, true, None).contains("the clock is wrong"));
        assert_eq!(staged(Value::Null), ["> staged: generation 8 (800000000000)"], "a hook refused: the error says so");
    }

    #[test]
    fn a_probation_says_how_long_it_is_and_what_becomes_of_it_else() {
        let probation = |ends_in: Option<f64>, restarts: u32, previous: Value| {
            let probation = json!({"ends_in_s": ends_in, "restarts": restarts});
            lines(&json!({"phase": "probation", "probation": probation, "previous": previous})).join("\n")
        };
        assert_eq!(
            probation(Some(540.0), 0, generation(6)),
            "> to be confirmed within 9m (eci confirm router), else back to generation 6"
        );
        assert_eq!(
            probation(Some(59.9), 2, Value::Null),
            "> to be confirmed within 59s (eci confirm router), with nothing to go back to; started 2 times since"
        );
        assert!(probation(Some(1.0), 1, generation(6)).ends_with("; started once since"));
        assert_eq!(probation(None, 0, Value::Null), "> not confirmed (eci confirm router)");
    }

    #[test]
    fn a_pending_retirement_says_when_and_how_it_ends() {
        let retirement = |ends_in: Option<f64>| lines(&json!({"retirement": {"ends_in_s": ends_in}})).join("\n");
        assert_eq!(
            retirement(Some(540.0)),
            "! no longer in the desired state: retired in 9m, at once by \"eci apply --retire\"; name it again to keep it"
        );
        assert!(retirement(None).contains("retired only by \"eci apply --retire\""));
        assert!(lines(&json!({"retirement": null})).is_empty());
    }

    #[test]
    fn health_is_shown_where_the_last_check_failed() {
        let health = |healthy: Option<bool>, failures: u32| {
            let message = (failures > 0).then_some("HTTP 503");
            let at = Timestamp::UNIX_EPOCH;
            lines(&json!({"health": {"healthy": healthy, "failures": failures, "checked_at": at, "message": message}}))
        };
        assert!(health(Some(true), 0).is_empty());
        assert_eq!(health(Some(true), 1), ["> healthy, but not at the last check: HTTP 503"]);
        assert_eq!(health(Some(false), 3), ["! not healthy (3 times in a row): HTTP 503"]);
        assert_eq!(health(None, 2), ["> not healthy yet (2 times in a row): HTTP 503"]);
    }

    #[test]
    fn what_was_rolled_back_is_named_the_last_first() {
        let quarantined = |numbers: &[u64]| {
            let digests: Vec<_> = numbers.iter().map(|number| format!("sha256:{number}{:063}", 0)).collect();
            lines(&json!({"quarantined": digests}))
        };
        assert!(quarantined(&[]).is_empty());
        assert_eq!(quarantined(&[1]), ["> rolled back, and not tried again: 100000000000"]);
        assert_eq!(
            quarantined(&[1, 2, 3, 4, 5]),
            ["> rolled back, and not tried again: 500000000000, 400000000000, 300000000000 and 2 more"]
        );
    }

    #[test]
    fn a_long_read_says_what_it_is() {
        assert_eq!(lines(&json!({"phase": "verifying"})), ["> what the cache had before is being read"]);
    }

    #[test]
    fn what_runs_still_is_shown_where_it_is_another_generation() {
        assert!(lines(&json!({})).is_empty());
        assert_eq!(lines(&json!({"running": [6]})), ["! generation 6 still runs"]);
    }
}
