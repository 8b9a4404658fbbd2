//! Reading what the cache had before, so that nothing damaged is made use of.

use tokio_util::sync::CancellationToken;

use super::Target;
use crate::blocking;
use crate::cache::Cache;
use crate::durable::DurableError;
use crate::oci::{Descriptor, Digest};

/// Reads what the cache has of the image, as far as this process has not seen it to be right. What is not right is removed, and
/// is the result: it has to be fetched again. Whoever does not wait for it any more ends it.
pub async fn clear_damaged(cache: &Cache, target: &Target) -> Result<Vec<Digest>, DurableError> {
    let (looked_at, target) = (cache.clone(), target.clone());
    let blobs = blocking::run(move || target.present(&looked_at)).await;
    clear_blobs(cache, blobs).await
}

/// The same for `blobs`, which are there.
pub(super) async fn clear_blobs(cache: &Cache, blobs: Vec<Descriptor>) -> Result<Vec<Digest>, DurableError> {
    let _turn = cache.reader().await;
    let (cache, stop) = (cache.clone(), CancellationToken::new());
    let _waiting = stop.clone().drop_guard();
    blocking::run(move || {
        let mut damaged = Vec::new();
        for blob in blobs {
            match cache.holds_while(&blob, || !stop.is_cancelled())? {
                Some(true) => {}
                Some(false) => damaged.push(blob.digest),
                None => break,
            }
        }
        Ok(damaged)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eci::{Artifact, DiskFormat, File, FileName, ImagePath, Role, Source};
    use crate::oci::{Manifest, Platform, media_type};
    use crate::transfer::Plan;
    use crate::unpack::{Limits, Want, unpack};
    use std::fs;
    use std::path::Path;
    use std::time::{Duration, Instant};

    const LIMIT: u64 = 1 << 40;
    const PATIENCE: Duration = Duration::from_secs(60);

    /// An image with one disk, which comes from `source`.
    fn target(layers: &[Descriptor], source: Source) -> Target {
        let config = Descriptor::of("x", b"{}");
        let manifest = Manifest::new(config.clone(), layers.to_vec());
        let file = File {
            role: Role::DiskRoot,
            index: 0,
            name: FileName::new("disk-root").unwrap(),
            disk_format: Some(DiskFormat::Raw),
            source,
        };
        Target {
            manifest: Descriptor::of(media_type::MANIFEST, &serde_json::to_vec(&manifest).unwrap()),
            index_digest: None,
            platform: Platform::host(),
            artifact: Artifact { config, layers: layers.to_vec(), files: vec![file] },
        }
    }

    /// As another process has left the cache, with other bytes in the place of those of `digest`.
    fn damaged(dir: &Path, digest: &Digest) -> Cache {
        let path = Cache::open(dir).unwrap().path(digest);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "xyz").unwrap();
        Cache::open(dir).unwrap()
    }

    #[tokio::test]
    async fn planning_goes_by_names_and_what_is_damaged_is_found_afterwards() {
        let path: ImagePath = "disk".parse().unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        builder.append_data(&mut header, "disk", &b"abc"[..]).unwrap();
        let bytes = builder.into_inner().unwrap();
        let layer = Descriptor::of("application/vnd.oci.image.layer.v1.tar", &bytes);
        let disk = Descriptor::of("x", b"abc");
        for (source, want) in [
            (Source::Blob(disk.clone()), None),
            (Source::Layer(layer.clone()), Some(Want::Only)),
            (Source::Path(path.clone()), Some(Want::Path(path))),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let cache = Cache::open(dir.path()).unwrap();
            for document in [&b"{}"[..], b"abc", &bytes] {
                cache.insert(document).unwrap();
            }
            if let Some(want) = want {
                unpack(&cache, &layer, &[want], Limits::new(LIMIT)).unwrap();
            }
            cache.remove(&layer.digest).unwrap();
            let target = target(std::slice::from_ref(&layer), source);
            assert_eq!(clear_damaged(&cache, &target).await.unwrap(), []);

            let cache = damaged(dir.path(), &disk.digest);
            let plan = Plan::new(&cache, &target, LIMIT).await.unwrap();
            assert!(plan.is_done() && plan.bytes_present == plan.bytes_total && cache.path(&disk.digest).exists());
            assert_eq!(clear_damaged(&cache, &target).await.unwrap(), [disk.digest]);
            assert!(!cache.path(&disk.digest).exists());
            let plan = Plan::new(&cache, &target, LIMIT).await.unwrap();
            assert!(!plan.is_done() && plan.bytes_present == 2, "all but the config: {plan:?}");

            cache.insert(b"abc").unwrap();
            let cache = damaged(dir.path(), &Digest::of(b"{}"));
            assert_eq!(clear_damaged(&cache, &target).await.unwrap(), [], "it has another length");
            let plan = Plan::new(&cache, &target, LIMIT).await.unwrap();
            let planned: Vec<_> = plan.missing.iter().map(|blob| blob.digest).collect();
            assert_eq!(planned, [Digest::of(b"{}")]);
        }
    }

    #[tokio::test]
    async fn what_was_not_verified_does_not_become_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Descriptor::of("x", b"abc");
        Cache::open(dir.path()).unwrap().insert(b"abc").unwrap();
        let cache = damaged(dir.path(), &disk.digest);
        let target = target(&[], Source::Blob(disk));
        assert_eq!(target.contents(&cache, "image").unwrap().len(), 1);
        assert!(target.files(&cache, "image").is_err());
    }

    #[test]
    fn whoever_does_not_wait_ends_the_reading() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        // Reading all of it would take a quarter of an hour at the least.
        let disk = Descriptor::new("x", Digest::of(b"none"), 1 << 40);
        fs::File::create(cache.path(&disk.digest)).unwrap().set_len(disk.size).unwrap();
        let is_open = || {
            let open = fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok);
            open.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|file| file == cache.path(&disk.digest))
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (verified, target) = (cache.clone(), target(&[], Source::Blob(disk.clone())));
        let reading = runtime.spawn(async move { clear_damaged(&verified, &target).await });
        let begun = Instant::now();
        while !is_open() {
            assert!(begun.elapsed() < PATIENCE, "nothing is read");
            std::thread::yield_now();
        }
        reading.abort();
        // It waits for the threads that have something to do.
        runtime.shutdown_timeout(PATIENCE);
        assert!(!is_open() && cache.contains(&disk), "what nobody has read is not damaged");
    }
}
