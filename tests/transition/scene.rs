//! A state, the events that are sent to it, and short ways to make the values that they carry.

use std::sync::Arc;
use std::time::Duration;

use eci_agent::agent::{
    Accepted, Action, Activity, Context, Event, Generation, HealthPolicy, Outcome, Policy, Reject, State, Trouble,
    Workload, transition,
};
use eci_agent::clock::BootId;
use eci_agent::config::RetrySettings;
use eci_agent::deploy::Launch;
use eci_agent::desired::{Activate, DesiredState, Disks, Reading, Spec, WorkloadName};
use eci_agent::eci::Artifact;
use eci_agent::failure::{Failure, Kind, Retry};
use eci_agent::oci::{Descriptor, Digest, Platform};
use eci_agent::transfer::{Plan, Target};
use jiff::Timestamp;

pub(crate) const POLL: Duration = Duration::from_secs(1000);
pub(crate) const INITIAL: Duration = Duration::from_secs(1);
pub(crate) const MAX: Duration = Duration::from_secs(60);

/// How long an activation has to be confirmed, where it has to be.
pub(crate) const CONFIRM: Duration = Duration::from_secs(600);
/// How long it has to be healthy for that.
pub(crate) const HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// So many failed checks in a row are too many.
pub(crate) const THRESHOLD: u32 = 3;
/// So many starts of the agent during a probation are too many.
pub(crate) const ATTEMPTS: u32 = 3;

/// Images: two tags of one repository.
pub(crate) const ONE: &str = "a.example/vm:1";
pub(crate) const TWO: &str = "a.example/vm:2";

/// What an activity is called in these tests, which tell all of them apart.
pub(crate) const ACTIVITIES: [&str; 14] = [
    "Idle",
    "Resolving",
    "Planning",
    "Fetching",
    "Verifying",
    "Materializing",
    "Staged",
    "Asking",
    "Activating",
    "Active",
    "Polling",
    "Backoff",
    "Blocked",
    "Retiring",
];

/// The name of it in [`ACTIVITIES`].
pub(crate) fn activity_name(activity: &Activity) -> &'static str {
    match activity {
        Activity::Idle => "Idle",
        Activity::Resolving(_) => "Resolving",
        Activity::Planning(_) => "Planning",
        Activity::Fetching(_) => "Fetching",
        Activity::Verifying(_) => "Verifying",
        Activity::Materializing(_) => "Materializing",
        Activity::Staged => "Staged",
        Activity::Asking(..) => "Asking",
        Activity::Activating(..) => "Activating",
        Activity::Active => "Active",
        Activity::Polling(_) => "Polling",
        Activity::Backoff => "Backoff",
        Activity::Blocked => "Blocked",
        Activity::Retiring(_) => "Retiring",
    }
}

/// The workload that most tests are about.
pub(crate) fn vm() -> WorkloadName {
    "vm".parse().unwrap()
}

/// A workload that runs `image`.
pub(crate) fn spec(image: &str) -> Spec {
    Spec {
        reference: image.parse().unwrap(),
        platform: Some("linux/amd64".parse().unwrap()),
        cmdline: None,
        disks: Disks::ReadOnly,
        activate: Activate::Now,
        confirm: None,
    }
}

/// The same, and it waits for a person.
pub(crate) fn staged(image: &str) -> Spec {
    Spec { activate: Activate::Staged, ..spec(image) }
}

/// The same, and it has to be confirmed within [`CONFIRM`].
pub(crate) fn unconfirmed(image: &str) -> Spec {
    Spec { confirm: Some(CONFIRM), ..spec(image) }
}

/// `image` with a digest, which nothing can change.
pub(crate) fn pinned(image: &str) -> String {
    format!("{image}@{}", Digest::of(b"pinned"))
}

/// The desired-state file was read: it names `workloads`.
pub(crate) fn desired(workloads: impl IntoIterator<Item = (WorkloadName, Spec)>) -> Event {
    let desired = DesiredState { workloads: workloads.into_iter().collect() };
    // As for a real file: other bytes, other digest.
    let sha256 = Digest::of(format!("{desired:?}").as_bytes());
    Event::Desired(Ok(Reading { sha256, desired }))
}

/// The desired-state file names `vm` with `image`.
pub(crate) fn vm_runs(image: &str) -> Event {
    desired([(vm(), spec(image))])
}

/// The desired-state file names no workload that these tests know.
pub(crate) fn vm_is_gone() -> Event {
    desired([])
}

/// What a reference leads to: an image that differs from others by `content`.
pub(crate) fn target(content: &str) -> Arc<Target> {
    let blob = |text: &str| Descriptor::of("application/octet-stream", text.as_bytes());
    Arc::new(Target {
        manifest: blob(content),
        index_digest: None,
        platform: "linux/amd64".parse::<Platform>().unwrap(),
        artifact: Artifact { config: blob("{}"), layers: Vec::new(), files: Vec::new() },
    })
}

/// All downloads are given up but those of these images, as [`target`] has them.
pub(crate) fn sweep(wanted: &[&str]) -> Action {
    Action::Sweep { wanted: wanted.iter().map(|content| target(content).manifest.digest).collect() }
}

/// A plan with something to fetch.
pub(crate) fn something_missing() -> Outcome {
    let blob = Descriptor::of("application/octet-stream", b"disk");
    Outcome::Planned(Plan { bytes_total: blob.size, missing: vec![blob], ..Plan::default() })
}

/// A plan with nothing to fetch.
pub(crate) fn nothing_missing() -> Outcome {
    Outcome::Planned(Plan::default())
}

/// A blob that was in the cache before turns out to be damaged.
pub(crate) fn damaged() -> Outcome {
    Outcome::Missing(vec![Digest::of(b"disk")])
}

/// A generation of `workload` was laid out: the image `target` as `spec` names it.
pub(crate) fn laid_out(workload: &WorkloadName, number: u64, spec: &Spec, target: &Target) -> Outcome {
    Outcome::Materialized(Box::new(launch(workload, number, spec, target)))
}

pub(crate) fn launch(workload: &WorkloadName, number: u64, spec: &Spec, target: &Target) -> Launch {
    Launch {
        workload: workload.clone(),
        generation: number,
        reference: spec.reference.clone(),
        digest: target.manifest.digest,
        index_digest: target.index_digest,
        platform: target.platform.clone(),
        cmdline: spec.cmdline.clone(),
        disks: spec.disks,
        files: Vec::new(),
        record: None,
    }
}

/// A failure of the kind that goes with `retry` most often.
pub(crate) fn failure(retry: Retry) -> Failure {
    let kind = match retry {
        Retry::Never => Kind::ManifestInvalid,
        Retry::Later => Kind::Unreachable,
        Retry::After(_) => Kind::RateLimited,
    };
    Failure { kind, message: kind.to_string(), retry }
}

/// A boot of the machine.
pub(crate) fn boot(number: u8) -> Option<BootId> {
    Some(format!("{number:032x}").try_into().unwrap())
}

pub(crate) fn context() -> Context {
    Context {
        now: Duration::from_secs(100),
        boot: boot(1),
        wall: Timestamp::UNIX_EPOCH,
        opens_in: None,
        chance: 0.5,
        policy: Policy {
            poll: Some(POLL),
            retry: RetrySettings { initial: INITIAL, max: MAX },
            retire: Some(Duration::ZERO),
            health: HealthPolicy { threshold: THRESHOLD, healthy_after: HEALTHY_AFTER, max_attempts: ATTEMPTS },
            asks: false,
            announces: false,
        },
    }
}

/// A state that events are sent to.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) state: State,
    pub(crate) context: Context,
}

impl Scene {
    /// Nothing is known yet.
    pub(crate) fn new() -> Self {
        Self { state: State::default(), context: context() }
    }

    /// As a restart finds a node where `vm` boots generation 1 with the image [`ONE`]; `image` is what it should run.
    pub(crate) fn restored(image: Option<&str>) -> Self {
        let mut scene = Self::new();
        let workload = Workload {
            spec: image.map(spec),
            current: Some(Generation::new(&launch(&vm(), 1, &spec(ONE), &target("one")), None)),
            last_generation: 1,
            wake_at: image.map(|_| Duration::ZERO),
            ..Workload::default()
        };
        scene.state.workloads.insert(vm(), workload);
        scene.state.accepted =
            image.map(|image| Accepted { sha256: Digest::of(image.as_bytes()), at: scene.context.wall });
        scene
    }

    /// `vm` should run [`ONE`] and is in `activity`, one of [`ACTIVITIES`]; for "Retiring" it is named no longer.
    pub(crate) fn during(activity: &str) -> Self {
        if activity == "Idle" {
            return Self::restored(Some(ONE));
        }
        let mut scene = Self::new();
        scene.context.policy.asks = activity == "Asking";
        scene.send(if activity == "Staged" { desired([(vm(), staged(ONE))]) } else { vm_runs(ONE) });
        match activity {
            "Backoff" => drop(scene.fail(Retry::Later)),
            "Blocked" => drop(scene.fail(Retry::Never)),
            _ => scene.go_on_to(activity),
        }
        assert_eq!(scene.activity(), activity);
        scene
    }

    fn go_on_to(&mut self, activity: &str) {
        while self.activity() != activity {
            match self.activity() {
                "Active" if activity == "Retiring" => drop(self.send(vm_is_gone())),
                "Active" if activity == "Polling" => drop(self.sleep()),
                "Active" => panic!("there is no way to {activity}"),
                _ => drop(self.succeed("one")),
            }
        }
    }

    /// Sends an event that has to be accepted, and gives what follows.
    pub(crate) fn send(&mut self, event: Event) -> Vec<Action> {
        let (state, actions) = transition(&self.state, event, &self.context).unwrap();
        self.state = state;
        actions
    }

    /// Why an event is rejected.
    pub(crate) fn rejected(&self, event: Event) -> Reject {
        transition(&self.state, event, &self.context).unwrap_err()
    }

    /// The step that goes on for `vm` ends.
    pub(crate) fn end(&mut self, outcome: Result<Outcome, Failure>) -> Vec<Action> {
        let event = self.step(outcome);
        self.send(event)
    }

    /// The same as an event.
    pub(crate) fn step(&self, outcome: Result<Outcome, Failure>) -> Event {
        let job = self.vm().activity.job().expect("something goes on").id;
        Event::Step { workload: vm(), job, outcome }
    }

    /// The step that goes on for `vm` fails.
    pub(crate) fn fail(&mut self, retry: Retry) -> Vec<Action> {
        self.end(Err(failure(retry)))
    }

    /// The step that goes on for `vm` ends well; `content` is the image that its reference leads to.
    pub(crate) fn succeed(&mut self, content: &str) -> Vec<Action> {
        let outcome = match &self.vm().activity {
            Activity::Resolving(_) | Activity::Polling(_) => Outcome::Resolved(target(content)),
            Activity::Planning(_) => something_missing(),
            Activity::Fetching(_) => Outcome::Fetched,
            Activity::Verifying(_) => Outcome::Verified,
            Activity::Materializing(job) => {
                laid_out(&vm(), self.vm().last_generation + 1, job.spec.as_ref().unwrap(), &target(content))
            }
            Activity::Asking(..) => Outcome::Agreed,
            Activity::Activating(..) => Outcome::Activated,
            Activity::Retiring(_) => Outcome::Retired,
            _ => panic!("nothing goes on"),
        };
        self.end(Ok(outcome))
    }

    /// Steps end well until nothing goes on.
    pub(crate) fn finish(&mut self, content: &str) {
        while self.state.workloads.get(&vm()).is_some_and(|vm| vm.activity.job().is_some()) {
            self.succeed(content);
        }
    }

    /// Time goes by until something wakes.
    pub(crate) fn sleep(&mut self) -> Vec<Action> {
        self.context.now = self.state.next_wake().expect("something will wake").max(self.context.now);
        self.send(Event::Tick)
    }

    pub(crate) fn vm(&self) -> &Workload {
        &self.state.workloads[&vm()]
    }

    pub(crate) fn activity(&self) -> &'static str {
        activity_name(&self.vm().activity)
    }

    /// The number of the generation that `vm` boots.
    pub(crate) fn boots(&self) -> Option<u64> {
        self.vm().current.as_ref().map(|current| current.number)
    }

    pub(crate) fn trouble(&self) -> &Trouble {
        self.vm().trouble.as_ref().expect("something went wrong")
    }

    /// `vm` has come to run `spec`, whose reference leads to `content`.
    pub(crate) fn deploy(&mut self, spec: Spec, content: &str) {
        self.send(desired([(vm(), spec)]));
        self.finish(content);
    }

    /// So much time goes by.
    pub(crate) fn pass(&mut self, time: Duration) -> Vec<Action> {
        self.context.now += time;
        self.send(Event::Tick)
    }

    /// Time goes by until the tag is looked at again.
    pub(crate) fn sleep_to_poll(&mut self) {
        self.context.now = self.vm().wake_at.expect("it polls").min(self.context.now + POLL / 2);
        self.send(Event::Reconcile(None));
    }

    /// The number of the generation that ran before.
    pub(crate) fn falls_back_to(&self) -> Option<u64> {
        self.vm().previous.as_ref().map(|previous| previous.number)
    }

    /// The phase of `vm` in the status.
    pub(crate) fn phase(&self) -> &'static str {
        self.vm().phase().as_str()
    }

    /// How long `vm` sleeps from now on.
    pub(crate) fn sleeps(&self) -> Option<Duration> {
        self.vm().wake_at.map(|at| at.checked_sub(self.context.now).expect("it wakes later"))
    }
}

/// Names of actions, to compare with a list.
pub(crate) fn names(actions: &[Action]) -> Vec<&'static str> {
    let name = |action: &Action| match action {
        Action::Save => "Save",
        Action::Cancel { .. } => "Cancel",
        Action::Resolve { .. } => "Resolve",
        Action::Plan { .. } => "Plan",
        Action::Fetch { .. } => "Fetch",
        Action::Verify { .. } => "Verify",
        Action::Materialize { .. } => "Materialize",
        Action::Ask { .. } => "Ask",
        Action::Activate { .. } => "Activate",
        Action::Repair => "Repair",
        Action::Announce { .. } => "Announce",
        Action::Retire { .. } => "Retire",
        Action::Sweep { .. } => "Sweep",
    };
    actions.iter().map(name).collect()
}
