//! What a collection did, or would do, for people and for the API. Units are in the names.

use serde::{Deserialize, Serialize};

use super::{Keep, Reason};
use crate::desired::WorkloadName;
use crate::oci::Digest;

/// What went, or would go, and what stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Whether nothing was removed, but only looked at.
    pub dry_run: bool,
    /// What went.
    pub removed: Vec<Removed>,
    /// The generations that stay.
    pub kept: Vec<Kept>,
    /// What that freed on disk, in bytes; of copies that share their bytes, what it freed at the least.
    pub freed_bytes: u64,
}

/// Something that went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Removed {
    /// A generation. Its blobs are listed by themselves.
    Generation {
        /// Whose it was.
        workload: WorkloadName,
        /// Its number.
        generation: u64,
        /// What its own files took on disk, in bytes: private copies, overlays, its record. Where the file system has copies
        /// share their bytes, that is what they took at the least.
        bytes: u64,
        /// Why it went.
        why: Reason,
    },
    /// A blob.
    Blob {
        /// Its digest.
        digest: Digest,
        /// What it took on disk, in bytes.
        bytes: u64,
        /// Why it went.
        why: Reason,
    },
}

/// A generation that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Whose it is.
    pub workload: WorkloadName,
    /// Its number.
    pub generation: u64,
    /// Why it stays.
    pub why: Keep,
}
