//! The state in one line, for a service manager to show.

use std::fmt::Write as _;

use tokio::sync::watch;

use super::state::{State, Workload};
use super::status::Snapshot;
use crate::desired::WorkloadName;

/// How many workloads the line names: it is for a glance, and `eci status` has all of them.
const NAMED: usize = 8;

/// Follows what the workloads are at.
#[derive(Debug)]
pub struct Summary {
    snapshot: watch::Receiver<Snapshot>,
    told: Option<String>,
}

impl Summary {
    pub(super) fn new(snapshot: watch::Receiver<Snapshot>) -> Self {
        Self { snapshot, told: None }
    }

    /// The line as it is now, once it is another than the one before. None when the agent ends.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            let line = line(&self.snapshot.borrow_and_update().state);
            if self.told.as_ref() != Some(&line) {
                self.told = Some(line.clone());
                return Some(line);
            }
            self.snapshot.changed().await.ok()?;
        }
    }
}

fn line(state: &State) -> String {
    if state.workloads.is_empty() {
        return "nothing is desired".to_owned();
    }
    let named: Vec<_> = state.workloads.iter().take(NAMED).map(|(name, workload)| part(name, workload)).collect();
    let mut line = named.join("; ");
    if let Some(more) = state.workloads.len().checked_sub(NAMED).filter(|more| *more > 0) {
        let _ = write!(line, "; {more} more");
    }
    line
}

/// `default: backoff (unreachable), boots generation 7`
fn part(name: &WorkloadName, workload: &Workload) -> String {
    let mut part = format!("{name}: {}", workload.phase());
    if let Some(trouble) = &workload.trouble {
        let _ = write!(part, " ({})", trouble.kind.as_str());
    }
    if let Some(current) = &workload.current {
        let _ = write!(part, ", boots generation {}", current.number);
    }
    if workload.retirement.is_some() {
        part.push_str(", no longer desired");
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_workloads_are_counted_and_not_named() {
        assert_eq!(line(&State::default()), "nothing is desired");
        let mut state = State::default();
        for n in 0..10 {
            state.workloads.insert(format!("w{n}").parse().unwrap(), Workload::default());
        }
        let line = line(&state);
        assert!(line.starts_with("w0: idle; w1: idle; ") && line.ends_with("; w7: idle; 2 more"), "{line}");
    }
}
