//! What guests may write to: private copies of disks, and overlays on them, each apart from everything else.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::common::agent::{Node, files_below};
use crate::common::disk_image::{BTRFS, EXT4, Kind, Mounted, XFS, make, mount_apart, run, scratch};
use crate::common::docker_registry::program;
use crate::common::image::Image;
use crate::common::registry::{On, Registry, digest};

const REPO: &str = "edge/nginx";
const MIB: usize = 1 << 20;

struct Fixture {
    registry: Registry,
    node: Node,
}

impl Fixture {
    fn new() -> Self {
        Self { registry: Registry::http(), node: Node::new() }
    }

    /// Has the agent boot this image, whose guest may write to `disks`.
    fn boot(&mut self, image: &Image, tag: &str, disks: &str) {
        image.publish(&self.registry, REPO, tag);
        self.desire(tag, disks);
        if !self.node.socket().exists() {
            self.node.start();
        }
        self.node.until_activated(&format!("nginx:{tag}"));
    }

    fn desire(&self, tag: &str, disks: &str) {
        let reference = self.registry.reference(REPO, tag);
        self.node.desire(&format!("image = \"{reference}\"\ndisks = \"{disks}\"\n"));
    }

    fn generation(&self, number: u32) -> PathBuf {
        self.node.state_dir().join("generations/default").join(number.to_string())
    }

    fn blob(&self, bytes: &[u8]) -> PathBuf {
        self.node.state_dir().join("cache/blobs").join(digest(bytes).replace(':', "/"))
    }

    /// What `launch.json` says of a file of what is current, by its role.
    fn described(&self, role: &str) -> Value {
        let launch: Value = serde_json::from_slice(&self.node.current("launch.json")).unwrap();
        launch["files"].as_array().unwrap().iter().find(|file| file["role"] == role).unwrap().clone()
    }

    fn fsck(&self, arguments: &[&str]) -> (Value, i32) {
        let output = self.node.eci(&[&["fsck", "--json"], arguments].concat());
        (serde_json::from_slice::<Value>(&output.stdout).unwrap()["damage"].clone(), output.status.code().unwrap())
    }

    fn is_whole(&self) {
        assert_eq!(self.fsck(&[]), (json!([]), 0));
    }

    /// The agent, started anew, goes on with the generation that it has.
    fn restarts_with(&mut self, generation: u64) {
        self.node.stop();
        self.node.start();
        self.node.until_phase("active");
        assert_eq!(self.node.status()["workloads"]["default"]["current"]["generation"], generation);
    }
}

/// Has a guest write to its disk.
fn write(disk: &Path) {
    let disk = File::options().write(true).open(disk).unwrap();
    disk.write_all_at(b"by the guest", 0).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writable_disk_is_the_guests_own() {
    let mut f = Fixture::new();
    let image = Image { disks: vec![b"more data".to_vec()], ..Image::new("v1") };
    f.boot(&image, "v1", "writable");
    let (root, data) = (f.generation(1).join("disk-root-root.raw"), f.generation(1).join("disk-0-data.raw"));
    assert_eq!(fs::metadata(f.generation(1).join("disk-root")).unwrap().mode() & 0o7777, 0o660);
    assert_eq!((fs::read(&root).unwrap(), fs::read(&data).unwrap()), (image.root.clone(), b"more data".to_vec()));
    for (role, path, bytes) in [("disk-root", &root, &image.root[..]), ("disk-additional", &data, b"more data")] {
        let said = f.described(role);
        assert_eq!(
            (&said["path"], &said["writable"], &said["format"], &said["base"], &said["digest"], &said["size"]),
            (&json!(path), &json!(true), &json!("raw"), &json!(null), &json!(digest(bytes)), &json!(bytes.len()))
        );
    }
    assert_eq!(f.described("kernel")["writable"], false);

    write(&root);
    File::options().append(true).open(&data).unwrap().set_len(5000).unwrap();
    f.is_whole();
    assert_eq!(fs::read(f.blob(&image.root)).unwrap(), image.root);
    f.restarts_with(1);
    assert!(f.node.eci(&["gc"]).status.success());
    assert!(f.blob(&image.root).exists(), "to lay it out again is to cost nothing");

    // A fresh copy for each generation, and nothing is fetched for it.
    f.registry.take_log();
    f.node
        .desire(&format!("image = \"{}\"\ndisks = \"writable\"\ncmdline = \"x\"\n", f.registry.reference(REPO, "v1")));
    f.node.until("activated", |event| event["event"] == "activated" && event["generation"] == 2);
    assert_eq!(f.node.current("disk-root"), image.root);
    assert!(fs::read(&root).unwrap().starts_with(b"by the guest"), "the previous one is as the guest left it");
    f.desire("v1", "read-only");
    f.node.until("activated", |event| event["event"] == "activated" && event["generation"] == 3);
    assert_eq!(fs::metadata(f.generation(3).join("disk-root")).unwrap().mode() & 0o7777, 0o444);
    assert_eq!(f.registry.body_bytes(&On::blobs()), 0);
    f.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writable_disk_that_is_lost_is_replaced_by_a_fresh_one() {
    let mut f = Fixture::new();
    let image = Image::new("v1");
    f.boot(&image, "v1", "writable");
    f.node.stop();
    let root = f.generation(1).join("disk-root-root.raw");
    for what in ["nothing", "a directory"] {
        fs::remove_file(&root).unwrap();
        if what == "a directory" {
            fs::create_dir(&root).unwrap();
        }
        let (damage, code) = f.fsck(&[]);
        assert_eq!((damage.as_array().unwrap().len(), code), (1, 65), "{damage}");
        assert_eq!(f.fsck(&["--repair"]).1, 0);
        let found = fs::metadata(&root).unwrap();
        assert_eq!((fs::read(&root).unwrap(), found.mode() & 0o7777), (image.root.clone(), 0o660));
        assert_ne!(found.ino(), fs::metadata(f.blob(&image.root)).unwrap().ino(), "a guest never writes to the cache");
        f.is_whole();
    }
    // The agent by itself lays out another generation, as for any file.
    fs::remove_file(&root).unwrap();
    f.node.start();
    f.node.until("activated", |event| event["event"] == "activated" && event["generation"] == 2);
}

/// The disk of an image, half of it a hole, that no disk of another label has a byte in common with.
fn half_a_hole(label: &str) -> Image {
    let mut image = Image::new(label).with_root_of(4 * MIB);
    image.root.resize(8 * MIB, 0);
    image
}

/// A node whose state directory is on a file system of `kind`.
fn on(test: &str, kind: Kind, dir: &Path) -> Option<(Mounted, Fixture)> {
    let (image, f) = (dir.join(kind.name), Fixture::new());
    make(test, kind, &image)?;
    Some((Mounted::mount(kind, &image, &f.node.state_dir()).unwrap(), f))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_copy_shares_what_the_file_system_can_share_and_has_its_holes() {
    const TEST: &str = "a_private_copy_shares_what_the_file_system_can_share_and_has_its_holes";
    let dir = scratch();
    if mount_apart(TEST).is_none() || program(TEST, "filefrag").is_none() {
        return;
    }
    for (kind, shares) in [(EXT4, false), (XFS, true), (BTRFS, true)] {
        let Some((mounted, mut f)) = on(TEST, kind, dir.path()) else { continue };
        f.boot(&half_a_hole("v1"), "v1", "writable");
        let root = f.generation(1).join("disk-root-root.raw");
        let extents = run("filefrag", &["-v", root.to_str().unwrap()]).unwrap();
        assert_eq!(extents.contains("shared"), shares, "{}: {extents}", kind.name);
        assert!(fs::metadata(&root).unwrap().blocks() * 512 <= 4 * MIB as u64 + 65536, "{}: {extents}", kind.name);
        write(&root);
        f.is_whole();
        f.node.stop();
        mounted.unmount();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_tells_of_a_private_copy_what_is_not_shared_with_the_cache() {
    const TEST: &str = "a_collection_tells_of_a_private_copy_what_is_not_shared_with_the_cache";
    let dir = scratch();
    if mount_apart(TEST).is_none() {
        return;
    }
    for (kind, shares) in [(EXT4, false), (XFS, true), (BTRFS, true)] {
        let Some((mounted, mut f)) = on(TEST, kind, dir.path()) else { continue };
        f.boot(&half_a_hole("v1"), "v1", "writable");
        let reference = f.registry.reference(REPO, "v1");
        // The same image once more, so that the cache is to keep it.
        f.node.desire(&format!("image = \"{reference}\"\ndisks = \"writable\"\ncmdline = \"x\"\n"));
        f.node.until("activated", |event| event["event"] == "activated" && event["generation"] == 2);
        f.node.stop();
        f.node.configure("[cache]\nkeep = 0\n");
        let report = f.node.eci(&["gc", "--dry-run", "--json"]).stdout;
        let report: Value = serde_json::from_slice(&report).unwrap();
        assert_eq!(report["removed"].as_array().map(Vec::len), Some(1), "{}: {report}", kind.name);
        let (bytes, freed) = (report["removed"][0]["generation"]["bytes"].as_u64().unwrap(), &report["freed_bytes"]);
        let expected = if shares { 1..65536 } else { 4 * MIB as u64..4 * MIB as u64 + 65536 };
        assert!(expected.contains(&bytes) && *freed == bytes, "{}: {report}", kind.name);
        assert!(f.generation(1).exists() && !f.generation(1).with_file_name(".reflink.new").exists());
        mounted.unmount();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_takes_room_of_its_own_needs_that_room_before_anything_is_fetched() {
    const TEST: &str = "a_copy_that_takes_room_of_its_own_needs_that_room_before_anything_is_fetched";
    let dir = scratch();
    if mount_apart(TEST).is_none() {
        return;
    }
    for (kind, size, fits) in [(EXT4, 50, false), (XFS, 140, true), (BTRFS, 130, true)] {
        let Some((mounted, mut f)) = on(TEST, kind, dir.path()) else { continue };
        let image = Image::new("v1").with_root_of(size * MIB);
        image.publish(&f.registry, REPO, "v1");
        f.desire("v1", "writable");
        f.node.start();
        if !fits {
            let failed = f.node.until_failed("disk-full");
            assert_eq!(f.registry.count(&On::blobs().get()), 0, "{failed}");
            f.desire("v1", "read-only");
            f.node.until_activated("nginx:v1");
            // All of it is in the cache now, and the copy has no more room than before.
            f.desire("v1", "writable");
            f.node.until_failed("disk-full");
            assert_eq!(files_below(&f.node.state_dir().join("generations/default/1")).len(), 7);
        } else {
            f.node.until_activated("nginx:v1");
        }
        f.node.stop();
        mounted.unmount();
    }
}

fn qemu_io(disk: &Path, command: &str) {
    let output = Command::new("qemu-io").args(["-f", "qcow2", "-c", command]).arg(disk).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && !said.contains("failed"), "{command}: {said}{output:?}");
}

/// Has a guest write to its disk, whose overlay that is.
fn write_over(overlay: &Path) {
    qemu_io(overlay, "write -P 0x55 64k 64k");
}

fn has_what_was_written(overlay: &Path) {
    qemu_io(overlay, "read -P 0x55 64k 64k");
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlay_takes_what_the_guest_writes_and_the_disk_below_stays_as_it_is() {
    const TEST: &str = "an_overlay_takes_what_the_guest_writes_and_the_disk_below_stays_as_it_is";
    if program(TEST, "qemu-img").is_none() {
        return;
    }
    let mut f = Fixture::new();
    let image = Image { disks: vec![vec![7; MIB]], ..Image::new("v1").with_root_of(MIB) };
    f.boot(&image, "v1", "overlay");
    let (dir, stable) = (f.generation(1), f.generation(1).join("disk-root"));
    let overlay = dir.join("disk-root.overlay.qcow2");
    assert_eq!(fs::read_link(&stable).unwrap(), Path::new("disk-root.overlay.qcow2"));
    assert_eq!(fs::read_link(dir.join("disk-0")).unwrap(), Path::new("disk-0.overlay.qcow2"));
    assert_eq!(fs::metadata(&overlay).unwrap().mode() & 0o7777, 0o660);
    let said = f.described("disk-root");
    let base = dir.join("disk-root-root.raw");
    assert_eq!(
        (&said["path"], &said["format"], &said["writable"], &said["base"], &said["digest"], &said["size"]),
        (
            &json!(overlay),
            &json!("qcow2"),
            &json!(true),
            &json!({"path": base, "format": "raw"}),
            &json!(digest(&image.root)),
            &json!(MIB)
        )
    );
    assert_eq!(inode(&base), inode(&f.blob(&image.root)), "the disk below shares its bytes with the cache");
    let info = run("qemu-img", &["info", "--output=json", overlay.to_str().unwrap()]).unwrap();
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(
        (&info["backing-filename"], &info["backing-filename-format"], &info["virtual-size"]),
        (&json!("./disk-root-root.raw"), &json!("raw"), &json!(MIB))
    );

    write_over(&stable);
    has_what_was_written(&overlay);
    assert!(fs::read(&base).unwrap() == image.root);
    f.is_whole();
    f.restarts_with(1);
    // The disk below is verified as any other file is, and the overlay is not touched by its repair.
    let rotten = Image::new("rotten").with_root_of(MIB).root;
    File::options().write(true).open(&base).unwrap().write_all_at(&rotten[..9], 5).unwrap();
    assert_eq!(f.fsck(&[]).0.as_array().unwrap().len(), 2, "the blob, and the disk that shares its bytes");
    assert_eq!(f.fsck(&["--repair"]).1, 0);
    assert!(fs::read(&base).unwrap() == image.root);
    has_what_was_written(&stable);
    // A link that leads past the overlay would have the guest write to the disk below.
    fs::remove_file(&stable).unwrap();
    std::os::unix::fs::symlink("disk-root-root.raw", &stable).unwrap();
    assert_eq!(f.fsck(&["--repair"]).1, 0);
    assert_eq!(fs::read_link(&stable).unwrap(), Path::new("disk-root.overlay.qcow2"));
    fs::remove_file(&overlay).unwrap();
    assert_eq!(f.fsck(&["--repair"]).1, 0);
    qemu_io(&stable, "write -P 0x55 64k 64k");
    f.is_whole();

    // It begins empty with each generation.
    f.boot(&Image { kernel: b"another".to_vec(), ..image.clone() }, "v2", "overlay");
    let fresh = f.generation(2).join("disk-root");
    assert_ne!(inode(&fresh), inode(&overlay));
    assert_eq!(
        run("qemu-img", &["map", "--output=json", fresh.to_str().unwrap()]).unwrap().matches("\"depth\": 0").count(),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlay_goes_over_to_the_next_generation_where_its_disk_does() {
    const TEST: &str = "an_overlay_goes_over_to_the_next_generation_where_its_disk_does";
    if program(TEST, "qemu-img").is_none() {
        return;
    }
    let mut f = Fixture::new();
    let image = Image { disks: vec![vec![7; MIB]], ..Image::new("v1").with_root_of(MIB) };
    f.boot(&image, "v1", "overlay-follow");
    let disk = |f: &Fixture, number, name: &str| f.generation(number).join(name);
    write_over(&disk(&f, 1, "disk-root"));
    write_over(&disk(&f, 1, "disk-0"));

    let next = Image { root: Image::new("v2").with_root_of(MIB).root, ..image.clone() };
    f.boot(&next, "v2", "overlay-follow");
    has_what_was_written(&disk(&f, 2, "disk-0"));
    assert_eq!(inode(&disk(&f, 2, "disk-0")), inode(&disk(&f, 1, "disk-0")), "what is written from now on is in both");
    assert_ne!(inode(&disk(&f, 2, "disk-root")), inode(&disk(&f, 1, "disk-root")), "another disk is below");
    qemu_io(&disk(&f, 2, "disk-0"), "write -P 0x66 512k 64k");
    qemu_io(&disk(&f, 1, "disk-0"), "read -P 0x66 512k 64k");
    qemu_io(&disk(&f, 1, "disk-0"), "read -P 7 128k 64k");
    f.is_whole();
    assert!(f.node.eci(&["gc"]).status.success());
    f.restarts_with(2);

    // The way back has it too, and so has what is laid out anew after the older ones are gone.
    f.desire("v1", "overlay-follow");
    f.node.until_activated("nginx:v1");
    qemu_io(&disk(&f, 3, "disk-0"), "read -P 0x66 512k 64k");
    f.desire("v1", "overlay");
    f.node.until("activated", |event| event["event"] == "activated" && event["generation"] == 4);
    assert_ne!(inode(&disk(&f, 4, "disk-0")), inode(&disk(&f, 3, "disk-0")), "this one is to begin empty");
    f.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_program_that_makes_overlays_it_is_said_what_to_install() {
    let mut f = Fixture::new();
    f.node.environment.push(("PATH", f.node.path("nowhere")));
    Image::new("v1").publish(&f.registry, REPO, "v1");
    f.desire("v1", "overlay");
    f.node.start();
    let failed = f.node.until_failed("tool-missing");
    assert!(failed["message"].as_str().unwrap().contains("qemu-utils"), "{failed}");
    f.desire("v1", "writable");
    f.node.until_activated("nginx:v1");
    assert_eq!(files_below(&f.node.state_dir().join("generations/default/1")).len(), 7);
}
