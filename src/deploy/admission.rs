//! Whether the disk has room for an update, before a byte of it is fetched.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{Aim, Collector};
use crate::oci::{Descriptor, Digest};
use crate::transfer::{Fetcher, Plan, TransferError};

/// Lets updates in that fit. Cheap to clone; clones know of one another's updates.
#[derive(Clone, Debug)]
pub struct Admission {
    collector: Collector,
    rooms: Arc<Mutex<Vec<Weak<Room>>>>,
}

/// The room that an update was promised, for as long as this lives.
#[derive(Debug)]
pub struct Room {
    blobs: Vec<Descriptor>,
    /// What comes out of layers, and copies.
    beside: u64,
}

impl Admission {
    /// Makes room by `collector`.
    pub fn new(collector: Collector) -> Self {
        Self { collector, rooms: Arc::default() }
    }

    /// Promises room for what `plan` has to fetch, to take out of layers and to copy, beside what was promised to others.
    /// Where there is too little, downloads go that nobody wants, then blobs that nothing leads to, then what only `keep`
    /// keeps. Blocks.
    pub fn admit(&self, fetcher: &Fetcher, reference: &str, plan: &Plan) -> Result<Arc<Room>, TransferError> {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        rooms.retain(|room| room.strong_count() > 0);
        let room = Arc::new(Room { blobs: plan.to_fetch(), beside: plan.unpacked.saturating_add(plan.copied) });
        let all: Vec<_> = rooms.iter().filter_map(Weak::upgrade).chain([Arc::clone(&room)]).collect();
        // A blob that several want is fetched once.
        let blobs: BTreeMap<Digest, Descriptor> =
            all.iter().flat_map(|room| &room.blobs).map(|blob| (blob.digest, blob.clone())).collect();
        let blobs: Vec<Descriptor> = blobs.into_values().collect();
        let beside = all.iter().fold(0, |sum: u64, room| sum.saturating_add(room.beside));
        fetcher.free(reference, &blobs, beside, |missing| {
            let report = self.collector.collect(Aim::Free(missing))?;
            tracing::info!(reference, missing, freed = report.freed_bytes, "made room for an update");
            Ok(())
        })?;
        rooms.push(Arc::downgrade(&room));
        Ok(room)
    }
}
