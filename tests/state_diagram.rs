//! The diagram in `docs/development/states.md` shows the edges that the transition has, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::transition::scene::{
    ACTIVITIES, ONE, Scene, activity_name, failure, laid_out, nothing_missing, pinned, something_missing, target, vm,
    vm_is_gone, vm_runs,
};
use eci_agent::agent::{Activity, Context, Event, Outcome, State, Workload, transition};
use eci_agent::failure::Retry;

/// From one activity to another; [`NONE`] is that of a workload that is not known.
type Edge = (String, String);
const NONE: &str = "[*]";
/// What a restart finds begins as `Idle`. The state is put together then, not changed by a transition.
const RESTART: (&str, &str) = (NONE, "Idle");

#[test]
fn the_diagram_shows_what_the_transition_does() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/development/states.md");
    let text = fs::read_to_string(file).unwrap();
    let drawn = drawn(&text);
    let mut coded = explored();
    coded.insert((RESTART.0.to_owned(), RESTART.1.to_owned()));
    let list = |edges: &BTreeSet<Edge>, but: &BTreeSet<Edge>| {
        let lines: Vec<_> = edges.difference(but).map(|(from, to)| format!("\n    {from} --> {to}")).collect();
        lines.concat()
    };
    let (undrawn, uncoded) = (list(&coded, &drawn), list(&drawn, &coded));
    assert!(
        undrawn.is_empty() && uncoded.is_empty(),
        "in the code, but not in the diagram:{undrawn}\nin the diagram, but not in the code:{uncoded}"
    );
    for activity in ACTIVITIES {
        assert!(text.contains(&format!("\n| `{activity}` |")), "the table has no row for {activity}");
    }
}

/// The edges of the diagram. An edge from a composite state starts at each state in it.
fn drawn(text: &str) -> BTreeSet<Edge> {
    let (_, diagram) = text.split_once("```mermaid\n").expect("there is a diagram");
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
fn explored() -> BTreeSet<Edge> {
    let polled = Scene::new().context;
    let mut unpolled = polled;
    unpolled.policy.poll = None;
    let starts = [None, Some(ONE)].map(|image| Scene::restored(image).state);
    let mut frontier: Vec<State> = starts.into_iter().chain([State::default()]).map(plain).collect();
    let mut seen: BTreeSet<String> = frontier.iter().map(key).collect();
    let mut edges = BTreeSet::new();
    while let Some(state) = frontier.pop() {
        for (event, context) in
            events(&state).into_iter().flat_map(|event| [(event.clone(), polled), (event, unpolled)])
        {
            let Some(next) = after(&state, event, &context) else { continue };
            edges.extend(edge(&state, &next));
            let next = plain(next);
            if seen.insert(key(&next)) {
                frontier.push(next);
            }
        }
    }
    edges
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
    ];
    let workload = state.workloads.get(&vm());
    if let Some(job) = workload.and_then(|workload| workload.activity.job()) {
        let mut outcomes = vec![
            Ok(Outcome::Resolved(target("one"))),
            Ok(Outcome::Resolved(target("moved"))),
            Ok(something_missing()),
            Ok(nothing_missing()),
            Ok(Outcome::Fetched),
            Ok(Outcome::Activated),
            Ok(Outcome::Retired),
            Err(failure(Retry::Never)),
            Err(failure(Retry::Later)),
        ];
        if let Some(spec) = &job.spec {
            outcomes.push(Ok(laid_out(&vm(), 2, spec, &target("one"))));
        }
        let step = |outcome| Event::Step { workload: vm(), job: job.id, outcome };
        events.extend(outcomes.into_iter().map(step));
    }
    events
}

/// The edge from one state to the next. A new job is an edge too where it begins as the old one did.
fn edge(before: &State, after: &State) -> Option<Edge> {
    let activity = |state: &State| state.workloads.get(&vm()).map(|workload| workload.activity.clone());
    let job = |activity: &Option<Activity>| Some(activity.as_ref()?.job()?.id);
    let name = |activity: &Option<Activity>| activity.as_ref().map_or(NONE, activity_name).to_owned();
    let (before, after) = (activity(before), activity(after));
    let moved = name(&before) != name(&after) || job(&before) != job(&after);
    moved.then(|| (name(&before), name(&after)))
}

/// The same state, but for what only counts up: so there are finitely many.
fn plain(mut state: State) -> State {
    state.last_job = 0;
    for workload in state.workloads.values_mut() {
        let Workload { activity, trouble, wake_at, last_generation, .. } = workload;
        match activity {
            Activity::Idle | Activity::Active | Activity::Backoff | Activity::Blocked => {}
            Activity::Resolving(job)
            | Activity::Planning(job)
            | Activity::Fetching(job)
            | Activity::Materializing(job)
            | Activity::Activating(job, _)
            | Activity::Polling(job)
            | Activity::Retiring(job) => job.id = 0,
        }
        if let Some(trouble) = trouble {
            trouble.attempts = 1;
        }
        *wake_at = wake_at.map(|_| std::time::Duration::ZERO);
        *last_generation = (*last_generation).min(2);
    }
    state.rejected = None;
    state
}

fn key(state: &State) -> String {
    format!("{state:?}")
}
