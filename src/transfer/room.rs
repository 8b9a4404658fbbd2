//! Room for downloads: those that nobody goes on with are given up.

use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::Mutex as AsyncMutex;

use super::plan::belongings;
use super::{Fetcher, Plan, TransferError};
use crate::blocking;
use crate::cache::WIRE;
use crate::durable::DurableError;
use crate::oci::{Descriptor, Digest};

impl Fetcher {
    /// Sees to it that the disk has room for what `plan` has to fetch and to unpack, before a byte of it is. Where it has not,
    /// downloads that were begun for other images and are not under way are given up; where that is not enough, it says
    /// so.
    pub async fn make_room(&self, reference: &str, plan: &Plan) -> Result<(), TransferError> {
        let (fetcher, reference, plan) = (self.clone(), reference.to_owned(), plan.clone());
        blocking::run(move || fetcher.free(&reference, &plan.to_fetch(), plan.unpacked, |_| Ok(()))).await
    }

    /// The same for `blobs`, each of which is named once, and so many bytes beside them, of what comes out of layers and of
    /// copies. What is missing once those downloads are given up, in bytes, `more` is to free. Blocks.
    pub fn free(
        &self,
        reference: &str,
        blobs: &[Descriptor],
        beside: u64,
        more: impl FnOnce(u64) -> Result<(), DurableError>,
    ) -> Result<(), TransferError> {
        let cache = &self.cache;
        let open: Vec<_> = blobs.iter().filter(|blob| !cache.contains(blob)).cloned().collect();
        let length = open.iter().fold(0_u64, |sum, blob| sum.saturating_add(blob.size));
        let needed = length.saturating_sub(cache.partial_bytes(&open)).saturating_add(beside);
        if cache.free_bytes()? < needed {
            self.give_way(&blobs.iter().map(|blob| blob.digest.hex()).collect())?;
        }
        let missing = needed.saturating_sub(cache.free_bytes()?);
        if missing > 0 {
            more(missing)?;
        }
        let usable = cache.free_bytes()?;
        if usable < needed {
            let (reference, reserve) = (reference.to_owned(), cache.reserve());
            let free = cache.free_bytes_with_reserve()?;
            return Err(TransferError::NoRoom { reference, needed, free, reserve });
        }
        Ok(())
    }

    /// Gives up downloads that nobody goes on with, but for those of the images `wanted`, by their manifests, and of the
    /// blobs `in_repair`, which a repair takes up. Which these are is looked at while no download can begin: one that begins
    /// later is not touched. One that was cancelled may still be written, and is waited for.
    pub async fn sweep(
        &self,
        wanted: impl Fn() -> BTreeSet<Digest> + Clone + Send + 'static,
        in_repair: impl Fn() -> BTreeSet<Digest> + Clone + Send + 'static,
    ) -> Result<(), TransferError> {
        loop {
            let (fetcher, wanted, in_repair) = (self.clone(), wanted.clone(), in_repair.clone());
            let sweep = move || {
                let keep = LazyCell::new(|| belongings(&fetcher.cache, &wanted()));
                let in_repair = LazyCell::new(|| in_repair().iter().map(Digest::hex).collect::<BTreeSet<_>>());
                fetcher.abandon(|hex, ending| {
                    // What cannot be known is kept. Of an image that is laid out, nothing counts as taken of the network.
                    let is_wanted = keep.as_ref().is_none_or(|keep| keep.contains(hex));
                    is_wanted || (!ending.starts_with(WIRE) && in_repair.contains(hex))
                })
            };
            let Some(ending) = blocking::run(sweep).await? else { return Ok(()) };
            drop(ending.lock_owned().await);
        }
    }

    /// Gives up downloads that are not under way, but for those of the blobs `keep`, in hexadecimal digits: the room is needed.
    fn give_way(&self, keep: &BTreeSet<String>) -> Result<(), DurableError> {
        // A note takes no room worth having, and may belong to an image that another workload fetches.
        self.abandon(|hex, ending| ending.starts_with(WIRE) || keep.contains(hex)).map(drop)
    }

    /// Gives up downloads that are not under way and that `keeps` does not want to keep. Whether one is under way is looked
    /// at while none can begin; the result is one that would go otherwise.
    fn abandon(&self, keeps: impl Fn(&str, &str) -> bool) -> Result<Option<Arc<AsyncMutex<()>>>, DurableError> {
        self.turns.hold(|under_way| {
            self.cache.abandon_partials(|hex, ending| keeps(hex, ending) || under_way.contains_key(hex))?;
            Ok(under_way.into_iter().find(|(hex, _)| !keeps(hex, "")).map(|(_, lock)| lock))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::config::Settings;
    use crate::oci::Reference;
    use crate::registry::{LayoutSource, Source};
    use crate::transfer::Progress;
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
        let turn = fetcher.turns.take(&source, blob.digest).await;
        assert_eq!((fetcher.abandon(|_, _| false).unwrap().is_some(), landed()), (true, 3));
        let (mut rest, mut sweep) = (Box::pin(fetcher.rest()), Box::pin(fetcher.sweep(BTreeSet::new, BTreeSet::new)));
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
        fetcher.sweep(wanted.clone(), BTreeSet::new).await.unwrap();
        assert_eq!([&config, &layer, &other].map(landed), [1, 1, 1], "nobody knows what the image has");
        let note = fetcher.cache.wire_note(&fetcher.cache.insert(&manifest).unwrap());
        std::fs::write(&note, "5").unwrap();
        fetcher.sweep(wanted.clone(), BTreeSet::new).await.unwrap();
        assert_eq!(([&config, &layer, &other].map(landed), note.exists()), ([1, 1, 0], true));
        let (in_repair, manifest) = (layer.digest, Digest::of(&manifest));
        fetcher.sweep(BTreeSet::new, move || BTreeSet::from([in_repair, manifest])).await.unwrap();
        assert_eq!(([&config, &layer].map(landed), note.exists()), ([0, 1], false), "a repair takes it up");
        fetcher.sweep(BTreeSet::new, BTreeSet::new).await.unwrap();
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
                async move { fetcher.sweep(BTreeSet::new, BTreeSet::new).await }
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
}
