//! Who may fetch which blob: each blob one at a time, and not too many of them at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::oci::Digest;
use crate::registry::Source;

/// How many blobs are fetched at a time, over all images. Each has a thread of the blocking pool while it waits for the
/// network, and there have to be some left for all that must not wait: reading a layout, saving the state.
const FETCHES: usize = 16;
/// How many of them from one source: a slow one is not to take all places.
const FETCHES_OF_ONE: usize = 8;

/// The fetches that are under way, by the digests in hexadecimal digits of what they fetch.
pub(super) type UnderWay = BTreeMap<String, Arc<AsyncMutex<()>>>;

/// The turns of all fetches into one cache. Cheap to clone; clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    in_flight: Arc<Mutex<HashMap<Digest, Weak<AsyncMutex<()>>>>>,
    places: Arc<Semaphore>,
    places_of: Arc<Mutex<HashMap<String, Weak<Semaphore>>>>,
}

/// The right to fetch one blob. It goes where the file goes: of a fetch that is cancelled, a thread may still be writing
/// the last piece.
pub(super) struct Turn {
    _blob: OwnedMutexGuard<()>,
    _places: [Option<OwnedSemaphorePermit>; 2],
}

impl Turns {
    /// Nobody fetches anything yet.
    pub(super) fn new() -> Self {
        Self { in_flight: Arc::default(), places: Arc::new(Semaphore::new(FETCHES)), places_of: Arc::default() }
    }

    /// Waits until nobody else fetches the blob, and not too many fetch others from `source` or at all.
    pub(super) async fn take(&self, source: &Source, digest: Digest) -> Turn {
        let lock = {
            let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
            in_flight.retain(|_, lock| lock.strong_count() > 0);
            if let Some(lock) = in_flight.get(&digest).and_then(Weak::upgrade) {
                lock
            } else {
                let lock = Arc::new(AsyncMutex::new(()));
                in_flight.insert(digest, Arc::downgrade(&lock));
                lock
            }
        };
        // In this order: who waits for another's fetch of the same blob takes no place meanwhile.
        let blob = lock.lock_owned().await;
        // They fail only where the semaphore is closed, which nobody does.
        let of_one = self.places_of(source).acquire_owned().await.ok();
        Turn { _blob: blob, _places: [of_one, Arc::clone(&self.places).acquire_owned().await.ok()] }
    }

    fn places_of(&self, source: &Source) -> Arc<Semaphore> {
        let mut known = self.places_of.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, places| places.strong_count() > 0);
        let name = source.name();
        if let Some(places) = known.get(&name).and_then(Weak::upgrade) {
            return places;
        }
        let places = Arc::new(Semaphore::new(FETCHES_OF_ONE));
        known.insert(name, Arc::downgrade(&places));
        places
    }

    /// Waits until nothing is written any more: of a fetch that failed or was given up, threads may still be at it.
    pub(super) async fn rest(&self) {
        let writing: Vec<_> = {
            let in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
            in_flight.values().filter_map(Weak::upgrade).collect()
        };
        for blob in writing {
            drop(blob.lock_owned().await);
        }
    }

    /// Whether anybody waits for the turn of a blob whose turn the caller has.
    pub(super) fn is_waited_for(&self, blob: &Digest) -> bool {
        let in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        // One is the caller's.
        in_flight.get(blob).is_some_and(|lock| lock.strong_count() > 1)
    }

    /// Does something while no fetch can begin, given those that are under way.
    pub(super) fn hold<T>(&self, act: impl FnOnce(UnderWay) -> T) -> T {
        let in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        act(in_flight.iter().filter_map(|(digest, lock)| Some((digest.hex(), lock.upgrade()?))).collect())
    }
}
