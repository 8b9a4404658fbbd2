//! The sentences beneath a workload in the status: what is wanted, what goes on, what is awaited, what is wrong.

use bytesize::ByteSize;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::output::plain;
use crate::agent::{HealthStatus, Phase, ProblemStatus, RetirementStatus, WaitStatus, WorkloadStatus};
use crate::desired::WorkloadName;
use crate::failure::Kind;
use crate::oci::Digest;
use crate::transfer::ProgressNow;

/// As many of the images that were rolled back are named, the last ones; the status has all.
const NAMED: usize = 3;

/// Lines below the row: the wanted image, its progress, conditions that it waits for, errors.
pub(super) fn remarks(name: &WorkloadName, workload: &WorkloadStatus, now: Timestamp) -> Vec<String> {
    let mut remarks = Vec::new();
    remarks.extend(wanted(workload));
    remarks.extend(rollback(workload));
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
    let is_said = workload.error.as_ref().is_some_and(|error| error.kind == Kind::Quarantined);
    if !(is_said && workload.quarantined.len() == 1) {
        remarks.extend(quarantined(&workload.quarantined));
    }
    if let Some(error) = &workload.error {
        remarks.push(problem(error, now));
    }
    remarks.extend(outlook(workload, now));
    remarks
}

/// The image that is wanted in place of what runs; of a tag that was moved, with its digest.
fn wanted(workload: &WorkloadStatus) -> Option<String> {
    let desired = workload.desired.as_ref()?;
    let reference = plain(&desired.reference.to_string());
    let current = workload.current.as_ref();
    if current.map(|current| &current.reference) != Some(&desired.reference) {
        return Some(format!("> wanted: {reference}"));
    }
    let moved = desired.digest.filter(|digest| current.is_some_and(|current| current.digest != *digest))?;
    Some(format!("> wanted: {reference} ({})", moved.short()))
}

/// A rollback that goes on.
fn rollback(workload: &WorkloadStatus) -> Option<String> {
    let is_given_up = workload.current.as_ref().is_some_and(|current| workload.quarantined.contains(&current.digest));
    let previous = workload.previous.as_ref().filter(|_| is_given_up && workload.phase == Phase::Activating)?;
    Some(format!("> going back to generation {}", previous.generation))
}

/// The generation before, and the time of the next poll.
fn outlook(workload: &WorkloadStatus, now: Timestamp) -> Option<String> {
    let previous = workload.previous.as_ref().map(|previous| {
        let reference = plain(&previous.reference.to_string());
        format!("previous: generation {}, {reference} ({})", previous.generation, previous.digest.short())
    });
    // That of an error stands beside the error.
    let is_said = workload.error.as_ref().is_some_and(|error| error.retry_at.is_some());
    let poll = workload.next_poll_at.filter(|_| !is_said).map(|at| format!("next poll in {}", until(now, at)));
    let parts: Vec<_> = [previous, poll].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// Conditions for the activation of a staged generation.
fn awaited(name: &WorkloadName, waits: &WaitStatus) -> String {
    let person = waits.person.then(|| format!("a person (eci activate {name})"));
    let window = waits.window.then(|| match waits.window_opens_in_s {
        Some(time) => format!("the window (opens in {}{})", span(time), opening(waits)),
        None => "the window (the clock is wrong, so nobody can say when it opens)".to_owned(),
    });
    let awaited: Vec<_> = [person, window].into_iter().flatten().collect();
    if awaited.is_empty() { String::new() } else { format!(", waits for {}", awaited.join(" and ")) }
}

/// The date of a window's opening, by the clock of its time zone.
fn opening(waits: &WaitStatus) -> String {
    let (Some(at), Some(name)) = (waits.window_opens_at, &waits.window_timezone) else { return String::new() };
    match TimeZone::get(name) {
        Ok(zone) => format!(", {} {name}", zone.to_datetime(at).strftime("%a %Y-%m-%d %H:%M")),
        Err(_) => format!(", {} UTC", at.strftime("%a %Y-%m-%d %H:%M")),
    }
}

/// A retirement that is pending, and the ways to end it.
fn retirement(retirement: &RetirementStatus) -> String {
    let when = match retirement.ends_in_s {
        Some(time) => format!("retired in {}, at once by \"eci apply --retire\"", span(time)),
        None => "retired only by \"eci apply --retire\"".to_owned(),
    };
    format!("! no longer in the desired state: {when}; name it again to keep it")
}

/// The time left to confirm the current generation, and the effect of its end.
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

/// The last failed health check; none if the last check passed.
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

/// Images that were rolled back; none if there are none.
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

pub(super) fn problem(error: &ProblemStatus, now: Timestamp) -> String {
    let failed = match error.attempts {
        0 | 1 => format!("failed once, {} ago", age(error.since, now)),
        more => format!("failed {more} times in {}", age(error.since, now)),
    };
    let next = match error.retry_at {
        Some(at) if error.kind == Kind::Quarantined => format!("looked up again in {}", until(now, at)),
        Some(at) => format!("retry in {}", until(now, at)),
        None => "not retried by itself".to_owned(),
    };
    format!("! {}: {} ({failed}; {next})", error.kind, plain(&error.message))
}

/// The time that is left until `at`.
fn until(now: Timestamp, at: Timestamp) -> String {
    let left = at.duration_since(now).as_secs_f64();
    if left < 1.0 { "<1s".to_owned() } else { span(left) }
}

/// The time from `from` to `to`, in the unit that says it best.
pub(super) fn age(from: Timestamp, to: Timestamp) -> String {
    span(to.duration_since(from).as_secs_f64())
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole units are what is shown")]
pub(super) fn span(seconds: f64) -> String {
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
