//! What running work has looked at stays in the cache for as long as the work runs: a collection beside it cannot take away a
//! blob between the moment that a plan found it and the moment that a generation has it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use super::Cache;
use crate::durable::DurableError;
use crate::oci::Digest;

/// Who is at work, and when which blob was looked at last.
#[derive(Debug, Default)]
pub(super) struct InUse(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    /// Counts pieces of work as they begin.
    clock: u64,
    running: BTreeSet<u64>,
    /// The count at which a blob was looked at last; nothing where nobody is at work.
    seen: HashMap<Digest, u64>,
}

/// A piece of work that the cache knows of. It ends when this is dropped.
#[derive(Debug)]
pub struct Work {
    cache: Cache,
    begun: u64,
}

impl InUse {
    /// Notes that a blob is looked at. Whoever does, notes it first and looks then.
    pub(super) fn note(&self, digest: &Digest) {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = book.clock;
        if !book.running.is_empty() {
            book.seen.insert(*digest, now);
        }
    }

    /// Removes what is kept of a blob by `remove`, unless work that still runs has looked at it. Whether it was.
    fn remove_unused(
        &self,
        digest: &Digest,
        remove: impl FnOnce() -> Result<(), DurableError>,
    ) -> Result<bool, DurableError> {
        let book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if book.has_seen(digest) {
            return Ok(false);
        }
        remove().map(|()| true)
    }

    fn begin(&self) -> u64 {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.clock += 1;
        let begun = book.clock;
        book.running.insert(begun);
        begun
    }

    fn end(&self, begun: u64) {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.running.remove(&begun);
        match book.running.first().copied() {
            None => book.seen.clear(),
            Some(oldest) => book.seen.retain(|_, seen| *seen >= oldest),
        }
    }
}

impl Book {
    fn has_seen(&self, digest: &Digest) -> bool {
        self.seen.get(digest).is_some_and(|seen| self.running.first().is_some_and(|oldest| seen >= oldest))
    }
}

impl Cache {
    /// Notes that running work looks at what is kept of a blob beside it. Whoever does, notes it first and looks then.
    pub fn note_in_use(&self, digest: &Digest) {
        self.in_use().note(digest);
    }

    /// Begins a piece of work: what it looks at from now on is not collected until it ends.
    pub fn begin_work(&self) -> Work {
        Work { cache: self.clone(), begun: self.in_use().begin() }
    }

    /// Removes a blob, unless running work has looked at it; whether it was removed. Not durable by itself.
    pub fn remove_unused(&self, digest: &Digest) -> Result<bool, DurableError> {
        self.in_use().remove_unused(digest, || self.remove(digest))
    }

    /// Removes by `remove` what is kept of a blob beside it, unless running work has looked at it; whether it was removed.
    pub fn remove_note_unused(
        &self,
        digest: &Digest,
        remove: impl FnOnce() -> Result<(), DurableError>,
    ) -> Result<bool, DurableError> {
        self.in_use().remove_unused(digest, remove)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.cache.in_use().end(self.begun);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_work_looked_at_stays_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let [one, two] = [b"one", b"two"].map(|bytes| cache.insert(bytes).unwrap());
        let early = cache.begin_work();
        assert!(cache.read(&one, 10).is_some());
        let late = cache.begin_work();
        assert!(!cache.remove_unused(&one).unwrap());
        drop(early);
        // The later one did not look.
        assert!(cache.remove_unused(&one).unwrap());
        assert!(cache.read(&one, 10).is_none());
        assert_eq!(cache.insert(b"one").unwrap(), one);
        assert!(!cache.remove_unused(&one).unwrap(), "what was looked for and came counts as well");
        drop(late);
        assert!(cache.remove_unused(&one).unwrap() && cache.remove_unused(&two).unwrap());
        assert!(cache.remove_unused(&two).unwrap(), "what is gone is gone");
    }
}
