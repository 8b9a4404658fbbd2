//! A digest that is worked out while the bytes are written: of a large blob by a thread of its own, because hashing takes
//! longer than writing, and a node has more than one processor.

use std::num::NonZero;
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;

use crate::oci::{Digest, Hasher};

/// A blob of more bytes is worth a thread.
const WORTH_A_THREAD: u64 = 4 << 20;
/// So many processors have enough to do with the network and the disk: another thread would only take turns with those.
const BUSY: usize = 2;
/// How many pieces may wait for the thread: enough to keep it busy, little enough to be no memory.
const WAITING: usize = 4;

/// The digest of what was handed over so far.
pub(super) enum Hashing {
    Here(Hasher),
    Beside(SyncSender<Bytes>, JoinHandle<Digest>),
}

impl Hashing {
    /// Begins the digest of `size` bytes. Where there is no thread to be had, it goes without one.
    pub(super) fn begin(size: u64) -> Self {
        if size < WORTH_A_THREAD || processors() <= BUSY {
            return Self::Here(Hasher::default());
        }
        let (pieces, queue) = sync_channel::<Bytes>(WAITING);
        let hash = move || {
            let mut hasher = Hasher::default();
            for piece in queue {
                hasher.update(&piece);
            }
            hasher.finish()
        };
        match std::thread::Builder::new().name("hash".to_owned()).spawn(hash) {
            Ok(thread) => Self::Beside(pieces, thread),
            Err(_) => Self::Here(Hasher::default()),
        }
    }

    /// The next bytes.
    pub(super) fn update(&mut self, piece: Bytes) {
        match self {
            Self::Here(hasher) => hasher.update(&piece),
            // The thread ends only when there is nobody left to send.
            Self::Beside(pieces, _) => drop(pieces.send(piece)),
        }
    }

    /// The digest.
    pub(super) fn finish(self) -> Digest {
        match self {
            Self::Here(hasher) => hasher.finish(),
            Self::Beside(pieces, thread) => {
                drop(pieces);
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
        }
    }
}

fn processors() -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| std::thread::available_parallelism().map_or(1, NonZero::get))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_lead_to_the_same_digest() {
        for size in [0, WORTH_A_THREAD - 1, WORTH_A_THREAD, WORTH_A_THREAD * 2] {
            let bytes = Bytes::from(vec![7; usize::try_from(size).unwrap()]);
            let mut hashing = Hashing::begin(size);
            bytes.chunks(300_000).for_each(|piece| hashing.update(bytes.slice_ref(piece)));
            assert_eq!(hashing.finish(), Digest::of(&bytes));
        }
    }
}
