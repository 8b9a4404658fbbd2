//! The status as a person reads it at a glance.

use std::fmt::Write;

use bytesize::ByteSize;
use jiff::Timestamp;

use super::output::{counted, plain};
use super::remarks::{age, problem, remarks, span};
use super::screen::{Colour, Screen};
use crate::agent::{Phase, Status, WorkloadStatus};
use crate::desired::WorkloadName;

/// The least width of the CURRENT column before another column gives way.
const MIN_REFERENCE: usize = 20;
/// The least width of the WORKLOAD column.
const MIN_NAME: usize = 8;
/// The columns of the table that have a rule of their own.
const NAME: usize = 0;
const PHASE: usize = 1;
const REFERENCE: usize = 2;
const DIGEST: usize = 4;
/// The width of the first column above the table.
const HEADING: usize = 9;

/// The reason that a status comes from the state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoAgent {
    /// No process listens on the socket.
    Absent,
    /// The socket takes connections, and no answer comes.
    Silent,
}

/// Draws `status`, of one workload or of all. `no_agent` is shown if the status has no agent.
pub(super) fn render(
    status: &Status,
    only: Option<&WorkloadName>,
    no_agent: NoAgent,
    now: Timestamp,
    screen: &Screen,
) -> String {
    let mut text = String::new();
    if only.is_none() {
        heading(&mut text, status, no_agent, now, screen);
    }
    let shown = status.workloads.iter().filter(|(name, _)| only.is_none_or(|only| only == *name));
    text.push_str(&workloads(shown, now, screen));
    text
}

/// Draws one workload.
pub(super) fn line(name: &WorkloadName, workload: &WorkloadStatus, now: Timestamp, screen: &Screen) -> String {
    workloads([(name, workload)].into_iter(), now, screen)
}

fn workloads<'a>(
    shown: impl Iterator<Item = (&'a WorkloadName, &'a WorkloadStatus)>,
    now: Timestamp,
    screen: &Screen,
) -> String {
    let mut rows = vec![["WORKLOAD", "PHASE", "CURRENT", "GEN", "DIGEST", "SINCE"].map(str::to_owned)];
    let mut notes = vec![(None, Vec::new())];
    for (name, workload) in shown {
        rows.push(row(name, workload, now, screen));
        notes.push((phase_colour(workload), remarks(name, workload, now)));
    }
    if rows.len() == 1 {
        return "no workloads\n".to_owned();
    }
    let widths = widths(&rows, screen);
    let mut text = String::new();
    for (row, (colour, notes)) in rows.iter().zip(notes) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate().filter(|(_, (_, width))| *width > 0) {
            let gap = if line.is_empty() { "" } else { "  " };
            let cell = format!("{:width$}", screen.shorten(cell, width));
            line.push_str(gap);
            line.push_str(&screen.paint(&cell, colour.filter(|_| column == PHASE)));
        }
        let _ = writeln!(text, "{}", line.trim_end());
        for note in notes {
            let colour = note.starts_with('!').then_some(Colour::Red);
            screen.write(&mut text, "  ", &note, 4, colour);
        }
    }
    text
}

/// The widths of the columns. On a narrow screen the reference is shortened, then the digest goes, then the name is
/// shortened.
fn widths(rows: &[[String; 6]], screen: &Screen) -> [usize; 6] {
    let mut widths = rows.iter().fold([0; 6], |mut widths, row| {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
        widths
    });
    let Some(screen) = screen.width else { return widths };
    let excess = |widths: &[usize; 6]| {
        let shown = widths.iter().filter(|width| **width > 0).count();
        (widths.iter().sum::<usize>() + 2 * shown.saturating_sub(1)).saturating_sub(screen)
    };
    let [name, _, reference, _, digest, _] = widths;
    let least = reference.min(MIN_REFERENCE);
    if reference.saturating_sub(excess(&widths)) < least && digest > 0 {
        set(&mut widths, DIGEST, 0);
    }
    let left = reference.saturating_sub(excess(&widths)).max(least);
    set(&mut widths, REFERENCE, left);
    let left = name.saturating_sub(excess(&widths)).max(MIN_NAME.min(name));
    set(&mut widths, NAME, left);
    widths
}

fn set(widths: &mut [usize; 6], column: usize, width: usize) {
    if let Some(place) = widths.get_mut(column) {
        *place = width;
    }
}

/// The colour of a phase; none while something is under way.
fn phase_colour(workload: &WorkloadStatus) -> Option<Colour> {
    match workload.phase {
        Phase::Active if workload.error.is_some() => Some(Colour::Yellow),
        Phase::Active => Some(Colour::Green),
        Phase::Blocked => Some(Colour::Red),
        Phase::Backoff | Phase::Staged | Phase::Probation | Phase::Retiring => Some(Colour::Yellow),
        _ => None,
    }
}

fn heading(text: &mut String, status: &Status, no_agent: NoAgent, now: Timestamp, screen: &Screen) {
    let error = |text: &mut String, message: &str| screen.write(text, "  ", message, 4, Some(Colour::Red));
    let (agent, colour) = match &status.agent {
        Some(agent) => (format!("{}, pid {}, up {}", agent.version, agent.pid, span(agent.uptime_s)), None),
        None if no_agent == NoAgent::Silent => ("does not answer".to_owned(), Some(Colour::Red)),
        None => ("not running".to_owned(), Some(Colour::Red)),
    };
    screen.write(text, "agent    ", &agent, HEADING, colour);
    if let Some(problem_of) = status.agent.as_ref().and_then(|agent| agent.error.as_ref()) {
        error(text, &problem(problem_of, now));
    }
    if let Some(problem_of) = status.agent.as_ref().and_then(|agent| agent.config_error.as_ref()) {
        error(text, &problem(problem_of, now));
        screen.write(text, "  ", "the configuration before it is in force (eci config check)", 4, None);
    }
    let is_rejected = status.desired.error.is_some();
    let desired = match (&status.desired.sha256, status.desired.accepted_at) {
        (Some(sha256), Some(at)) if is_rejected => {
            format!("REJECTED; {} stays in force (for {})", sha256.short(), age(at, now))
        }
        (Some(sha256), Some(at)) => format!("{} in force for {}", sha256.short(), age(at, now)),
        _ => "nothing accepted yet".to_owned(),
    };
    let path = plain(&status.desired.path.display().to_string());
    let path = screen.width.map_or(path.clone(), |width| screen.shorten(&path, width.saturating_sub(HEADING + 1)));
    screen.write(text, "desired  ", &format!("{path}: {desired}"), HEADING, None);
    if let Some(rejected) = &status.desired.error {
        error(text, &format!("! {}: {} (for {})", rejected.kind, plain(&rejected.message), age(rejected.since, now)));
    }
    let cache = status.cache;
    let (used, free) = (ByteSize(cache.allocated_bytes), ByteSize(cache.free_bytes));
    let cache = format!("{}, {used} on disk, {free} free", counted(cache.blobs, "blob"));
    screen.write(text, "cache    ", &cache, HEADING, None);
    if status.fsck.running {
        let percent = status.fsck.bytes_done.saturating_mul(100) / status.fsck.bytes_total.max(1);
        screen.write(
            text,
            "fsck     ",
            &format!("{percent} % of {}", ByteSize(status.fsck.bytes_total)),
            HEADING,
            None,
        );
    }
    if status.fsck.left > 0 {
        let parts = counted(status.fsck.left, "part");
        error(text, &format!("! damaged: {parts} of what is on disk (eci fsck says which)"));
    }
    text.push('\n');
}

fn row(name: &WorkloadName, workload: &WorkloadStatus, now: Timestamp, screen: &Screen) -> [String; 6] {
    let none = || "-".to_owned();
    let current = workload.current.as_ref();
    [
        name.to_string(),
        workload.phase.to_string(),
        current.map_or_else(none, |current| screen.text(&plain(&current.reference.to_string())).into_owned()),
        current.map_or_else(none, |current| current.generation.to_string()),
        current.map_or_else(none, |current| current.digest.short()),
        current.and_then(|current| current.activated_at).map_or_else(none, |at| age(at, now)),
    ]
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
        let screen = Screen { width: None, has_colour: false, is_utf8: true };
        let text = line(&"router".parse().unwrap(), &status, Timestamp::UNIX_EPOCH, &screen);
        let remarks = text.lines().skip(2).map(|line| line.trim_start().to_owned());
        remarks.filter(|line| !line.starts_with("previous: ")).collect()
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
