//! The differences between a desired state that is known and a new one.

use std::collections::BTreeMap;

use crate::agent::{DesiredImage, GenerationStatus, RetirementStatus};
use crate::desired::{DesiredState, Disks, Spec, WorkloadName};

/// A workload as it is known before the new desired state.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Known {
    /// The desired state of it; none if that is not known.
    pub(super) desired: Option<DesiredImage>,
    /// The generation that boots.
    pub(super) current: Option<GenerationStatus>,
    /// The retirement that is pending, as the desired state in force does not name it.
    pub(super) retirement: Option<RetirementStatus>,
}

/// A workload with its name.
pub(super) type Named<T> = (WorkloadName, T);

/// All workloads of both, each in one list.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    /// Named now, and not known before.
    pub(super) added: Vec<Named<DesiredImage>>,
    /// Named before and now, with other keys, or while a retirement is pending.
    pub(super) changed: Vec<Named<Change>>,
    /// Named before, and not now.
    pub(super) retired: Vec<Named<Known>>,
    /// Named neither now nor by the desired state in force; the retirement is pending.
    pub(super) pending: Vec<Named<Known>>,
    /// Named before and now, with the same keys.
    pub(super) unchanged: Vec<Named<Known>>,
}

/// A workload that changes.
#[derive(Debug, PartialEq)]
pub(super) struct Change {
    pub(super) known: Known,
    pub(super) image: DesiredImage,
    pub(super) keys: Vec<KeyChange>,
}

/// A key of a workload, with its value before and after; none: the key is not there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KeyChange {
    pub(super) key: &'static str,
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
}

impl Changes {
    /// The differences between what is known and `desired`.
    pub(super) fn between(known: &BTreeMap<WorkloadName, Known>, desired: &DesiredState) -> Self {
        let mut changes = Self::default();
        for (name, spec) in &desired.workloads {
            let image = DesiredImage::from(spec);
            match known.get(name) {
                Some(Known { desired: Some(before), .. }) if is_pending(known.get(name)) || !same(before, &image) => {
                    let Some(known) = known.get(name).cloned() else { continue };
                    let keys = keys(before, &image);
                    changes.changed.push((name.clone(), Change { known, image, keys }));
                }
                Some(known @ Known { desired: Some(_), .. }) => changes.unchanged.push((name.clone(), known.clone())),
                Some(Known { desired: None, .. }) | None => changes.added.push((name.clone(), image)),
            }
        }
        for (name, known) in known.iter().filter(|(name, _)| !desired.workloads.contains_key(name)) {
            let list = if known.retirement.is_some() { &mut changes.pending } else { &mut changes.retired };
            list.push((name.clone(), known.clone()));
        }
        changes
    }
}

impl From<&Spec> for Known {
    /// As a file names it.
    fn from(spec: &Spec) -> Self {
        Self { desired: Some(spec.into()), current: None, retirement: None }
    }
}

fn is_pending(known: Option<&Known>) -> bool {
    known.is_some_and(|known| known.retirement.is_some())
}

fn same(before: &DesiredImage, after: &DesiredImage) -> bool {
    before.reference == after.reference && keys(before, after).is_empty()
}

/// The keys that differ, but for the image.
fn keys(before: &DesiredImage, after: &DesiredImage) -> Vec<KeyChange> {
    let texts = |image: &DesiredImage| {
        [
            ("platform", image.platform.as_ref().map(ToString::to_string)),
            ("disks", (image.disks != Disks::default()).then(|| word(&image.disks))),
            ("activate", (image.activate != crate::desired::Activate::default()).then(|| word(&image.activate))),
            ("confirm", image.confirm_s.map(|seconds| format!("{seconds}s"))),
            ("cmdline", image.cmdline.clone()),
        ]
    };
    let pairs = texts(before).into_iter().zip(texts(after));
    pairs
        .filter(|((_, before), (_, after))| before != after)
        .map(|((key, before), (_, after))| KeyChange { key, before, after })
        .collect()
}

/// A value as the file writes it, without quotes.
fn word(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::parse;
    use std::path::Path;

    fn desired(text: &str) -> DesiredState {
        parse(Path::new("desired.toml"), text).unwrap()
    }

    fn known(text: &str) -> BTreeMap<WorkloadName, Known> {
        desired(text).workloads.iter().map(|(name, spec)| (name.clone(), Known::from(spec))).collect()
    }

    fn names<T>(list: &[Named<T>]) -> Vec<&str> {
        list.iter().map(|(name, _)| name.as_str()).collect()
    }

    const ROUTER: &str = "[workload.router]\nimage = \"a.example/r:1\"\n";
    const FW: &str = "[workload.fw]\nimage = \"a.example/fw:1\"\n";

    #[test]
    fn each_workload_is_in_one_list() {
        let before = known(&format!("{ROUTER}{FW}[workload.old]\nimage = \"a.example/o:1\"\n"));
        let after = desired(&format!(
            "{ROUTER}[workload.fw]\nimage = \"a.example/fw:2\"\n[workload.new]\nimage = \"a.example/n\"\n"
        ));
        let changes = Changes::between(&before, &after);
        assert_eq!(names(&changes.added), ["new"]);
        assert_eq!(names(&changes.changed), ["fw"]);
        assert_eq!(names(&changes.retired), ["old"]);
        assert_eq!(names(&changes.unchanged), ["router"]);
        assert!(changes.pending.is_empty());
    }

    #[test]
    fn a_typo_retires_one_workload_and_adds_another() {
        let changes = Changes::between(&known(ROUTER), &desired(&ROUTER.replace("router", "ruoter")));
        assert_eq!((names(&changes.added), names(&changes.retired)), (vec!["ruoter"], vec!["router"]));
    }

    #[test]
    fn every_key_is_compared() {
        for (key, value) in [
            ("platform", "linux/arm64"),
            ("disks", "writable"),
            ("activate", "staged"),
            ("confirm", "10m"),
            ("cmdline", "quiet"),
        ] {
            let changes = Changes::between(&known(ROUTER), &desired(&format!("{ROUTER}{key} = \"{value}\"\n")));
            let [(_, change)] = &changes.changed[..] else { panic!("{key}: {changes:?}") };
            let after = if key == "confirm" { "600s" } else { value };
            assert_eq!(change.keys, [KeyChange { key, before: None, after: Some(after.to_owned()) }]);
            // The other way round as well.
            let back = Changes::between(&known(&format!("{ROUTER}{key} = \"{value}\"\n")), &desired(ROUTER));
            assert_eq!(names(&back.changed), ["router"], "{key}");
        }
        // Positive control: what a default writes out is no change.
        let same = desired(&format!("{ROUTER}disks = \"read-only\"\nactivate = \"now\"\n"));
        assert_eq!(names(&Changes::between(&known(ROUTER), &same).unchanged), ["router"]);
    }

    #[test]
    fn a_pending_retirement_is_cancelled_or_goes_on() {
        let mut before = known(ROUTER);
        for known in before.values_mut() {
            known.retirement = Some(RetirementStatus { ends_in_s: Some(60.0) });
        }
        assert_eq!(names(&Changes::between(&before, &desired(ROUTER)).changed), ["router"]);
        let changes = Changes::between(&before, &desired(FW));
        assert_eq!((names(&changes.pending), changes.retired.len()), (vec!["router"], 0));
    }

    #[test]
    fn a_workload_of_unknown_desired_state_is_retired_or_added() {
        let mut before = known(ROUTER);
        for known in before.values_mut() {
            known.desired = None;
        }
        assert_eq!(names(&Changes::between(&before, &desired(ROUTER)).added), ["router"]);
        assert_eq!(names(&Changes::between(&before, &desired("workloads = {}")).retired), ["router"]);
    }
}
