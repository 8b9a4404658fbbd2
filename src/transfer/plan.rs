//! What has to be fetched, decided before a byte is.

use std::collections::BTreeSet;

use super::{Target, TransferError};
use crate::blocking;
use crate::cache::Cache;
use crate::eci::File;
use crate::oci::{Descriptor, Digest, Document, MAX_DOCUMENT_BYTES};

/// What an image needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The blobs that are files as they are, and that the cache does not have.
    pub missing: Vec<Descriptor>,
    /// The layers that the cache does not have, and that may have to be fetched for what is in them.
    pub layers: Vec<Descriptor>,
    /// Whether something has to be taken out of layers, or layers were left behind after that.
    pub unpack: bool,
    /// How much is written beside the largest layer while it is taken apart, in bytes, as far as that can be told before:
    /// as much again as it has.
    pub unpacked: u64,
    /// How much is written beside for private copies of disks, in bytes, as far as that can be told before.
    pub copied: u64,
    /// Length of all blobs that matter in bytes: files as they are, and layers that files come out of.
    pub bytes_total: u64,
    /// Length of those that nothing has to be done about: a layer that the cache has counts once it is taken apart.
    pub bytes_present: u64,
}

impl Plan {
    /// Compares the image with the cache, by names and lengths: bytes are left to
    /// [`super::clear_damaged`]. No blob may be larger than `max_file_bytes`.
    pub async fn new(cache: &Cache, target: &Target, max_file_bytes: u64) -> Result<Self, TransferError> {
        let (cache, target) = (cache.clone(), target.clone());
        blocking::run(move || {
            cache.keep_names()?;
            let mut plan = Self::default();
            for blob in target.blobs() {
                check_size(blob, max_file_bytes)?;
                let present = cache.contains(blob);
                plan.count(blob, present);
                if !present {
                    plan.missing.push(blob.clone());
                }
            }
            let packed = target.packed(&cache);
            plan.unpack = !packed.is_empty() || !target.spent(&cache).is_empty();
            for layer in target.layers() {
                check_size(layer, max_file_bytes)?;
                let wanted = packed.iter().find(|packed| packed.layer.digest == layer.digest);
                plan.count(layer, wanted.is_none());
                let Some(wanted) = wanted else { continue };
                if wanted.is_archive() {
                    plan.unpacked = plan.unpacked.max(layer.size);
                }
                if !cache.contains(layer) {
                    plan.layers.push(layer.clone());
                }
            }
            plan.log(&target);
            Ok::<_, TransferError>(plan)
        })
        .await
    }

    /// Logs what is there already, and what has to be fetched.
    fn log(&self, target: &Target) {
        let missing: Vec<_> = self.missing.iter().chain(&self.layers).map(|blob| blob.digest.to_string()).collect();
        let (present, total, missing) = (self.bytes_present, self.bytes_total, missing.join(", "));
        let manifest = &target.manifest.digest;
        tracing::debug!(missing, "image {manifest}: {present} of {total} bytes are there already");
    }

    /// How much private copies of the image's disks take, in bytes: holes left out, where the cache has the disks. Of one that
    /// is named by its path in layers, nothing is known before it is found. Blocks.
    pub fn copies(cache: &Cache, target: &Target) -> u64 {
        let found = target.contents(cache, "").unwrap_or_default();
        let size = |file: &File| {
            let content = found.iter().find(|(other, _)| other.name == file.name).map(|(_, content)| content.digest);
            let digest = content.or_else(|| file.layer().map(|layer| layer.digest));
            let on_disk = digest.and_then(|digest| cache.allocated_bytes(&digest));
            on_disk.or_else(|| file.layer().map(|layer| layer.size)).unwrap_or(0)
        };
        let disks = target.artifact.files.iter().filter(|file| file.role.is_disk());
        disks.fold(0, |sum: u64, file| sum.saturating_add(size(file)))
    }

    /// Whether the cache has all that the image needs, and nothing that it was to be rid of.
    pub fn is_done(&self) -> bool {
        self.missing.is_empty() && !self.unpack
    }

    /// All that may have to be fetched, each once.
    pub fn to_fetch(&self) -> Vec<Descriptor> {
        let mut seen = BTreeSet::new();
        self.missing.iter().chain(&self.layers).filter(|blob| seen.insert(blob.digest)).cloned().collect()
    }

    fn count(&mut self, blob: &Descriptor, present: bool) {
        self.bytes_total = self.bytes_total.saturating_add(blob.size);
        if present {
            self.bytes_present = self.bytes_present.saturating_add(blob.size);
        }
    }
}

/// Whatever may be downloaded of the images with these manifests, by its digest in hexadecimal digits, and the manifests. None
/// where one of them cannot be read: nobody knows then.
pub(super) fn belongings(cache: &Cache, manifests: &BTreeSet<Digest>) -> Option<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for digest in manifests {
        let bytes = cache.read(digest, MAX_DOCUMENT_BYTES)?;
        let Ok(Document::Manifest(manifest)) = Document::parse(&bytes) else { return None };
        all.insert(digest.hex());
        all.extend(manifest.blobs().map(|blob| blob.digest.hex()));
    }
    Some(all)
}

fn check_size(blob: &Descriptor, limit: u64) -> Result<(), TransferError> {
    if blob.size > limit {
        return Err(TransferError::FileTooLarge { digest: blob.digest, size: blob.size, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eci::{DiskFormat, File, FileName, Role, Source};
    use crate::oci::{Manifest, Platform, media_type};
    use crate::transfer::Target;
    use crate::unpack::{Limits, Want, unpack};

    const LIMIT: u64 = 1 << 20;

    struct Fixture {
        _dir: tempfile::TempDir,
        cache: Cache,
        config: Descriptor,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        cache.insert(b"{}").unwrap();
        Fixture { _dir: dir, cache, config: Descriptor::of("x", b"{}") }
    }

    /// A layer that is a tar of one file, whose name makes its bytes differ from others.
    fn layer(name: &str) -> (Vec<u8>, Descriptor) {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        builder.append_data(&mut header, name, &b"abc"[..]).unwrap();
        let bytes = builder.into_inner().unwrap();
        let described = Descriptor::of("application/vnd.oci.image.layer.v1.tar", &bytes);
        (bytes, described)
    }

    impl Fixture {
        fn target(&self, layers: &[&Descriptor], source: Source) -> Target {
            let layers: Vec<Descriptor> = layers.iter().map(|layer| (*layer).clone()).collect();
            let manifest = Manifest::new(self.config.clone(), layers.clone());
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
                artifact: crate::eci::Artifact { config: self.config.clone(), layers, files: vec![file] },
            }
        }

        async fn plan(&self, target: &Target) -> Plan {
            Plan::new(&self.cache, target, LIMIT).await.unwrap()
        }

        /// Unpacks a layer, which does not stay.
        fn unpack(&self, (bytes, layer): &(Vec<u8>, Descriptor), want: Want) {
            self.cache.insert(bytes).unwrap();
            unpack(&self.cache, layer, &[want], Limits::new(LIMIT)).unwrap();
            self.cache.remove(&layer.digest).unwrap();
        }
    }

    #[tokio::test]
    async fn all_layers_that_may_have_to_be_fetched_are_missing() {
        let f = fixture();
        let [below, middle, top] = ["disk", "other", "another"].map(layer);
        let path = Source::Path("disk".parse().unwrap());
        let want = || Want::Path("disk".parse().unwrap());
        let target = f.target(&[&below.1, &middle.1, &top.1], path);
        let plan = f.plan(&target).await;
        assert_eq!(plan.to_fetch(), [&below.1, &middle.1, &top.1].map(Clone::clone));
        assert_eq!((plan.bytes_total, plan.bytes_present), (2 + 3 * top.1.size, 2));
        assert_eq!(plan.unpacked, top.1.size, "there is room for what comes out of one at a time");

        f.unpack(&middle, want());
        let plan = f.plan(&target).await;
        assert_eq!(plan.to_fetch(), [&below.1, &top.1].map(Clone::clone), "of the one between them all is known");
        f.unpack(&top, want());
        f.unpack(&below, want());
        assert!(f.plan(&target).await.is_done());
    }

    #[tokio::test]
    async fn a_layer_that_is_there_is_present_once_it_is_unpacked() {
        let f = fixture();
        let (bytes, described) = layer("disk");
        f.cache.insert(&bytes).unwrap();
        let target = f.target(&[&described], Source::Layer(described.clone()));
        let plan = f.plan(&target).await;
        assert_eq!((plan.to_fetch(), plan.bytes_present), (vec![], 2));
        assert_eq!((plan.unpack, plan.unpacked), (true, 0), "it may as well be the disk itself");
        unpack(&f.cache, &described, &[Want::Only], Limits::new(LIMIT)).unwrap();
        let plan = f.plan(&target).await;
        assert_eq!((plan.bytes_present, plan.unpack), (plan.bytes_total, true), "it is to be removed");
        f.cache.remove(&described.digest).unwrap();
        assert!(f.plan(&target).await.is_done());
    }

    #[tokio::test]
    async fn a_blob_that_is_lost_after_it_came_is_gone_for_now() {
        let f = fixture();
        let packed = layer("disk");
        let disk = Descriptor::of("x", b"abc");
        let path: crate::eci::ImagePath = "disk".parse().unwrap();
        for (source, want) in [
            (Source::Path(path.clone()), Some(Want::Path(path))),
            (Source::Layer(packed.1.clone()), Some(Want::Only)),
            (Source::Blob(disk.clone()), None),
        ] {
            let target = f.target(&[&packed.1], source);
            match want {
                Some(want) => f.unpack(&packed, want),
                None => drop(f.cache.insert(b"abc").unwrap()),
            }
            assert_eq!(target.files(&f.cache, "image").unwrap()[0].1.digest, disk.digest);
            f.cache.remove(&disk.digest).unwrap();
            let error = target.files(&f.cache, "image").unwrap_err();
            assert!(matches!(error, TransferError::Gone(lost) if lost == disk.digest), "{error}");
        }
    }
}
