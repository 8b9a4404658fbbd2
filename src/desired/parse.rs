//! The parser of `desired.toml`: text in, a whole desired state or an error out.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::{Activate, DesiredError, DesiredState, Disks, Spec, WorkloadName};
use crate::config::{self, Span};
use crate::oci::{Platform, Reference};

/// More workloads than a node has.
const MAX_WORKLOADS: usize = 256;
/// The longest kernel command line that Linux takes on any architecture, in bytes.
const MAX_CMDLINE: usize = 4096;
/// The shortest time to be confirmed in.
const SHORTEST_PROBATION: Duration = Duration::from_secs(1);

/// The file as it is written. The keys of a workload may stand beside a top-level `image`; they are spelled out here
/// because a flattened struct would lose the place of its errors.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    image: Option<Image>,
    platform: Option<PlatformText>,
    disks: Option<Disks>,
    activate: Option<Activate>,
    confirm: Option<Confirm>,
    cmdline: Option<Cmdline>,
    #[serde(default)]
    workload: BTreeMap<WorkloadName, Workload>,
    workloads: Option<Nothing>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Workload {
    image: Image,
    platform: Option<PlatformText>,
    disks: Option<Disks>,
    activate: Option<Activate>,
    confirm: Option<Confirm>,
    cmdline: Option<Cmdline>,
}

/// `workloads = {}`: nothing should run.
#[derive(Debug)]
struct Nothing;

impl<'de> Deserialize<'de> for Nothing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if BTreeMap::<String, serde::de::IgnoredAny>::deserialize(deserializer)?.is_empty() {
            return Ok(Self);
        }
        Err(D::Error::custom("it takes {} only, for a node that runs nothing: write [workload.NAME] for a workload"))
    }
}

#[derive(Debug)]
struct Image(Reference);

impl<'de> Deserialize<'de> for Image {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let reference = Reference::deserialize(deserializer)?;
        // Relative to what? The file is read by a daemon.
        match &reference {
            Reference::Layout(layout) if !layout.dir.is_absolute() => Err(D::Error::custom(format!(
                "{reference} names its directory from wherever somebody is: write the whole path, such as oci:/media/usb/images:v1"
            ))),
            _ => Ok(Self(reference)),
        }
    }
}

#[derive(Debug)]
struct PlatformText(Platform);

impl<'de> Deserialize<'de> for PlatformText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(D::Error::custom)
    }
}

/// How long an activation has to be confirmed.
#[derive(Debug)]
struct Confirm(Duration);

impl<'de> Deserialize<'de> for Confirm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let span = Span::deserialize(deserializer)?.0;
        if span < SHORTEST_PROBATION {
            return Err(D::Error::custom("less than a second is too short for anything to be confirmed"));
        }
        Ok(Self(span))
    }
}

#[derive(Debug)]
struct Cmdline(String);

impl<'de> Deserialize<'de> for Cmdline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.len() > MAX_CMDLINE || text.chars().any(char::is_control) {
            return Err(D::Error::custom(format!("a command line is one line of at most {MAX_CMDLINE} bytes")));
        }
        Ok(Self(text))
    }
}

/// Reads the `text` of `file`.
pub fn parse(file: &Path, text: &str) -> Result<DesiredState, DesiredError> {
    if text.trim().is_empty() {
        return Err(DesiredError::Empty(file.to_owned()));
    }
    let whole = |message: &str| DesiredError::Whole { file: file.to_owned(), message: message.to_owned() };
    let parsed: File = config::parse(file, text)?;
    let File { image, platform, disks, activate, confirm, cmdline, workload: named, workloads: nothing } = parsed;
    let has_workload_keys =
        platform.is_some() || disks.is_some() || activate.is_some() || confirm.is_some() || cmdline.is_some();
    if nothing.is_some() {
        if image.is_some() || has_workload_keys || !named.is_empty() {
            return Err(whole(
                "workloads = {} says that nothing should run, and stands alone: remove it or all the rest",
            ));
        }
        return Ok(DesiredState { workloads: BTreeMap::new() });
    }
    let workloads: BTreeMap<_, _> = match image {
        Some(image) if named.is_empty() => {
            let only = Workload { image, platform, disks, activate, confirm, cmdline };
            [(WorkloadName::default_name(), only.into())].into()
        }
        Some(_) => {
            return Err(whole(
                "it has both a top-level image and [workload] tables: move the image into [workload.default]",
            ));
        }
        None if has_workload_keys => {
            return Err(whole("it has keys of a workload at the top but no image beside them"));
        }
        None if named.is_empty() => {
            return Err(whole("it names no image: name one, or write workloads = {} if nothing should run"));
        }
        None => named.into_iter().map(|(name, workload)| (name, workload.into())).collect(),
    };
    if workloads.len() > MAX_WORKLOADS {
        return Err(whole("it names more than 256 workloads"));
    }
    Ok(DesiredState { workloads })
}

impl From<Workload> for Spec {
    fn from(workload: Workload) -> Self {
        let Workload { image, platform, disks, activate, confirm, cmdline } = workload;
        Self {
            reference: image.0,
            platform: platform.map(|platform| platform.0),
            cmdline: cmdline.map(|cmdline| cmdline.0),
            disks: disks.unwrap_or_default(),
            activate: activate.unwrap_or_default(),
            confirm: confirm.map(|confirm| confirm.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn workloads_are_read_as_they_are_written(
            workloads in proptest::collection::btree_map("[a-z0-9][a-z0-9._-]{0,9}", "[ -~]{0,20}", 1..4),
        ) {
            let tables: Vec<_> = workloads
                .iter()
                .map(|(name, cmdline)| {
                    let cmdline = toml::Value::from(cmdline.as_str());
                    format!("[workload.\"{name}\"]\nimage = \"a.example/b\"\ncmdline = {cmdline}\n")
                })
                .collect();
            let state = parse(Path::new("desired.toml"), &tables.concat()).unwrap();
            let read: BTreeMap<_, _> = state
                .workloads
                .iter()
                .map(|(name, spec)| (name.as_str().to_owned(), spec.cmdline.clone().unwrap()))
                .collect();
            prop_assert_eq!(read, workloads);
        }

        /// Where it is cut off it is refused, or says less; never something else.
        #[test]
        fn a_text_that_is_cut_or_damaged_is_no_panic(at in 0_usize..80, value in any::<char>()) {
            let text = "image = \"a.example/b:c\"\ncmdline = \"console=ttyS0\"\nplatform = \"linux/arm64\"\n";
            let (before, after) = text.split_at(at.min(text.len()));
            for damaged in [before.to_owned(), format!("{before}{value}{after}")] {
                if let Err(error) = parse(Path::new("desired.toml"), &damaged) {
                    prop_assert!(error.to_string().contains("desired.toml"));
                }
            }
        }
    }

    fn read(text: &str) -> Result<DesiredState, String> {
        parse(Path::new("desired.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn one_image_is_the_workload_default() {
        let state =
            read("image = \"a.example/b:c\"\ncmdline = \"console=ttyS0\"\nplatform = \"linux/arm64\"\n").unwrap();
        let spec = &state.workloads[&WorkloadName::default_name()];
        assert_eq!(spec.reference.to_string(), "a.example/b:c");
        assert_eq!(spec.cmdline.as_deref(), Some("console=ttyS0"));
        assert_eq!(spec.platform().to_string(), "linux/arm64");
    }

    #[test]
    fn what_becomes_of_an_image_that_is_ready_is_said_in_the_file() {
        let state =
            read("image = \"a.example/b\"\ndisks = \"overlay-follow\"\nactivate = \"staged\"\nconfirm = \"10m\"\n");
        let spec = &state.unwrap().workloads[&WorkloadName::default_name()];
        assert_eq!((spec.disks, spec.activate), (Disks::OverlayFollow, Activate::Staged));
        assert_eq!(spec.confirm, Some(Duration::from_secs(600)));
        let plain = &read("image = \"a.example/b\"\n").unwrap().workloads[&WorkloadName::default_name()];
        assert_eq!((plain.disks, plain.activate, plain.confirm), (Disks::ReadOnly, Activate::Now, None));
    }

    #[test]
    fn several_workloads_have_names() {
        let state = read("[workload.router]\nimage = \"a.example/r:1\"\n[workload.fw]\nimage = \"oci:/usb:fw\"\ndisks = \"read-only\"\n").unwrap();
        let names: Vec<_> = state.workloads.keys().map(WorkloadName::as_str).collect();
        assert_eq!(names, ["fw", "router"]);
    }

    #[test]
    fn a_node_that_runs_nothing_is_written_out() {
        for text in ["workloads = {}", "# empty on purpose\nworkloads = { }\n", "[workloads]\n"] {
            assert!(read(text).unwrap().workloads.is_empty(), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, want) in [
            ("", "desired.toml is empty"),
            (" \n", "desired.toml is empty"),
            (
                "# nothing yet\n",
                "desired.toml: it names no image: name one, or write workloads = {} if nothing should run",
            ),
            ("[workload]\n", "desired.toml: it names no image: name one, or write workloads = {}"),
            ("", "or write workloads = {} if nothing should run"),
            ("workloads = []\n", "desired.toml:1:13: workloads: "),
            ("workloads = {a = {image = \"a.example/b\"}}\n", "desired.toml:1:13: workloads: it takes {} only"),
            ("[workloads.a]\nimage = \"a.example/b\"\n", "workloads: it takes {} only"),
            (
                "workloads = {}\nimage = \"a.example/b\"\n",
                "workloads = {} says that nothing should run, and stands alone",
            ),
            ("workloads = {}\ncmdline = \"x\"\n", "stands alone"),
            ("workloads = {}\n[workload.a]\nimage = \"a.example/b\"\n", "stands alone"),
            ("workload = {}\n", "it names no image"),
            ("image = \"a.example/b:c", "desired.toml:1:"),
            ("image = \"nginx\"\n", "desired.toml:1:9: image: "),
            ("image = \"oci:layout:v3\"\n", "desired.toml:1:9: image: oci:layout:v3 names its directory from wherever"),
            ("[workload.a]\nimage = \"oci:../l\"\n", "desired.toml:2:9: workload.a.image: "),
            ("image = 3\n", "desired.toml:1:9: image: "),
            ("\nimge = \"a.example/b\"\n", "desired.toml:2:1: imge: "),
            ("[workload.UP]\nimage = \"a.example/b\"\n", "desired.toml:1:"),
            ("[workload.a]\n", "desired.toml:1:1: workload.a: missing field `image`"),
            ("[workload.a]\nimage = \"a.example/b\"\nplatform = \"x\"\n", "desired.toml:3:12: workload.a.platform: "),
            ("image = \"a.example/b\"\ncmdline = \"a\\nb\"\n", "desired.toml:2:11: cmdline: "),
            ("image = \"a.example/b\"\n[workload.a]\nimage = \"a.example/b\"\n", "both a top-level image and"),
            ("image = \"a.example/b\"\nconfirm = \"0s\"\n", "desired.toml:2:11: confirm: less than a second"),
            (
                "image = \"a.example/b\"\nconfirm = \"soon\"\n",
                "desired.toml:2:11: confirm: \"soon\" is no length of time",
            ),
            ("image = \"a.example/b\"\ndisks = \"mine\"\n", "desired.toml:2:9: disks: unknown variant"),
            ("confirm = \"1h\"\n[workload.a]\nimage = \"a.example/b\"\n", "no image beside them"),
            ("cmdline = \"x\"\n[workload.a]\nimage = \"a.example/b\"\n", "no image beside them"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(want), "{text:?}: {error}");
        }
    }

    #[test]
    fn names_that_are_no_safe_file_names_are_refused() {
        for name in ["", ".", "..", ".a", "-a", "a/b", "A", &"a".repeat(64)] {
            assert!(name.parse::<WorkloadName>().is_err(), "{name}");
        }
        for name in ["a", "0", "a.b_c-d", &"a".repeat(63)] {
            assert!(name.parse::<WorkloadName>().is_ok(), "{name}");
        }
    }
}
