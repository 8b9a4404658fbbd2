//! The status: what `GET /v1/status` and `eci status` say. Units are in the names; every key is always there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::fsck::FsckStatus;
use super::state::{Generation, Health, Phase, Probation, Retirement, State, Trouble, Workload};
use crate::cache::Usage;
use crate::clock;
use crate::deploy::{Opening, Window};
use crate::desired::{Activate, Disks, Spec, WorkloadName};
use crate::failure::Kind;
use crate::oci::{Digest, Platform, Reference};
use crate::transfer::{Progress, ProgressNow};

/// The whole status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The process; none where the state directory was read without one.
    pub agent: Option<AgentStatus>,
    /// The desired-state file.
    pub desired: DesiredStatus,
    /// The cache.
    pub cache: CacheStatus,
    /// Whether the disk still has what was put there.
    pub fsck: FsckStatus,
    /// The workloads by name.
    pub workloads: BTreeMap<WorkloadName, WorkloadStatus>,
}

/// The agent's process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The program's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// How long ago that is.
    pub uptime_s: f64,
    /// Why it cannot write to its state directory.
    pub error: Option<ProblemStatus>,
    /// The error of the last reload of the configuration; the settings before it stay in force.
    #[serde(default)]
    pub config_error: Option<ProblemStatus>,
}

/// The desired-state file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredStatus {
    /// Where it is.
    pub path: PathBuf,
    /// Digest of the text that is in force.
    pub sha256: Option<Digest>,
    /// When that was accepted.
    pub accepted_at: Option<Timestamp>,
    /// Why the file as it is now is not in force.
    pub error: Option<ProblemStatus>,
}

/// The cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in cache::Usage")]
pub struct CacheStatus {
    pub blobs: u64,
    pub bytes: u64,
    pub allocated_bytes: u64,
    pub free_bytes: u64,
}

/// One workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkloadStatus {
    /// What is being done about it.
    pub phase: Phase,
    /// The image that it should run; none while its links are removed. While a retirement is pending, the last one
    /// named.
    pub desired: Option<DesiredImage>,
    /// What boots.
    pub current: Option<GenerationStatus>,
    /// What booted before.
    pub previous: Option<GenerationStatus>,
    /// What waits to be activated.
    pub staged: Option<GenerationStatus>,
    /// What that waits for; none where it waits for nothing.
    pub waits_for: Option<WaitStatus>,
    /// The transfer that goes on, or that a failure interrupted; none once its image is laid out or active.
    pub progress: Option<ProgressNow>,
    /// The transfer that goes on, or the last one since the agent started.
    #[serde(default)]
    pub last_transfer: Option<ProgressNow>,
    /// True if what boots is not what the desired state asks for, as its reference was resolved last.
    #[serde(default)]
    pub drift: bool,
    /// When the reference is resolved again without being asked, in whole seconds; none while that goes on, without an
    /// agent, and if nothing can change: a reference by digest, `[desired] poll = "off"`.
    #[serde(default)]
    pub next_poll_at: Option<Timestamp>,
    /// What went wrong last.
    pub error: Option<ProblemStatus>,
    /// Digests that were rolled back and are not tried again.
    pub quarantined: Vec<Digest>,
    /// How long `current` has to be confirmed; none where it is final, and where it was given up.
    pub probation: Option<ProbationStatus>,
    /// How the checks of `current` have gone; none where it was not checked yet.
    pub health: Option<HealthStatus>,
    /// The time at which it is retired; none if the desired state names it, and if only an operator retires it.
    #[serde(default)]
    pub retires_at: Option<Timestamp>,
    /// The retirement that is pending; none where the desired state names it.
    #[serde(default)]
    pub retirement: Option<RetirementStatus>,
    /// The generations that something runs from now, as `eci exec` makes it known.
    pub running: Vec<u64>,
}

/// What a staged generation waits for: all of it has to come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WaitStatus {
    /// Whether it waits for a person, who lets it pass with `eci activate`.
    pub person: bool,
    /// Whether it waits for the window.
    pub window: bool,
    /// In how many seconds the window opens; none where it is open, and where the clock is wrong, so that nobody can say.
    pub window_opens_in_s: Option<f64>,
    /// The time at which it opens, in whole seconds; none as for `window_opens_in_s`.
    #[serde(default)]
    pub window_opens_at: Option<Timestamp>,
    /// The window's time zone, by its name in the tz database; none without a window to wait for.
    #[serde(default)]
    pub window_timezone: Option<String>,
}

/// The time in which a generation has to be confirmed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbationStatus {
    /// In how many seconds it is rolled back; none where there is nothing to go back to.
    pub ends_in_s: Option<f64>,
    /// How often the agent or the machine has started meanwhile.
    pub restarts: u32,
}

/// A retirement that is pending.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetirementStatus {
    /// The seconds until it is retired; none where only an operator retires it (`[desired] retire = "confirm"`).
    pub ends_in_s: Option<f64>,
}

/// How the checks of a generation have gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthStatus {
    /// Whether it is healthy; none where it is too soon to say.
    pub healthy: Option<bool>,
    /// How many checks in a row have failed.
    pub failures: u32,
    /// When it was checked last.
    pub checked_at: Timestamp,
    /// Why the last check failed.
    pub message: Option<String>,
}

/// What a workload should run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DesiredImage {
    /// The image, as the file writes it.
    pub reference: Reference,
    /// What it was found to be; none until it was resolved.
    pub digest: Option<Digest>,
    /// The index that it was chosen from.
    pub index_digest: Option<Digest>,
    /// The platform to choose from an index; none: the node's own.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// The kernel's command line.
    #[serde(default)]
    pub cmdline: Option<String>,
    /// The disks that the guest may write to.
    #[serde(default)]
    pub disks: Disks,
    /// The condition that an image waits for which is ready to boot.
    #[serde(default)]
    pub activate: Activate,
    /// The seconds in which an activation has to be confirmed; none where it is final.
    #[serde(default)]
    pub confirm_s: Option<f64>,
}

/// A generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationStatus {
    /// Its number.
    pub generation: u64,
    /// The image.
    pub reference: Reference,
    /// The manifest's digest.
    pub digest: Digest,
    /// The index that it was chosen from.
    pub index_digest: Option<Digest>,
    /// When it was activated, where that is known.
    pub activated_at: Option<Timestamp>,
    /// Whether it is final.
    pub confirmed: bool,
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemStatus {
    /// The stable name.
    pub kind: Kind,
    /// The text for a person.
    pub message: String,
    /// Since when.
    pub since: Timestamp,
    /// How often in a row.
    pub attempts: u32,
    /// When it is tried again.
    pub retry_at: Option<Timestamp>,
}

/// What the loop publishes after every step; a status is made of it when someone asks.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) state: Arc<State>,
    pub(super) progress: BTreeMap<WorkloadName, Arc<Progress>>,
    pub(super) trouble: Option<Trouble>,
    /// When an image may be activated; none: at any time.
    pub(super) window: Option<Window>,
}

impl Status {
    /// What the state says.
    pub(super) fn new(
        snapshot: &Snapshot,
        agent: Option<AgentStatus>,
        desired_path: &Path,
        usage: Usage,
        in_use: &BTreeMap<WorkloadName, Vec<u64>>,
        fsck: FsckStatus,
    ) -> Self {
        let state = &snapshot.state;
        let Usage { blobs, bytes, allocated_bytes, free_bytes } = usage;
        let workloads = state.workloads.iter().map(|(name, workload)| {
            let progress = snapshot.progress.get(name).map(|progress| progress.now());
            let running = in_use.get(name).cloned().unwrap_or_default();
            (name.clone(), WorkloadStatus::new(workload, snapshot.window.as_ref(), progress, running))
        });
        Self {
            agent,
            desired: DesiredStatus {
                path: desired_path.to_owned(),
                sha256: state.accepted.map(|accepted| accepted.sha256),
                accepted_at: state.accepted.map(|accepted| accepted.at),
                error: state.rejected.as_ref().map(ProblemStatus::from),
            },
            cache: CacheStatus { blobs, bytes, allocated_bytes, free_bytes },
            fsck,
            workloads: workloads.collect(),
        }
    }
}

impl AgentStatus {
    /// This process, which started at `started_at`, `uptime` ago.
    pub(super) fn this(
        started_at: Timestamp,
        uptime: Duration,
        trouble: Option<&Trouble>,
        config_error: Option<&Trouble>,
    ) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self {
            version,
            pid: std::process::id(),
            started_at,
            uptime_s: uptime.as_secs_f64(),
            error: trouble.map(ProblemStatus::from),
            config_error: config_error.map(ProblemStatus::from),
        }
    }
}

impl WorkloadStatus {
    fn new(workload: &Workload, window: Option<&Window>, progress: Option<ProgressNow>, running: Vec<u64>) -> Self {
        let target = workload.target.as_ref();
        let desired = workload.spec.as_ref().map(|spec| DesiredImage {
            digest: target.map(|target| target.manifest.digest),
            index_digest: target.and_then(|target| target.index_digest),
            ..DesiredImage::from(spec)
        });
        let retirement = workload.retirement.as_ref().map(RetirementStatus::from);
        let is_left = workload.is_to_leave_current();
        Self {
            phase: workload.phase(),
            desired,
            current: workload.current.as_ref().map(|current| GenerationStatus {
                confirmed: workload.probation().is_none(),
                ..GenerationStatus::from(current)
            }),
            previous: workload.previous.as_ref().map(GenerationStatus::from),
            staged: workload
                .staged
                .as_ref()
                .map(|staged| GenerationStatus { confirmed: false, ..GenerationStatus::from(staged) }),
            waits_for: WaitStatus::new(workload, window),
            progress: progress.filter(|_| is_under_way(workload)),
            last_transfer: progress,
            drift: !workload.runs_desired() && (workload.spec.is_some() || workload.current.is_some()),
            next_poll_at: workload.poll_at.and_then(poll_time),
            error: workload.trouble.as_ref().map(ProblemStatus::from),
            quarantined: workload.quarantine.digests(),
            probation: workload.probation().filter(|_| !is_left).map(ProbationStatus::from),
            health: HealthStatus::of(&workload.health),
            retires_at: retirement.as_ref().and_then(RetirementStatus::at),
            retirement,
            running,
        }
    }
}

/// True while a transfer goes on, or waits to be resumed.
fn is_under_way(workload: &Workload) -> bool {
    !matches!(workload.phase(), Phase::Idle | Phase::Active | Phase::Probation | Phase::Staged | Phase::Retiring)
}

/// The wall-clock time, in whole seconds, of `at` on the boot clock.
fn poll_time(at: Duration) -> Option<Timestamp> {
    after(Timestamp::now(), at.saturating_sub(clock::since_boot()))
}

/// The time `later` than `now`, in whole seconds.
fn after(now: Timestamp, later: Duration) -> Option<Timestamp> {
    now.checked_add(later).ok()?.round(jiff::Unit::Second).ok()
}

impl From<&Spec> for DesiredImage {
    /// The image of `spec`; its reference is not resolved.
    fn from(spec: &Spec) -> Self {
        Self {
            reference: spec.reference.clone(),
            digest: None,
            index_digest: None,
            platform: spec.platform.clone(),
            cmdline: spec.cmdline.clone(),
            disks: spec.disks,
            activate: spec.activate,
            confirm_s: spec.confirm.map(|time| time.as_secs_f64()),
        }
    }
}

impl RetirementStatus {
    /// The end of the time, in whole seconds.
    fn at(&self) -> Option<Timestamp> {
        after(Timestamp::now(), Duration::try_from_secs_f64(self.ends_in_s?).ok()?)
    }
}

impl From<&Retirement> for RetirementStatus {
    fn from(retirement: &Retirement) -> Self {
        let left = retirement.left(clock::since_boot(), clock::boot_id());
        Self { ends_in_s: left.map(|left| left.as_secs_f64()) }
    }
}

impl WaitStatus {
    fn new(workload: &Workload, window: Option<&Window>) -> Option<Self> {
        let ready = workload.ready()?;
        let person = workload.waits_for_approval();
        // What takes the place of a damaged generation waits for nobody.
        let window = window.filter(|_| !workload.is_repaired_by(ready));
        let now = Timestamp::now();
        let (is_closed, opens_in) = match window.map(|window| window.at(now)) {
            Some(_) if clock::complaint().is_some() => (true, None),
            None | Some(Opening::Open { .. }) => (false, None),
            Some(Opening::Closed { opens_in }) => (true, Some(opens_in)),
        };
        let timezone = window.filter(|_| is_closed).and_then(Window::timezone).map(str::to_owned);
        (person || is_closed).then_some(Self {
            person,
            window: is_closed,
            window_opens_in_s: opens_in.map(|time| time.as_secs_f64()),
            window_opens_at: opens_in.and_then(|time| after(now, time)),
            window_timezone: timezone,
        })
    }
}

impl From<&Generation> for GenerationStatus {
    fn from(generation: &Generation) -> Self {
        Self {
            generation: generation.number,
            reference: generation.reference.clone(),
            digest: generation.digest,
            index_digest: generation.index_digest,
            activated_at: generation.activated_at,
            confirmed: true,
        }
    }
}

impl HealthStatus {
    /// None where nothing was checked yet.
    fn of(health: &Health) -> Option<Self> {
        let (healthy, failures, message) = (health.is_healthy, health.failures, health.message.clone());
        health.checked_at.map(|checked_at| Self { healthy, failures, checked_at, message })
    }
}

impl From<&Probation> for ProbationStatus {
    fn from(probation: &Probation) -> Self {
        let ends_in = probation.ends_at.map(|at| at.saturating_sub(clock::since_boot()));
        Self { ends_in_s: ends_in.map(|time| time.as_secs_f64()), restarts: probation.restarts }
    }
}

impl From<&Trouble> for ProblemStatus {
    fn from(trouble: &Trouble) -> Self {
        let Trouble { kind, message, since, attempts, retry_at } = trouble.clone();
        Self { kind, message, since, attempts, retry_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{Probation, Quarantined};
    use crate::config::WindowSettings;
    use crate::desired::{Activate, Disks, Spec};
    use crate::oci::Platform;
    use jiff::ToSpan;
    use jiff::civil::{Time, Weekday};
    use jiff::tz::TimeZone;

    /// Generation 2 runs on probation, and generation 3 waits for a person.
    fn workload() -> Workload {
        let spec = Spec {
            reference: "a.example/b:c".parse().unwrap(),
            platform: None,
            cmdline: None,
            disks: Disks::ReadOnly,
            activate: Activate::Staged,
            confirm: Some(Duration::from_secs(600)),
        };
        let generation = |number: u64| Generation {
            number,
            reference: spec.reference.clone(),
            digest: Digest::of(&number.to_be_bytes()),
            index_digest: None,
            platform: Platform::host(),
            cmdline: None,
            disks: Disks::ReadOnly,
            record: None,
            activated_at: None,
        };
        let (length, ends_at) = (Duration::from_secs(600), Some(clock::since_boot() + Duration::from_secs(600)));
        Workload {
            current: Some(generation(2)),
            previous: Some(generation(1)),
            staged: Some(generation(3)),
            probations: [(2, Probation { length, boot: None, ends_at, restarts: 0 })].into(),
            spec: Some(spec),
            ..Workload::default()
        }
    }

    /// One that is open all day, on these days.
    fn window(days: Vec<Weekday>) -> Window {
        let (start, end) = (Time::midnight(), Time::midnight());
        Window::new(WindowSettings { days, start, end, timezone: TimeZone::UTC })
    }

    fn whom(workload: &Workload, window: Option<&Window>) -> Option<(bool, bool)> {
        WaitStatus::new(workload, window).map(|waits| (waits.person, waits.window))
    }

    #[test]
    fn what_is_staged_waits_for_a_person_and_the_window_and_a_repair_for_nobody() {
        let mut workload = workload();
        // The only day is neither now nor soon.
        let far = TimeZone::UTC.to_datetime(Timestamp::now() + 72.hours()).weekday();
        let closed = window(vec![far]);
        let days = 2.0 * 86_400.0..4.0 * 86_400.0;
        let waits = WaitStatus::new(&workload, Some(&closed)).unwrap();
        assert!(waits.person && waits.window && days.contains(&waits.window_opens_in_s.unwrap()), "{waits:?}");
        assert_eq!(whom(&workload, None), Some((true, false)));
        workload.approved = Some(3);
        assert_eq!(whom(&workload, Some(&closed)), Some((false, true)));
        assert_eq!(
            whom(&workload, Some(&window(Weekday::Monday.cycle_forward().take(7).collect()))),
            None,
            "it is open all day"
        );
        workload.approved = None;
        workload.is_damaged = true;
        assert_eq!(whom(&workload, Some(&closed)), Some((true, true)), "another image is no repair");
        workload.lost = workload.staged.as_ref().map(|staged| staged.digest);
        assert_eq!(whom(&workload, Some(&closed)), None);
    }

    #[test]
    fn what_was_given_up_need_not_be_confirmed_any_more() {
        let mut workload = workload();
        let status = |workload: &Workload| WorkloadStatus::new(workload, None, None, Vec::new());
        let ends_in = status(&workload).probation.unwrap().ends_in_s.unwrap();
        assert!((590.0..=600.0).contains(&ends_in), "{ends_in}");
        let (digest, why) = (workload.current.as_ref().unwrap().digest, "it did not come up".to_owned());
        workload.quarantine.add(Quarantined { digest, generation: 2, why, at: Timestamp::UNIX_EPOCH });
        let status = status(&workload);
        assert_eq!((status.probation, status.quarantined), (None, vec![digest]));
        assert!(!status.current.unwrap().confirmed);
    }
}
