//! Images for the demo: too small to boot, but of the form of those that do.

use std::path::{Path, PathBuf};

use super::{Stage, failed};
use crate::config::Settings;
use crate::eci::DiskFormat;
use crate::failure::Failure;
use crate::oci::Reference;
use crate::publish::{Disk, Image, Pushed, Silent, push};

/// Sizes in bytes: that of a kernel does not change with the version, so an update need not fetch it.
const KERNEL: usize = 512 * 1024;
const INITRD: usize = 256 * 1024;
const ROOT: usize = 2 * 1024 * 1024;

/// The layout that the demo's registry serves.
pub(super) fn layout(stage: &Stage) -> PathBuf {
    stage.path("registry")
}

/// Makes version `tag` of the image and pushes it into the layout.
pub(super) async fn publish(stage: &Stage, tag: &str) -> Result<Pushed, Failure> {
    let dir = stage.path(tag);
    std::fs::create_dir(&dir).map_err(|error| failed("make a directory", &error))?;
    let file = |name: &str, seed: &str, size: usize| write(&dir.join(name), seed, size);
    let image = Image {
        kernel: Some(file("vmlinuz", "kernel", KERNEL)?),
        initrd: Some(file("initrd.img", tag, INITRD)?),
        root: Some(Disk { path: file("root.raw", &format!("root disk of {tag}\n"), ROOT)?, format: DiskFormat::Raw }),
        ..Image::default()
    };
    let target: Reference = format!("oci:{}:{tag}", layout(stage).display()).parse()?;
    Ok(push(&Settings::default(), &target, &image, &[], &Silent).await?)
}

/// A file of `size` bytes that begins with `text` and goes on without repeating itself.
fn write(path: &Path, text: &str, size: usize) -> Result<PathBuf, Failure> {
    let mut random =
        fastrand::Rng::with_seed(text.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31) ^ u64::from(byte)));
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize_with(size, || random.u8(..));
    std::fs::write(path, bytes).map_err(|error| failed(&format!("write {}", path.display()), &error))?;
    Ok(path.to_owned())
}
