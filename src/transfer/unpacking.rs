//! Taking out of layers what images want of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::target::Packed;
use super::turns::Turn;
use super::verify::clear_blobs;
use super::{Fetcher, Progress, Target, TransferError};
use crate::blocking;
use crate::cache::Cache;
use crate::config::Settings;
use crate::durable::DurableError;
use crate::oci::{Descriptor, Digest};
use crate::registry::Source;
use crate::unpack::{Cancel, Control, Limits, Record, UnpackError, Want, Worker, unpack_with};

/// Window of zstd that a workstation takes, in bytes.
const WORKSTATION_WINDOW: u64 = 128 << 20;

/// How layers are unpacked.
#[derive(Clone, Copy, Debug)]
pub struct Unpacking {
    /// The largest file that may come out of one, in bytes.
    pub max_file_bytes: u64,
    /// The largest window of zstd, in bytes.
    pub max_window: u64,
    /// Memory of all decompression together, in bytes.
    pub memory: u64,
    /// Whether a layer is kept beside the file that it became.
    pub keep_layers: bool,
}

impl Unpacking {
    /// As `settings` say.
    pub fn new(settings: &Settings) -> Self {
        Self {
            max_file_bytes: settings.transfer.max_file_bytes,
            max_window: settings.unpack.max_window,
            memory: settings.unpack.memory,
            keep_layers: settings.cache.keep_layers,
        }
    }

    /// As `settings` say, but for a workstation: windows of 128 MiB, as the zstd program takes them if asked for
    /// `--long`, or larger ones if the settings allow them.
    pub fn of_workstation(settings: &Settings) -> Self {
        let new = Self::new(settings);
        let max_window = new.max_window.max(WORKSTATION_WINDOW);
        Self { max_window, memory: new.memory.max(max_window.saturating_mul(2)), ..new }
    }

    fn limits(&self) -> Limits {
        Limits { max_file_bytes: self.max_file_bytes, max_window: self.max_window, memory: self.memory }
    }
}

impl Fetcher {
    /// Takes out of layers what the image wants of them, fetching those that it takes. A layer is removed once that is
    /// done, or turns out to be wrong, unless `keep_layers`: what came out of it is all that is used of it. Of files that are
    /// named by their paths, that is once all are found: a link may lead back into a layer, which is not fetched twice.
    pub async fn unpack(
        &self,
        source: &Source,
        reference: &str,
        target: &Target,
        unpacking: Unpacking,
        progress: &Progress,
    ) -> Result<(), TransferError> {
        let limits = unpacking.limits();
        let fault = |source| TransferError::Unpack { reference: reference.to_owned(), source };
        let mut unpacked = BTreeSet::new();
        if !unpacking.keep_layers {
            let (cache, image) = (self.cache.clone(), target.clone());
            for layer in blocking::run(move || image.spent(&cache)).await {
                self.check_unpacked(&layer).await?;
            }
        }
        while let Some(Packed { layer, .. }) = self.packed(target).await.into_iter().next() {
            let turn = Arc::new(self.turns.take(source, layer.digest).await);
            self.check_unpacked(&layer).await?;
            // Another image may have had it unpacked meanwhile, for this one or for wants of its own.
            let packed = self.packed(target).await;
            let wants: BTreeSet<Want> =
                packed.into_iter().filter(|packed| packed.layer == layer).flat_map(|packed| packed.wants).collect();
            if wants.is_empty() {
                continue;
            }
            // What was found in it is lost again: to go on would be to fetch it without end.
            let is_here = unpacked.iter().any(|(digest, _, _)| *digest == layer.digest);
            let key = |want: &Want| (layer.digest, layer.media_type.clone(), want.clone());
            let known = unpacked.len();
            unpacked.extend(wants.iter().map(key));
            if unpacked.len() == known {
                return Err(TransferError::Gone(layer.digest));
            }
            let wants: Vec<Want> = wants.into_iter().collect();
            let outcome = match self.find_right(&layer, &wants, limits).await {
                Ok(()) => {
                    // One that a link leads back to is there, and counted.
                    if !is_here || !self.holds(&layer).await {
                        self.blob(source, reference, &layer, progress, Arc::clone(&turn)).await?;
                    }
                    self.take_out(target, layer, wants, unpacking, turn).await
                }
                Err(wrong) => {
                    drop(turn);
                    Err(wrong)
                }
            };
            if let Err(error) = outcome {
                // The others are of no more use either.
                if matches!(error, UnpackError::Layer { .. }) && !unpacking.keep_layers {
                    self.discard_each(source, target, Target::opened).await?;
                }
                return Err(fault(error));
            }
        }
        progress.complete();
        if !unpacking.keep_layers {
            self.discard_each(source, target, Target::spent).await?;
        }
        Ok(())
    }

    /// Takes `wants` out of a layer, which is there, and removes it if no more is wanted of it.
    async fn take_out(
        &self,
        target: &Target,
        layer: Descriptor,
        wants: Vec<Want>,
        unpacking: Unpacking,
        turn: Arc<Turn>,
    ) -> Result<(), UnpackError> {
        let (fetcher, target) = (self.clone(), target.clone());
        let control = Control { memory: self.memory.clone(), cancel: Cancel::default(), worker: Worker::of_process() };
        // A task that is given up leaves its thread; the flag ends that as well.
        let _cancel = control.cancel.on_drop();
        let unpacked = blocking::run(move || {
            let unpacked = unpack_with(&fetcher.cache, &layer, &wants, unpacking.limits(), &control);
            let is_spent = match &unpacked {
                Ok(_) => wants.iter().all(|want| !matches!(want, Want::Path(_))) || target.is_settled(&fetcher.cache),
                Err(UnpackError::Layer { .. }) => true,
                // Where the disk or the worker failed, the next try takes up the layer: it is paid for.
                Err(UnpackError::Disk(_) | UnpackError::Worker { .. } | UnpackError::Cancelled) => false,
            };
            let discarded =
                if is_spent && !unpacking.keep_layers { fetcher.discard(&target, &layer.digest) } else { Ok(()) };
            drop(turn);
            unpacked.and_then(|_| Ok(discarded?))
        });
        unpacked.await
    }

    async fn holds(&self, layer: &Descriptor) -> bool {
        let (cache, layer) = (self.cache.clone(), layer.clone());
        blocking::run(move || cache.holds(&layer)).await
    }

    /// Reads what came out of a layer before: where that is damaged, it is to be taken out again while the layer is at hand.
    async fn check_unpacked(&self, layer: &Descriptor) -> Result<(), DurableError> {
        let (cache, layer) = (self.cache.clone(), layer.clone());
        let unpacked = blocking::run(move || {
            let contents = Record::load(&cache, &layer);
            let blobs = contents.contents().map(|content| content.blob());
            blobs.filter(|blob| cache.contains(blob)).collect()
        });
        clear_blobs(&self.cache, unpacked.await).await.map(drop)
    }

    async fn packed(&self, target: &Target) -> Vec<Packed> {
        let (cache, target) = (self.cache.clone(), target.clone());
        blocking::run(move || target.packed(&cache)).await
    }

    /// Refuses a layer that was found wrong before: to fetch it for that once more would be a waste.
    async fn find_right(&self, layer: &Descriptor, wants: &[Want], limits: Limits) -> Result<(), UnpackError> {
        let (cache, described, wants) = (self.cache.clone(), layer.clone(), wants.to_vec());
        let fault = blocking::run(move || Record::load(&cache, &described).fault(&wants, limits).cloned()).await;
        let layer = layer.digest;
        fault.map_or(Ok(()), |fault| Err(UnpackError::Layer { layer, fault }))
    }

    /// Removes the layers that `those` names and that were left: the agent ended before it removed them, somebody else waited
    /// for them, or they were looked into until all was found.
    async fn discard_each(
        &self,
        source: &Source,
        target: &Target,
        those: fn(&Target, &Cache) -> Vec<Descriptor>,
    ) -> Result<(), TransferError> {
        let (cache, image) = (self.cache.clone(), target.clone());
        for layer in blocking::run(move || those(&image, &cache)).await {
            let turn = self.turns.take(source, layer.digest).await;
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
        let is_of_use = self.turns.is_waited_for(layer) || target.uses(&self.cache, layer);
        if is_of_use {
            return Ok(());
        }
        // Not before what came out of it is there to stay.
        self.cache.keep_names()?;
        self.cache.remove(layer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eci::{self, Artifact, DiskFormat, File, FileName, Role};
    use crate::oci::{Platform, Reference};
    use crate::registry::LayoutSource;
    use crate::unpack::unpack;
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

    /// What another process has left of an image with two files out of one layer.
    struct Apart {
        _dir: tempfile::TempDir,
        fetcher: Fetcher,
        layer: Descriptor,
        target: Target,
        source: Source,
    }

    /// The layer is still there, and one of the files was damaged.
    fn apart() -> Apart {
        let dir = tempfile::tempdir().unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        for name in ["abc", "def"] {
            let mut header = tar::Header::new_gnu();
            header.set_size(3);
            builder.append_data(&mut header, name, name.as_bytes()).unwrap();
        }
        let bytes = builder.into_inner().unwrap();
        let layer = Descriptor::of("application/vnd.oci.image.layer.v1.tar", &bytes);
        let remote = dir.path().join("layout");
        Cache::at(&remote, &dir.path().join("other")).unwrap().insert(&bytes).unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        cache.insert(&bytes).unwrap();
        let path = |name: &str| name.parse::<crate::eci::ImagePath>().unwrap();
        let wants = ["abc", "def"].map(|name| Want::Path(path(name)));
        unpack(&cache, &layer, &wants, Limits::new(1 << 20)).unwrap();
        let place = cache.path(&Digest::of(b"def"));
        std::fs::remove_file(&place).unwrap();
        std::fs::write(&place, "xyz").unwrap();
        let file = |(index, name): (usize, &str)| File {
            role: Role::DiskAdditional,
            index,
            name: FileName::new(name).unwrap(),
            disk_format: Some(DiskFormat::Raw),
            source: eci::Source::Path(path(name)),
        };
        let config = Descriptor::of("x", b"{}");
        let files = ["abc", "def"].into_iter().enumerate().map(file).collect();
        let target = Target {
            manifest: config.clone(),
            index_digest: None,
            platform: Platform::host(),
            artifact: Artifact { config, layers: vec![layer.clone()], files },
        };
        Apart { fetcher: fetcher(dir.path()), source: layout(&remote), _dir: dir, layer, target }
    }

    impl Apart {
        /// How many bytes came from elsewhere until both files are right.
        async fn mend(&self) -> u64 {
            let progress = Progress::new(0, 0);
            let unpacking = Unpacking { keep_layers: false, ..Unpacking::new(&Settings::default()) };
            self.fetcher.unpack(&self.source, "image", &self.target, unpacking, &progress).await.unwrap();
            assert!(!self.fetcher.cache.path(&self.layer.digest).exists());
            let files = self.target.files(&self.fetcher.cache, "image").unwrap();
            assert_eq!(files.len(), 2);
            progress.now().wire_bytes
        }
    }

    #[tokio::test]
    async fn a_layer_that_is_there_is_not_removed_before_what_came_out_of_it_is_right() {
        let apart = apart();
        assert_eq!(apart.mend().await, 0);
    }

    #[tokio::test]
    async fn a_layer_is_fetched_once_for_all_that_is_lost_of_it() {
        let apart = apart();
        apart.fetcher.cache.remove(&apart.layer.digest).unwrap();
        apart.fetcher.cache.remove(&Digest::of(b"abc")).unwrap();
        assert_eq!(apart.mend().await, apart.layer.size);
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
        let turn = fetcher.turns.take(&source, layer).await;
        let mut next = Box::pin(fetcher.turns.take(&source, layer));
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
