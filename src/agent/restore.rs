//! The state as a restart finds it: what was saved, and what links and generations say. The links have the last word.

use std::time::Duration;

use super::Event;
use super::state::{Activity, Generation, Probation, State, Workload};
use super::store::Saved;
use crate::deploy::{Generations, Links};
use crate::desired::WorkloadName;
use crate::durable::DurableError;

/// The first form of `state.json` that says for which generation hooks were run.
const FIRST_WITH_HOOKS: u32 = 3;

/// Puts the state together. Workloads that are desired, or half retired, wake at once.
pub(super) fn restore(saved: Option<Saved>, generations: &Generations, links: &Links) -> Result<State, DurableError> {
    let is_lost = saved.is_none();
    let saved = match saved {
        Some(saved) => saved,
        // Whose number that was nobody knows any more.
        None => Saved { forgotten: generations.highest_gone(), ..Saved::default() },
    };
    generations.hold_to(saved.records());
    // Where that is not known, what runs has run for long.
    let tells_of_hooks = saved.version >= FIRST_WITH_HOOKS;
    let Saved { accepted, retired, forgotten, .. } = saved;
    let mut state = State { accepted, retired, forgotten, ..State::default() };
    for (name, workload) in saved.workloads {
        let staged = workload.staged.and_then(|number| generations.complete(&name, number));
        let workload = Workload {
            spec: workload.desired,
            last_generation: workload.last_generation,
            after: workload.after,
            staged: staged.map(|launch| Generation::new(&launch, None)),
            approved: workload.approved,
            probations: workload.probations,
            quarantine: workload.quarantine,
            announced: workload.announced,
            lost_records: workload.records,
            retirement: workload.retirement,
            current: workload
                .current
                .and_then(|number| Some(Generation::new(&generations.complete(&name, number)?, None))),
            ..Workload::default()
        };
        state.workloads.insert(name, workload);
    }
    for name in links.workloads() {
        let last_generation = state.last_generation_of(&name);
        state.workloads.entry(name).or_insert_with(|| Workload { last_generation, ..Workload::default() });
    }
    for (name, workload) in &mut state.workloads {
        look(name, workload, generations, links)?;
        let current = workload.current.as_ref().map(|current| current.number);
        if !tells_of_hooks {
            workload.announced = current;
        }
        if let Some(current) = current.filter(|_| is_lost) {
            // Until the desired state says that nobody has to confirm it.
            workload.probations.insert(current, Probation::UNKNOWN);
        }
        // Without an accepted desired state, what has links stays as it is: it may yet be named.
        let undecided = workload.spec.is_none() && (state.accepted.is_none() || workload.retirement.is_some());
        workload.wake_at = (!undecided).then_some(Duration::ZERO);
    }
    generations.hold_to(state.records());
    Ok(state)
}

/// What workloads boot, where that is not what `state` says any more. Those with a job are left out: it may be changing just
/// that. A link that is gone is set again where its generation is whole.
pub(super) fn differences(state: &State, generations: &Generations, links: &Links) -> Result<Vec<Event>, DurableError> {
    let mut events = Vec::new();
    for (name, workload) in &state.workloads {
        if workload.activity.job().is_some() || workload.links_in_doubt {
            continue;
        }
        let is_whole = |known: &&Generation| generations.complete(name, known.number).is_some();
        if links.current(name)?.is_none()
            && let Some(current) = workload.current.as_ref().filter(is_whole)
        {
            tracing::error!(workload = %name, generation = current.number, "its links are gone, and are set again");
            links.activate(
                name,
                current.number,
                workload.previous.as_ref().filter(is_whole).map(|known| known.number),
            )?;
        }
        if !workload.probations.is_empty()
            && links.previous(name)?.is_none()
            && let (Some(current), Some(previous)) = (&workload.current, workload.previous.as_ref().filter(is_whole))
        {
            tracing::error!(workload = %name, generation = previous.number, "the way back is gone, and is set again");
            links.activate(name, current.number, Some(previous.number))?;
        }
        let (current, previous) = linked(name, generations, links)?;
        let is_right = Generation::is_same(current.as_ref(), workload.current.as_ref());
        if !is_right || number(previous.as_ref()) != number(workload.previous.as_ref()) {
            // That a collection forgets the previous one is in order.
            if !is_right {
                tracing::error!(workload = %name, "current is not what it was, or not complete any more");
            }
            for generation in [&workload.current, &workload.previous].into_iter().flatten() {
                tell_of_altered(name, generation.number, generations);
            }
            let (current, previous) = (current.map(Box::new), previous.map(Box::new));
            events.push(Event::Found { workload: name.clone(), current, previous });
        }
    }
    let default = WorkloadName::default_name();
    let is_at_rest = state.workloads.get(&default).is_none_or(|workload| workload.activity.job().is_none());
    if is_at_rest && !links.is_mirrored()? {
        links.mirror(&default)?;
    }
    Ok(events)
}

/// Tells that a generation says something else of itself than it did.
fn tell_of_altered(name: &WorkloadName, generation: u64, generations: &Generations) {
    if generations.altered(name, generation).is_some() {
        tracing::error!(workload = %name, generation, "its launch.json is not what it was, and counts as lost");
    }
}

fn number(generation: Option<&Generation>) -> Option<u64> {
    generation.map(|generation| generation.number)
}

/// The complete generations that `current` and `previous` point at.
fn linked(
    name: &WorkloadName,
    generations: &Generations,
    links: &Links,
) -> Result<(Option<Generation>, Option<Generation>), DurableError> {
    let described = |number: u64, activated_at| {
        generations.complete(name, number).map(|launch| Generation::new(&launch, activated_at))
    };
    let current = links.current(name)?;
    // After a crash between the two swaps both links point at the same generation.
    let previous = links.previous(name)?.filter(|number| Some(*number) != current);
    Ok((
        current.and_then(|number| described(number, links.activated_at(name))),
        previous.and_then(|number| described(number, None)),
    ))
}

fn look(
    name: &WorkloadName,
    workload: &mut Workload,
    generations: &Generations,
    links: &Links,
) -> Result<(), DurableError> {
    let known = workload.current.take();
    (workload.current, workload.previous) = linked(name, generations, links)?;
    let current = links.current(name)?;
    if current.is_none() && workload.spec.is_some() {
        // The link is gone and not what it pointed at: it is set again.
        workload.current = known;
    }
    if let Some(generation) = current.filter(|_| workload.current.is_none()) {
        workload.is_damaged = true;
        workload.lost = generations.image(name, generation);
        tracing::error!(workload = %name, generation, "current points at a generation that is not complete");
    }
    for generation in [current, links.previous(name)?].into_iter().flatten() {
        tell_of_altered(name, generation, generations);
    }
    // What cannot be listed now will not be when a number is given either.
    let on_disk = generations.highest(name).unwrap_or_default().max(current.unwrap_or(0));
    workload.last_generation = workload.last_generation.max(on_disk);
    workload.activity = Activity::Idle;
    Ok(())
}
