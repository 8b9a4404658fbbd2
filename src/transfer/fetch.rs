//! Fetching blobs: bytes from a source, through the network task, to a writer on the blocking pool.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, mpsc};

use super::blob::{BlobError, Line, Piece, Way};
use super::plan::belongings;
use super::target::Packed;
use super::{Plan, Progress, Target, TransferError};
use crate::blocking;
use crate::cache::{Cache, Partial, PartialError, WIRE};
use crate::config::{Settings, TransferSettings};
use crate::durable::DurableError;
use crate::oci::{Descriptor, Digest};
use crate::registry::{Source, Standing};
use crate::unpack::{Limits, Record, UnpackError, Want, unpack};

/// How many pieces may wait between network and disk: enough to keep both busy, little enough to be no memory.
const PIECES_IN_FLIGHT: usize = 4;
/// How many blobs are fetched at a time, over all images. Each has a thread of the blocking pool while it waits for the
/// network, and there have to be some left for all that must not wait: reading a layout, saving the state.
const FETCHES: usize = 16;
/// How many of them from one source: a slow one is not to take all places.
const FETCHES_OF_ONE: usize = 8;

/// How layers are unpacked.
#[derive(Clone, Copy, Debug)]
pub struct Unpacking {
    /// The largest file that may come out of one, in bytes.
    pub max_file_bytes: u64,
    /// Whether a layer is kept beside the file that it became.
    pub keep_layers: bool,
}

impl Unpacking {
    /// As `settings` say.
    pub fn new(settings: &Settings) -> Self {
        Self { max_file_bytes: settings.transfer.max_file_bytes, keep_layers: settings.cache.keep_layers }
    }
}

/// Fetches blobs into one cache, each blob once, however many images want it at a time.
#[derive(Clone, Debug)]
pub struct Fetcher {
    cache: Cache,
    in_flight: Arc<Mutex<HashMap<Digest, Weak<AsyncMutex<()>>>>>,
    places: Arc<Semaphore>,
    places_of: Arc<Mutex<HashMap<String, Weak<Semaphore>>>>,
    line: Line,
    settings: TransferSettings,
}

/// The right to fetch one blob. It goes where the file goes: of a fetch that is cancelled, a thread may still be writing
/// the last piece.
struct Turn {
    _blob: OwnedMutexGuard<()>,
    _places: [Option<OwnedSemaphorePermit>; 2],
}

impl Fetcher {
    /// Fetches into `cache`, as fast as `settings` allow.
    pub fn new(cache: Cache, settings: &TransferSettings) -> Self {
        Self {
            cache,
            in_flight: Arc::default(),
            places: Arc::new(Semaphore::new(FETCHES)),
            places_of: Arc::default(),
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

    /// Sees to it that the disk has room for what `plan` has to fetch and to unpack, before a byte of it is. Where it has not,
    /// downloads that were begun for other images and are not under way are given up; where that is not enough, it says
    /// so.
    pub async fn make_room(&self, reference: &str, plan: &Plan) -> Result<(), TransferError> {
        let keep: BTreeSet<String> = plan.to_fetch().iter().map(|blob| blob.digest.hex()).collect();
        let (fetcher, reference, plan) = (self.clone(), reference.to_owned(), plan.clone());
        blocking::run(move || {
            let (cache, blobs) = (&fetcher.cache, plan.to_fetch());
            let length = blobs.iter().fold(plan.unpacked, |sum, blob| sum.saturating_add(blob.size));
            let needed = length.saturating_sub(cache.partial_bytes(&blobs));
            if cache.free_bytes()? < needed {
                fetcher.give_way(&keep)?;
            }
            let free = cache.free_bytes()?;
            if free < needed {
                Err(TransferError::NoRoom { reference, needed, free, reserve: cache.reserve() })
            } else {
                Ok(())
            }
        })
        .await
    }

    /// Gives up downloads that nobody goes on with, but for those of the images `wanted`, by their manifests. Which these are
    /// is looked at while no download can begin: one that begins later is not touched. One that was cancelled may still be
    /// written, and is waited for.
    pub async fn sweep(
        &self,
        wanted: impl Fn() -> BTreeSet<Digest> + Clone + Send + 'static,
    ) -> Result<(), TransferError> {
        loop {
            let (fetcher, wanted) = (self.clone(), wanted.clone());
            let sweep = move || {
                let keep = LazyCell::new(|| belongings(&fetcher.cache, &wanted()));
                // What cannot be known is kept.
                fetcher.abandon(|hex, _| keep.as_ref().is_none_or(|keep| keep.contains(hex)))
            };
            let Some(ending) = blocking::run(sweep).await? else { return Ok(()) };
            drop(ending.lock_owned().await);
        }
    }

    /// Gives up downloads that are not under way, but for those of the blobs `keep`, in hexadecimal digits: the room is needed.
    pub fn give_way(&self, keep: &BTreeSet<String>) -> Result<(), DurableError> {
        // A note takes no room worth having, and may belong to an image that another workload fetches.
        self.abandon(|hex, ending| ending.starts_with(WIRE) || keep.contains(hex)).map(drop)
    }

    /// Gives up downloads that are not under way and that `keeps` does not want to keep. Whether one is under way is looked
    /// at while none can begin; the result is one that would go otherwise.
    fn abandon(&self, keeps: impl Fn(&str, &str) -> bool) -> Result<Option<Arc<AsyncMutex<()>>>, DurableError> {
        let in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way: BTreeMap<String, _> =
            in_flight.iter().filter_map(|(digest, lock)| Some((digest.hex(), lock.upgrade()?))).collect();
        self.cache.abandon_partials(|hex, ending| keeps(hex, ending) || under_way.contains_key(hex))?;
        Ok(under_way.into_iter().find(|(hex, _)| !keeps(hex, "")).map(|(_, lock)| lock))
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
        // Small ones cost a round trip each: some at a time cost fewer.
        let at_a_time = if source.is_remote() { usize::from(self.settings.connections) } else { 1 };
        let (mut waiting, mut running) = (blobs.iter(), FuturesUnordered::new());
        loop {
            while running.len() < at_a_time
                && let Some(blob) = waiting.next()
            {
                running.push(async move {
                    let turn = Arc::new(self.turn(source, blob.digest).await);
                    self.blob(source, reference, blob, progress, turn).await
                });
            }
            let Some(fetched) = running.next().await else { return Ok(()) };
            fetched?;
        }
    }

    /// Waits until nothing is written any more: of a fetch that failed or was given up, threads may still be at it.
    pub async fn rest(&self) {
        let writing: Vec<_> = {
            let in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
            in_flight.values().filter_map(Weak::upgrade).collect()
        };
        for blob in writing {
            drop(blob.lock_owned().await);
        }
    }

    /// Takes out of layers what the image wants of them, fetching those that it takes. A layer is removed once that is
    /// done, or turns out to be wrong, unless `keep_layers`: what came out of it is all that is used of it.
    pub async fn unpack(
        &self,
        source: &Source,
        reference: &str,
        target: &Target,
        unpacking: Unpacking,
        progress: &Progress,
    ) -> Result<(), TransferError> {
        let limits = Limits { max_file_bytes: unpacking.max_file_bytes };
        let fault = |source| TransferError::Unpack { reference: reference.to_owned(), source };
        let mut unpacked = BTreeSet::new();
        while let Some(Packed { layer, .. }) = self.packed(target).await.into_iter().next() {
            let turn = Arc::new(self.turn(source, layer.digest).await);
            // Another image may have had it unpacked meanwhile, for this one or for wants of its own.
            let packed = self.packed(target).await;
            let wants: BTreeSet<Want> =
                packed.into_iter().filter(|packed| packed.layer == layer).flat_map(|packed| packed.wants).collect();
            if wants.is_empty() {
                continue;
            }
            // What was found in it is lost again: to go on would be to fetch it without end.
            if !unpacked.insert(layer.digest) {
                return Err(TransferError::Gone(layer.digest));
            }
            let wants: Vec<Want> = wants.into_iter().collect();
            self.find_right(&layer, &wants, limits).await.map_err(fault)?;
            self.blob(source, reference, &layer, progress, Arc::clone(&turn)).await?;
            let (fetcher, target) = (self.clone(), target.clone());
            let unpacked = blocking::run(move || {
                let unpacked = unpack(&fetcher.cache, &layer, &wants, limits);
                // Where the disk failed, the next try takes up the layer: it is paid for.
                let is_spent = !matches!(unpacked, Err(UnpackError::Disk(_)));
                let discarded =
                    if is_spent && !unpacking.keep_layers { fetcher.discard(&target, &layer.digest) } else { Ok(()) };
                drop(turn);
                unpacked.and_then(|_| Ok(discarded?))
            });
            unpacked.await.map_err(fault)?;
        }
        progress.complete();
        if !unpacking.keep_layers {
            self.discard_spent(source, target).await?;
        }
        Ok(())
    }

    async fn packed(&self, target: &Target) -> Vec<Packed> {
        let (cache, target) = (self.cache.clone(), target.clone());
        blocking::run(move || target.packed(&cache)).await
    }

    /// Refuses a layer that was found wrong before: to fetch it for that once more would be a waste.
    async fn find_right(&self, layer: &Descriptor, wants: &[Want], limits: Limits) -> Result<(), UnpackError> {
        let (cache, layer, wants) = (self.cache.clone(), layer.digest, wants.to_vec());
        let fault = blocking::run(move || Record::load(&cache, &layer).fault(&wants, limits).cloned()).await;
        fault.map_or(Ok(()), |fault| Err(UnpackError::Layer { layer, fault }))
    }

    /// Removes layers that were left: the agent ended before it removed them, or somebody else waited for them.
    async fn discard_spent(&self, source: &Source, target: &Target) -> Result<(), TransferError> {
        let (cache, image) = (self.cache.clone(), target.clone());
        for layer in blocking::run(move || image.spent(&cache)).await {
            let turn = self.turn(source, layer.digest).await;
            let (fetcher, target) = (self.clone(), target.clone());
            blocking::run(move || {
                let discarded = fetcher.discard(&target, &layer.digest);
                drop(turn);
                discarded
            })
            .await?;
        }
        Ok(())
    }

    /// Removes a layer, whose turn is the caller's, unless its bytes are of use as they are: to the image, or to somebody
    /// who waits for the blob.
    fn discard(&self, target: &Target, layer: &Digest) -> Result<(), DurableError> {
        let is_waited_for = {
            let in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
            // One is the caller's.
            in_flight.get(layer).is_some_and(|lock| lock.strong_count() > 1)
        };
        if is_waited_for || target.uses(&self.cache, layer) { Ok(()) } else { self.cache.remove(layer) }
    }

    /// Brings one blob into the cache. `turn` says that nobody else does.
    async fn blob(
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

    /// Waits until nobody else fetches the blob, and not too many fetch others from `source` or at all.
    async fn turn(&self, source: &Source, digest: Digest) -> Turn {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eci::Artifact;
    use crate::oci::{Platform, Reference};
    use crate::registry::LayoutSource;
    use std::task::{Context, Waker};

    fn fetcher(dir: &std::path::Path) -> Fetcher {
        Fetcher::new(Cache::open(dir).unwrap(), &Settings::default().transfer)
    }

    fn layout(dir: &std::path::Path) -> Source {
        let Reference::Layout(reference) = format!("oci:{}", dir.display()).parse().unwrap() else {
            panic!("no layout")
        };
        Source::Layout(LayoutSource::new(reference))
    }

    #[tokio::test]
    async fn a_download_that_is_under_way_is_swept_when_it_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let (fetcher, source) = (fetcher(dir.path()), layout(dir.path()));
        let blob = Descriptor::of("x", b"kernel");
        let landed = || fetcher.cache.partial_bytes(std::slice::from_ref(&blob));
        fetcher.cache.partial(&blob).unwrap().append(b"ker").unwrap();
        let turn = fetcher.turn(&source, blob.digest).await;
        assert_eq!((fetcher.abandon(|_, _| false).unwrap().is_some(), landed()), (true, 3));
        let (mut rest, mut sweep) = (Box::pin(fetcher.rest()), Box::pin(fetcher.sweep(BTreeSet::new)));
        let mut context = Context::from_waker(Waker::noop());
        assert!(rest.as_mut().poll(&mut context).is_pending() && sweep.as_mut().poll(&mut context).is_pending());
        drop(turn);
        rest.await;
        sweep.await.unwrap();
        assert_eq!(landed(), 0);
    }

    #[tokio::test]
    async fn what_belongs_to_a_wanted_image_is_not_swept_nor_anything_where_that_is_not_known() {
        let dir = tempfile::tempdir().unwrap();
        let fetcher = fetcher(dir.path());
        let [config, layer, other] = ["{}", "layer", "other"].map(|text| Descriptor::of("x", text.as_bytes()));
        let leave = |blob: &Descriptor| fetcher.cache.partial(blob).unwrap().append(b"x").unwrap();
        let landed = |blob: &Descriptor| fetcher.cache.partial_bytes(std::slice::from_ref(blob));
        let manifest = crate::oci::Manifest::new(config.clone(), vec![layer.clone()]);
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let wanted = BTreeSet::from([Digest::of(&manifest)]);
        let wanted = move || wanted.clone();
        [&config, &layer, &other].into_iter().for_each(leave);
        fetcher.sweep(wanted.clone()).await.unwrap();
        assert_eq!([&config, &layer, &other].map(landed), [1, 1, 1], "nobody knows what the image has");
        let note = fetcher.cache.wire_note(&fetcher.cache.insert(&manifest).unwrap());
        std::fs::write(&note, "5").unwrap();
        fetcher.sweep(wanted).await.unwrap();
        assert_eq!(([&config, &layer, &other].map(landed), note.exists()), ([1, 1, 0], true));
        fetcher.sweep(BTreeSet::new).await.unwrap();
        assert_eq!(([&config, &layer, &other].map(landed), note.exists()), ([0, 0, 0], false));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_sweep_beside_a_fetch_that_begins_does_it_no_harm() {
        let (dir, from) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (fetcher, store) = (fetcher(dir.path()), Cache::at(from.path(), &from.path().join("partial")).unwrap());
        for n in 0..100_u32 {
            let bytes = n.to_le_bytes().repeat(50_000);
            let blob = Descriptor::new("x", store.insert(&bytes).unwrap(), bytes.len() as u64);
            fetcher.cache.partial(&blob).unwrap().append(&bytes[..100_000]).unwrap();
            let sweeping = tokio::spawn({
                let fetcher = fetcher.clone();
                async move { fetcher.sweep(BTreeSet::new).await }
            });
            let progress = Progress::new(blob.size, 0);
            fetcher.fetch(&layout(from.path()), "image", std::slice::from_ref(&blob), &progress).await.unwrap();
            sweeping.await.unwrap().unwrap();
            // It was there before, or all of it came; not some of both.
            assert!([0, 100_000].contains(&progress.now().reused_bytes), "{:?}", progress.now());
            assert!(fetcher.cache.verify(&blob));
        }
        let left = std::fs::read_dir(dir.path().join("partial")).unwrap().count();
        assert_eq!(left, 0);
    }

    #[tokio::test]
    async fn a_layer_that_somebody_waits_for_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let fetcher = fetcher(dir.path());
        let layer = fetcher.cache.insert(b"layer").unwrap();
        let nothing = Descriptor::of("x", b"{}");
        let target = Target {
            manifest: nothing.clone(),
            index_digest: None,
            platform: Platform::host(),
            artifact: Artifact { config: nothing, layers: Vec::new(), files: Vec::new() },
        };
        let source = layout(dir.path());
        let turn = fetcher.turn(&source, layer).await;
        let mut next = Box::pin(fetcher.turn(&source, layer));
        assert!(next.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        fetcher.discard(&target, &layer).unwrap();
        assert!(fetcher.cache.path(&layer).exists());
        drop(turn);
        let turn = next.await;
        fetcher.discard(&target, &layer).unwrap();
        assert!(!fetcher.cache.path(&layer).exists());
        drop(turn);
    }
}
