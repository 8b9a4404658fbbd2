//! Fetching blobs: bytes from a source, through the network task, to a writer on the blocking pool.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, mpsc};

use super::error::blocking;
use super::{Progress, TransferError};
use crate::cache::{Cache, Partial, PartialError};
use crate::oci::{Descriptor, Digest};
use crate::registry::Source;

/// How many pieces may wait between network and disk: enough to keep both busy, little enough to be no memory.
const PIECES_IN_FLIGHT: usize = 8;

/// Fetches blobs into one cache, each blob once, however many images want it at a time.
#[derive(Clone, Debug)]
pub struct Fetcher {
    cache: Cache,
    in_flight: Arc<Mutex<HashMap<Digest, Weak<AsyncMutex<()>>>>>,
}

impl Fetcher {
    /// Fetches into `cache`.
    pub fn new(cache: Cache) -> Self {
        Self { cache, in_flight: Arc::default() }
    }

    /// The cache that it fills.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Brings the blobs of the image `reference` into the cache. Where it fails or is cancelled, what came is kept and
    /// taken up by the next call.
    pub async fn fetch(
        &self,
        source: &Source,
        reference: &str,
        blobs: &[Descriptor],
        progress: &Progress,
    ) -> Result<(), TransferError> {
        for blob in blobs {
            self.blob(source, blob, progress).await.map_err(|error| match error {
                BlobError::Transfer(error) => error,
                BlobError::Partial(source) => TransferError::Blob { reference: reference.to_owned(), source },
            })?;
        }
        Ok(())
    }

    async fn blob(&self, source: &Source, blob: &Descriptor, progress: &Progress) -> Result<(), BlobError> {
        let turn = self.turn(blob.digest).await;
        let (cache, wanted) = (self.cache.clone(), blob.clone());
        // The turn goes with the file: a cancelled fetch may still be writing its last piece.
        let opened = off_loop(move || {
            if cache.contains(&wanted) { Ok(None) } else { cache.partial(&wanted).map(|file| Some((file, turn))) }
        });
        let Some((partial, turn)) = opened.await? else {
            progress.reuse(blob.size);
            return Ok(());
        };
        progress.reuse(partial.offset());
        if partial.is_full() {
            return off_loop(move || partial.finish()).await;
        }
        let stream = source.blob(blob, partial.offset()).await.map_err(TransferError::from)?;
        let (pieces, queue) = mpsc::channel(PIECES_IN_FLIGHT);
        let restart = stream.start < partial.offset();
        if restart {
            progress.give_up(partial.offset());
        }
        let writer = tokio::task::spawn_blocking(move || write(partial, restart, queue, turn));
        let received = receive(stream.bytes, pieces, progress).await;
        // What stopped the writer is the cause of what stopped the stream, so it counts first; except that a stream
        // which broke off leaves the writer with too few bytes.
        match (writer.await.map_err(|error| TransferError::Lost(error.to_string()))?, received) {
            (Ok(()), _) => Ok(()),
            (Err(PartialError::TooShort { .. }), Err(error)) => Err(error.into()),
            (Err(error), _) => Err(BlobError::Partial(error)),
        }
    }

    /// Waits until nobody else fetches the blob.
    async fn turn(&self, digest: Digest) -> OwnedMutexGuard<()> {
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
        lock.lock_owned().await
    }
}

enum BlobError {
    Transfer(TransferError),
    Partial(PartialError),
}

impl From<TransferError> for BlobError {
    fn from(error: TransferError) -> Self {
        Self::Transfer(error)
    }
}

async fn off_loop<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PartialError> + Send + 'static,
) -> Result<T, BlobError> {
    blocking(move || Ok::<_, TransferError>(work())).await?.map_err(BlobError::Partial)
}

/// Hands pieces to the writer until the stream or the writer ends.
async fn receive(
    mut bytes: impl StreamExt<Item = Result<Bytes, crate::registry::RegistryError>> + Unpin,
    pieces: mpsc::Sender<Bytes>,
    progress: &Progress,
) -> Result<(), TransferError> {
    while let Some(piece) = bytes.next().await {
        let piece = piece?;
        progress.receive(piece.len() as u64);
        if pieces.send(piece).await.is_err() {
            break;
        }
    }
    Ok(())
}

fn write(
    mut partial: Partial,
    restart: bool,
    mut queue: mpsc::Receiver<Bytes>,
    turn: OwnedMutexGuard<()>,
) -> Result<(), PartialError> {
    if restart {
        partial.restart()?;
    }
    while let Some(piece) = queue.blocking_recv() {
        partial.append(&piece)?;
    }
    let finished = partial.finish();
    drop(turn);
    finished
}
