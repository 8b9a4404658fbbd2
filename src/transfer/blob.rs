//! One blob on its way from a source to a partial download: over one connection, or over several that each bring a segment
//! of it. What breaks off goes on where it stopped.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, interval, timeout_at};

use super::Progress;
use super::bandwidth::Bandwidth;
use super::segments::{SEGMENTED, SHORTEST, Segments, length};
use crate::cache::{PartialError, Ranges};
use crate::config::TransferSettings;
use crate::oci::Descriptor;
use crate::registry::{RegistryError, Source, Standing};

/// A connection that brought so many bytes before it broke is worth another one at once. One that brings less would go on
/// for ever.
const WORTH_ANOTHER: u64 = 64 << 10;
/// So many connections in a row that bring less end it, whoever else might have the blob.
const FRUITLESS: u32 = 8;
/// Fewer bytes within an idle time-out are as good as none: what trickles would look like work.
const LEAST: u64 = 1024;

/// How often it is looked at whether more connections would bring more: so long, a fast one needs none.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Some bytes, and where in the blob they belong.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

/// Why a blob did not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum BlobError {
    /// The source failed.
    #[error(transparent)]
    Source(#[from] RegistryError),
    /// The bytes are wrong, or cannot be written.
    #[error(transparent)]
    Partial(#[from] PartialError),
    /// It would take more of the network than it may, which is so many bytes.
    #[error("more than {limit} bytes")]
    OverBudget { limit: u64 },
}

impl BlobError {
    /// Whether another connection may well bring it.
    fn is_passing(&self) -> bool {
        matches!(self, Self::Source(error) if error.is_passing())
    }
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
    took: Duration,
    error: Option<BlobError>,
    /// Whether the source sent the whole blob in place of a part.
    was_whole: bool,
    /// The mirror that it came from.
    mirror: Option<Arc<Standing>>,
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
    /// Brings what has not landed, and ends; early where nobody takes the pieces any more. Mirrors that something came from
    /// are added to `mirrors`.
    pub(super) async fn go(self, landed: Ranges, mirrors: &mut Vec<Arc<Standing>>) -> Result<(), BlobError> {
        let in_parts = self.blob.size > SEGMENTED && self.source.does_parts(self.blob);
        let mut longest = if in_parts { SHORTEST } else { u64::MAX };
        let mut segments = Segments::of(landed.gaps(self.blob.size));
        let waits = Waits::default();
        let mut running = FuturesUnordered::new();
        let mut own = Some(Right::Own);
        let (mut look, mut more) = (interval(LOOK_EVERY), false);
        look.reset();
        // How many connections the source has been seen to bear, and how many in a row came to next to nothing.
        let (mut most, mut fruitless) = (usize::MAX, 0);
        loop {
            while !segments.is_empty() && (running.is_empty() || (more && running.len() < most)) {
                let further = || Arc::clone(&self.line.further).try_acquire_owned().ok().map(Right::Further);
                let Some(right) = own.take().or_else(further) else { break };
                let Some(segment) = segments.take(longest) else { break };
                running.push(self.run(segment, right, &waits));
            }
            let run = tokio::select! {
                run = running.next() => run,
                _ = look.tick(), if in_parts && !segments.is_empty() => {
                    // The first answer shows whether the source does parts, before there are other connections.
                    let does_parts = waits.has_answer() && self.source.does_parts(self.blob);
                    more = does_parts && waits.were_for_the_network() && self.pieces.capacity() > 0;
                    continue;
                }
            };
            let Some(run) = run else { return Ok(()) };
            if in_parts && run.rest.is_empty() {
                longest = length(run.bytes_per_second());
            }
            if run.was_whole {
                // It brought what the others were to bring as well.
                segments = Segments::default();
            }
            segments.give_back(run.rest);
            if let Right::Own = run.right {
                own = Some(Right::Own);
            }
            fruitless = if run.brought < WORTH_ANOTHER && run.error.is_some() { fruitless + 1 } else { 0 };
            match run.error {
                Some(error) if !error.is_passing() || fruitless > FRUITLESS => return Err(error),
                // There may be somebody else who has it.
                Some(_)
                    if fruitless > 0
                        && let Some(mirror) = &run.mirror =>
                {
                    mirror.broke_off();
                }
                Some(error) if fruitless > 0 && running.is_empty() => return Err(error),
                // The others go on without it.
                Some(_) if fruitless > 0 => most = running.len(),
                Some(error) => tracing::info!(%error, brought = run.brought, "a transfer broke off, and goes on"),
                // A source that ends too early without an error is not asked again and again.
                None if self.pieces.is_closed() || run.brought == 0 => return Ok(()),
                None => {}
            }
            mirrors.extend(run.mirror.filter(|_| run.brought > 0));
        }
    }

    /// Brings a segment, as far as it comes.
    async fn run(&self, segment: Range<u64>, right: Right, waits: &Waits) -> Run {
        let begun = Instant::now();
        let mut run =
            Run { rest: segment, brought: 0, took: Duration::ZERO, error: None, was_whole: false, mirror: None, right };
        run.error = self.bring(&mut run, waits).await.err();
        run.took = begun.elapsed();
        run
    }

    async fn bring(&self, run: &mut Run, waits: &Waits) -> Result<(), BlobError> {
        let asked = run.rest.clone();
        let mut stream = self.source.blob(self.blob, asked.clone()).await?;
        if stream.part != asked {
            // It comes from the first byte on: what has landed comes once more, and is passed over.
            run.was_whole = true;
            self.progress.give_up(asked.start);
            run.rest = stream.part.clone();
        }
        run.mirror.clone_from(&stream.mirror);
        waits.answered();
        let mut since = (Instant::now(), 0);
        loop {
            let waiting = Instant::now();
            let next = timeout_at(since.0 + self.line.idle_timeout, stream.bytes.next()).await;
            let Some(bytes) = next.map_err(|_| self.source.stalled(self.blob))? else { return Ok(()) };
            let (bytes, waited) = (bytes?, waiting.elapsed());
            let length = bytes.len() as u64;
            if let Some(limit) = self.progress.too_little_for(length) {
                return Err(BlobError::OverBudget { limit });
            }
            self.progress.receive(length);
            since.1 += length;
            if since.1 >= LEAST {
                since = (Instant::now(), 0);
            }
            // What is waited for from here on is no fault of the source's.
            let received = Instant::now();
            self.line.bandwidth.pace(bytes.len()).await;
            let offset = run.rest.start;
            if length > run.rest.end - offset && run.rest.end < self.blob.size {
                return Err(self.source.overlong(self.blob).into());
            }
            run.rest.start = run.rest.end.min(offset + length);
            run.brought += length;
            let sending = Instant::now();
            if self.pieces.send(Piece { offset, bytes }).await.is_err() {
                return Ok(());
            }
            waits.add(waited, sending.elapsed());
            since.0 += received.elapsed();
        }
    }
}

impl Run {
    fn bytes_per_second(&self) -> u64 {
        let milliseconds = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX).max(1);
        self.brought.saturating_mul(1000) / milliseconds
    }
}

/// What connections wait for: only where that is the network, another one brings more.
#[derive(Debug, Default)]
struct Waits {
    has_answer: AtomicBool,
    network_us: AtomicU64,
    disk_us: AtomicU64,
}

impl Waits {
    fn answered(&self) {
        self.has_answer.store(true, Relaxed);
    }

    fn has_answer(&self) -> bool {
        self.has_answer.load(Relaxed)
    }

    fn add(&self, network: Duration, disk: Duration) {
        let microseconds = |wait: Duration| u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        self.network_us.fetch_add(microseconds(network), Relaxed);
        self.disk_us.fetch_add(microseconds(disk), Relaxed);
    }

    /// Whether there was little waiting for the disk since this was last asked.
    fn were_for_the_network(&self) -> bool {
        let (network, disk) = (self.network_us.swap(0, Relaxed), self.disk_us.swap(0, Relaxed));
        disk <= network / 4
    }
}
