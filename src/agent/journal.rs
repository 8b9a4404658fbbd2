//! What happened lately, for those who follow the agent: entries with ids, from which a reader resumes.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::event_name::EventName;
use super::state::{Generation, Phase, Quarantined, State, Trouble, Workload};
use crate::desired::WorkloadName;
use crate::failure::Kind;
use crate::wording::span;

/// How many entries are kept for readers that come late or are slow.
const KEPT: usize = 1024;

/// Tells an entry from every other, those of earlier runs of the agent included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EntryId {
    /// When the agent started, in milliseconds since 1970.
    run: i64,
    /// The entry's number in that run, from 1.
    number: u64,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its id.
    pub id: EntryId,
    /// When it happened.
    pub at: Timestamp,
    /// Name of the event, one of [`EventName`].
    pub event: String,
    /// The workload; none where it concerns the desired-state file or the state directory.
    pub workload: Option<WorkloadName>,
    /// The workload's phase after it.
    pub phase: Option<Phase>,
    /// The generation that it is about.
    pub generation: Option<u64>,
    /// The kind of failure.
    pub kind: Option<Kind>,
    /// The text for a person.
    pub message: String,
}

/// The entries, shared by one writer and many readers.
#[derive(Clone, Debug)]
pub struct Journal {
    entries: Arc<Mutex<VecDeque<Entry>>>,
    /// The number of the last entry.
    last: watch::Sender<u64>,
    run: i64,
}

/// A reader's place in the journal.
#[derive(Debug)]
pub struct Subscription {
    entries: Arc<Mutex<VecDeque<Entry>>>,
    last: watch::Receiver<u64>,
    seen: u64,
}

impl Journal {
    /// An empty journal of an agent that started at `started`.
    pub fn new(started: Timestamp) -> Self {
        Self { entries: Arc::default(), last: watch::Sender::new(0), run: started.as_millisecond() }
    }

    /// Notes what changed from `before` to `after`.
    pub(super) fn note(&self, before: &State, after: &State, at: Timestamp) {
        for draft in changes(before, after) {
            self.push(draft, at);
        }
    }

    /// Notes that nothing can be written.
    pub(super) fn trouble(&self, trouble: &Trouble, at: Timestamp) {
        let (kind, message) = (Some(trouble.kind), trouble.message.clone());
        self.push(Draft { kind, message, ..Draft::of(EventName::Failed) }, at);
    }

    fn push(&self, draft: Draft, at: Timestamp) {
        let number = *self.last.borrow() + 1;
        let Draft { event, workload, phase, generation, kind, is_warning, message } = draft;
        let (event, name) = (event.as_str(), workload.as_ref().map(WorkloadName::as_str));
        if let Some(kind) = kind {
            tracing::warn!(event, workload = name, kind = kind.as_str(), "{message}");
        } else if is_warning {
            tracing::warn!(event, workload = name, generation, "{message}");
        } else {
            tracing::info!(event, workload = name, generation, "{message}");
        }
        let id = EntryId { run: self.run, number };
        let entry = Entry { id, at, event: event.to_owned(), workload, phase, generation, kind, message };
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() == KEPT {
            entries.pop_front();
        }
        entries.push_back(entry);
        drop(entries);
        self.last.send_replace(number);
    }

    /// Follows the journal from the entry after `after`: from the first that is kept where `after` is of another run,
    /// from the next that comes where there is none.
    pub fn subscribe(&self, after: Option<EntryId>) -> Subscription {
        let last = self.last.subscribe();
        let newest = *last.borrow();
        let seen = match after {
            None => newest,
            Some(id) if id.run == self.run && id.number <= newest => id.number,
            // Of another run, or of none: it has seen nothing of this one.
            Some(_) => 0,
        };
        Subscription { entries: Arc::clone(&self.entries), last, seen }
    }
}

impl Subscription {
    /// Waits for entries that were not seen yet, and gives them in order. None once the journal is closed.
    pub async fn next(&mut self) -> Option<Vec<Entry>> {
        let seen = self.seen;
        self.last.wait_for(|last| *last > seen).await.ok()?;
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let new: Vec<Entry> = entries.iter().filter(|entry| entry.id.number > seen).cloned().collect();
        self.seen = new.last().map_or(seen, |entry| entry.id.number);
        Some(new)
    }
}

/// An entry without its id and time.
#[derive(Debug, PartialEq, Eq)]
struct Draft {
    event: EventName,
    workload: Option<WorkloadName>,
    phase: Option<Phase>,
    generation: Option<u64>,
    kind: Option<Kind>,
    is_warning: bool,
    message: String,
}

impl Draft {
    /// An entry of this name, about nothing yet.
    fn of(event: EventName) -> Self {
        Self {
            event,
            workload: None,
            phase: None,
            generation: None,
            kind: None,
            is_warning: false,
            message: String::new(),
        }
    }
}

/// What a reader wants to know of the step from `before` to `after`.
fn changes(before: &State, after: &State) -> Vec<Draft> {
    let mut drafts = Vec::new();
    if before.accepted != after.accepted
        && let Some(accepted) = after.accepted
    {
        let message = format!("the desired state {} was accepted and is in force", accepted.sha256.short());
        drafts.push(Draft { message, ..Draft::of(EventName::DesiredAccepted) });
    }
    if before.rejected != after.rejected
        && let Some(Trouble { kind, message, .. }) = &after.rejected
    {
        drafts.push(Draft { kind: Some(*kind), message: message.clone(), ..Draft::of(EventName::DesiredRejected) });
    }
    for name in before.workloads.keys().filter(|name| !after.workloads.contains_key(name)) {
        let message = format!("{name}: it was retired, as the desired state does not name it; its links are removed");
        drafts.push(Draft { workload: Some(name.clone()), message, ..Draft::of(EventName::Retired) });
    }
    for (name, workload) in &after.workloads {
        let old = before.workloads.get(name);
        let phase = workload.phase();
        let draft =
            |event, message| Draft { workload: Some(name.clone()), phase: Some(phase), message, ..Draft::of(event) };
        if let Some(current) =
            workload.current.as_ref().filter(|current| old.and_then(|old| old.current.as_ref()) != Some(current))
        {
            let message = format!("{name}: generation {} was activated ({})", current.number, current.reference);
            drafts.push(Draft { generation: Some(current.number), ..draft(EventName::Activated, message) });
        }
        drafts.extend(retirement(name, old, workload).map(|(event, is_warning, message)| Draft {
            generation: workload.current.as_ref().map(|current| current.number),
            is_warning,
            ..draft(event, message)
        }));
        drafts.extend(
            old.and_then(|old| verdict(name, old, workload))
                .map(|(event, generation, message)| Draft { generation: Some(generation), ..draft(event, message) }),
        );
        if let Some(trouble) =
            workload.trouble.as_ref().filter(|trouble| old.and_then(|old| old.trouble.as_ref()) != Some(trouble))
        {
            let (attempts, retry_at) = (trouble.attempts, trouble.retry_at.map(tracing::field::display));
            tracing::debug!(workload = name.as_str(), attempts, retry_at, "next try");
            drafts.push(Draft { kind: Some(trouble.kind), ..draft(EventName::Failed, trouble.message.clone()) });
        } else if old.is_none_or(|old| old.phase() != phase || (old.trouble.is_some() && workload.trouble.is_none())) {
            drafts.push(draft(EventName::Phase, format!("{name}: {}", in_phase(phase, workload))));
        }
    }
    drafts
}

/// A retirement that became pending, or is no longer: the event, whether it is a warning, and the message.
fn retirement(name: &WorkloadName, before: Option<&Workload>, after: &Workload) -> Option<(EventName, bool, String)> {
    let is_named = |workload: &Workload| workload.retirement.is_none() && workload.spec.is_some();
    match (before.and_then(|before| before.retirement), after.retirement) {
        (None, Some(retirement)) => {
            let until = match retirement.length {
                Some(length) => format!("it is retired in {}", span(length)),
                None => "it runs on until \"eci apply --retire\" retires it".to_owned(),
            };
            let message = format!("{name}: the desired state no longer names it; {until}, unless it is named again");
            Some((EventName::RetirementPending, true, message))
        }
        (Some(_), None) if is_named(after) => Some((
            EventName::RetirementCancelled,
            false,
            format!("{name}: the desired state names it again, so it stays"),
        )),
        _ => None,
    }
}

/// The sentence about a workload that has come to `phase`.
fn in_phase(phase: Phase, workload: &Workload) -> String {
    let numbered = |generation: Option<&Generation>, does: &str| match generation {
        Some(generation) => format!("generation {} {does}", generation.number),
        None => format!("a generation {does}"),
    };
    let (current, staged) = (workload.current.as_ref(), workload.staged.as_ref());
    match phase {
        Phase::Idle => "nothing is being done".to_owned(),
        Phase::Resolving => "looking up the image".to_owned(),
        Phase::Planning => "comparing the image with the cache".to_owned(),
        Phase::Fetching => "fetching the image".to_owned(),
        Phase::Verifying => "verifying what the cache has of the image".to_owned(),
        Phase::Materializing => "laying out a generation".to_owned(),
        Phase::Staged => numbered(staged, "is ready and waits to be activated"),
        Phase::Activating => "activating a generation".to_owned(),
        Phase::Probation => numbered(current, "is on probation and has to be confirmed"),
        Phase::Active => numbered(current, "is in use"),
        Phase::Backoff => "waiting for the next try".to_owned(),
        Phase::Blocked => "blocked until an operator changes something".to_owned(),
        Phase::Retiring => "removing the links, as the desired state does not name it".to_owned(),
    }
}

/// What was found of the generation that runs.
fn verdict(name: &WorkloadName, before: &Workload, after: &Workload) -> Option<(EventName, u64, String)> {
    if let Some(given_up) = after.quarantine.last().filter(|last| before.quarantine.last() != Some(last)) {
        let Quarantined { generation, why, .. } = given_up;
        return Some((
            EventName::RolledBack,
            *generation,
            format!("{name}: generation {generation} was given up and is not tried again: {why}"),
        ));
    }
    let current = after.current.as_ref()?.number;
    if before.current.as_ref().is_none_or(|before| before.number != current) {
        return None;
    }
    if before.probation().is_some() && after.probation().is_none() {
        return Some((EventName::Confirmed, current, format!("{name}: generation {current} was confirmed and stays")));
    }
    let is_healthy = after.health.is_healthy.filter(|_| after.health.is_healthy != before.health.is_healthy)?;
    if is_healthy {
        return Some((EventName::Healthy, current, format!("{name}: generation {current} is healthy")));
    }
    let why = after.health.message.as_deref().unwrap_or("its check fails");
    Some((EventName::Unhealthy, current, format!("{name}: generation {current} is not healthy: {why}")))
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.run, self.number)
    }
}

impl FromStr for EntryId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once('-')
            .and_then(|(run, number)| Some(Self { run: run.parse().ok()?, number: number.parse().ok()? }));
        parsed.ok_or_else(|| format!("{:?} is no id of an event", text.chars().take(40).collect::<String>()))
    }
}

impl TryFrom<String> for EntryId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<EntryId> for String {
    fn from(id: EntryId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(run: i64, entries: u64) -> Journal {
        let journal = Journal::new(Timestamp::from_millisecond(run).unwrap());
        for n in 1..=entries {
            journal.push(Draft { message: n.to_string(), ..Draft::of(EventName::Phase) }, Timestamp::UNIX_EPOCH);
        }
        journal
    }

    async fn read(journal: &Journal, after: &str) -> Vec<String> {
        let mut subscription = journal.subscribe(Some(after.parse().unwrap()));
        subscription.next().await.unwrap().into_iter().map(|entry| entry.message).collect()
    }

    #[tokio::test]
    async fn a_reader_resumes_after_what_it_saw() {
        let journal = journal(1000, 5);
        assert_eq!(read(&journal, "1000-3").await, ["4", "5"]);
        assert_eq!(read(&journal, "999-3").await.len(), 5, "an id of an earlier run has seen nothing of this one");
        assert_eq!(read(&journal, "1000-9").await.len(), 5, "nor has one that was never given");
    }

    #[tokio::test]
    async fn only_the_latest_entries_are_kept() {
        let journal = journal(1000, KEPT as u64 + 10);
        assert_eq!(read(&journal, "1000-0").await.len(), KEPT);
    }

    #[test]
    fn phases_are_told_in_sentences() {
        let workload = Workload::default();
        for phase in Phase::ALL {
            let said = in_phase(phase, &workload);
            assert!(said.contains(' ') && !said.ends_with('.') && said != format!("is {phase}"), "{said}");
            assert!(said.chars().next().unwrap().is_lowercase(), "{said}");
        }
        assert_eq!(in_phase(Phase::Staged, &workload), "a generation is ready and waits to be activated");
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in ["", "-", "1", "a-1", "1-a"] {
            assert!(text.parse::<EntryId>().is_err(), "{text}");
        }
    }
}
