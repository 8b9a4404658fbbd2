//! One blob on its way from a source to a partial download: over one connection, or over several that each bring a segment
//! of it. What breaks off goes on where it stopped.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, interval, timeout_at};

use super::Progress;
use super::bandwidth::Bandwidth;
use super::pace::{FAIR, Pace};
use super::segments::{SEGMENTED, SHORTEST, length};
use crate::cache::{PartialError, Ranges};
use crate::config::TransferSettings;
use crate::failure::{Classify, Kind};
use crate::oci::Descriptor;
use crate::registry::{RegistryError, Source, Standing};
use crate::wording::size;

/// A connection that brought so many bytes before it broke is worth another one at once. One that brings less would go on
/// for ever.
const WORTH_ANOTHER: u64 = 64 << 10;
/// So many connections in a row that bring less end it, whoever else might have the blob.
const FRUITLESS: u32 = 8;
/// Fewer bytes within an idle time-out are as good as none: what trickles would look like work.
const LEAST: u64 = 1024;
/// So many connections in a row are given up because others were faster. By then it is the line.
const GIVEN_UP: u32 = 3;

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
    #[error("more than {}", size(*.limit))]
    OverBudget { limit: u64 },
}

impl BlobError {
    /// Whether another connection may well bring it.
    fn is_passing(&self) -> bool {
        matches!(self, Self::Source(error) if error.is_passing())
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Source(error) => error.kind(),
            Self::Partial(error) => error.kind(),
            Self::OverBudget { .. } => Kind::OverBudget,
        }
    }
}

/// What all transfers share of the line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// The right to a connection beyond the first of a blob.
    pub(super) further: Arc<Semaphore>,
    pub(super) bandwidth: Arc<Bandwidth>,
    /// How many connections there may be of one blob.
    pub(super) connections: u8,
    /// How long a connection may bring next to nothing.
    pub(super) idle_timeout: Duration,
}

impl Line {
    pub(super) fn new(settings: &TransferSettings) -> Self {
        Self {
            further: Arc::new(Semaphore::new(usize::from(settings.connections.saturating_sub(1)))),
            bandwidth: Arc::new(Bandwidth::new(settings.bandwidth)),
            connections: settings.connections,
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

/// What the connections of one blob know of one another.
#[derive(Default)]
struct Shared {
    /// What is there, or on its way to the disk.
    came: Mutex<Ranges>,
    waits: Waits,
    /// How fast those were that brought what they were to bring.
    usual: Mutex<Pace>,
    /// How many in a row were given up because others were faster.
    given_up: AtomicU32,
    /// Whether the others have nothing to do, or there are none: a slow one then holds up the blob.
    is_waited_for: AtomicBool,
}

impl Shared {
    fn came(&self) -> MutexGuard<'_, Ranges> {
        self.came.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn usual(&self) -> MutexGuard<'_, Pace> {
        self.usual.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a connection ended.
struct Run {
    /// What it was to bring.
    asked: Range<u64>,
    /// How much it brought, and how much of that was not there yet.
    brought: u64,
    fresh: u64,
    took: Duration,
    pace: Pace,
    outcome: Result<(), BlobError>,
    /// The mirror that it came from.
    mirror: Option<Arc<Standing>>,
    /// The right to a connection beyond the blob's own; given back with this.
    further: Option<OwnedSemaphorePermit>,
}

impl Way<'_> {
    /// Brings what has not landed, and ends; early where nobody takes the pieces any more. Mirrors that something came from
    /// are added to `mirrors`.
    pub(super) async fn go(self, landed: Ranges, mirrors: &mut Vec<Arc<Standing>>) -> Result<(), BlobError> {
        let in_parts = self.blob.size > SEGMENTED && self.source.does_parts(self.blob);
        let mut longest = if in_parts { SHORTEST } else { u64::MAX };
        let shared = Shared { came: Mutex::new(landed), ..Shared::default() };
        let mut running = FuturesUnordered::new();
        let mut claimed: Vec<Range<u64>> = Vec::new();
        let mut own = true;
        let (mut look, mut more) = (interval(LOOK_EVERY), false);
        look.reset();
        // How many connections the source has been seen to bear, and how many in a row came to next to nothing.
        let (mut most, mut fruitless) = (usize::MAX, 0);
        loop {
            while running.is_empty() || (more && running.len() < most) {
                // Towards the end segments get shorter, so that none is left to one connection while others have nothing.
                let parts = if more { 2 * u64::from(self.line.connections) } else { 1 };
                let Some(segment) = self.next(&shared, &claimed, longest, parts) else { break };
                // Each blob has one connection anyway; the others are shared.
                let further = Arc::clone(&self.line.further).try_acquire_owned().ok().filter(|_| !own);
                if further.is_none() && !std::mem::take(&mut own) {
                    break;
                }
                claimed.push(segment.clone());
                running.push(self.run(segment, further, &shared));
            }
            let is_waited_for = running.len() < 2 || self.next(&shared, &claimed, longest, 1).is_none();
            shared.is_waited_for.store(is_waited_for, Relaxed);
            let run = tokio::select! {
                run = running.next() => run,
                _ = look.tick(), if in_parts => {
                    // The first answer shows whether the source does parts, before there are other connections.
                    let does_parts = shared.waits.has_answer() && self.source.does_parts(self.blob);
                    more = does_parts && shared.waits.were_for_the_network() && self.pieces.capacity() > 0;
                    continue;
                }
            };
            let Some(run) = run else { return Ok(()) };
            claimed.retain(|segment| *segment != run.asked);
            own |= run.further.is_none();
            if let Some(mirror) = run.mirror.as_ref().filter(|_| run.fresh > 0)
                && !mirrors.iter().any(|known| Arc::ptr_eq(known, mirror))
            {
                mirrors.push(Arc::clone(mirror));
            }
            if self.pieces.is_closed() {
                return Ok(());
            }
            let Err(error) = run.outcome else {
                fruitless = 0;
                // One that was given up ends well too, but early.
                if run.brought >= run.asked.end - run.asked.start {
                    shared.usual().follow(run.pace);
                    shared.given_up.store(0, Relaxed);
                    longest = if in_parts { length(run.bytes_per_second()) } else { longest };
                }
                continue;
            };
            fruitless = if run.fresh < WORTH_ANOTHER { fruitless + 1 } else { 0 };
            match &run.mirror {
                _ if !error.is_passing() || fruitless > FRUITLESS => return Err(error),
                // There may be somebody else who has it.
                Some(mirror) if fruitless > 0 || error.kind() == Kind::Timeout => mirror.failed(),
                _ if fruitless > 0 && running.is_empty() => return Err(error),
                // The others go on without it.
                _ if fruitless > 0 => most = running.len(),
                _ => {}
            }
            tracing::info!(%error, brought = run.brought, "a transfer broke off, and goes on");
        }
    }

    /// The first part, of at most `longest` bytes, that neither came nor is being brought; no more than a share of what is
    /// left, where that is to be divided into `parts`.
    fn next(&self, shared: &Shared, claimed: &[Range<u64>], longest: u64, parts: u64) -> Option<Range<u64>> {
        let mut taken = shared.came().clone();
        for segment in claimed {
            taken.insert(segment.clone());
        }
        let gap = taken.gap_from(0, self.blob.size)?;
        let longest = longest.min(((self.blob.size - taken.total()) / parts).max(SHORTEST));
        Some(gap.start..gap.end.min(gap.start.saturating_add(longest)))
    }

    /// Brings a segment, as far as it comes, or is worth waiting for.
    async fn run(&self, asked: Range<u64>, further: Option<OwnedSemaphorePermit>, shared: &Shared) -> Run {
        let begun = Instant::now();
        let (took, pace) = (Duration::ZERO, Pace::default());
        let mut run = Run { asked, brought: 0, fresh: 0, took, pace, outcome: Ok(()), mirror: None, further };
        run.outcome = self.bring(&mut run, shared).await;
        run.took = begun.elapsed();
        run
    }

    async fn bring(&self, run: &mut Run, shared: &Shared) -> Result<(), BlobError> {
        self.progress.check_budget().map_err(|limit| BlobError::OverBudget { limit })?;
        let mut stream = self.source.blob(self.blob, run.asked.clone()).await?;
        run.mirror.clone_from(&stream.mirror);
        shared.waits.answered();
        // A mirror that is asked although it is known to be slow is asked for want of a better one.
        let is_last_resort = run.mirror.as_ref().is_some_and(|mirror| mirror.slowness().is_some());
        let mut lately = Lately { waited: Duration::ZERO, from: shared.came().total() };
        // It may be the whole blob; what has landed then comes once more, and is passed over. So it would with another one.
        let is_part = stream.part == run.asked;
        let mut rest = stream.part.clone();
        let mut since = (Instant::now(), 0);
        while !rest.is_empty() {
            let waiting = Instant::now();
            let patience = since.0 + self.line.idle_timeout;
            let mut bytes = match timeout_at(patience.min(waiting + FAIR), stream.bytes.next()).await {
                Ok(Some(bytes)) => bytes?,
                Ok(None) => return Err(self.source.cut_short(self.blob).into()),
                Err(_) if Instant::now() >= patience => return Err(self.source.stalled(self.blob).into()),
                // Nothing yet; whether to wait on is seen below.
                Err(_) => Bytes::new(),
            };
            let waited = waiting.elapsed();
            // More than was asked for is no part of the blob: the digest decides whether what came before it is.
            bytes.truncate(usize::try_from(rest.end - rest.start).unwrap_or(usize::MAX));
            let length = bytes.len() as u64;
            since.1 += length;
            if since.1 >= LEAST {
                since = (Instant::now(), 0);
            }
            // What is waited for from here on is no fault of the source's.
            let received = Instant::now();
            self.progress.receive(length);
            run.brought += length;
            run.pace.add(length, waited);
            self.line.bandwidth.pace(bytes.len()).await;
            let place = rest.start..rest.start + length;
            rest.start = place.end;
            let fresh = {
                let mut came = shared.came();
                let before = came.total();
                came.insert(place.clone());
                came.total() - before
            };
            run.fresh += fresh;
            let sending = Instant::now();
            if fresh < length {
                self.progress.give_up(length - fresh);
            }
            if fresh > 0 && self.pieces.send(Piece { offset: place.start, bytes }).await.is_err() {
                return Ok(());
            }
            self.progress.check_budget().map_err(|limit| BlobError::OverBudget { limit })?;
            shared.waits.add(waited, sending.elapsed());
            since.0 += received.elapsed();
            lately.waited += waited;
            if !rest.is_empty()
                && ((is_part && self.is_too_slow(run, shared))
                    || (!is_last_resort && self.may_be_faster(run, &mut lately, shared)))
            {
                tracing::info!(brought = run.brought, "a transfer is slow, and goes on over another connection");
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether a connection holds up the blob, and others were far faster. Where that was so of the one before it as well,
    /// it may be the mirror.
    fn is_too_slow(&self, run: &Run, shared: &Shared) -> bool {
        let is_too_slow = shared.is_waited_for.load(Relaxed)
            && run.pace.is_far_below(&shared.usual())
            && shared.given_up.load(Relaxed) < GIVEN_UP;
        if is_too_slow && shared.given_up.fetch_add(1, Relaxed) > 0 && run.mirror.is_some() {
            self.source.leave(self.blob, run.mirror.as_ref(), run.pace.bytes_per_second());
        }
        is_too_slow
    }

    /// Whether somebody else is to be asked: in as much waiting as a connection may be idle for, neither as much of the blob
    /// came as a segment, nor as much as is left of it.
    fn may_be_faster(&self, run: &Run, lately: &mut Lately, shared: &Shared) -> bool {
        if lately.waited < self.line.idle_timeout {
            return false;
        }
        let total = shared.came().total();
        let mut pace = Pace::default();
        pace.add(total - lately.from, lately.waited);
        let is_slow = total - lately.from < SHORTEST.min(self.blob.size - total);
        *lately = Lately { waited: Duration::ZERO, from: total };
        is_slow && self.source.leave(self.blob, run.mirror.as_ref(), pace.bytes_per_second())
    }
}

/// What a source is judged by.
struct Lately {
    waited: Duration,
    /// How much of the blob had come before.
    from: u64,
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
        disk <= network / 16
    }
}
