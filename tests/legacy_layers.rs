//! What becomes of layers that files are taken out of: fetched once, resumed, removed when they are of no more use.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::common::agent::{Node, files_below};
use crate::common::archive::{gzip, tar, tar_as_it_stands};
use crate::common::image::Image;
use crate::common::registry::{Fault, On, Registry, digest};
use crate::common::workstation::Workstation;
use crate::legacy::{GZIP_LAYER, LAYER, annotations, deploy, labels, layer, publish};
use crate::mishaps::Small;

const MIB: usize = 1 << 20;

/// Bytes that do not compress.
fn noise(label: &str, size: usize) -> Vec<u8> {
    Image::new(label).with_root_of(size).root
}

/// A layer in which a root disk is packed.
fn packed(disk: &[u8]) -> Vec<u8> {
    gzip(&tar(&[("root.raw", disk)]))
}

fn root() -> Value {
    annotations("disk-root", "application/vnd.lfedge.disk.layer.v1+raw", "root.raw")
}

/// Puts an image of one packed root disk into the registry.
fn publish_packed(registry: &Registry, tag: &str, packed: &[u8]) -> String {
    publish(registry, tag, b"{}", &[layer(registry, GZIP_LAYER, packed, &root())])
}

fn gets(bytes: &[u8]) -> On {
    On::blobs().get().reference(&digest(bytes))
}

fn blob(node: &Node, bytes: &[u8]) -> PathBuf {
    node.state_dir().join("cache/blobs").join(digest(bytes).replace(':', "/"))
}

/// Lays a blob into the cache, as if it had been fetched.
fn lay(node: &Node, bytes: &[u8]) {
    let path = blob(node, bytes);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_goes_on_where_its_download_broke_off() {
    let (registry, disk) = (Registry::http(), noise("disk", 4 * MIB));
    let packed = packed(&disk);
    let reference = publish_packed(&registry, "v1", &packed);
    let drop = || registry.inject(gets(&packed).once(), Fault::DropAfter(3 * MIB as u64));
    let dropped = drop();
    let node = deploy(&reference);
    assert!(node.current("disk-root") == disk);
    assert_eq!((dropped.strikes(), registry.body_bytes(&gets(&packed))), (1, packed.len() as u64));

    let workstation = Workstation::new();
    registry.take_log();
    let dropped = drop();
    let short = registry.inject(gets(&packed).skip(1), Fault::DropAfter(1000));
    workstation.fails(69, &["pull", "--dir", "out", &reference]);
    short.remove();
    workstation.must(&["pull", "--dir", "out", &reference]);
    assert!(fs::read(workstation.path("out/disk-root-root.raw")).unwrap() == disk);
    assert_eq!((dropped.strikes(), registry.body_bytes(&gets(&packed))), (1, packed.len() as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn room_is_not_made_at_the_cost_of_the_wanted_image() {
    const TEST: &str = "room_is_not_made_at_the_cost_of_the_wanted_image";
    let (registry, disk) = (Registry::http(), noise("disk", 2 * MIB));
    let packed = packed(&disk);
    let reference = publish_packed(&registry, "v1", &packed);
    let mut node = Node::new();
    let Some(_small) = Small::mount(TEST, node.state_dir(), 10) else { return };
    node.leave_partial(&packed, MIB);
    let other = node.partial(b"other");
    fs::write(&other, vec![7; 13 * MIB / 2]).unwrap();
    node.desire_image(&reference);
    node.start();
    node.until_activated(&reference);
    assert!(!other.exists(), "it was in the way");
    assert_eq!(registry.body_bytes(&gets(&packed)), (packed.len() - MIB) as u64);
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn there_has_to_be_room_for_what_comes_out_of_a_layer() {
    const TEST: &str = "there_has_to_be_room_for_what_comes_out_of_a_layer";
    let (registry, disk) = (Registry::http(), noise("disk", 6 * MIB));
    let packed = packed(&disk);
    let mut node = Node::new();
    let Some(_small) = Small::mount(TEST, node.state_dir(), 10) else { return };
    node.desire_image(&publish_packed(&registry, "packed", &packed));
    node.start();
    node.until_failed("disk-full");
    assert_eq!(registry.count(&gets(&packed)), 0);
    // The same disk as it is fits, and so does its layer alone: nothing comes out of it.
    let plain = publish(&registry, "plain", b"{}", &[layer(&registry, LAYER, &disk, &root())]);
    node.desire_image(&plain);
    node.until_activated(&plain);
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_the_disk_had_no_room_to_unpack_is_not_fetched_again() {
    const TEST: &str = "a_layer_that_the_disk_had_no_room_to_unpack_is_not_fetched_again";
    // Nobody can tell from the layer how much comes out of it.
    let (registry, packed) = (Registry::http(), packed(&vec![7; 12 * MIB]));
    let mut node = Node::new();
    let Some(_small) = Small::mount(TEST, node.state_dir(), 10) else { return };
    node.desire_image(&publish_packed(&registry, "v1", &packed));
    node.start();
    node.until_failed("disk-full");
    node.until_failed("disk-full");
    assert_eq!(registry.count(&gets(&packed)), 1);
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_a_file_as_well_stays() {
    let registry = Registry::http();
    let packed = packed(b"the disk");
    let note = layer(
        &registry,
        "application/vnd.lfedge.eci.layer.v1",
        &packed,
        &json!({"org.opencontainers.image.title": "note"}),
    );
    let root = layer(&registry, GZIP_LAYER, &packed, &root());
    let node = deploy(&publish(&registry, "file", b"{}", &[root.clone(), note]));
    assert_eq!((node.current("disk-root"), node.current("note")), (b"the disk".to_vec(), packed.clone()));
    assert_eq!(registry.count(&gets(&packed)), 1);
    let node = deploy(&publish(&registry, "config", &packed, &[root]));
    assert_eq!((node.current("disk-root"), node.current("config.json")), (b"the disk".to_vec(), packed.clone()));
    assert_eq!(registry.count(&gets(&packed)), 2, "once by each node");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_a_kill_left_behind_is_removed() {
    let registry = Registry::http();
    let packed = packed(b"the disk");
    let reference = publish_packed(&registry, "v1", &packed);
    let node = deploy(&reference);
    lay(&node, &packed);
    // Nothing has to be fetched for this.
    node.desire(&format!("image = \"{reference}\"\ncmdline = \"quiet\"\n"));
    node.until_activated(&reference);
    assert!(!blob(&node, &packed).exists());
    assert_eq!(registry.count(&gets(&packed)), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_refused_is_removed_and_not_fetched_again() {
    let registry = Registry::http();
    let none = json!({});
    let file = tar::EntryType::Regular;
    let refused = gzip(&tar_as_it_stands(&[("boot/vmlinuz", file, b"kernel"), ("../x", file, b"x")]));
    let mut damaged = gzip(&tar(&[("boot/vmlinuz", &noise("kernel", 10_000))]));
    damaged.truncate(damaged.len() - 100);
    let node = deploy(&publish_packed(&registry, "good", &packed(b"the disk")));
    for (tag, bytes, kind) in [("refused", refused, "archive-refused"), ("damaged", damaged, "archive-damaged")] {
        let config = labels(&[("kernel", "/boot/vmlinuz")]);
        node.desire_image(&publish(&registry, tag, &config, &[layer(&registry, GZIP_LAYER, &bytes, &none)]));
        let first = node.until_failed(kind);
        assert!(node.eci(&["reconcile"]).status.success());
        assert_eq!(node.until_failed(kind)["message"], first["message"]);
        assert!(!blob(&node, &bytes).exists());
        assert!(!blob(&node, b"kernel").exists(), "what came out of it before that is of no use");
        assert_eq!(registry.count(&gets(&bytes)), 1, "{tag}");
    }
    assert!(files_below(&node.state_dir().join("partial")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn workloads_of_one_image_take_its_layer_apart_once_and_leave_nothing_of_it() {
    let registry = Registry::http();
    let packed = packed(&noise("disk", MIB));
    let reference = publish_packed(&registry, "v1", &packed);
    let mut node = Node::new();
    let mut workloads: BTreeSet<_> = ["a", "b", "c"].map(ToOwned::to_owned).into();
    let section = |name: &String| format!("[workload.{name}]\nimage = \"{reference}\"\n");
    node.desire(&workloads.iter().map(section).collect::<String>());
    node.start();
    while !workloads.is_empty() {
        workloads.remove(node.until_activated(&reference)["workload"].as_str().unwrap());
    }
    assert_eq!(registry.count(&gets(&packed)), 1);
    assert!(!blob(&node, &packed).exists());
    let index = fs::read_to_string(node.state_dir().join("cache/index.json")).unwrap();
    assert!(!index.contains(&reference), "the layout lists only what it has as a whole: {index}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_there_already_counts_once() {
    let registry = Registry::http();
    let packed = packed(&noise("disk", MIB));
    let reference = publish_packed(&registry, "v1", &packed);
    let mut node = Node::new();
    lay(&node, &packed);
    node.desire_image(&reference);
    node.start();
    node.until_activated(&reference);
    let progress = node.status()["workloads"]["default"]["last_transfer"].clone();
    // The config is all that has to come.
    let (config, whole) = (b"{}".len(), packed.len() + b"{}".len());
    assert_eq!((&progress["wire_bytes"], &progress["reused_bytes"]), (&json!(config), &json!(packed.len())));
    assert_eq!((&progress["bytes_done"], &progress["bytes_total"]), (&json!(whole), &json!(whole)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_turns_out_not_to_be_needed_is_not_waited_for() {
    let (registry, none) = (Registry::http(), json!({}));
    let (below, top) = (gzip(&tar(&[("other", &noise("below", MIB))])), gzip(&tar(&[("k", b"kernel")])));
    let layers = [&below, &top].map(|bytes| layer(&registry, GZIP_LAYER, bytes, &none));
    let config = labels(&[("kernel", "/k")]);
    let node = deploy(&publish(&registry, "v1", &config, &layers));
    let progress = node.status()["workloads"]["default"]["last_transfer"].clone();
    assert_eq!(
        (&progress["bytes_done"], &progress["bytes_total"]),
        (&progress["bytes_total"], &json!(config.len() + top.len()))
    );
    assert_eq!(registry.count(&gets(&below)), 0);
}
