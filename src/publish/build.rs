//! From local files to blobs, and the manifests that name them. The same files give the same digests: nothing here
//! depends on a clock, on a path's directories or on chance.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::image::{Format, Image, Part};
use super::pack::{Packed, Staging, pack};
use super::{BuildError, Observer, PublishError, config};
use crate::blocking;
use crate::cache::{Cache, Staged, measure, measure_with};
use crate::durable::{create_file, remove_file};
use crate::eci::{MEDIA_TYPE, media_type};
use crate::oci::{self, Descriptor, Digest, Manifest, Platform, TITLE};
use crate::transfer::Progress;

/// The config's file name.
const CONFIG_TITLE: &str = "config.json";
/// Files of this length in bytes take a while to be read: somebody who looks is told how far it is.
const LONG: u64 = 64 << 20;

/// An image, ready to be sent.
#[derive(Clone, Debug)]
pub(super) struct Built {
    /// The manifests: one without a platform, or one for each.
    pub(super) manifests: Vec<Sheet>,
    /// The layers in order, then the configs; each content once.
    pub(super) blobs: Vec<Blob>,
}

/// A manifest or an index, and what describes it.
#[derive(Clone, Debug)]
pub(super) struct Sheet {
    pub(super) descriptor: Descriptor,
    pub(super) bytes: Bytes,
}

/// Some content, and where it is.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    /// What it is called.
    pub(super) title: String,
    /// What the manifest says of it.
    pub(super) descriptor: Descriptor,
    /// Where its bytes are.
    pub(super) content: Content,
}

/// Where a blob's bytes are.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// In a file.
    File(PathBuf),
    /// In a file of ours that has no name any more: it is gone when nobody holds it, however we end.
    Unnamed(Arc<File>),
    /// In the layout that is pushed to.
    Stored,
    /// In memory.
    Bytes(Bytes),
}

/// Where what has to be packed first is put.
#[derive(Clone, Debug)]
pub(super) enum Shelf {
    /// Into the layout that is pushed to.
    Layout(Cache),
    /// Beside other programs' temporary files.
    Temporary,
}

/// Reads the files, packs them where the format wants it, and writes the manifests.
pub(super) async fn build(
    image: &Image,
    parts: Vec<Part>,
    shelf: &Shelf,
    observer: &dyn Observer,
) -> Result<Built, PublishError> {
    let (mut blobs, mut diff_ids) = (Vec::with_capacity(parts.len() + 1), Vec::with_capacity(parts.len()));
    for part in &parts {
        let size = part.path.metadata().map_or(0, |found| found.len());
        let progress = Arc::new(Progress::new(size, 0));
        if size >= LONG {
            observer.begin(&format!("read {}", part.name), &progress);
        }
        let (part, format, shelf) = (part.clone(), image.format, shelf.clone());
        let made = blocking::run(move || layer(&part, format, &shelf, |bytes| progress.receive(bytes))).await;
        if size >= LONG {
            observer.end();
        }
        let (blob, diff_id) = made?;
        blobs.push(blob);
        diff_ids.push(diff_id);
    }
    let image = image.clone();
    Ok(blocking::run(move || finish(&image, &parts, blobs, &diff_ids)).await?)
}

/// A part as a layer, and the digest of its content: of the tar in a packed one, else its own.
fn layer(part: &Part, format: Format, shelf: &Shelf, on_piece: impl FnMut(u64)) -> Result<(Blob, Digest), BuildError> {
    let (digest, size, content, diff_id) = match format {
        Format::Artifacts => {
            let (digest, size) = measure_with(&part.path, on_piece)?;
            (digest, size, Content::File(part.path.clone()), digest)
        }
        Format::Legacy => {
            let (packed, content) = shelve(part, shelf, on_piece)?;
            (packed.digest, packed.size, content, packed.diff_id)
        }
    };
    let descriptor = part.describe(format, Descriptor::new("", digest, size));
    Ok((Blob { title: part.name.to_string(), descriptor, content }, diff_id))
}

fn shelve(part: &Part, shelf: &Shelf, on_piece: impl FnMut(u64)) -> Result<(Packed, Content), BuildError> {
    let name = part.name.as_str();
    match shelf {
        Shelf::Layout(cache) => {
            let mut staged = Staged::create(cache, &format!("pack-{}-{}", part.role, part.index))?;
            let packed = pack(&part.path, name, cache.root(), Staging(&mut staged), on_piece)?;
            staged.finish()?;
            Ok((packed, Content::Stored))
        }
        Shelf::Temporary => {
            let file = unnamed()?;
            let packed = pack(&part.path, name, &std::env::temp_dir(), BufWriter::new(&file), on_piece)?;
            Ok((packed, Content::Unnamed(Arc::new(file))))
        }
    }
}

/// A temporary file that is gone once it is closed, also where we are killed.
fn unnamed() -> Result<File, BuildError> {
    let path = std::env::temp_dir().join(format!("eci-push-{}-{:08x}", std::process::id(), fastrand::u32(..)));
    let file = create_file(&path, 0o600)?;
    remove_file(&path)?;
    Ok(file)
}

fn finish(image: &Image, parts: &[Part], mut blobs: Vec<Blob>, diff_ids: &[Digest]) -> Result<Built, BuildError> {
    let layers: Vec<Descriptor> = blobs.iter().map(|blob| blob.descriptor.clone()).collect();
    let mut manifests = Vec::new();
    for platform in image.targets()? {
        let config = config_blob(image, &platform, parts, diff_ids)?;
        let mut manifest = Manifest::new(config.descriptor.clone(), layers.clone());
        manifest.annotations.clone_from(&image.annotations);
        let bytes: Bytes = serde_json::to_vec(&manifest)?.into();
        let mut descriptor = Descriptor::of(oci::media_type::MANIFEST, &bytes);
        descriptor.platform = (!image.platforms.is_empty()).then_some(platform);
        manifests.push(Sheet { descriptor, bytes });
        blobs.push(config);
    }
    let mut seen = BTreeSet::new();
    blobs.retain(|blob| seen.insert(blob.descriptor.digest));
    Ok(Built { manifests, blobs })
}

/// The config: the one that is given, as it is, or one of our own.
fn config_blob(image: &Image, platform: &Platform, parts: &[Part], diff_ids: &[Digest]) -> Result<Blob, BuildError> {
    let media_type = match image.format {
        Format::Artifacts => media_type::CONFIG,
        Format::Legacy => oci::media_type::CONFIG,
    };
    let (descriptor, content) = if let Some(path) = &image.config {
        let (digest, size) = measure(path)?;
        (Descriptor::new(media_type, digest, size), Content::File(path.clone()))
    } else {
        let bytes = config::generate(image, platform, parts, diff_ids)?;
        (Descriptor::of(media_type, &bytes), Content::Bytes(bytes.into()))
    };
    let descriptor = descriptor.with(MEDIA_TYPE, media_type::CONFIG).with(TITLE, CONFIG_TITLE);
    Ok(Blob { title: CONFIG_TITLE.to_owned(), descriptor, content })
}

/// Whether a file is still as long as it was: a cheap look, before its bytes are found to be others.
pub(super) fn has_length(path: &Path, size: u64) -> io::Result<bool> {
    Ok(path.metadata()?.len() == size)
}

#[cfg(test)]
mod tests {
    use super::super::image::Disk;
    use super::*;
    use crate::eci::{DiskFormat, ROLE};
    use crate::oci::Document;
    use crate::publish::Silent;
    use std::fs;

    fn write(dir: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join(name), content).unwrap();
        dir.join(name)
    }

    fn image(dir: &Path) -> Image {
        let disk = |name: &str, format| Disk { path: write(dir, name, name), format };
        Image {
            kernel: Some(write(dir, "vmlinuz-6.1", "kernel")),
            initrd: Some(write(dir, "initrd.img", "initrd")),
            root: Some(disk("root.raw", DiskFormat::Raw)),
            disks: vec![
                Disk { path: write(dir, "data.qcow2", b"QFI\xfb\0\0\0\x03"), format: DiskFormat::Qcow2 },
                disk("root.raw", DiskFormat::Raw),
            ],
            author: Some("A. Author".to_owned()),
            arch: Some("arm64/v8".to_owned()),
            ..Image::default()
        }
    }

    async fn built(image: &Image) -> Built {
        build(image, image.parts().unwrap(), &Shelf::Temporary, &Silent).await.unwrap()
    }

    fn manifest(sheet: &Sheet) -> Manifest {
        match Document::parse(&sheet.bytes).unwrap() {
            Document::Manifest(manifest) => manifest,
            Document::Index(_) => panic!(),
        }
    }

    #[tokio::test]
    async fn layers_have_order_types_roles_and_names() {
        let dir = tempfile::tempdir().unwrap();
        let others = vec![write(dir.path(), "notes.txt", "notes")];
        let annotations = [("org.example.a".to_owned(), "b".to_owned())].into();
        let built = built(&Image { others, annotations, ..image(dir.path()) }).await;
        let [sheet] = &built.manifests[..] else { panic!() };
        let manifest = manifest(sheet);
        let told: Vec<_> = manifest
            .layers
            .iter()
            .map(|layer| [&layer.media_type, layer.annotation(ROLE).unwrap_or(""), layer.annotation(TITLE).unwrap()])
            .collect();
        let expected = [
            [media_type::KERNEL, "kernel", "kernel"],
            [media_type::INITRD, "initrd", "initrd"],
            ["application/vnd.lfedge.disk.layer.v1+raw", "disk-root", "disk-root-root.raw"],
            ["application/vnd.lfedge.disk.layer.v1+qcow2", "disk-additional", "disk-0-data.qcow2"],
            ["application/vnd.lfedge.disk.layer.v1+raw", "disk-additional", "disk-1-root.raw"],
            [media_type::OTHER, "", "notes.txt"],
        ];
        assert_eq!(told, expected);
        assert!(manifest.layers.iter().all(|layer| layer.annotation(MEDIA_TYPE) == Some(&layer.media_type)));
        assert_eq!(manifest.config.media_type, media_type::CONFIG);
        assert_eq!(manifest.config.annotation(TITLE), Some("config.json"));
        assert_eq!(manifest.layers[0].digest, Digest::of(b"kernel"));
        assert_eq!(manifest.annotations["org.example.a"], "b");
        assert_eq!(sheet.descriptor.digest, Digest::of(&sheet.bytes));
        assert_eq!(built.blobs.len(), 6, "the same disk twice is one blob; the config is the last");
        let Content::Bytes(config) = &built.blobs[5].content else { panic!() };
        let config: serde_json::Value = serde_json::from_slice(config).unwrap();
        let diff_ids: Vec<_> = manifest.layers.iter().map(|layer| layer.digest).collect();
        let expected = serde_json::json!({
            "author": "A. Author", "os": "linux", "architecture": "arm64", "variant": "v8",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        assert_eq!(config, expected);
    }

    #[tokio::test]
    async fn the_same_files_make_the_same_image_wherever_they_are() {
        let dir = tempfile::tempdir().unwrap();
        for format in [Format::Artifacts, Format::Legacy] {
            let mut digests = Vec::new();
            for name in ["here", "there"] {
                let image = Image { format, ..image(&dir.path().join(name)) };
                digests.push(built(&image).await.manifests[0].descriptor.digest);
            }
            assert_eq!(digests[0], digests[1], "{format:?}");
        }
    }

    #[tokio::test]
    async fn a_config_of_ones_own_is_taken_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let config = write(dir.path(), "my.json", "{ }");
        let built = built(&Image { config: Some(config), ..image(dir.path()) }).await;
        assert_eq!(manifest(&built.manifests[0]).config.digest, Digest::of(b"{ }"));
    }

    #[tokio::test]
    async fn there_is_a_manifest_for_each_platform_and_each_blob_once() {
        let dir = tempfile::tempdir().unwrap();
        let platforms = ["linux/amd64", "linux/arm64"].map(|text| text.parse().unwrap()).to_vec();
        let built = built(&Image { platforms, ..image(dir.path()) }).await;
        assert_eq!((built.manifests.len(), built.blobs.len()), (2, 4 + 2));
        assert_eq!(built.manifests[1].descriptor.platform, Some("linux/arm64".parse().unwrap()));
    }
}
