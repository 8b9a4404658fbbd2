//! One workload.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Activity, Generation, Health, Probation, Quarantine, Retirement, Trouble};
use crate::deploy::Standing;
use crate::desired::{Activate, Spec};
use crate::failure::Kind;
use crate::oci::Digest;
use crate::transfer::Target;

/// One workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// What it should run; none where it is no longer desired, and where that was never known. It stays while a
    /// retirement is pending.
    pub spec: Option<Spec>,
    /// The retirement that is pending; none while the desired state names the workload, and while its links are
    /// removed.
    pub retirement: Option<Retirement>,
    /// What is being done about it.
    pub activity: Activity,
    /// What its reference was found to be, last.
    pub target: Option<Arc<Target>>,
    /// The manifest of the image that it was last on its way to, until it runs what is desired. It outlives a restart: what
    /// was downloaded of that image is kept.
    pub after: Option<Digest>,
    /// The generation that `current` points at.
    pub current: Option<Generation>,
    /// The generation that `previous` points at.
    pub previous: Option<Generation>,
    /// A generation that is complete, and waits to become `current`.
    pub staged: Option<Generation>,
    /// The number of a staged generation that a person has let pass.
    pub approved: Option<u64>,
    /// The times in which generations have to be confirmed, by their numbers: that of `current`, and of those that a link
    /// that is in doubt may point at. What is not here is final.
    pub probations: BTreeMap<u64, Probation>,
    /// What was rolled back, and is not tried again while the same is desired.
    pub quarantine: Quarantine,
    /// How the checks of `current` have gone.
    pub health: Health,
    /// The generation that the hooks after an activation have been run for, last.
    pub announced: Option<u64>,
    /// The highest number that it has given to a generation.
    pub last_generation: u64,
    /// Whether the links may not be what `current` says: swapping or removing them failed, perhaps half way.
    pub links_in_doubt: bool,
    /// Whether `current` points at what is not complete any more.
    pub is_damaged: bool,
    /// The image that was damaged, where that is known: what is put in its place waits for nobody.
    pub lost: Option<Digest>,
    /// What the records of generations are to be that were taken for lost, beside those that are known: a link may point at
    /// one still, and it is not to be trusted for what it says now.
    pub lost_records: BTreeMap<u64, Digest>,
    /// When it may be repaired as it is again, on the boot clock: each try reads all that is on disk.
    pub repair_after: Option<Duration>,
    /// What went wrong last, until something goes right.
    pub trouble: Option<Trouble>,
    /// When to start again without being asked, on the boot clock.
    pub wake_at: Option<Duration>,
    /// When the reference is resolved again without being asked, on the boot clock.
    pub poll_at: Option<Duration>,
}

impl Workload {
    /// The time in which `current` has to be confirmed; none where it is final.
    pub fn probation(&self) -> Option<&Probation> {
        self.current.as_ref().and_then(|current| self.probations.get(&current.number))
    }

    /// What the records of its generations are known to be, by their numbers.
    pub(in crate::agent) fn records(&self) -> BTreeMap<u64, Digest> {
        let activating = match &self.activity {
            Activity::Activating(_, activation) => Some(&activation.generation),
            _ => None,
        };
        let known = [&self.previous, &self.staged, &self.current].into_iter().flatten().chain(activating);
        let known = known.filter_map(|generation| Some((generation.number, generation.record?)));
        self.lost_records.clone().into_iter().chain(known).collect()
    }

    /// Whether `current` was given up, and is still there.
    pub(in crate::agent) fn is_to_leave_current(&self) -> bool {
        self.current.as_ref().is_some_and(|current| self.quarantine.has_generation(current.number))
    }

    /// Whether `generation` takes the place of a damaged one of the same image.
    pub(in crate::agent) fn is_repaired_by(&self, generation: &Generation) -> bool {
        self.is_damaged && self.lost == Some(generation.digest)
    }

    /// True if `current` is what the desired state asks for, as its reference was resolved last. After a restart that is
    /// not known, but an update that had begun is.
    pub fn runs_desired(&self) -> bool {
        let (Some(spec), Some(current)) = (&self.spec, &self.current) else { return false };
        let is_in_place = !self.links_in_doubt && !self.is_damaged && !self.is_to_leave_current();
        is_in_place
            && match &self.target {
                Some(target) => current.satisfies(spec, target),
                None => current.suits(spec) && self.after.is_none_or(|after| after == current.digest),
            }
    }

    /// Whether it is at something that changes the disk, and is left to end.
    pub(in crate::agent) fn is_changing_the_disk(&self) -> bool {
        matches!(self.activity, Activity::Materializing(_) | Activity::Activating(..) | Activity::Retiring(_))
    }

    /// The staged generation, if it is what is desired.
    pub(in crate::agent) fn ready(&self) -> Option<&Generation> {
        let spec = self.spec.as_ref()?;
        let is_refused = |staged: &&Generation| self.quarantine.find(&staged.digest).is_some();
        self.staged.as_ref().filter(|staged| staged.suits(spec) && !is_refused(staged))
    }

    /// Whether something runs that may be given up.
    pub(in crate::agent) fn is_on_trial(&self) -> bool {
        self.spec.is_some() && self.current.is_some() && !self.is_to_leave_current() && !self.is_changing_the_disk()
    }

    /// Whether a person has to let the staged generation pass.
    pub(in crate::agent) fn waits_for_approval(&self) -> bool {
        let is_to_wait = self.spec.as_ref().is_some_and(|spec| spec.activate == Activate::Staged);
        let may_pass = |staged: &Generation| self.approved == Some(staged.number) || self.is_repaired_by(staged);
        is_to_wait && !self.staged.as_ref().is_some_and(may_pass)
    }

    /// When it is to be looked after next, on the boot clock.
    pub(super) fn next_wake(&self) -> Option<Duration> {
        // What changes the disk ends soon, and what is due is seen to then.
        let ends_at = self.probation().filter(|_| self.is_on_trial()).and_then(|probation| probation.ends_at);
        [self.wake_at, ends_at].into_iter().flatten().min()
    }

    /// What a collection has to know of it.
    pub(super) fn standing(&self) -> Standing {
        let activating = match &self.activity {
            Activity::Activating(_, activation) => Some(activation.generation.number),
            _ => None,
        };
        Standing {
            // What runs is in it for when its link is lost.
            awaited: [&self.staged, &self.current]
                .into_iter()
                .flatten()
                .map(|one| one.number)
                .chain(activating)
                .collect(),
            last: self.last_generation,
            needs_previous: !self.probations.is_empty() || self.is_to_leave_current(),
        }
    }

    /// Whether it waits for something, or failed at something, that another time of day may mend.
    pub(in crate::agent) fn waits_for_the_clock(&self) -> bool {
        let kind = self.trouble.as_ref().map(|trouble| trouble.kind);
        let waits = self.activity == Activity::Staged || matches!(kind, Some(Kind::Tls | Kind::ClockWrong));
        self.activity.job().is_none() && waits
    }
}
