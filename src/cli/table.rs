//! The status as a person reads it at a glance.

use std::fmt::Write;

use bytesize::ByteSize;
use jiff::Timestamp;

use super::output::{counted, plain};
use crate::agent::{Phase, ProblemStatus, Status, WorkloadStatus};
use crate::desired::WorkloadName;
use crate::transfer::ProgressNow;

/// Draws `status`, of one workload or of all.
pub(super) fn render(status: &Status, only: Option<&WorkloadName>, now: Timestamp) -> String {
    let mut text = String::new();
    if only.is_none() {
        heading(&mut text, status, now);
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
        notes.push(remarks(workload, now));
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

fn heading(text: &mut String, status: &Status, now: Timestamp) {
    let agent = match &status.agent {
        Some(agent) => format!("{}, pid {}, up {}", agent.version, agent.pid, span(agent.uptime_s)),
        None => "not running".to_owned(),
    };
    let _ = writeln!(text, "agent    {agent}");
    if let Some(error) = status.agent.as_ref().and_then(|agent| agent.error.as_ref()) {
        let _ = writeln!(text, "  {}", problem(error, now));
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

/// What does not fit into the row: what is wanted instead, how far it is, what is wrong.
fn remarks(workload: &WorkloadStatus, now: Timestamp) -> Vec<String> {
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
    if let Some(staged) = &workload.staged {
        remarks.push(format!("> staged: generation {} ({})", staged.generation, staged.digest.short()));
    }
    if let Some(probation) = &workload.probation {
        remarks.push(match probation.ends_in_s {
            Some(time) => format!("> to be confirmed within {}", span(time)),
            None => "> not confirmed".to_owned(),
        });
    }
    if let Some(health) = workload.health.as_ref().filter(|health| health.healthy != Some(true)) {
        let message = health.message.as_deref().map_or_else(String::new, |message| format!(": {}", plain(message)));
        let state = if health.healthy == Some(false) { "! not healthy" } else { "> not healthy yet" };
        remarks.push(format!("{state}{message}"));
    }
    let should = workload.current.as_ref().map(|current| current.generation);
    for running in workload.running.iter().filter(|running| Some(**running) != should) {
        remarks.push(format!("! generation {running} still runs"));
    }
    if let Some(error) = &workload.error {
        remarks.push(problem(error, now));
    }
    remarks
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
