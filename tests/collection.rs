//! What nothing leads to goes, and nothing else does: beside running pulls, beside whoever boots a generation, by hand.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use crate::common::agent::{Node, PATIENCE, files_below};
use crate::common::fault_points::{Answer, arm};
use crate::common::image::Image;
use crate::common::registry::{Fault, On, Registry, digest};
use crate::mishaps::Small;

const MIB: usize = 1 << 20;
const REPO: &str = "edge/nginx";

struct Fixture {
    registry: Registry,
    node: Node,
}

impl Fixture {
    /// An agent that keeps so many generations beside the current one.
    fn keeping(keep: u32) -> Self {
        Self {
            registry: Registry::http(),
            node: Node::with_config(&format!("[cache]\nkeep = {keep}\nreserve = \"0B\"\n")),
        }
    }

    /// Has these images run one after another.
    fn run(&mut self, tags: &[&str]) {
        for tag in tags {
            Image::new(tag).publish(&self.registry, REPO, tag);
            self.node.desire_image(&self.registry.reference(REPO, tag));
            self.start();
            self.node.until_activated(&format!("nginx:{tag}"));
        }
    }

    fn start(&mut self) {
        if self.node.socket().exists() {
            return;
        }
        self.node.start();
    }

    fn has(&self, bytes: &[u8]) -> bool {
        self.blob(&digest(bytes)).exists()
    }

    fn blob(&self, digest: &str) -> PathBuf {
        self.node.state_dir().join("cache/blobs").join(digest.replace(':', "/"))
    }

    fn generations(&self, workload: &str) -> BTreeSet<String> {
        names(&self.node.state_dir().join("generations").join(workload))
    }

    fn until_generations(&self, wanted: &[&str]) {
        let wanted: BTreeSet<_> = wanted.iter().map(|name| (*name).to_owned()).collect();
        self.wait(&format!("only {wanted:?}"), || self.generations("default") == wanted);
    }

    fn wait(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            let left = files_below(&self.node.state_dir());
            assert!(Instant::now() < deadline, "never {what}; {left:?}; {}", self.node.log());
            std::thread::yield_now();
        }
    }

    fn gc(&self, arguments: &[&str]) -> Value {
        let output = self.node.eci(&[&["gc", "--json"], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Every blob that some generation or image on the index has is there, and no other.
    fn is_tidy(&self) {
        let mut wanted = BTreeSet::new();
        for workload in names(&self.node.state_dir().join("generations")) {
            for number in self.generations(&workload) {
                let dir = self.node.state_dir().join("generations").join(&workload).join(number);
                for name in ["manifest.json", "config.json"] {
                    wanted.insert(digest(&fs::read(dir.join(name)).unwrap()));
                }
                let launch: Value = serde_json::from_slice(&fs::read(dir.join("launch.json")).unwrap()).unwrap();
                wanted.extend(
                    launch["files"].as_array().unwrap().iter().map(|file| file["digest"].as_str().unwrap().into()),
                );
            }
        }
        let wanted: BTreeSet<_> = wanted.iter().map(|digest| digest.replace("sha256:", "")).collect();
        assert_eq!(names(&self.node.state_dir().join("cache/blobs/sha256")), wanted);
        let index = fs::read(self.node.state_dir().join("cache/index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        for entry in index["manifests"].as_array().unwrap() {
            assert!(self.blob(entry["digest"].as_str().unwrap()).exists(), "{entry}");
        }
    }
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_follows_one_that_the_disk_ended_leaves_no_link_to_what_goes() {
    let mut f = Fixture::keeping(1);
    f.run(&["v1", "v2"]);
    assert!(f.node.stop().success());
    let state = f.node.state_dir();
    // It came as far as this: the link at the top is the second one to be removed.
    fs::remove_file(state.join("workloads/default/previous")).unwrap();
    f.node.configure("[cache]\nkeep = 0\n");
    let collected = f.node.eci(&["gc"]);
    assert!(collected.status.success(), "{collected:?}");
    assert_eq!(f.generations("default"), BTreeSet::from(["2".to_owned()]));
    assert_eq!(fs::read_link(state.join("previous")).ok(), None);
    assert_eq!(fs::read_link(state.join("current")).unwrap(), Path::new("generations/default/2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_generations_stay_as_are_to_be_kept() {
    for (keep, left) in [(0, &["4"][..]), (1, &["3", "4"]), (2, &["2", "3", "4"]), (9, &["1", "2", "3", "4"])] {
        let mut f = Fixture::keeping(keep);
        f.run(&["v1", "v2", "v3", "v4"]);
        f.until_generations(left);
        // What the automatic collection is still at, this one waits for.
        f.gc(&[]);
        f.is_tidy();
        assert_eq!(f.node.current("disk-root"), b"root disk of v4");
        let previous = f.node.state_dir().join("previous");
        assert_eq!(previous.is_symlink(), keep > 0);
        assert!(f.has(b"the kernel"), "all of them have it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_workload_leaves_goes_when_it_is_retired() {
    let mut f = Fixture::keeping(1);
    f.run(&["v1"]);
    Image::new("other").publish(&f.registry, "edge/other", "v1");
    let own = format!("[workload.default]\nimage = \"{}\"\n", f.registry.reference(REPO, "v1"));
    f.node.desire(&format!("{own}[workload.other]\nimage = \"{}\"\n", f.registry.reference("edge/other", "v1")));
    f.node.until_activated("other:v1");
    f.node.desire(&own);
    f.wait("gone", || f.generations("other").is_empty() && !f.has(b"root disk of other"));
    f.wait("without its directory", || !f.node.state_dir().join("generations/other").exists());
    f.gc(&[]);
    f.is_tidy();
    assert_eq!(f.node.current("disk-root"), b"root disk of v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retirement_that_the_disk_fails_is_taken_up_again() {
    let mut f = Fixture::keeping(1);
    let failures = AtomicUsize::new(0);
    arm(&mut f.node, move |point| {
        let is_last = point.operation == "remove" && point.path.ends_with("workloads/other");
        let is_ill = is_last && !point.is_made && failures.fetch_add(1, SeqCst) == 0;
        if is_ill { Answer::Fail(Errno::EIO) } else { Answer::Go }
    });
    f.run(&["v1"]);
    Image::new("other").publish(&f.registry, "edge/other", "v1");
    let own = format!("[workload.default]\nimage = \"{}\"\n", f.registry.reference(REPO, "v1"));
    f.node.desire(&format!("{own}[workload.other]\nimage = \"{}\"\n", f.registry.reference("edge/other", "v1")));
    f.node.until_activated("other:v1");
    f.node.desire(&own);
    f.node.until_failed("io");
    f.wait("gone", || !f.node.state_dir().join("workloads/other").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_that_somebody_boots_stays_until_they_have_done() {
    let mut f = Fixture::keeping(0);
    f.run(&["v1"]);
    let file = fs::File::open(f.node.state_dir().join("leases/default/1")).unwrap();
    let lease = Flock::lock(file, FlockArg::LockShared).unwrap();
    f.run(&["v2", "v3"]);
    f.until_generations(&["1", "3"]);
    let report = f.gc(&[]);
    assert!(report["kept"].as_array().unwrap().iter().any(|kept| kept["generation"] == 1 && kept["why"] == "in-use"));
    assert!(f.has(b"root disk of v1"));
    drop(lease);
    let report = f.gc(&[]);
    assert_eq!(report["removed"][0]["generation"]["generation"], 1, "{report}");
    f.until_generations(&["3"]);
    f.is_tidy();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_running_pull_has_is_safe_and_no_byte_is_paid_for_twice() {
    let mut f = Fixture::keeping(1);
    f.run(&["v1"]);
    let next = Image::new("v2").with_root_of(2 * MIB);
    next.publish(&f.registry, REPO, "v2");
    let root = On::blobs().get().reference(&digest(&next.root));
    let stall = f.registry.inject(root.once(), Fault::StallAfter(MIB as u64));
    f.node.desire_image(&f.registry.reference(REPO, "v2"));
    stall.struck(1).await;
    f.wait("there", || f.has(&next.initrd));
    for _ in 0..20 {
        f.gc(&[]);
    }
    assert!(f.has(&next.initrd) && f.node.partial(&next.root).exists());
    stall.release();
    f.node.until_activated("nginx:v2");
    for bytes in [&next.initrd, &next.root] {
        assert_eq!(f.registry.body_bytes(&On::blobs().get().reference(&digest(bytes))), bytes.len() as u64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_and_will_be_tried_again_is_kept_over_a_restart() {
    let mut f = Fixture::keeping(1);
    f.run(&["v1"]);
    let next = Image::new("v2").with_root_of(2 * MIB);
    next.publish(&f.registry, REPO, "v2");
    let root = On::blobs().get().reference(&digest(&next.root));
    // The root disk fails once the initrd is there: nothing is on its way then.
    let held = f.registry.inject(root.clone().once(), Fault::Hold);
    let broken = f.registry.inject(root, Fault::status(503));
    f.node.desire_image(&f.registry.reference(REPO, "v2"));
    held.struck(1).await;
    f.wait("there", || f.has(&next.initrd));
    held.release();
    f.node.until_failed("registry-error");
    f.gc(&[]);
    f.node.kill();
    let offline = f.gc(&[]);
    assert!(f.has(&next.initrd), "{offline}");
    broken.remove();
    f.node.start();
    f.node.until_activated("nginx:v2");
    let initrd = On::blobs().get().reference(&digest(&next.initrd));
    assert_eq!(f.registry.body_bytes(&initrd), next.initrd.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_would_go_and_changes_nothing() {
    let mut f = Fixture::keeping(1);
    f.run(&["v1", "v2"]);
    f.node.stop();
    let stray = f.blob(&digest(b"stray"));
    fs::write(&stray, "stray").unwrap();
    f.node.configure("[cache]\nkeep = 0\n");
    let before = files_below(&f.node.state_dir());
    let report = f.gc(&["--dry-run"]);
    assert_eq!(files_below(&f.node.state_dir()), before);
    assert_eq!(report["dry_run"], true);
    let removed = report["removed"].as_array().unwrap();
    let (kept, bytes) =
        (fs::read_dir(f.node.state_dir().join("generations/default/1")).unwrap(), &removed[0]["generation"]["bytes"]);
    let own =
        kept.map(|entry| entry.unwrap().metadata().unwrap()).filter(|found| found.is_file() && found.nlink() == 1);
    assert_eq!(
        bytes,
        &own.map(|found| found.blocks() * 512).sum::<u64>(),
        "its record, and nothing that the cache has"
    );
    assert_eq!(
        removed[0]["generation"],
        serde_json::json!({"workload": "default", "generation": 1, "bytes": bytes, "why": "superseded"})
    );
    let blobs: Vec<_> = removed.iter().filter_map(|removed| removed["blob"]["digest"].as_str()).collect();
    assert!(blobs.contains(&digest(b"stray").as_str()) && blobs.contains(&digest(b"root disk of v1").as_str()));
    assert!(!blobs.contains(&digest(b"the kernel").as_str()));
    let text = f.node.eci(&["gc", "--dry-run"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.contains("generation default/1, ")
            && text.contains(": there are later ones")
            && text.contains("would free"),
        "{text}"
    );
    f.gc(&[]);
    assert!(!stray.exists());
    f.is_tidy();
    assert!(!f.node.state_dir().join("previous").is_symlink());
}

#[tokio::test(flavor = "multi_thread")]
async fn room_is_made_of_what_is_kept_only_for_keeps_sake_and_what_lacks_is_said() {
    const TEST: &str = "room_is_made_of_what_is_kept_only_for_keeps_sake_and_what_lacks_is_said";
    let mut f = Fixture::keeping(5);
    let Some(_small) = Small::mount(TEST, f.node.state_dir(), 12) else { return };
    for (n, tag) in ["v1", "v2", "v3", "v4"].into_iter().enumerate() {
        Image::new(tag).with_root_of(3 * MIB).publish(&f.registry, REPO, tag);
        f.node.desire_image(&f.registry.reference(REPO, tag));
        if n == 0 {
            f.node.start();
        }
        f.node.until_activated(&format!("nginx:{tag}"));
    }
    // There was room for three: the oldest had to go, and no other.
    f.until_generations(&["2", "3", "4"]);
    Image::new("big").with_root_of(7 * MIB).publish(&f.registry, REPO, "big");
    f.node.desire_image(&f.registry.reference(REPO, "big"));
    f.node.until_failed("disk-full");
    let workload = f.node.status()["workloads"]["default"].clone();
    assert_eq!(workload["phase"], "blocked");
    let message = workload["error"]["message"].as_str().unwrap();
    assert!(message.contains(" free"), "{message}");
    f.until_generations(&["3", "4"]);
    assert_eq!(f.node.status()["workloads"]["default"]["previous"]["generation"], 3, "a way back stays");
    f.node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_gives_way_than_is_needed_where_each_generation_has_copies_of_its_own() {
    const TEST: &str = "no_more_gives_way_than_is_needed_where_each_generation_has_copies_of_its_own";
    let mut f = Fixture::keeping(5);
    let Some(_small) = Small::mount(TEST, f.node.state_dir(), 26) else { return };
    for tag in ["v1", "v2", "v3", "v4", "v5"] {
        Image::new(tag).with_root_of(3 * MIB).publish(&f.registry, REPO, tag);
        let reference = f.registry.reference(REPO, tag);
        f.node.desire(&format!("image = \"{reference}\"\ndisks = \"writable\"\n"));
        f.start();
        f.node.until_activated(&format!("nginx:{tag}"));
    }
    // Four of them left less than 2 MiB, and the fifth takes 6: as much as the oldest has with its copy, not without.
    f.until_generations(&["2", "3", "4", "5"]);
    f.node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reserve_is_never_used() {
    const TEST: &str = "the_reserve_is_never_used";
    let registry = Registry::http();
    let mut node = Node::with_config("[cache]\nreserve = \"8MiB\"\n");
    let Some(_small) = Small::mount(TEST, node.state_dir(), 12) else { return };
    Image::new("v1").with_root_of(5 * MIB).publish(&registry, REPO, "v1");
    node.desire_image(&registry.reference(REPO, "v1"));
    node.start();
    let failed = node.until_failed("disk-full");
    assert!(
        failed["message"].as_str().unwrap().contains(" free, of which 8.0 MiB are reserved ([cache] reserve)"),
        "{failed}"
    );
    assert_eq!(registry.count(&On::blobs().get()), 0);
    node.configure("[cache]\nreserve = \"6MiB\"\n");
    node.signal(nix::sys::signal::Signal::SIGHUP);
    node.until_activated("nginx:v1");
    node.stop();
}
