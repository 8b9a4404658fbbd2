//! What was rolled back, and is not tried again.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::oci::Digest;

/// More than a tag is moved to in the time that a person takes to look; of more, the oldest are forgotten.
const MAX: usize = 8;

/// What was rolled back, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Quarantine(Vec<Quarantined>);

/// An image that was rolled back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// The manifest's digest.
    pub digest: Digest,
    /// The generation that it was.
    pub generation: u64,
    /// Why, for a person.
    pub why: String,
    /// When.
    pub at: Timestamp,
}

impl Quarantine {
    pub(in crate::agent) fn add(&mut self, quarantined: Quarantined) {
        if self.0.len() == MAX {
            self.0.remove(0);
        }
        self.0.push(quarantined);
    }

    pub(in crate::agent) fn clear(&mut self) {
        self.0.clear();
    }

    /// Lets an image be tried again.
    pub(in crate::agent) fn remove(&mut self, digest: &Digest) {
        self.0.retain(|quarantined| quarantined.digest != *digest);
    }

    /// Forgets that a generation was given up.
    pub(in crate::agent) fn forgive(&mut self, number: u64) {
        self.0.retain(|quarantined| quarantined.generation != number);
    }

    /// Why an image is in it.
    pub(in crate::agent) fn find(&self, digest: &Digest) -> Option<&Quarantined> {
        self.0.iter().rev().find(|quarantined| quarantined.digest == *digest)
    }

    pub(in crate::agent) fn has_generation(&self, number: u64) -> bool {
        self.0.iter().any(|quarantined| quarantined.generation == number)
    }

    pub(in crate::agent) fn generations(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|quarantined| quarantined.generation)
    }

    /// What was added last.
    pub fn last(&self) -> Option<&Quarantined> {
        self.0.last()
    }

    /// The images in it, oldest first, each once.
    pub fn digests(&self) -> Vec<Digest> {
        let mut digests = Vec::new();
        for Quarantined { digest, .. } in &self.0 {
            if !digests.contains(digest) {
                digests.push(*digest);
            }
        }
        digests
    }
}
