//! The diagram in `docs/development/states.md` shows the edges that the transition has, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::transition::scene::{
    ACTIVITIES, CONFIRM, ONE, Scene, activity_name, damaged, desired, failure, laid_out, nothing_missing, pinned,
    something_missing, staged, target, unconfirmed, vm, vm_is_gone, vm_runs,
};
use eci_agent::agent::{Activity, Context, Event, Generation, Outcome, State, Workload, transition};
use eci_agent::failure::Retry;

/// From one activity to another; [`NONE`] is that of a workload that is not known.
type Edge = (String, String);
const NONE: &str = "[*]";
/// What a restart finds begins as `Idle`. The state is put together then, not changed by a transition.
const RESTART: (&str, &str) = (NONE, "Idle");

#[test]
fn the_diagram_shows_what_the_transition_does() {
    let text = document();
    let mut coded = explored(&activity_edges);
    coded.insert((RESTART.0.to_owned(), RESTART.1.to_owned()));
    compare(&drawn(&text, 0), &coded);
    for activity in ACTIVITIES {
        assert!(text.contains(&format!("\n| `{activity}` |")), "the table has no row for {activity}");
    }
}

#[test]
fn the_second_diagram_shows_the_life_of_a_generation() {
    compare(&drawn(&document(), 1), &explored(&generation_edges));
}

fn document() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/development/states.md");
    fs::read_to_string(file).unwrap()
}

fn compare(drawn: &BTreeSet<Edge>, coded: &BTreeSet<Edge>) {
    let list = |edges: &BTreeSet<Edge>, but: &BTreeSet<Edge>| {
        let lines: Vec<_> = edges.difference(but).map(|(from, to)| format!("\n    {from} --> {to}")).collect();
        lines.concat()
    };
    let (undrawn, uncoded) = (list(coded, drawn), list(drawn, coded));
    assert!(
        undrawn.is_empty() && uncoded.is_empty(),
        "in the code, but not in the diagram:{undrawn}\nin the diagram, but not in the code:{uncoded}"
    );
}

/// The edges of the diagram. An edge from a composite state starts at each state in it.
fn drawn(text: &str, number: usize) -> BTreeSet<Edge> {
    let diagram = text.split("```mermaid\n").nth(1 + number).expect("there is a diagram");
    let (diagram, _) = diagram.split_once("```").expect("it ends");
    let (mut parts, mut edges) = (BTreeMap::<&str, Vec<&str>>::new(), Vec::new());
    let mut composite = None;
    for line in diagram.lines().map(str::trim) {
        if let Some((from, to)) = line.split_once(" --> ") {
            edges.push((from, to.split_once(" : ").map_or(to, |(to, _)| to)));
        } else if let Some(name) = line.strip_prefix("state ") {
            composite = Some(name.trim_end_matches(" {"));
        } else if line == "}" {
            composite = None;
        } else if let Some(composite) = composite {
            parts.entry(composite).or_default().push(line);
        }
    }
    let starts = |from| parts.get(from).cloned().unwrap_or_else(|| vec![from]);
    let each = edges.into_iter().flat_map(|(from, to)| starts(from).into_iter().map(move |from| (from, to)));
    each.map(|(from, to)| (from.to_owned(), to.to_owned())).collect()
}

/// The edges of the code: every event in every state that can be reached, for one workload and a few images.
fn explored(edges_of: &dyn Fn(&State, &State) -> Vec<Edge>) -> BTreeSet<Edge> {
    let polled = Scene::new().context;
    let mut unpolled = polled;
    unpolled.policy.poll = None;
    let (mut late, mut closed) = (polled, polled);
    late.now += 2 * CONFIRM;
    closed.opens_in = Some(CONFIRM);
    let mut asking = polled;
    asking.policy.asks = true;
    let starts = [None, Some(ONE)].map(|image| Scene::restored(image).state).into_iter().chain([waiting()]);
    let mut frontier: Vec<State> = starts.chain([State::default()]).map(plain).collect();
    let mut seen: BTreeSet<String> = frontier.iter().map(key).collect();
    let mut edges = BTreeSet::new();
    while let Some(state) = frontier.pop() {
        for (event, context) in events(&state)
            .into_iter()
            .flat_map(|event| [polled, unpolled, late, closed, asking].map(|now| (event.clone(), now)))
        {
            let Some(next) = after(&state, event, &context) else { continue };
            edges.extend(edges_of(&state, &next));
            let next = plain(next);
            if seen.insert(key(&next)) {
                frontier.push(next);
            }
        }
    }
    edges
}

/// As a restart finds a node where `vm` boots generation 1, and generation 2 waits.
fn waiting() -> State {
    let mut state = Scene::restored(Some(&pinned(ONE))).state;
    let vm = state.workloads.get_mut(&vm()).unwrap();
    let (mut staged, spec) = (vm.current.clone().unwrap(), vm.spec.as_ref().unwrap());
    (staged.number, staged.reference) = (2, spec.reference.clone());
    vm.staged = Some(staged);
    state
}

fn after(state: &State, event: Event, context: &Context) -> Option<State> {
    transition(state, event, context).ok().map(|(next, _)| next)
}

/// What can happen to the workload in `state`, sensible or not.
fn events(state: &State) -> Vec<Event> {
    let mut events = vec![
        Event::Tick,
        Event::Reconcile(None),
        Event::Reconcile(Some(vm())),
        Event::Desired(Err(failure(Retry::Never))),
        Event::Found { workload: vm(), current: None, previous: None },
        vm_is_gone(),
        vm_runs(ONE),
        vm_runs(&pinned(ONE)),
        desired([(vm(), staged(ONE))]),
        desired([(vm(), unconfirmed(ONE))]),
        Event::Started,
        Event::Activate(vm()),
        Event::Confirm(vm()),
        Event::RollBack(vm()),
    ];
    let workload = state.workloads.get(&vm());
    if let Some(job) = workload.and_then(|workload| workload.activity.job()) {
        let mut outcomes = vec![
            Ok(Outcome::Resolved(target("one"))),
            Ok(Outcome::Resolved(target("moved"))),
            Ok(something_missing()),
            Ok(nothing_missing()),
            Ok(Outcome::Fetched),
            Ok(Outcome::Verified),
            Ok(damaged()),
            Ok(Outcome::Agreed),
            Ok(Outcome::Activated),
            Ok(Outcome::Retired),
            Err(failure(Retry::Never)),
            Err(failure(Retry::Later)),
        ];
        if let (Some(spec), Some((workload, to))) = (&job.spec, workload.and_then(|vm| Some((vm, vm.target.as_ref()?))))
        {
            let known = [&workload.current, &workload.previous, &workload.staged];
            let refused = serde_json::to_string(&workload.quarantine).unwrap();
            let is_free = |number: &u64| {
                let is_known = known.iter().any(|known| known.as_ref().is_some_and(|known| known.number == *number));
                !is_known && !refused.contains(&format!("\"generation\":{number},"))
            };
            let number = (1..).find(is_free).unwrap();
            outcomes.push(Ok(laid_out(&vm(), number, spec, to)));
        }
        let step = |outcome| Event::Step { workload: vm(), job: job.id, outcome };
        events.extend(outcomes.into_iter().map(step));
    }
    events
}

/// The edge from one state to the next. A new job is an edge too where it begins as the old one did.
fn activity_edges(before: &State, after: &State) -> Vec<Edge> {
    let activity = |state: &State| state.workloads.get(&vm()).map(|workload| workload.activity.clone());
    let job = |activity: &Option<Activity>| Some(activity.as_ref()?.job()?.id);
    let name = |activity: &Option<Activity>| activity.as_ref().map_or(NONE, activity_name).to_owned();
    let (before, after) = (activity(before), activity(after));
    let moved = name(&before) != name(&after) || job(&before) != job(&after);
    moved.then(|| (name(&before), name(&after))).into_iter().collect()
}

/// How each generation stands before and after, where that is not the same.
fn generation_edges(before: &State, after: &State) -> Vec<Edge> {
    let stands = |state: &State, number| state.workloads.get(&vm()).map_or(NONE, |vm| standing(vm, number)).to_owned();
    let moves = (1..10).map(|number| (stands(before, number), stands(after, number)));
    moves.filter(|(before, after)| before != after).collect()
}

/// How a generation stands to its workload.
fn standing(workload: &Workload, number: u64) -> &'static str {
    let is =
        |generation: &Option<Generation>| generation.as_ref().is_some_and(|generation| generation.number == number);
    let refused = serde_json::to_value(&workload.quarantine).unwrap();
    let is_refused = refused.as_array().unwrap().iter().any(|refused| refused["generation"] == number);
    let is_coming = match &workload.activity {
        Activity::Activating(_, activation) => activation.generation.number == number,
        _ => false,
    };
    if is(&workload.current) {
        match (is_refused, workload.probation()) {
            (true, _) => "Leaving",
            (false, Some(_)) => "Probation",
            (false, None) => "Active",
        }
    } else if is_coming {
        "Activating"
    } else if is(&workload.staged) {
        "Staged"
    } else if is(&workload.previous) {
        "Previous"
    } else if is_refused {
        "Quarantined"
    } else {
        NONE
    }
}

/// The same state, but for what only counts up: so there are finitely many.
fn plain(mut state: State) -> State {
    state.last_job = 0;
    for workload in state.workloads.values_mut() {
        let Workload { activity, trouble, wake_at, last_generation, probations, quarantine, .. } = workload;
        for probation in probations.values_mut() {
            probation.restarts = 0;
            probation.ends_at = probation.ends_at.map(|_| polled_until());
        }
        // What was rolled back last is all that an edge depends on.
        let last: Vec<_> = quarantine.last().into_iter().collect();
        *quarantine = serde_json::from_value(serde_json::json!(last)).unwrap();
        match activity {
            Activity::Idle | Activity::Staged | Activity::Active | Activity::Backoff | Activity::Blocked => {}
            Activity::Resolving(job)
            | Activity::Planning(job)
            | Activity::Fetching(job)
            | Activity::Verifying(job)
            | Activity::Materializing(job)
            | Activity::Asking(job, _)
            | Activity::Activating(job, _)
            | Activity::Polling(job)
            | Activity::Retiring(job) => job.id = 0,
        }
        if let Some(trouble) = trouble {
            trouble.attempts = 1;
        }
        *wake_at = wake_at.map(|_| Duration::ZERO);
        *last_generation = (*last_generation).min(2);
    }
    state.rejected = None;
    state
}

/// A time that is over in one of the contexts, and not in the others.
fn polled_until() -> Duration {
    Scene::new().context.now + CONFIRM
}

/// All that an edge can depend on.
fn key(state: &State) -> String {
    let Some(workload) = state.workloads.get(&vm()) else { return format!("{:?}", state.accepted.is_some()) };
    let Workload { spec, activity, target, current, previous, staged, approved, .. } = workload;
    let refused = workload.quarantine.digests();
    let fits = |generation: &Generation| {
        let spec = spec
            .as_ref()
            .map(|spec| (generation.suits(spec), target.as_ref().map(|to| generation.satisfies(spec, to))));
        (spec, refused.contains(&generation.digest), Some(generation.number) == *approved)
    };
    let leaves = workload.quarantine.last().map(|last| Some(last.generation) == current.as_ref().map(|now| now.number));
    let at = (activity_name(activity), activity.job().map(|job| (&job.spec == spec, job.spec.is_some(), job.mends)));
    let images = (current.as_ref().map(fits), previous.is_some(), staged.as_ref().map(fits), leaves);
    let refuses = target.as_ref().map(|target| refused.contains(&target.manifest.digest));
    let activation = match activity {
        Activity::Activating(_, activation) => {
            Some((activation.way, workload.probations.contains_key(&activation.generation.number)))
        }
        _ => None,
    };
    let manner = spec.as_ref().map(|spec| (spec.reference.digest().is_some(), spec.activate, spec.confirm));
    let trial = workload.probation().map(|probation| probation.ends_at.is_some());
    let doubts = (workload.links_in_doubt, workload.is_damaged, workload.wake_at.is_some(), state.accepted.is_some());
    format!("{at:?} {images:?} {refuses:?} {activation:?} {manner:?} {trial:?} {doubts:?}")
}
