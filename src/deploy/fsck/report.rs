//! What is broken, and what became of it, for people and for the API. Units are in the names.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::desired::WorkloadName;
use crate::oci::Digest;

/// How many strays are named.
pub(super) const MAX_STRAYS: usize = 1000;

/// What was looked at, and what of it is not right.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How many blobs the cache has.
    pub blobs: u64,
    /// How many generations there are.
    pub generations: u64,
    /// How much was read, in bytes; what has several names is read once.
    pub bytes: u64,
    /// What is broken.
    pub damage: Vec<Damage>,
    /// What lies among blobs and downloads under names that no agent gives, by its path in the state directory; of more
    /// than 1000, the first in order. It is no damage, and is left alone.
    pub strays: Vec<String>,
}

/// Something that is not as it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// What.
    pub part: Part,
    /// In which way.
    pub fault: Fault,
    /// What became of it.
    pub outcome: Outcome,
    /// The inode of the file: one file that has several names is damaged under each, and counts once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
}

/// What can be broken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// A blob of the cache.
    Blob {
        /// Its digest.
        digest: Digest,
    },
    /// A file of a generation.
    File {
        /// Whose generation it is.
        workload: WorkloadName,
        /// The generation's number.
        generation: u64,
        /// The file's name.
        name: String,
    },
    /// A generation as a whole: without `launch.json` nobody knows what it is to have.
    Generation {
        /// Whose it is.
        workload: WorkloadName,
        /// Its number.
        generation: u64,
    },
    /// A link, by its path in the state directory.
    Link {
        /// The path.
        path: String,
    },
    /// The cache's `index.json`.
    Index,
    /// `state.json`.
    State,
}

/// How something is broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// It is not there.
    Missing,
    /// Its bytes have another digest, or there are more or fewer of them.
    OtherBytes {
        /// The digest that they have; none where their number says enough.
        digest: Option<Digest>,
    },
    /// The disk does not give its bytes.
    Unreadable {
        /// What the disk says.
        error: String,
    },
    /// It cannot be understood, or leads to what is not there.
    Senseless,
}

/// What became of something broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is as it was: nobody asked for a repair.
    Found,
    /// It is whole again.
    Repaired,
    /// It is gone, and nothing that boots needs it.
    Removed,
    /// It could not be repaired.
    Failed {
        /// Why.
        error: String,
    },
}

impl Damage {
    /// Something broken that nobody has done anything about.
    pub fn found(part: Part, fault: Fault) -> Self {
        Self { part, fault, outcome: Outcome::Found, inode: None }
    }

    /// The same of the file `inode`.
    pub(super) fn of_inode(self, inode: u64) -> Self {
        Self { inode: Some(inode), ..self }
    }

    /// Whether it is still broken.
    pub fn is_left(&self) -> bool {
        matches!(self.outcome, Outcome::Found | Outcome::Failed { .. })
    }
}

impl Report {
    /// Number of damaged parts that are left, one file with several names once.
    pub fn left(&self) -> usize {
        count(self.damage.iter().filter(|damage| damage.is_left()))
    }

    /// Number of damaged parts, one file with several names once.
    pub fn damaged(&self) -> usize {
        count(self.damage.iter())
    }
}

fn count<'a>(damage: impl Iterator<Item = &'a Damage>) -> usize {
    let mut seen = BTreeSet::new();
    damage.filter(|damage| damage.inode.is_none_or(|inode| seen.insert(inode))).count()
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Blob { digest } => write!(f, "blob {digest}"),
            Self::File { workload, generation, name } => write!(f, "generation {workload}/{generation}: {name}"),
            Self::Generation { workload, generation } => write!(f, "generation {workload}/{generation}"),
            Self::Link { path } => write!(f, "link {path}"),
            Self::Index => f.write_str("cache/index.json"),
            Self::State => f.write_str("state.json"),
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => f.write_str("it is missing"),
            Self::OtherBytes { digest: Some(digest) } => write!(f, "its bytes have the digest {digest}"),
            Self::OtherBytes { digest: None } => f.write_str("it has another length"),
            Self::Unreadable { error } => write!(f, "it cannot be read: {error}"),
            Self::Senseless => f.write_str("it makes no sense"),
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Found => f.write_str("not repaired"),
            Self::Repaired => f.write_str("repaired"),
            Self::Removed => f.write_str("removed; nothing that boots needs it"),
            Self::Failed { error } => write!(f, "NOT repaired: {error}"),
        }
    }
}
