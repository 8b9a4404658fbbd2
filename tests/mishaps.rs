//! What happens to a node's disk and surroundings while nobody is near: it gets where it should by itself.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;

use nix::sys::stat::Mode;
use serde_json::Value;

use crate::common::agent::{Node, PATIENCE};
use crate::common::image::{Image, MANIFEST};
use crate::common::registry::{Fault, On, Registry, digest};

const MIB: usize = 1 << 20;

/// A registry with two images, v1 and v2, that have the kernel in common.
fn registry() -> (Registry, [Image; 2]) {
    let registry = Registry::http();
    let images = ["v1", "v2"].map(Image::new);
    images[0].publish(&registry, "edge/nginx", "v1");
    images[1].publish(&registry, "edge/nginx", "v2");
    (registry, images)
}

/// A node that runs v1.
fn running(registry: &Registry) -> Node {
    let mut node = Node::new();
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.start();
    node.until_phase("active");
    node
}

fn blob(node: &Node, bytes: &[u8]) -> PathBuf {
    node.state_dir().join("cache/blobs").join(digest(bytes).replace(':', "/"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_a_blobs_last_byte_and_its_name_does_not_lock_the_agent_out() {
    let (registry, [image, _]) = registry();
    let mut node = Node::new();
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    let partial = node.leave_partial(&image.root, image.root.len());
    fs::set_permissions(&partial, fs::Permissions::from_mode(0o444)).unwrap();
    let Some(()) = node.unprivileged("a_kill_between_a_blobs_last_byte_and_its_name_does_not_lock_the_agent_out")
    else {
        return;
    };
    node.start();
    node.until_activated("nginx:v1");
    assert_eq!(registry.count(&On::blobs().get().reference(&digest(&image.root))), 0, "it was all there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_blob_that_was_damaged_is_not_booted_from() {
    for down in [false, true] {
        let (registry, [image, _]) = registry();
        let mut node = running(&registry);
        if down {
            node.stop();
        }
        let kernel = blob(&node, &image.kernel);
        fs::remove_file(&kernel).unwrap();
        fs::write(&kernel, b"the k3rnel").unwrap();
        node.desire_image(&registry.reference("edge/nginx", "v2"));
        if down {
            node.start();
        }
        node.until_activated("nginx:v2");
        assert_eq!(node.current("kernel"), image.kernel);
    }
}

/// The cache is read once all else is there, and what is wrong is fetched after that; it is one update all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_damaged_in_the_cache_is_found_after_the_fetch_and_fetched_as_part_of_it() {
    let (registry, [_, image]) = registry();
    let mut node = running(&registry);
    node.stop();
    registry.take_log();
    // Where it lies: the generation that boots has the same bytes.
    let kernel = blob(&node, &image.kernel);
    let mut file = fs::OpenOptions::new().write(true).open(&kernel).unwrap();
    file.write_all(b"T").unwrap();
    node.desire_image(&registry.reference("edge/nginx", "v2"));
    node.start();
    for phase in ["planning", "fetching", "verifying", "planning", "verifying", "materializing"] {
        node.until_phase(phase);
    }
    node.until_activated("nginx:v2");
    assert_eq!(node.current("kernel"), image.kernel);
    let came = |bytes: &[u8]| registry.count(&On::blobs().get().reference(&digest(bytes)));
    assert_eq!((came(&image.kernel), came(&image.root)), (1, 1));
    let progress = &node.status()["workloads"]["default"]["last_transfer"];
    let bytes = |key: &str| progress[key].as_u64().unwrap();
    assert_eq!(
        (bytes("bytes_done"), bytes("wire_bytes") + bytes("reused_bytes")),
        (bytes("bytes_total"), image.size())
    );
    assert!(bytes("wire_bytes") >= image.root.len() as u64, "{progress}");
}

/// As another workload's update does that finds it damaged.
#[tokio::test(flavor = "multi_thread")]
async fn what_goes_from_the_cache_after_it_was_planned_is_fetched_as_part_of_the_update() {
    let (registry, [_, image]) = registry();
    let node = running(&registry);
    let root = registry.inject(On::blobs().get().reference(&digest(&image.root)), Fault::Hold);
    node.desire_image(&registry.reference("edge/nginx", "v2"));
    root.struck(1).await;
    fs::remove_file(blob(&node, &image.kernel)).unwrap();
    root.release();
    let is_end = |event: &Value| {
        let is_v2 = event["message"].as_str().is_some_and(|message| message.contains("nginx:v2"));
        event["event"] == "failed" || (event["event"] == "activated" && is_v2)
    };
    let end = node.until("activated v2, or failed", is_end);
    assert_eq!(end["event"], "activated", "{end}");
    assert_eq!(node.current("kernel"), image.kernel);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_that_lost_a_file_is_made_anew_at_the_next_start() {
    let (registry, [image, _]) = registry();
    let mut node = running(&registry);
    node.stop();
    fs::remove_file(node.state_dir().join("generations/default/1/kernel")).unwrap();
    node.start();
    node.until_activated("nginx:v1");
    assert_eq!(node.current("kernel"), image.kernel);
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_that_somebody_removed_are_made_again() {
    for dir in ["cache", "partial", "generations"] {
        let (registry, [_, image]) = registry();
        let node = running(&registry);
        fs::remove_dir_all(node.state_dir().join(dir)).unwrap();
        node.desire_image(&registry.reference("edge/nginx", "v2"));
        node.until_activated("nginx:v2");
        assert_eq!(node.current("disk-root"), image.root, "{dir}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_is_set_aside() {
    for (place, is_dir) in
        [("current", true), ("current", false), ("workloads/default/current", true), ("state.json", true)]
    {
        let (registry, [image, _]) = registry();
        let mut node = running(&registry);
        node.stop();
        let path = node.state_dir().join(place);
        fs::remove_file(&path).unwrap();
        if is_dir {
            fs::create_dir_all(path.join("full")).unwrap();
        } else {
            fs::write(&path, "in the way").unwrap();
        }
        node.start();
        node.until_phase("active");
        assert_eq!(node.current("disk-root"), image.root, "{place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_pipe_in_an_image_layout_hangs_nothing() {
    for name in ["index.json", "oci-layout", "blob"] {
        let mut node = Node::new();
        let layout = node.path("stick");
        let image = Image::new("stick");
        image.write_layout(&layout, "v1");
        let path = if name == "blob" {
            layout.join("blobs").join(digest(&image.root).replace(':', "/"))
        } else {
            layout.join(name)
        };
        let content = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        let reference = format!("oci:{}:v1", layout.display());
        node.desire_image(&reference);
        node.start();
        node.until_failed("layout-invalid");
        fs::remove_file(&path).unwrap();
        fs::write(&path, content).unwrap();
        node.until_activated(&reference);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captive_portal_goes_away_by_itself() {
    let (registry, _) = registry();
    let mut node = Node::with_config("[desired]\npoll = \"off\"\n");
    let html = "<html>Please log in</html>";
    registry.put_manifest("edge/nginx", Some("v1"), MANIFEST, html.to_owned());
    registry.inject(On::manifests().head(), Fault::NoContentDigest);
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.start();
    node.until_failed("manifest-invalid");
    Image::new("v1").publish(&registry, "edge/nginx", "v1");
    node.until_activated("nginx:v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_goes_on_serving_wrong_bytes_is_not_asked_for_them_all_the_time() {
    let (registry, [_, image]) = registry();
    let node = running(&registry);
    registry.inject(On::blobs().get().reference(&digest(&image.root)), Fault::FlipByte(3));
    node.desire_image(&registry.reference("edge/nginx", "v2"));
    for _ in 0..4 {
        node.until_failed("digest-mismatch");
    }
    let error = node.status()["workloads"]["default"]["error"].clone();
    let now = jiff::Timestamp::now();
    let wait = error["retry_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().duration_since(now);
    assert!(wait.as_secs() > 600, "{error}");
    registry.clear_faults();
    assert!(node.eci(&["reconcile"]).status.success(), "a person need not wait as long");
    node.until_activated("nginx:v2");
}

/// A small file system, unmounted at the end.
pub struct Small(PathBuf);

impl Small {
    /// None, and a line that says so, where it cannot be mounted.
    pub fn mount(test: &str, dir: PathBuf, megabytes: usize) -> Option<Self> {
        fs::create_dir_all(&dir).unwrap();
        let size = format!("size={megabytes}m,mode=0755");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(&dir).output();
        if mount.is_ok_and(|mount| mount.status.success()) {
            return Some(Self(dir));
        }
        println!("SKIP {test}: a tmpfs cannot be mounted");
        None
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_does_not_fit_costs_no_byte_and_is_forgotten_when_another_is_desired() {
    let (registry, _) = registry();
    let image = |tag: &str, megabytes: usize| {
        let image = Image::new(tag).with_root_of(megabytes * MIB);
        image.publish(&registry, "edge/big", tag);
        image
    };
    let (fits, too_big) = (image("fits", 6), image("too-big", 20));
    let mut node = Node::new();
    let test = "an_image_that_does_not_fit_costs_no_byte_and_is_forgotten_when_another_is_desired";
    let Some(_small) = Small::mount(test, node.state_dir(), 10) else { return };
    // A download that was begun for something else takes the room that is needed.
    node.leave_partial(&too_big.root, 6 * MIB);

    node.desire_image(&registry.reference("edge/big", "too-big"));
    node.start();
    let failed = node.until_failed("disk-full");
    assert!(failed["message"].as_str().unwrap().contains(" free"), "{failed}");
    assert_eq!(registry.count(&On::blobs().get()), 0);

    node.desire_image(&registry.reference("edge/big", "fits"));
    node.until_activated("big:fits");
    assert!(node.current("disk-root") == fits.root);
    node.stop();
}

#[test]
fn a_state_directory_may_lie_where_the_agent_cannot_look() {
    let mut node = Node::new();
    if node.unprivileged("a_state_directory_may_lie_where_the_agent_cannot_look").is_none() {
        return;
    }
    // As systemd has it for a service without a user of its own: /var/lib/private is root's alone.
    let (closed, owner) = (node.path("closed"), fs::metadata(node.state_dir()).unwrap());
    let state = closed.join("state");
    fs::create_dir_all(&state).unwrap();
    chown(&state, Some(owner.uid()), Some(owner.gid())).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o711)).unwrap();
    let (mut agent, notified) = node.spawn(&[("ECI_STATE_DIR", state.to_str().unwrap())]);
    notified.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut message = [0; 4096];
    let mut next =
        || notified.recv(&mut message).map(|count| String::from_utf8_lossy(&message[..count]).into_owned()).ok();
    let is_ready = std::iter::from_fn(&mut next).any(|said| said.contains("READY=1"));
    let _ = agent.kill();
    agent.wait().unwrap();
    assert!(is_ready, "{}", node.log());
}
