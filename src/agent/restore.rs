//! The state as a restart finds it: what was saved, and what links and generations say. The links have the last word.

use std::time::Duration;

use super::state::{Activity, Generation, State, Workload};
use super::store::{Saved, SavedWorkload};
use crate::deploy::{Generations, Launch, Links};
use crate::desired::WorkloadName;
use crate::durable::DurableError;

/// Puts the state together. Workloads that are desired, or half retired, wake at once.
pub(super) fn restore(saved: Option<Saved>, generations: &Generations, links: &Links) -> Result<State, DurableError> {
    let saved = match saved {
        Some(saved) => saved,
        // Whose number that was nobody knows any more.
        None => Saved { forgotten: generations.highest_gone(), ..Saved::default() },
    };
    let Saved { accepted, retired, forgotten, .. } = saved;
    let mut state = State { accepted, retired, forgotten, ..State::default() };
    for (name, workload) in saved.workloads {
        let SavedWorkload { desired, last_generation, after } = workload;
        let workload = Workload { spec: desired, last_generation, after, ..Workload::default() };
        state.workloads.insert(name, workload);
    }
    for name in links.workloads() {
        let last_generation = state.last_generation_of(&name);
        state.workloads.entry(name).or_insert_with(|| Workload { last_generation, ..Workload::default() });
    }
    for (name, workload) in &mut state.workloads {
        look(name, workload, generations, links)?;
        // Without an accepted desired state, what has links stays as it is: it may yet be named.
        let undecided = workload.spec.is_none() && state.accepted.is_none();
        workload.wake_at = (!undecided).then_some(Duration::ZERO);
    }
    Ok(state)
}

fn look(
    name: &WorkloadName,
    workload: &mut Workload,
    generations: &Generations,
    links: &Links,
) -> Result<(), DurableError> {
    let described = |number: u64, activated_at| {
        let launch = generations.launch(name, number).filter(Launch::is_complete);
        if launch.is_none() {
            tracing::error!(workload = %name, generation = number, "a link points at a generation that is not complete");
        }
        launch.map(|launch| Generation::new(&launch, activated_at))
    };
    let current = links.current(name)?;
    workload.current = current.and_then(|number| described(number, links.activated_at(name)));
    // After a crash between the two swaps both links point at the same generation.
    let previous = links.previous(name)?.filter(|number| Some(*number) != current);
    workload.previous = previous.and_then(|number| described(number, None));
    // What cannot be listed now will not be when a number is given either.
    let on_disk = generations.highest(name).unwrap_or_default().max(current.unwrap_or(0));
    workload.last_generation = workload.last_generation.max(on_disk);
    workload.activity = Activity::Idle;
    Ok(())
}
