//! A node that the transition runs on: it carries out actions when told to, well or badly, and keeps count of what goes
//! on, which is then held against the state.

use std::collections::BTreeMap;
use std::sync::Arc;

use eci_agent::agent::{Action, Activity, Context, Event, Outcome, Reject, State, transition};
use eci_agent::desired::{Spec, WorkloadName};
use eci_agent::failure::Retry;
use eci_agent::transfer::Target;

use crate::transition::scene::{
    ONE, Scene, TWO, context, desired, failure, laid_out, nothing_missing, pinned, something_missing, spec, target,
};

pub(super) const NAMES: [&str; 3] = ["vm", "router", "firewall"];
pub(super) const IMAGES: [&str; 3] = [ONE, TWO, "pinned"];
/// More events than any node needs to come to rest.
const PATIENCE: usize = 500;

/// How a step ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    Well,
    /// What it should do to the links may have been done all the same.
    Badly {
        retry: Retry,
        half_done: bool,
    },
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) state: State,
    pub(super) context: Context,
    /// How often the tags came to lead to other images.
    pub(super) tags_moved: usize,
    /// Jobs that were cancelled and have not ended.
    pub(super) given_up: Vec<(WorkloadName, u64)>,
    /// What the desired-state file says.
    file: BTreeMap<WorkloadName, Spec>,
    /// The step that goes on for each workload.
    steps: BTreeMap<WorkloadName, (u64, Action)>,
    /// The generations that each `current` and each `previous` points at.
    links: BTreeMap<WorkloadName, (u64, Option<u64>)>,
    last_job: u64,
    last_generation: u64,
}

/// The name of a workload by its place in [`NAMES`].
pub(super) fn name(whose: usize) -> WorkloadName {
    NAMES[whose].parse().unwrap()
}

/// The reference of the image at `place` in [`IMAGES`].
pub(super) fn reference(place: usize) -> String {
    if IMAGES[place] == "pinned" { pinned(ONE) } else { IMAGES[place].to_owned() }
}

/// Whose action it is and which job's; none for those that are no step.
fn whose(action: &Action) -> Option<(&WorkloadName, u64)> {
    match action {
        Action::Save | Action::Sweep { .. } | Action::Cancel { .. } => None,
        Action::Resolve { workload, job, .. }
        | Action::Plan { workload, job, .. }
        | Action::Fetch { workload, job, .. }
        | Action::Materialize { workload, job, .. }
        | Action::Activate { workload, job, .. }
        | Action::Retire { workload, job } => Some((workload, *job)),
    }
}

impl Node {
    pub(super) fn new() -> Self {
        Self::with(State::default(), BTreeMap::new())
    }

    /// After a restart without an accepted desired state; "vm" has links.
    pub(super) fn restored() -> Self {
        let state = Scene::restored(None).state;
        Self::with(state, [(NAMES[0].parse().unwrap(), (1, None))].into())
    }

    fn with(state: State, links: BTreeMap<WorkloadName, (u64, Option<u64>)>) -> Self {
        Self {
            state,
            context: context(),
            tags_moved: 0,
            given_up: Vec::new(),
            file: BTreeMap::new(),
            steps: BTreeMap::new(),
            links,
            last_job: 0,
            last_generation: 1,
        }
    }

    /// The job that goes on for a workload.
    pub(super) fn job(&self, whose: usize) -> Option<u64> {
        self.steps.get(&name(whose)).map(|(job, _)| *job)
    }

    /// Whether what goes on for a workload is that its reference is resolved.
    pub(super) fn resolves(&self, whose: usize) -> bool {
        matches!(self.steps.get(&name(whose)), Some((_, Action::Resolve { .. })))
    }

    /// What an image is now.
    pub(super) fn image(&self, reference: &str) -> Arc<Target> {
        let fixed = reference.contains('@');
        target(&if fixed { reference.to_owned() } else { format!("{reference} {}", self.tags_moved) })
    }

    pub(super) fn desire(&mut self, whose: usize, image: Option<usize>) {
        let workload = name(whose);
        match image {
            Some(image) => drop(self.file.insert(workload, spec(&reference(image)))),
            None => drop(self.file.remove(&workload)),
        }
        self.take(desired(self.file.clone())).unwrap();
    }

    /// The step of a workload, if one goes on, ends.
    pub(super) fn end(&mut self, whose: usize, ending: Ending) {
        let workload = name(whose);
        let Some((job, action)) = self.steps.remove(&workload) else { return };
        if matches!(ending, Ending::Well | Ending::Badly { half_done: true, .. }) {
            match action {
                Action::Activate { generation, previous, .. } => {
                    let before = self.links.get(&workload).and_then(|(_, previous)| *previous);
                    self.links.insert(workload.clone(), (generation, previous.or(before)));
                }
                Action::Retire { .. } => drop(self.links.remove(&workload)),
                _ => {}
            }
        }
        let outcome = match ending {
            Ending::Badly { retry, .. } => Err(failure(retry)),
            Ending::Well => Ok(self.outcome(action)),
        };
        let before = self.boots(&workload);
        let activated = match &self.state.workloads[&workload].activity {
            Activity::Activating(_, generation) if outcome.is_ok() => Some(generation.number),
            Activity::Retiring(_) if outcome.is_ok() => None,
            _ => before,
        };
        self.take(Event::Step { workload: workload.clone(), job, outcome }).unwrap();
        assert_eq!(self.boots(&workload), activated, "only links that were swapped or removed change what boots");
    }

    fn outcome(&mut self, action: Action) -> Outcome {
        match action {
            Action::Resolve { spec, .. } => Outcome::Resolved(self.image(&spec.reference.to_string())),
            // Some images are in the cache already.
            Action::Plan { job, .. } if job % 2 == 0 => nothing_missing(),
            Action::Plan { .. } => something_missing(),
            Action::Fetch { .. } => Outcome::Fetched,
            Action::Materialize { workload, spec, target, after, .. } => {
                self.last_generation = self.last_generation.max(after) + 1;
                laid_out(&workload, self.last_generation, &spec, &target)
            }
            Action::Activate { .. } => Outcome::Activated,
            Action::Retire { .. } => Outcome::Retired,
            Action::Save | Action::Sweep { .. } | Action::Cancel { .. } => unreachable!("no step"),
        }
    }

    /// An event comes; its actions begin. Holds what must hold for every event.
    pub(super) fn take(&mut self, event: Event) -> Result<(), Reject> {
        let is_step = matches!(event, Event::Step { .. });
        let before: Vec<_> = self.state.workloads.keys().map(|name| (name.clone(), self.boots(name))).collect();
        let accepted = self.state.accepted;
        let (state, actions) = transition(&self.state, event, &self.context)?;
        self.state = state;
        if !is_step {
            for (name, boots) in before {
                assert_eq!(self.boots(&name), boots, "only the end of a step changes what boots");
            }
        }
        if self.state.accepted != accepted {
            assert_eq!(actions.first(), Some(&Action::Save), "it is saved before anything is done about it");
        }
        for action in actions {
            self.begin(&action);
        }
        Ok(())
    }

    fn begin(&mut self, action: &Action) {
        if let Action::Cancel { job } = *action {
            let found = self.steps.iter().find(|(_, (running, _))| *running == job);
            let name = found.expect("what is cancelled goes on").0.clone();
            self.steps.remove(&name);
            self.given_up.push((name, job));
        }
        if let Action::Sweep { wanted } = action {
            for (_, step) in self.steps.values() {
                if let Action::Plan { target, .. } | Action::Fetch { target, .. } = step {
                    assert!(wanted.contains(&target.manifest.digest), "what is being fetched is wanted");
                }
            }
        }
        let Some((name, job)) = whose(action) else { return };
        let workload = self.state.workloads.get(name).expect("a step is for a workload that exists");
        let goes_on = workload.activity.job().map(|job| job.id);
        assert_eq!(goes_on, Some(job), "a step belongs to the job that the state knows");
        match action {
            // These alone begin a job; other steps go on with one.
            Action::Resolve { .. } | Action::Retire { .. } => {
                assert!(job > self.last_job, "numbers of jobs grow");
                self.last_job = job;
            }
            _ => assert!(job <= self.last_job),
        }
        let replaced = self.steps.insert(name.clone(), (job, action.clone()));
        assert_eq!(replaced, None, "one step at a time");
    }

    fn boots(&self, name: &WorkloadName) -> Option<u64> {
        Some(self.state.workloads.get(name)?.current.as_ref()?.number)
    }

    /// What must hold after every event.
    pub(super) fn check(&self) {
        assert_eq!(self.state.last_job, self.last_job);
        assert!(self.steps.keys().all(|name| self.state.workloads.contains_key(name)));
        for (name, workload) in &self.state.workloads {
            let step = self.steps.get(name).map(|(job, _)| *job);
            assert_eq!(workload.activity.job().map(|job| job.id), step, "{name}: what the state knows of goes on");
            assert!(step.is_none() || workload.wake_at.is_none(), "{name} sleeps and works at once");
            let polls = self.context.policy.poll.is_some();
            let wakes = match &workload.activity {
                // It has links, and nothing that was accepted says what should become of it.
                Activity::Idle => self.state.accepted.is_some(),
                // Waiting does not help; the poll is when it may have become another thing.
                Activity::Blocked => polls,
                Activity::Active => polls && !workload.spec.as_ref().is_some_and(is_pinned),
                Activity::Backoff => true,
                _ => false,
            };
            assert_eq!(workload.wake_at.is_some(), wakes, "{name} is {:?}", workload.activity);
            assert_eq!(matches!(workload.activity, Activity::Backoff | Activity::Blocked), {
                let troubled = workload.trouble.is_some();
                troubled && step.is_none()
            });
        }
    }

    /// Steps end well and time goes by until every workload is at rest, or has nothing to wait for.
    pub(super) fn come_to_rest(&mut self) {
        for _ in 0..PATIENCE {
            if let Some(whose) = (0..NAMES.len()).find(|whose| self.job(*whose).is_some()) {
                self.end(whose, Ending::Well);
            } else if let Some(at) = self.restless().min() {
                self.context.now = at.max(self.context.now);
                self.take(Event::Tick).unwrap();
            } else {
                return;
            }
            self.check();
        }
        panic!("it never comes to rest: {self:#?}");
    }

    /// When those wake that are not at rest.
    fn restless(&self) -> impl Iterator<Item = std::time::Duration> {
        let workloads = self.state.workloads.values();
        workloads.filter(|workload| workload.activity != Activity::Active).filter_map(|workload| workload.wake_at)
    }

    /// Every desired workload runs what it should, and no other is left.
    pub(super) fn check_rest(&self) {
        if self.state.accepted.is_none() {
            return assert!(self.steps.is_empty(), "nothing is done before anything is desired");
        }
        for (name, workload) in &self.state.workloads {
            assert_eq!(workload.activity, Activity::Active, "{name}");
            assert_eq!(workload.trouble, None, "{name}");
            let (current, spec) = (workload.current.as_ref().unwrap(), workload.spec.as_ref().unwrap());
            assert!(current.satisfies(spec, workload.target.as_ref().unwrap()), "{name}");
        }
        let linked: Vec<_> = self.links.iter().map(|(name, (current, _))| (name, Some(*current))).collect();
        let known: Vec<_> = self.state.workloads.keys().map(|name| (name, self.boots(name))).collect();
        assert_eq!(linked, known, "the links say what the state says");
        for (name, workload) in &self.state.workloads {
            let previous = workload.previous.as_ref().map(|previous| previous.number);
            assert!(previous.is_none() || previous == self.links[name].1, "{name}: previous is what it was");
        }
    }

    /// Every workload runs what its reference leads to now.
    pub(super) fn check_images(&self) {
        for (name, workload) in self.state.workloads.iter().filter(|(_, workload)| workload.spec.is_some()) {
            let image = self.image(&workload.spec.as_ref().unwrap().reference.to_string());
            assert_eq!(workload.current.as_ref().unwrap().digest, image.manifest.digest, "{name}");
        }
    }
}

fn is_pinned(spec: &Spec) -> bool {
    spec.reference.digest().is_some()
}
