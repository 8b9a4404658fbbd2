//! Fetching blobs: bytes from a source, through the network task, to a writer on the blocking pool.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::blob::{BlobError, Line, Piece, Way};
use super::turns::{Turn, Turns};
use super::{Progress, TransferError};
use crate::blocking;
use crate::cache::{Cache, Partial, PartialError};
use crate::config::TransferSettings;
use crate::failure::full_text;
use crate::oci::Descriptor;
use crate::registry::{Source, Standing};
use crate::unpack::Memory;

/// How many pieces may wait between network and disk: enough to keep both busy, little enough to be no memory.
const PIECES_IN_FLIGHT: usize = 4;

/// Fetches blobs into one cache, each blob once, however many images want it at a time.
#[derive(Clone, Debug)]
pub struct Fetcher {
    pub(super) cache: Cache,
    pub(super) turns: Turns,
    /// The memory of all decompression together.
    pub(super) memory: Memory,
    line: Line,
    settings: TransferSettings,
}

impl Fetcher {
    /// Fetches into `cache`, as fast as `settings` allow.
    pub fn new(cache: Cache, settings: &TransferSettings) -> Self {
        Self {
            cache,
            turns: Turns::new(),
            memory: Memory::default(),
            line: Line::new(settings),
            settings: settings.clone(),
        }
    }

    /// Keeps to other settings with what begins from now on.
    pub fn reload(&mut self, settings: &TransferSettings) {
        // What is under way and what begins share one line, unless it becomes another.
        if self.settings != *settings {
            self.line = Line::new(settings);
            self.settings = settings.clone();
        }
    }

    /// The cache that it fills.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Brings the blobs of the image `reference` into the cache. Where it fails or is cancelled, what came is kept and
    /// taken up by the next call. Where one fails for now, those that are under way come to their end: to cut them off
    /// would be to pay twice for what is on the line.
    pub async fn fetch(
        &self,
        source: &Source,
        reference: &str,
        blobs: &[Descriptor],
        progress: &Progress,
    ) -> Result<(), TransferError> {
        // Small ones cost a round trip each: some at a time cost fewer.
        let at_a_time = if source.is_remote() { usize::from(self.settings.connections) } else { 1 };
        let (mut waiting, mut running) = (blobs.iter(), FuturesUnordered::new());
        let mut failed = None;
        loop {
            while failed.is_none()
                && running.len() < at_a_time
                && let Some(blob) = waiting.next()
            {
                running.push(async move {
                    let turn = Arc::new(self.turns.take(source, blob.digest).await);
                    self.blob(source, reference, blob, progress, turn).await
                });
            }
            let Some(fetched) = running.next().await else { return failed.map_or(Ok(()), Err) };
            match fetched {
                Err(error) if may_pass(&error) => {
                    if !running.is_empty() {
                        tracing::warn!(
                            error = full_text(&error),
                            "a blob did not come; those that are under way still do"
                        );
                    }
                    failed.get_or_insert(error);
                }
                fetched => fetched?,
            }
        }
    }

    /// Waits until nothing is written any more: of a fetch that failed or was given up, threads may still be at it.
    pub async fn rest(&self) {
        self.turns.rest().await;
    }

    /// Brings one blob into the cache. `turn` says that nobody else does.
    pub(super) async fn blob(
        &self,
        source: &Source,
        reference: &str,
        blob: &Descriptor,
        progress: &Progress,
        turn: Arc<Turn>,
    ) -> Result<(), TransferError> {
        self.stream(source, blob, progress, turn).await.map_err(|error| match error {
            BlobError::Source(error) => TransferError::Source(error),
            BlobError::Partial(source) => TransferError::Blob { reference: reference.to_owned(), source },
            BlobError::OverBudget { limit } => TransferError::OverBudget { reference: reference.to_owned(), limit },
        })
    }

    async fn stream(
        &self,
        source: &Source,
        blob: &Descriptor,
        progress: &Progress,
        turn: Arc<Turn>,
    ) -> Result<(), BlobError> {
        loop {
            let mut mirrors = Vec::new();
            match self.once(source, blob, progress, Arc::clone(&turn), &mut mirrors).await {
                // Nobody knows which of them it was; each is left out, until there is only the registry itself.
                Err(BlobError::Partial(PartialError::Digest { .. })) if !mirrors.is_empty() => {
                    tracing::warn!(blob = %blob.digest, "a mirror serves wrong bytes of a blob; others are asked");
                    for mirror in &mirrors {
                        mirror.distrust(&blob.digest);
                    }
                    progress.give_up(blob.size);
                }
                outcome => return outcome,
            }
        }
    }

    async fn once(
        &self,
        source: &Source,
        blob: &Descriptor,
        progress: &Progress,
        turn: Arc<Turn>,
        mirrors: &mut Vec<Arc<Standing>>,
    ) -> Result<(), BlobError> {
        let (cache, wanted) = (self.cache.clone(), blob.clone());
        let opened = blocking::run(move || {
            if cache.holds(&wanted) { Ok(None) } else { cache.partial(&wanted).map(|file| Some((file, turn))) }
        });
        let Some((partial, turn)) = opened.await? else {
            progress.reuse(blob.size);
            return Ok(());
        };
        let landed = partial.landed().clone();
        progress.reuse(landed.total());
        if landed.total() > 0 {
            // Who brought that is not known any more.
            mirrors.extend(source.suspects(blob));
        }
        let (pieces, queue) = mpsc::channel(PIECES_IN_FLIGHT);
        let writing = blocking::run(move || write(turn, queue, partial));
        let way = Way { source, blob, progress, line: &self.line, pieces };
        // What stopped the writer is the cause of what stopped the stream, so it counts first; except that a stream
        // which broke off leaves the writer with too few bytes.
        match tokio::join!(writing, way.go(landed, mirrors)) {
            (Ok(()), _) => Ok(()),
            (Err(PartialError::TooShort { .. }), Err(error)) => Err(error),
            (Err(error), _) => Err(error.into()),
        }
    }
}

/// Whether it is of the line or of the disk, and no fault of the image's: the other blobs are wanted all the same.
fn may_pass(error: &TransferError) -> bool {
    match error {
        TransferError::Source(error) => error.is_passing(),
        TransferError::Blob { source, .. } => matches!(source, PartialError::Disk(_)),
        _ => false,
    }
}

/// Writes pieces until there are no more of them. The turn, which is first here, is given back last.
fn write(turn: Arc<Turn>, mut queue: mpsc::Receiver<Piece>, mut partial: Partial) -> Result<(), PartialError> {
    while let Some(piece) = queue.blocking_recv() {
        partial.write(piece.offset, &piece.bytes)?;
    }
    let finished = partial.finish();
    drop(turn);
    finished
}
