//! A node that the transition runs on: it carries out actions when told to, well or badly, and keeps count of what goes
//! on, which is then held against the state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use eci_agent::agent::{
    Action, Activity, Context, Event, Generation, Outcome, Reject, State, Way, Workload, transition,
};
use eci_agent::desired::{Activate, Spec, WorkloadName};
use eci_agent::failure::{Kind, Retry};
use eci_agent::oci::Digest;
use eci_agent::transfer::Target;

use crate::transition::scene::{
    CONFIRM, ONE, Scene, TWO, boot, context, damaged, desired, failure, launch, nothing_missing, pinned,
    something_missing, spec, target,
};

pub(super) const NAMES: [&str; 3] = ["vm", "router", "firewall"];
pub(super) const IMAGES: [&str; 3] = [ONE, TWO, "pinned"];
/// More events than any node needs to come to rest.
const PATIENCE: usize = 500;

/// How what is ready is to be activated.
#[derive(Clone, Copy, Debug)]
pub(super) enum Manner {
    AtOnce,
    Staged,
    Unconfirmed,
    StagedAndUnconfirmed,
}

impl Manner {
    fn of(self, spec: Spec) -> Spec {
        let is_staged = matches!(self, Self::Staged | Self::StagedAndUnconfirmed);
        let is_unconfirmed = matches!(self, Self::Unconfirmed | Self::StagedAndUnconfirmed);
        Spec {
            activate: if is_staged { Activate::Staged } else { Activate::Now },
            confirm: is_unconfirmed.then_some(CONFIRM),
            ..spec
        }
    }
}

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
    /// Since when the file does not name a workload, on the boot clock.
    lost_at: BTreeMap<WorkloadName, Duration>,
    /// The workloads whose links may be removed: their time was up, or an operator ended it.
    released: BTreeSet<WorkloadName>,
    /// The step that goes on for each workload.
    steps: BTreeMap<WorkloadName, (u64, Action)>,
    /// The generations that each `current` and each `previous` points at.
    links: BTreeMap<WorkloadName, (u64, Option<u64>)>,
    /// The generations that nobody has to confirm any more.
    confirmed: BTreeSet<(WorkloadName, u64)>,
    /// What is on disk.
    saved: State,
    /// When the window opens, on the boot clock.
    opens_at: Option<Duration>,
    /// All generations that were laid out, by their numbers, which no two workloads share here.
    laid_out: BTreeMap<u64, Generation>,
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
        Action::Save | Action::Sweep { .. } | Action::Cancel { .. } | Action::Announce { .. } | Action::Repair => None,
        Action::Resolve { workload, job, .. }
        | Action::Plan { workload, job, .. }
        | Action::Fetch { workload, job, .. }
        | Action::Verify { workload, job, .. }
        | Action::Materialize { workload, job, .. }
        | Action::Ask { workload, job, .. }
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
        let first = Generation::new(&launch(&name(0), 1, &spec(ONE), &target("one")), None);
        Self {
            saved: state.clone(),
            state,
            context: context(),
            tags_moved: 0,
            given_up: Vec::new(),
            file: BTreeMap::new(),
            lost_at: BTreeMap::new(),
            released: BTreeSet::new(),
            steps: BTreeMap::new(),
            confirmed: links.iter().map(|(name, (current, _))| (name.clone(), *current)).collect(),
            links,
            opens_at: None,
            laid_out: [(1, first)].into(),
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

    pub(super) fn desire(&mut self, whose: usize, image: Option<usize>, manner: Manner) {
        let workload = name(whose);
        match image {
            Some(image) => drop(self.file.insert(workload, manner.of(spec(&reference(image))))),
            None => drop(self.file.remove(&workload)),
        }
        let is_lost = |name: &WorkloadName| !self.file.contains_key(name);
        let lost: Vec<_> = self.state.workloads.keys().filter(|name| is_lost(name)).cloned().collect();
        self.lost_at.retain(|name, _| lost.contains(name));
        self.released.retain(|name| lost.contains(name));
        for name in lost {
            self.lost_at.entry(name.clone()).or_insert(self.context.now);
            let is_being_removed = matches!(self.state.workloads[&name].activity, Activity::Retiring(_));
            if is_being_removed || self.context.policy.retire == Some(Duration::ZERO) {
                self.released.insert(name);
            }
        }
        self.take(desired(self.file.clone())).unwrap();
    }

    /// An operator ends the time of every pending retirement.
    pub(super) fn retire(&mut self, knows_file: bool) {
        let Event::Desired(Ok(reading)) = desired(self.file.clone()) else { unreachable!() };
        let sha256 = if knows_file { reading.sha256 } else { Digest::of(b"another file") };
        let is_known = self.state.accepted.is_some_and(|accepted| accepted.sha256 == sha256);
        if is_known {
            self.released.extend(self.lost_at.keys().cloned());
        }
        let before = self.state.clone();
        assert_eq!(self.take(Event::Retire(sha256)).is_ok(), is_known);
        assert!(is_known || self.state == before, "a request about another file changes nothing");
    }

    /// The step of a workload, if one goes on, ends.
    pub(super) fn end(&mut self, whose: usize, ending: Ending) {
        let workload = name(whose);
        let Some((job, action)) = self.steps.remove(&workload) else { return };
        if matches!(ending, Ending::Well | Ending::Badly { half_done: true, .. }) {
            match action {
                Action::Activate { generation, previous, .. } => {
                    if !self.state.workloads[&workload].probations.contains_key(&generation) {
                        // By its activation, even if that failed half way.
                        self.confirmed.insert((workload.clone(), generation));
                    }
                    self.links.insert(workload.clone(), (generation, previous));
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
            Activity::Activating(_, activation) if outcome.is_ok() => Some(activation.generation.number),
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
            // The disk of some goes bad: of these, again and again.
            Action::Verify { job, .. } if job % 5 == 0 => damaged(),
            Action::Verify { .. } => Outcome::Verified,
            Action::Materialize { workload, spec, target, after, .. } => {
                self.last_generation = self.last_generation.max(after) + 1;
                let launch = launch(&workload, self.last_generation, &spec, &target);
                self.laid_out.insert(launch.generation, Generation::new(&launch, None));
                Outcome::Materialized(Box::new(launch))
            }
            Action::Ask { .. } => Outcome::Agreed,
            Action::Activate { .. } => Outcome::Activated,
            Action::Retire { .. } => Outcome::Retired,
            Action::Save | Action::Sweep { .. } | Action::Cancel { .. } | Action::Announce { .. } | Action::Repair => {
                unreachable!("no step")
            }
        }
    }

    /// An event comes; its actions begin. Holds what must hold for every event.
    pub(super) fn take(&mut self, event: Event) -> Result<(), Reject> {
        let is_step = matches!(event, Event::Step { .. });
        let before: Vec<_> = self.state.workloads.keys().map(|name| (name.clone(), self.boots(name))).collect();
        let accepted = self.state.accepted;
        let opens_in = self.opens_at.map(|at| at.saturating_sub(self.context.now));
        self.context.opens_in = opens_in.filter(|time| !time.is_zero());
        let on_probation = self.on_probation();
        let (state, actions) = transition(&self.state, event, &self.context)?;
        self.state = state;
        self.check_retirements();
        for (name, number) in on_probation {
            let is_still = self.state.workloads.get(&name).is_some_and(|workload| workload.probation().is_some());
            if !is_still && self.boots(&name) == Some(number) {
                self.confirmed.insert((name, number));
            }
        }
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

    /// The generations that have to be confirmed.
    fn on_probation(&self) -> Vec<(WorkloadName, u64)> {
        let unconfirmed = self.state.workloads.iter().filter(|(_, workload)| workload.probation().is_some());
        unconfirmed.filter_map(|(name, workload)| Some((name.clone(), workload.current.as_ref()?.number))).collect()
    }

    /// The window opens after `time`, or is open.
    pub(super) fn set_window(&mut self, time: Option<Duration>) {
        self.opens_at = time.map(|time| self.context.now + time);
        self.take(Event::ClockSet).unwrap();
    }

    fn begin(&mut self, action: &Action) {
        if *action == Action::Save {
            self.saved = self.state.clone();
        }
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
            }
            // They follow others, or what waited is let pass.
            Action::Ask { .. } | Action::Activate { .. } => {}
            _ => assert!(job <= self.last_job),
        }
        self.last_job = self.last_job.max(job);
        match action {
            Action::Retire { .. } => assert!(self.released.contains(name), "{name}: its links are removed early"),
            Action::Plan { target, .. } | Action::Fetch { target, .. } | Action::Materialize { target, .. } => {
                let refused = workload.quarantine.digests();
                assert!(!refused.contains(&target.manifest.digest), "{name}: what was rolled back is tried again");
            }
            Action::Activate { generation, previous, way, .. } => {
                let is_confirmed = |number: &u64| self.confirmed.contains(&(name.clone(), *number));
                assert!(previous.as_ref().is_none_or(is_confirmed), "{name}: the way back is not confirmed");
                if *way == Way::Back {
                    assert!(is_confirmed(generation), "{name}: it goes back to what nobody has confirmed");
                } else if self.boots(name) != Some(*generation) {
                    let coming = self.laid_out[generation].digest;
                    assert!(
                        !workload.quarantine.digests().contains(&coming),
                        "{name}: what was rolled back is activated"
                    );
                    let is_staged = workload.spec.as_ref().unwrap().activate == Activate::Staged;
                    assert!(!is_staged || workload.approved == Some(*generation), "{name}: nobody let it pass");
                    assert_eq!(self.context.opens_in, None, "{name}: the window is closed");
                }
            }
            _ => {}
        }
        let replaced = self.steps.insert(name.clone(), (job, action.clone()));
        assert_eq!(replaced, None, "one step at a time");
    }

    /// No workload is given up before its time is up, but by an operator.
    fn check_retirements(&mut self) {
        let is_given_up = |workload: &Workload| workload.spec.is_none() && workload.retirement.is_none();
        let given_up = self.state.workloads.iter().filter(|(_, workload)| is_given_up(workload));
        let given_up: Vec<_> = given_up.map(|(name, _)| name.clone()).collect();
        for name in given_up.into_iter().filter(|_| self.state.accepted.is_some()) {
            assert!(!self.file.contains_key(&name), "{name}: a workload that the file names is retired");
            let (now, lost_at) = (self.context.now, self.lost_at[&name]);
            let is_due = self.context.policy.retire.is_some_and(|length| now >= lost_at + length);
            assert!(is_due || self.released.contains(&name), "{name}: retired early: lost at {lost_at:?}, now {now:?}");
            self.released.insert(name);
        }
    }

    fn boots(&self, name: &WorkloadName) -> Option<u64> {
        Some(self.state.workloads.get(name)?.current.as_ref()?.number)
    }

    /// The agent is killed and starts anew, as it finds itself in what it saved and in the links; so does the machine where
    /// it `reboots`.
    pub(super) fn restart(&mut self, reboots: bool) {
        self.steps.clear();
        self.given_up.clear();
        if reboots {
            let number = if self.context.boot == boot(1) { 2 } else { 1 };
            (self.context.boot, self.context.now) = (boot(number), Duration::from_secs(10));
            // How long the machine was off is not known.
            self.lost_at.values_mut().for_each(|lost_at| *lost_at = self.context.now);
        }
        // What was not saved is not known any more.
        let State { accepted, workloads, retired, forgotten, .. } = self.saved.clone();
        self.last_job = 0;
        self.state = State { accepted, retired, forgotten, ..State::default() };
        for (name, saved) in workloads {
            let (current, previous) = self.links.get(&name).map_or((None, None), |(now, then)| (Some(*now), *then));
            let whole = |number: u64| self.laid_out.get(&number).cloned();
            let workload = Workload {
                wake_at: accepted
                    .filter(|_| saved.spec.is_some() || saved.retirement.is_none())
                    .map(|_| Duration::ZERO),
                current: current.and_then(whole),
                previous: previous.filter(|previous| Some(*previous) != current).and_then(whole),
                probations: saved.probations,
                retirement: saved.retirement,
                spec: saved.spec,
                after: saved.after,
                staged: saved.staged,
                approved: saved.approved,
                quarantine: saved.quarantine,
                announced: saved.announced,
                last_generation: saved.last_generation,
                ..Workload::default()
            };
            if workload.probation().is_none()
                && let Some(current) = current
            {
                let has_to_be = workload.spec.as_ref().is_some_and(|spec| spec.confirm.is_some());
                let is_confirmed = self.confirmed.contains(&(name.clone(), current));
                assert!(is_confirmed || !has_to_be, "{name}: a restart made {current} final");
                self.confirmed.insert((name.clone(), current));
            }
            self.state.workloads.insert(name, workload);
        }
        self.take(Event::Started).unwrap();
    }

    /// What must hold after every event.
    pub(super) fn check(&self) {
        assert_eq!(self.state.last_job, self.last_job);
        assert!(self.steps.keys().all(|name| self.state.workloads.contains_key(name)));
        for (name, workload) in self.state.workloads.iter().filter(|_| self.state.accepted.is_some()) {
            match self.file.get(name) {
                Some(spec) => {
                    assert_eq!((workload.spec.as_ref(), workload.retirement), (Some(spec), None), "{name}");
                }
                None => assert!(workload.spec.is_none() || workload.retirement.is_some(), "{name}: nothing ends it"),
            }
        }
        for (name, workload) in &self.state.workloads {
            let step = self.steps.get(name).map(|(job, _)| *job);
            assert_eq!(workload.activity.job().map(|job| job.id), step, "{name}: what the state knows of goes on");
            assert!(step.is_none() || workload.wake_at.is_none(), "{name} sleeps and works at once");
            let polls = self.context.policy.poll.is_some();
            let wakes = match &workload.activity {
                // It has links, and nothing that was accepted says what should become of it.
                Activity::Idle => {
                    self.state.accepted.is_some() && (workload.spec.is_some() || workload.retirement.is_none())
                }
                // Waiting does not help; the poll is when it may have become another thing.
                // Somebody has let pass what is ready, whatever it failed at; the window decides.
                Activity::Blocked if workload.approved.is_some() => continue,
                Activity::Blocked => polls,
                Activity::Active => polls && !workload.spec.as_ref().is_some_and(is_pinned),
                Activity::Staged => {
                    let spec = workload.spec.as_ref().unwrap();
                    let waits_for_a_person = spec.activate == Activate::Staged
                        && workload.approved != workload.staged.as_ref().map(|staged| staged.number);
                    (polls && !is_pinned(spec)) || !waits_for_a_person
                }
                Activity::Backoff => true,
                _ => false,
            };
            assert_eq!(workload.wake_at.is_some(), wakes, "{name} is {:?}", workload.activity);
            let kind = workload.trouble.as_ref().map(|trouble| trouble.kind);
            match workload.activity {
                Activity::Backoff | Activity::Blocked => assert_ne!(kind, None, "{name}"),
                Activity::Active | Activity::Staged => {
                    assert!(matches!(kind, None | Some(Kind::Unconfirmed)), "{name}")
                }
                _ => {}
            }
        }
    }

    /// Steps end well and time goes by until every workload is at rest, or has nothing to wait for.
    pub(super) fn come_to_rest(&mut self) {
        self.set_window(None);
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
        let is_at_rest = |activity: &Activity| matches!(activity, Activity::Active | Activity::Staged);
        let workloads = self.state.workloads.values();
        workloads
            .filter(move |workload| !is_at_rest(&workload.activity) && !is_refused(workload))
            .filter_map(|workload| workload.wake_at)
            .chain(self.state.workloads.values().filter_map(|workload| self.retires_at(workload)))
    }

    /// When the time of a pending retirement is up.
    fn retires_at(&self, workload: &Workload) -> Option<Duration> {
        let is_held = self.state.rejected.is_some();
        workload.retirement.filter(|_| !is_held).and_then(|retirement| retirement.ends_at)
    }

    /// Every desired workload runs what it should, and no other is left.
    pub(super) fn check_rest(&self) {
        if self.state.accepted.is_none() {
            return assert!(self.steps.is_empty(), "nothing is done before anything is desired");
        }
        for (name, workload) in &self.state.workloads {
            let has_no_end = self.context.policy.retire.is_none() || self.state.rejected.is_some();
            assert!(workload.retirement.is_none() || has_no_end, "{name}: its time is up, and it is there");
            let is_unknown = workload.spec.is_none() && workload.retirement.is_some();
            if workload.activity == Activity::Staged || is_refused(workload) || is_unknown {
                continue;
            }
            assert_eq!(workload.activity, Activity::Active, "{name}");
            let (current, spec) = (workload.current.as_ref().unwrap(), workload.spec.as_ref().unwrap());
            assert!(current.satisfies(spec, workload.target.as_ref().unwrap()), "{name}");
        }
        let is_sure =
            |name: &WorkloadName| !self.state.workloads.get(name).is_some_and(|workload| workload.links_in_doubt);
        let links = self.links.iter().filter(|(name, _)| is_sure(name));
        let linked: Vec<_> = links.map(|(name, (current, _))| (name, Some(*current))).collect();
        let known = self.state.workloads.keys().map(|name| (name, self.boots(name)));
        // One that waits for a person from the first has no links yet.
        let known: Vec<_> = known.filter(|(name, current)| current.is_some() && is_sure(name)).collect();
        assert_eq!(linked, known, "the links say what the state says");
        for (name, workload) in &self.state.workloads {
            let previous = workload.previous.as_ref().map(|previous| previous.number);
            if workload.links_in_doubt {
                continue;
            }
            let linked = self.links.get(name).and_then(|(_, previous)| *previous);
            assert!(previous.is_none() || previous == linked, "{name}: previous is what it was");
        }
    }

    /// Every workload runs what its reference leads to now.
    pub(super) fn check_images(&self) {
        let is_to_run = |workload: &Workload| workload.spec.is_some() && workload.activity == Activity::Active;
        for (name, workload) in self.state.workloads.iter().filter(|(_, workload)| is_to_run(workload)) {
            let image = self.image(&workload.spec.as_ref().unwrap().reference.to_string());
            assert_eq!(workload.current.as_ref().unwrap().digest, image.manifest.digest, "{name}");
        }
    }
}

/// Whether it waits for a person since its image was rolled back.
fn is_refused(workload: &Workload) -> bool {
    workload.activity == Activity::Blocked
        && workload.trouble.as_ref().is_some_and(|trouble| trouble.kind == Kind::Quarantined)
}

fn is_pinned(spec: &Spec) -> bool {
    spec.reference.digest().is_some()
}
