//! One blob on its way from a source to a partial download: over one connection, or over several that each bring a segment
//! of it. What breaks off goes on where it stopped.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

use super::Progress;
use super::bandwidth::Bandwidth;
use super::segments::{SEGMENT, SEGMENTED, Segments};
use crate::cache::Ranges;
use crate::config::TransferSettings;
use crate::oci::Descriptor;
use crate::registry::{RegistryError, Source};

/// A connection that brought so many bytes before it broke is worth another one at once. One that brings less would go on
/// for ever.
const WORTH_ANOTHER: u64 = 64 << 10;
/// Fewer bytes within an idle time-out are as good as none: what trickles would look like work.
const LEAST: u64 = 1024;

/// Some bytes, and where in the blob they belong.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

/// What all transfers share of the line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// The right to a connection beyond the first of a blob.
    pub(super) further: Arc<Semaphore>,
    pub(super) bandwidth: Arc<Bandwidth>,
    /// How long a connection may bring next to nothing.
    pub(super) idle_timeout: Duration,
}

impl Line {
    pub(super) fn new(settings: &TransferSettings) -> Self {
        Self {
            further: Arc::new(Semaphore::new(usize::from(settings.connections.saturating_sub(1)))),
            bandwidth: Arc::new(Bandwidth::new(settings.bandwidth)),
            idle_timeout: settings.idle_timeout,
        }
    }
}

/// The way of one blob.
pub(super) struct Way<'a> {
    pub(super) source: &'a Source,
    pub(super) blob: &'a Descriptor,
    pub(super) progress: &'a Progress,
    pub(super) line: &'a Line,
    pub(super) pieces: mpsc::Sender<Piece>,
}

/// How a connection ended.
struct Run {
    /// What did not come of what it was to bring.
    rest: Range<u64>,
    /// How much did.
    brought: u64,
    error: Option<RegistryError>,
    /// Whether the source sent the whole blob in place of a part.
    was_whole: bool,
    right: Right,
}

/// The right to a connection.
enum Right {
    /// Each blob has one anyway.
    Own,
    /// The others are shared.
    Further(#[expect(dead_code, reason = "held, and given back when dropped")] OwnedSemaphorePermit),
}

impl Way<'_> {
    /// Brings what has not landed, and ends; early where nobody takes the pieces any more.
    pub(super) async fn go(self, landed: Ranges) -> Result<(), RegistryError> {
        let in_parts = self.blob.size > SEGMENTED && self.source.does_parts();
        let longest = if in_parts { SEGMENT } else { u64::MAX };
        let mut segments = Segments::new(landed.gaps(self.blob.size), longest);
        // The first answer shows whether the source does ranges, before there are other connections.
        let (answered, mut is_answered) = (Notify::new(), false);
        let mut running = FuturesUnordered::new();
        let mut own = Some(Right::Own);
        loop {
            while !segments.is_empty() && (running.is_empty() || (is_answered && self.source.does_parts())) {
                let further = || Arc::clone(&self.line.further).try_acquire_owned().ok().map(Right::Further);
                let Some(right) = own.take().or_else(further) else { break };
                let Some(segment) = segments.take() else { break };
                running.push(self.run(segment, right, &answered));
            }
            let run = tokio::select! {
                run = running.next() => run,
                () = answered.notified(), if !is_answered => {
                    is_answered = true;
                    continue;
                }
            };
            let Some(run) = run else { return Ok(()) };
            if run.was_whole {
                // It brought what the others were to bring as well.
                segments = Segments::new(std::iter::empty(), longest);
            }
            segments.give_back(run.rest);
            if let Right::Own = run.right {
                own = Some(Right::Own);
            }
            match run.error {
                Some(error) if !error.is_passing() => return Err(error),
                Some(error) if run.brought < WORTH_ANOTHER && running.is_empty() => return Err(error),
                Some(error) => tracing::info!(%error, brought = run.brought, "a transfer broke off, and goes on"),
                // A source that ends too early without an error is not asked again and again.
                None if self.pieces.is_closed() || run.brought == 0 => return Ok(()),
                None => {}
            }
        }
    }

    /// Brings a segment, as far as it comes.
    async fn run(&self, segment: Range<u64>, right: Right, answered: &Notify) -> Run {
        let mut run = Run { rest: segment, brought: 0, error: None, was_whole: false, right };
        run.error = self.bring(&mut run, answered).await.err();
        run
    }

    async fn bring(&self, run: &mut Run, answered: &Notify) -> Result<(), RegistryError> {
        let asked = run.rest.clone();
        let mut stream = self.source.blob(self.blob, asked.clone()).await?;
        if stream.part != asked {
            // It comes from the first byte on: what has landed comes once more, and is passed over.
            run.was_whole = true;
            self.progress.give_up(asked.start);
            run.rest = stream.part.clone();
        }
        answered.notify_one();
        let mut since = (Instant::now(), 0);
        loop {
            let deadline = since.0 + self.line.idle_timeout;
            let next = timeout_at(deadline, stream.bytes.next()).await;
            let Some(bytes) = next.map_err(|_| self.source.stalled(self.blob))? else { return Ok(()) };
            let bytes = bytes?;
            let length = bytes.len() as u64;
            self.progress.receive(length);
            self.line.bandwidth.pace(bytes.len()).await;
            since.1 += length;
            if since.1 >= LEAST {
                since = (Instant::now(), 0);
            }
            let offset = run.rest.start;
            if length > run.rest.end - offset && run.rest.end < self.blob.size {
                return Err(self.source.overlong(self.blob));
            }
            run.rest.start = run.rest.end.min(offset + length);
            run.brought += length;
            if self.pieces.send(Piece { offset, bytes }).await.is_err() {
                return Ok(());
            }
        }
    }
}
