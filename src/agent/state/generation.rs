//! A generation, as far as the state is concerned.

use jiff::Timestamp;

use crate::deploy::Launch;
use crate::desired::{Disks, Spec};
use crate::oci::{Digest, Platform, Reference};
use crate::transfer::Target;

/// A generation, as far as the state is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Its number.
    pub number: u64,
    /// The image, as the desired state wrote it.
    pub reference: Reference,
    /// The manifest's digest.
    pub digest: Digest,
    /// The digest of the index that the manifest was chosen from.
    pub index_digest: Option<Digest>,
    /// The platform that it was chosen for.
    pub platform: Platform,
    /// The kernel's command line.
    pub cmdline: Option<String>,
    /// What its guest may write to.
    pub disks: Disks,
    /// The digest of its record, `launch.json`.
    pub record: Option<Digest>,
    /// When `current` came to point at it; none while it never has.
    pub activated_at: Option<Timestamp>,
}

impl Generation {
    /// The generation that `launch` describes.
    pub fn new(launch: &Launch, activated_at: Option<Timestamp>) -> Self {
        Self {
            number: launch.generation,
            reference: launch.reference.clone(),
            digest: launch.digest,
            index_digest: launch.index_digest,
            platform: launch.platform.clone(),
            cmdline: launch.cmdline.clone(),
            disks: launch.disks,
            record: launch.record,
            activated_at,
        }
    }

    /// Whether two descriptions are of the same generation, and say the same of it.
    pub(in crate::agent) fn is_same(one: Option<&Self>, other: Option<&Self>) -> bool {
        let timeless = |generation: &Self| Self { activated_at: None, ..generation.clone() };
        one.map(timeless) == other.map(timeless)
    }

    /// Whether it is what `spec` asks for, as far as that can be told without asking what its reference leads to.
    pub fn suits(&self, spec: &Spec) -> bool {
        self.reference == spec.reference
            && self.platform == spec.platform()
            && self.cmdline == spec.cmdline
            && self.disks == spec.disks
    }

    /// Whether it is what `spec`, resolved to `target`, asks for.
    pub fn satisfies(&self, spec: &Spec, target: &Target) -> bool {
        self.suits(spec)
            && self.digest == target.manifest.digest
            && self.index_digest == target.index_digest
            && self.platform == target.platform
    }
}
