//! Which blobs this process has seen to be right: by inode, length and time of change, so that whatever is put in a blob's
//! place, or written into it, is looked at again.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

use crate::oci::Digest;

/// What tells one state of a file from another. Not the time of a change of its links: generations add links.
type State = (u64, u64, i64, i64);

/// The blobs that were seen to be right.
#[derive(Debug, Default)]
pub(super) struct Verified(Mutex<HashMap<Digest, State>>);

impl Verified {
    pub(super) fn knows(&self, digest: &Digest, found: &Metadata) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(digest) == Some(&state(found))
    }

    pub(super) fn note(&self, digest: &Digest, found: &Metadata) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(*digest, state(found));
    }

    pub(super) fn forget(&self, digest: &Digest) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
    }
}

/// Whether nobody has put another file in the place of one, or written into it, between two looks.
pub(super) fn is_same(one: &Metadata, other: &Metadata) -> bool {
    state(one) == state(other)
}

fn state(found: &Metadata) -> State {
    (found.ino(), found.len(), found.mtime(), found.mtime_nsec())
}
