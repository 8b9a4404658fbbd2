//! `state.json`: what a restart cannot find out from generations and links.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::state::{Accepted, State};
use crate::desired::{Spec, WorkloadName};
use crate::durable::{DurableError, IoContext, set_aside, write_atomic};
use crate::failure::{Classify, Kind, Retry};
use crate::oci::Digest;

/// The form that this version writes.
const VERSION: u32 = 1;
/// Only the agent reads it.
const MODE: u32 = 0o600;
/// 256 workloads with long command lines need less.
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
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedWorkload {
    pub(super) desired: Option<Spec>,
    pub(super) last_generation: u64,
    #[serde(default)]
    pub(super) after: Option<Digest>,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl Store {
    /// The file in the state directory `state_dir`.
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("state.json") }
    }

    /// Writes what `state` has to keep. Blocks until it is durable.
    pub fn save(&self, state: &State) -> Result<(), DurableError> {
        let workloads = state.workloads.iter().map(|(name, workload)| {
            let (last_generation, after) = (workload.last_generation, workload.after);
            (name.clone(), SavedWorkload { desired: workload.spec.clone(), last_generation, after })
        });
        let saved = Saved { version: VERSION, accepted: state.accepted, workloads: workloads.collect() };
        let text =
            serde_json::to_vec_pretty(&saved).map_err(io::Error::from).on("describe the state in", &self.path)?;
        write_atomic(&self.path, &text, MODE)
    }

    /// Reads what was saved; none where nothing was. A damaged file is set aside, because what it said can be found in
    /// generations and links.
    pub(super) fn load(&self) -> Result<Option<Saved>, StoreError> {
        let Some(text) = self.text()? else { return Ok(None) };
        if let Ok(Version { version: found }) = serde_json::from_slice(&text)
            && found > VERSION
        {
            return Err(StoreError::Newer { path: self.path.clone(), found });
        }
        match serde_json::from_slice(&text) {
            Ok(saved) => Ok(Some(saved)),
            Err(error) => {
                tracing::error!(%error, "state.json is damaged, and is rebuilt");
                set_aside(&self.path)?;
                Ok(None)
            }
        }
    }

    /// What was saved, for a reader that must change nothing: a damaged file counts as none.
    pub(super) fn peek(&self) -> Result<Option<Saved>, StoreError> {
        Ok(self.text()?.and_then(|text| serde_json::from_slice(&text).ok()))
    }

    /// Whether what was saved can be read again. Nothing saved is no damage.
    pub(super) fn is_whole(&self) -> bool {
        let is_right = |text: &[u8]| serde_json::from_slice::<Saved>(text).is_ok();
        self.text().is_ok_and(|text| text.is_none_or(|text| is_right(&text)))
    }

    fn text(&self) -> Result<Option<Vec<u8>>, StoreError> {
        match std::fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(DurableError::new("read", &self.path, error).into()),
            // Too large to be ours, or no file at all: as good as damaged.
            Ok(found) if found.len() > MAX_BYTES || !found.is_file() => return Ok(Some(Vec::new())),
            Ok(_) => {}
        }
        Ok(Some(std::fs::read(&self.path).on("read", &self.path)?))
    }
}
