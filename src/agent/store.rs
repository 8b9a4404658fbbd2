//! `state.json`: what a restart cannot find out from generations and links.
//!
//! Its second line is the digest of all others, so that any version can tell a file that is damaged from one that another
//! version wrote. `sed 2d state.json | sha256sum` computes it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::state::{Accepted, Probation, Quarantine, Retirement, State, Workload};
use crate::deploy::GenerationName;
use crate::desired::{Spec, WorkloadName};
use crate::durable::{DurableError, IoContext, open_file, set_aside, write_atomic};
use crate::failure::{Classify, Kind, Retry, full_text};
use crate::oci::Digest;
use crate::wording::size;

/// The form that this version writes. Form 1 had no checksum, and nothing about retired workloads; forms 1 and 2 had nothing
/// about what becomes of a generation: what ran was final. Forms 1 to 3 had no digests of records.
const VERSION: u32 = 4;
/// Only the agent reads it.
const MODE: u32 = 0o600;
/// 256 workloads with long command lines, and the names of as many retired ones as are kept, need less.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The file `state.json`.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

/// Why the file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A newer version wrote it.
    #[error("{} was written by a newer version (format {found}, this version knows {VERSION}): install that version again", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DurableError),
}

impl Classify for StoreError {
    fn kind(&self) -> Kind {
        match self {
            Self::Newer { .. } => Kind::ConfigInvalid,
            Self::Disk(error) => error.kind(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Newer { .. } => Retry::Never,
            Self::Disk(error) => error.retry(),
        }
    }
}

/// The file's content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) version: u32,
    pub(super) accepted: Option<Accepted>,
    pub(super) workloads: BTreeMap<WorkloadName, SavedWorkload>,
    #[serde(default)]
    pub(super) retired: BTreeMap<WorkloadName, u64>,
    #[serde(default)]
    pub(super) forgotten: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedWorkload {
    pub(super) desired: Option<Spec>,
    pub(super) last_generation: u64,
    #[serde(default)]
    pub(super) after: Option<Digest>,
    #[serde(default)]
    pub(super) current: Option<u64>,
    #[serde(default)]
    pub(super) staged: Option<u64>,
    #[serde(default)]
    pub(super) approved: Option<u64>,
    #[serde(default)]
    pub(super) probations: BTreeMap<u64, Probation>,
    #[serde(default)]
    pub(super) quarantine: Quarantine,
    #[serde(default)]
    pub(super) announced: Option<u64>,
    #[serde(default)]
    pub(super) records: BTreeMap<u64, Digest>,
    #[serde(default)]
    pub(super) retirement: Option<Retirement>,
}

impl Saved {
    /// What the records of generations are known to be.
    pub(super) fn records(&self) -> BTreeMap<GenerationName, Digest> {
        let records = |(name, workload): (&WorkloadName, &SavedWorkload)| {
            let records: Vec<_> = workload.records.iter().map(|(n, record)| ((name.clone(), *n), *record)).collect();
            records
        };
        self.workloads.iter().flat_map(records).collect()
    }
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// What the file holds.
enum Content {
    Absent,
    /// Nothing that can be relied upon, and why.
    Damaged(String),
    Saved(Saved),
}

impl Store {
    /// The file in the state directory `state_dir`.
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("state.json") }
    }

    /// Writes what `state` has to keep. Blocks until it is durable.
    pub fn save(&self, state: &State) -> Result<(), DurableError> {
        let text = serde_json::to_string_pretty(&saved(state)).map_err(io::Error::from);
        write_atomic(&self.path, sealed(&text.on("describe the state in", &self.path)?).as_bytes(), MODE)
    }

    /// Reads what was saved; none where nothing was. A damaged file is set aside, because what it said can be found in
    /// generations and links.
    pub(super) fn load(&self) -> Result<Option<Saved>, StoreError> {
        match self.content()? {
            Content::Absent => Ok(None),
            Content::Saved(saved) => Ok(Some(saved)),
            Content::Damaged(why) => {
                tracing::error!(why, "state.json is damaged, and is rebuilt");
                set_aside(&self.path)?;
                Ok(None)
            }
        }
    }

    /// What was saved, for a reader that must change nothing: a damaged file counts as none.
    pub(super) fn peek(&self) -> Result<Option<Saved>, StoreError> {
        Ok(match self.content()? {
            Content::Saved(saved) => Some(saved),
            Content::Absent | Content::Damaged(_) => None,
        })
    }

    /// Whether what was saved can be read again. Nothing saved is no damage.
    pub(super) fn is_whole(&self) -> bool {
        !matches!(self.content(), Ok(Content::Damaged(_)) | Err(StoreError::Disk(_)))
    }

    fn content(&self) -> Result<Content, StoreError> {
        let text = match std::fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::Absent),
            Ok(found) if !found.is_file() => return Ok(Content::Damaged("it is no file".to_owned())),
            _ => self.text(),
        };
        match text {
            Ok(text) if text.len() as u64 > MAX_BYTES => {
                Ok(Content::Damaged(format!("it is larger than {}", size(MAX_BYTES))))
            }
            Ok(text) => self.parse(&text),
            // A sector that cannot be read is as good as wrong bytes, and no later try will read it.
            Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => Ok(Content::Damaged(full_text(&error))),
            Err(error) => Err(DurableError::new("read", &self.path, error).into()),
        }
    }

    fn text(&self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        open_file(&self.path)?.take(MAX_BYTES + 1).read_to_end(&mut text)?;
        Ok(text)
    }

    fn parse(&self, text: &[u8]) -> Result<Content, StoreError> {
        let damaged = |why: &dyn fmt::Display| Ok(Content::Damaged(why.to_string()));
        let seal = seal_of(text);
        if seal == Seal::Broken {
            return damaged(&"its checksum is that of another text");
        }
        match serde_json::from_slice(text) {
            Ok(Version { version: found }) if found > VERSION => {
                Err(StoreError::Newer { path: self.path.clone(), found })
            }
            Ok(Version { version }) if version > 1 && seal == Seal::Absent => damaged(&"it has no checksum"),
            _ => match serde_json::from_slice(text) {
                Ok(saved) => Ok(Content::Saved(saved)),
                Err(error) => damaged(&error),
            },
        }
    }
}

fn saved(state: &State) -> Saved {
    let workloads = state.workloads.iter().map(|(name, workload)| (name.clone(), SavedWorkload::from(workload)));
    Saved {
        version: VERSION,
        accepted: state.accepted,
        workloads: workloads.collect(),
        retired: state.retired.clone(),
        forgotten: state.forgotten,
    }
}

impl From<&Workload> for SavedWorkload {
    fn from(workload: &Workload) -> Self {
        Self {
            desired: workload.spec.clone(),
            last_generation: workload.last_generation,
            after: workload.after,
            current: workload.current.as_ref().map(|current| current.number),
            staged: workload.staged.as_ref().map(|staged| staged.number),
            approved: workload.approved,
            probations: workload.probations.clone(),
            quarantine: workload.quarantine.clone(),
            announced: workload.announced,
            records: workload.records(),
            retirement: workload.retirement,
        }
    }
}

/// What the second line says of the others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seal {
    Absent,
    Broken,
    Right,
}

/// An object of several lines with the digest of them as its second.
fn sealed(text: &str) -> String {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    format!("{first}\n{}\n{rest}", line(&Digest::of(text.as_bytes())))
}

fn seal_of(text: &[u8]) -> Seal {
    let mut lines = text.splitn(3, |byte| *byte == b'\n');
    let (Some(first), Some(second), Some(rest)) = (lines.next(), lines.next(), lines.next()) else {
        return Seal::Absent;
    };
    if !second.starts_with(b"  \"checksum\"") {
        return Seal::Absent;
    }
    let is_right = second == line(&Digest::of(&[first, b"\n", rest].concat())).as_bytes();
    if is_right { Seal::Right } else { Seal::Broken }
}

fn line(checksum: &Digest) -> String {
    format!("  \"checksum\": \"{checksum}\",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Quarantined;
    use crate::desired::{Activate, Disks};
    use jiff::Timestamp;
    use proptest::prelude::*;
    use std::time::Duration;

    fn state() -> State {
        let spec = Spec {
            reference: "a.example/b:c".parse().unwrap(),
            platform: None,
            cmdline: Some("quiet".to_owned()),
            disks: Disks::Writable,
            activate: Activate::Staged,
            confirm: Some(Duration::from_secs(600)),
        };
        let after = Some(Digest::of(b"manifest"));
        let boot = crate::clock::boot_id();
        let probation = Probation {
            length: Duration::from_secs(600),
            boot,
            ends_at: Some(Duration::from_millis(1_234_567)),
            restarts: 2,
        };
        let mut quarantine = Quarantine::default();
        let (digest, at) = (Digest::of(b"bad"), Timestamp::UNIX_EPOCH);
        quarantine.add(Quarantined { digest, generation: 5, why: "it did not come up".to_owned(), at });
        let workload = Workload {
            spec: Some(spec),
            last_generation: 7,
            after,
            approved: Some(7),
            probations: [(6, probation)].into(),
            quarantine,
            announced: Some(6),
            lost_records: [(5, Digest::of(b"launch.json"))].into(),
            retirement: Some(Retirement {
                length: Some(Duration::from_secs(600)),
                boot,
                ends_at: Some(Duration::from_secs(9)),
            }),
            ..Workload::default()
        };
        State {
            accepted: Some(Accepted { sha256: Digest::of(b"desired"), at: Timestamp::UNIX_EPOCH }),
            workloads: [("router".parse().unwrap(), workload)].into(),
            retired: [("firewall".parse().unwrap(), 12)].into(),
            forgotten: 3,
            ..State::default()
        }
    }

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        store.save(&state()).unwrap();
        (dir, store)
    }

    #[test]
    fn what_was_saved_is_read_again_and_its_checksum_is_that_of_the_other_lines() {
        let (_dir, store) = store();
        assert_eq!(store.load().unwrap(), Some(saved(&state())));
        let text = std::fs::read_to_string(&store.path).unwrap();
        let (kept, second): (Vec<_>, Vec<_>) = text.lines().enumerate().partition(|(n, _)| *n != 1);
        let others = kept.iter().map(|(_, line)| *line).collect::<Vec<_>>().join("\n");
        let checksum = Digest::of(others.as_bytes());
        assert_eq!(second[0].1, format!("  \"checksum\": \"{checksum}\","));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["checksum"], checksum.to_string());
    }

    #[test]
    fn the_document_has_a_whole_file_with_every_key() {
        let document = include_str!("../../docs/development/state.md");
        let text = document.split_once("```json\n").unwrap().1.split_once("\n```").unwrap().0;
        let Content::Saved(found) = Store::new(Path::new("/nowhere")).parse(text.as_bytes()).unwrap() else {
            panic!("it is damaged")
        };
        let mut shown: serde_json::Value = serde_json::from_str(text).unwrap();
        shown.as_object_mut().unwrap().remove("checksum");
        assert_eq!(serde_json::to_value(&found).unwrap(), shown, "a key is missing, or is none");
        let workload = &shown["workloads"]["router"];
        assert!(found.version == VERSION && workload["probations"]["3"].is_object());
        let keys = [&shown, workload, &workload["probations"]["3"]].map(|object| object.as_object().unwrap().keys());
        for key in keys.into_iter().flatten() {
            assert!(document.contains(&format!("`{key}`")) || document.contains(&format!(".{key}`")), "{key}");
        }
    }

    #[test]
    fn a_file_of_the_first_form_has_no_checksum() {
        let (_dir, store) = store();
        let first = r#"{"version": 1, "accepted": null, "workloads": {}}"#;
        std::fs::write(&store.path, first).unwrap();
        assert_eq!(store.load().unwrap(), Some(Saved { version: 1, ..Saved::default() }));
        std::fs::write(&store.path, first.replace('1', "2")).unwrap();
        assert_eq!(store.load().unwrap(), None);
    }

    #[test]
    fn a_newer_form_is_told_from_a_damaged_file() {
        let (_dir, store) = store();
        let text = std::fs::read_to_string(&store.path).unwrap();
        let version = |number: u32| format!("\"version\": {number}");
        let newer = text.replace(&version(VERSION), &version(VERSION + 1));
        std::fs::write(&store.path, &newer).unwrap();
        assert_eq!(store.peek().unwrap(), None, "the checksum is that of another text");
        let (first, rest) = newer.split_once('\n').unwrap();
        let others = format!("{first}\n{}", rest.split_once('\n').unwrap().1);
        std::fs::write(&store.path, sealed(&others)).unwrap();
        for result in [store.peek(), store.load()] {
            assert!(matches!(result, Err(StoreError::Newer { found, .. }) if found == VERSION + 1), "{result:?}");
        }
    }

    #[test]
    fn what_cannot_be_our_file_is_set_aside() {
        type Damage = fn(&Path);
        let damages: [Damage; 4] = [
            |path| std::fs::write(path, vec![b' '; usize::try_from(MAX_BYTES).unwrap() + 1]).unwrap(),
            |path| std::fs::create_dir(path).unwrap(),
            |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            // Reading it fails with EIO, as from a bad sector.
            |path| std::os::unix::fs::symlink("/proc/self/mem", path).unwrap(),
        ];
        for (n, damage) in damages.into_iter().enumerate() {
            let (dir, store) = store();
            std::fs::remove_file(&store.path).unwrap();
            damage(&store.path);
            assert_eq!(store.peek().unwrap(), None, "{n}");
            assert_eq!(store.load().unwrap(), None, "{n}");
            assert!(!store.path.exists() && dir.path().join("state.json.damaged-0").symlink_metadata().is_ok(), "{n}");
            store.save(&state()).unwrap();
            assert_eq!(store.load().unwrap(), Some(saved(&state())), "{n}");
        }
    }

    #[test]
    fn a_file_that_was_cut_is_noticed_wherever() {
        let text = std::fs::read(&store().1.path).unwrap();
        let store = Store::new(Path::new("/nowhere"));
        for end in 0..text.len() {
            assert!(matches!(store.parse(&text[..end]), Ok(Content::Damaged(_))), "{end}");
        }
    }

    #[test]
    fn no_number_is_lost_with_its_name() {
        let name = |n: usize| format!("workload-{n}").parse::<WorkloadName>().unwrap();
        let mut state = State::default();
        for n in 1..=1000 {
            let workload = Workload { last_generation: n as u64, ..Workload::default() };
            state.workloads.insert(name(n), workload);
            state.retire(&name(n));
        }
        assert!((1..=1000).all(|n| state.last_generation_of(&name(n)) >= n as u64));
        assert_eq!((state.retired.len(), state.forgotten), (256, 744));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_byte_that_changed_is_noticed_or_says_the_same(place in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let text = sealed(&serde_json::to_string_pretty(&saved(&state())).unwrap());
            let mut changed = text.into_bytes();
            let place = place.index(changed.len());
            prop_assume!(changed[place] != byte);
            changed[place] = byte;
            match Store::new(Path::new("/nowhere")).parse(&changed) {
                Ok(Content::Damaged(_)) => {}
                Ok(Content::Saved(found)) => prop_assert_eq!(found, saved(&state())),
                Ok(Content::Absent) | Err(_) => prop_assert!(false, "a changed file is none, or refused"),
            }
        }
    }
}
