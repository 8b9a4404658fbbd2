//! What the disk has lost is found, and brought back without paying for what it has not lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::time::Instant;

use nix::errno::Errno;

use serde_json::{Value, json};

use crate::common::agent::{Node, PATIENCE, files_below};
use crate::common::archive::{gzip, tar};
use crate::common::fault_points::{Answer, arm};
use crate::common::image::Image;
use crate::common::registry::{Fault, On, Registry, digest};
use crate::common::service::eventually;
use crate::legacy::{GZIP_LAYER, annotations, layer, publish};

const REPO: &str = "edge/nginx";
const MIB: usize = 1 << 20;

struct Fixture {
    registry: Registry,
    node: Node,
    image: Image,
}

impl Fixture {
    /// A node that boots an image with a root disk of some size, whose agent has stopped.
    fn stopped() -> Self {
        let (registry, mut node) = (Registry::http(), Node::new());
        let image = Image::new("v1").with_root_of(3 * MIB);
        image.publish(&registry, REPO, "v1");
        node.desire_image(&registry.reference(REPO, "v1"));
        node.start();
        node.until_activated("nginx:v1");
        node.stop();
        registry.take_log();
        Self { registry, node, image }
    }

    fn running() -> Self {
        let mut f = Self::stopped();
        f.node.start();
        f.node.until_phase("active");
        f.registry.take_log();
        f
    }

    fn blob(&self, bytes: &[u8]) -> PathBuf {
        self.node.state_dir().join("cache/blobs").join(digest(bytes).replace(':', "/"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.node.state_dir().join("generations/default/1").join(name)
    }

    /// The report, and the exit code.
    fn fsck(&self, arguments: &[&str]) -> (Value, i32) {
        let output = self.node.eci(&[&["fsck", "--json"], arguments].concat());
        let report = serde_json::from_slice(&output.stdout);
        let report = report.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        (report, output.status.code().unwrap())
    }

    fn is_whole(&self) {
        let (report, code) = self.fsck(&[]);
        assert_eq!((&report["damage"], code), (&json!([]), 0));
        self.has_nothing_left_over();
    }

    fn has_nothing_left_over(&self) {
        let files = files_below(&self.node.state_dir());
        let is_temporary = |path: &&PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with('.');
        assert_eq!(files.iter().filter(is_temporary).collect::<Vec<_>>(), Vec::<&PathBuf>::new());
    }

    /// The bytes of blobs and manifests that the registry served.
    fn paid(&self) -> u64 {
        self.registry.body_bytes(&On::any().get())
    }
}

fn until(what: &str, node: &Node, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never {what}: {}", node.log());
        std::thread::yield_now();
    }
}

/// Turns a bit over in the middle of a file without any trace of when it was.
fn rot(path: &Path) {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let found = file.metadata().unwrap();
    let (mut byte, place) = ([0], found.len() / 2);
    file.read_exact_at(&mut byte, place).unwrap();
    file.write_all_at(&[byte[0] ^ 1], place).unwrap();
    file.set_modified(found.modified().unwrap()).unwrap();
}

/// The parts and what became of them.
fn outcomes(report: &Value) -> Vec<(Value, Value)> {
    let damage = report["damage"].as_array().unwrap();
    damage.iter().map(|damage| (damage["part"].clone(), damage["outcome"].clone())).collect()
}

fn file_part(name: &str) -> Value {
    json!({"file": {"workload": "default", "generation": 1, "name": name}})
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_broken_is_fetched_and_swapped_in() {
    for with_agent in [false, true] {
        let f = if with_agent { Fixture::running() } else { Fixture::stopped() };
        rot(&f.blob(&f.image.root));
        let (report, code) = f.fsck(&[]);
        let parts = [json!({"blob": {"digest": digest(&f.image.root)}}), file_part("disk-root-root.raw")];
        let expected = |outcome: &str| parts.clone().map(|part| (part, json!(outcome))).to_vec();
        assert_eq!((outcomes(&report), code), (expected("found"), 65));
        assert_eq!(report["generations"], 1);
        assert!(report["bytes"].as_u64().unwrap() > f.image.root.len() as u64);
        assert_eq!(f.paid(), 0, "nothing is repaired that nobody asked for");

        let (report, code) = f.fsck(&["--repair"]);
        assert_eq!((outcomes(&report), code), (expected("repaired"), 0));
        assert!(f.node.current("disk-root") == f.image.root);
        assert_eq!(f.paid(), f.image.root.len() as u64);
        f.is_whole();
        if with_agent {
            let fsck = &f.node.status()["fsck"];
            assert_eq!((&fsck["running"], &fsck["damaged"], &fsck["left"]), (&json!(false), &json!(0), &json!(0)));
            assert!(fsck["finished_at"].is_string(), "{fsck}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_right_elsewhere_on_the_disk_is_not_fetched() {
    let f = Fixture::stopped();
    f.registry.inject(On::any(), Fault::status(500));
    let (blob, file) = (f.blob(&f.image.root), f.file("disk-root-root.raw"));
    for damage in [&|| rot(&file), &|| rot(&blob), &|| fs::remove_file(&file).unwrap()] as [&dyn Fn(); 3] {
        // As on a file system that knows no links: each has bytes of its own.
        fs::remove_file(&file).unwrap();
        fs::write(&file, &f.image.root).unwrap();
        damage();
        assert_eq!(f.fsck(&[]).1, 65);
        let (report, code) = f.fsck(&["--repair"]);
        assert_eq!(code, 0, "{report}");
        assert!(f.node.current("disk-root") == f.image.root && fs::read(&blob).unwrap() == f.image.root);
    }
    fs::remove_file(&blob).unwrap();
    let (report, code) = f.fsck(&["--repair"]);
    let repaired = (json!({"blob": {"digest": digest(&f.image.root)}}), json!("repaired"));
    assert_eq!((outcomes(&report), code), (vec![repaired], 0), "a generation has what the cache has lost");
    f.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_fetched_is_said_and_never_used_until_it_can() {
    let f = Fixture::running();
    let gone = f.registry.inject(On::any(), Fault::too_many_requests(600));
    rot(&f.blob(&f.image.root));
    let output = f.node.eci(&["fsck", "--repair"]);
    let [out, error] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert_eq!(output.status.code(), Some(65), "{out}{error}");
    assert!(out.contains("NOT repaired") && out.contains("429"), "{out}");
    assert!(error.contains("1 damaged part could not be repaired"), "{error}");
    assert!(!f.blob(&f.image.root).exists(), "nothing is made of damaged bytes");
    assert_eq!(f.node.status()["fsck"]["left"], 1, "one file, whatever its names");
    let shown = String::from_utf8(f.node.eci(&["status"]).stdout).unwrap();
    assert!(shown.contains("! damaged: 1 part"), "{shown}");
    gone.remove();
    assert_eq!(f.fsck(&["--repair"]).1, 0);
    assert!(f.node.current("disk-root") == f.image.root);
    f.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_come_from_any_source_that_has_them() {
    let f = {
        let mut f = Fixture::stopped();
        f.image.publish(&f.registry, "edge/mirror", "v1");
        let [one, two] = [REPO, "edge/mirror"].map(|repo| f.registry.reference(repo, "v1"));
        f.node.desire(&format!("[workload.default]\nimage = \"{one}\"\n[workload.two]\nimage = \"{two}\"\n"));
        f.node.start();
        f.node.until_activated("edge/mirror:v1");
        f
    };
    f.registry.inject(On::any().repo(REPO), Fault::status(503));
    rot(&f.blob(&f.image.root));
    assert_eq!(f.fsck(&["--repair"]).1, 0);
    assert!(f.node.current("disk-root") == f.image.root);
    f.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_links_and_the_state_are_repaired() {
    let f = Fixture::running();
    let state = f.node.state_dir();
    rot(&f.file("manifest.json"));
    rot(&f.file("config.json"));
    fs::remove_file(f.file("disk-root")).unwrap();
    fs::remove_file(state.join("current")).unwrap();
    std::os::unix::fs::symlink("generations/default/9", state.join("current")).unwrap();
    fs::write(state.join("cache/index.json"), "{").unwrap();
    fs::write(state.join("state.json"), "{").unwrap();
    let (report, code) = f.fsck(&["--repair"]);
    assert_eq!(code, 0, "{report}");
    let parts: Vec<Value> = outcomes(&report).into_iter().map(|(part, _)| part).collect();
    let link = json!({"link": {"path": "current"}});
    for part in [json!("index"), json!("state"), link, file_part("manifest.json")] {
        assert!(parts.contains(&part), "{part} is not among {parts:?}");
    }
    assert!(f.node.current("disk-root") == f.image.root);
    f.is_whole();
    fs::remove_file(f.file("disk-root")).unwrap();
    assert_eq!(outcomes(&f.fsck(&["--repair"]).0), [(file_part("disk-root"), json!("repaired"))]);
    f.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_generation_says_of_its_files_is_held_to_its_manifest() {
    let f = Fixture::stopped();
    // Nobody knows any more what it said.
    fs::remove_file(f.node.state_dir().join("state.json")).unwrap();
    let path = f.file("launch.json");
    let text = fs::read_to_string(&path).unwrap();
    for (right, wrong) in
        [("\"raw\"", "\"rbw\""), ("\"kernel\"", "\"initrd\""), ("disk-root-root.raw", "disk-root-rooT.raw")]
    {
        assert!(text.contains(right), "{text}");
        fs::remove_file(&path).unwrap();
        fs::write(&path, text.replace(right, wrong)).unwrap();
        let (report, code) = f.fsck(&[]);
        let generation = json!({"generation": {"workload": "default", "generation": 1}});
        assert!(code == 65 && outcomes(&report).iter().any(|(part, _)| *part == generation), "{wrong}: {report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_that_nobody_can_describe_is_laid_out_anew_from_the_cache() {
    let f = Fixture::running();
    fs::remove_file(f.file("launch.json")).unwrap();
    let (report, code) = f.fsck(&["--repair"]);
    assert_eq!((outcomes(&report).len(), code), (1, 65), "{report}");
    f.node.until_activated("nginx:v1");
    assert!(f.node.current("disk-root") == f.image.root);
    assert_eq!(f.registry.body_bytes(&On::blobs()), 0);
    f.node.eci(&["gc"]);
    f.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_generation_says_wrong_is_replaced_while_the_agent_runs() {
    for (right, wrong) in
        [("\"raw\"", "\"rbw\""), ("\"default\"", "\"evil\""), ("\"cmdline\": null", "\"cmdline\": \"x\"")]
    {
        let f = Fixture::running();
        let path = f.file("launch.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(right), "{text}");
        fs::remove_file(&path).unwrap();
        fs::write(&path, text.replacen(right, wrong, 1)).unwrap();
        f.fsck(&["--repair"]);
        assert!(f.node.eci(&["reconcile"]).status.success());
        f.node.until_activated("nginx:v1");
        assert_eq!(
            fs::read_to_string(f.node.state_dir().join("current/launch.json"))
                .unwrap()
                .replace("/2", "/1")
                .replace(": 2", ": 1"),
            text
        );
        assert_eq!(f.registry.body_bytes(&On::blobs()), 0);
        f.fsck(&["--repair"]);
        f.node.eci(&["gc"]);
        f.is_whole();
    }
}

/// Has a generation of "default" say that its kernel is to be given something else.
fn alter(node: &Node, generation: u64) {
    let path = node.state_dir().join(format!("generations/default/{generation}/launch.json"));
    let text = fs::read_to_string(&path).unwrap();
    let altered = text.replacen("\"cmdline\": null", "\"cmdline\": \"init=/bin/sh\"", 1);
    let altered = altered.replacen("\"cmdline\": \"quiet\"", "\"cmdline\": \"quite\"", 1);
    assert!(altered != text, "{text}");
    fs::remove_file(&path).unwrap();
    fs::write(&path, altered).unwrap();
}

fn cmdline(node: &Node) -> Value {
    serde_json::from_slice::<Value>(&node.current("launch.json")).unwrap()["cmdline"].clone()
}

/// The numbers of what runs, what ran before, and what waits.
fn numbers(node: &Node) -> [Value; 3] {
    let workload = node.status()["workloads"]["default"].clone();
    ["current", "previous", "staged"].map(|which| workload[which]["generation"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_generation_says_is_held_to_what_it_is_known_to_have_said() {
    for with_agent in [false, true] {
        let mut f = if with_agent { Fixture::running() } else { Fixture::stopped() };
        alter(&f.node, 1);
        let (report, code) = f.fsck(&[]);
        assert_eq!((outcomes(&report), code), (vec![(file_part("launch.json"), json!("found"))], 65));
        let actual = digest(&fs::read(f.file("launch.json")).unwrap());
        assert_eq!(report["damage"][0]["fault"], json!({"other-bytes": {"digest": actual}}));

        let (report, code) = f.fsck(&["--repair"]);
        let error = report["damage"][0]["outcome"]["failed"]["error"].as_str();
        assert_eq!((error.is_some_and(|error| error.contains("until the agent")), code), (true, 65), "{report}");
        assert!(f.file("launch.json").exists(), "what boots in whichever way is better than nothing");
        if !with_agent {
            f.node.start();
        }
        f.node.until("laid out anew", |event| event["event"] == "activated" && event["generation"] == 2);
        assert_eq!((cmdline(&f.node), f.registry.body_bytes(&On::blobs())), (Value::Null, 0));
        assert!(f.node.eci(&["gc"]).status.success());
        f.is_whole();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_does_not_trust_a_current_generation_that_says_something_else() {
    for has_registry in [true, false] {
        let mut f = Fixture::stopped();
        alter(&f.node, 1);
        if has_registry {
            f.node.start();
            f.node.until("laid out anew", |event| event["event"] == "activated" && event["generation"] == 2);
            assert_eq!((cmdline(&f.node), f.registry.body_bytes(&On::blobs())), (Value::Null, 0));
            continue;
        }
        f.registry.inject(On::any(), Fault::status(503));
        for _ in 0..2 {
            f.node.start();
            f.node.until_failed("registry-error");
            // However often it is looked at, and whoever looks.
            for _ in 0..2 {
                assert!(f.node.eci(&["reconcile"]).status.success());
                assert_eq!(numbers(&f.node), [Value::Null, Value::Null, Value::Null]);
            }
            assert!(f.node.log().contains("its launch.json is not what it was"), "{}", f.node.log());
            f.node.stop();
            assert_eq!(numbers(&f.node), [Value::Null, Value::Null, Value::Null]);
        }
        assert_eq!(cmdline(&f.node), "init=/bin/sh", "what boots in whichever way stays where there is nothing else");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_something_else_is_not_gone_back_to() {
    for with_agent in [false, true] {
        let mut f = Fixture::running();
        f.node.desire(&format!("image = \"{}\"\ncmdline = \"quiet\"\n", f.registry.reference(REPO, "v1")));
        f.node.until("activated", |event| event["event"] == "activated" && event["generation"] == 2);
        if !with_agent {
            f.node.stop();
        }
        alter(&f.node, 1);
        if !with_agent {
            f.node.start();
            f.node.until_phase("active");
        }
        for _ in 0..2 {
            let refused = f.node.eci(&["rollback"]);
            let error = String::from_utf8(refused.stderr).unwrap();
            assert!(!refused.status.success() && error.contains("no generation before 2"), "{error}");
            assert_eq!(numbers(&f.node), [json!(2), Value::Null, Value::Null]);
            f.node.stop();
            f.node.start();
            f.node.until_phase("active");
        }
        assert_eq!(cmdline(&f.node), "quiet");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_and_says_something_else_is_laid_out_anew() {
    for with_agent in [false, true] {
        let mut f = Fixture::running();
        let reference = f.registry.reference(REPO, "v1");
        f.node.desire(&format!("image = \"{reference}\"\ncmdline = \"quiet\"\nactivate = \"staged\"\n"));
        f.node.until_phase("staged");
        if !with_agent {
            f.node.stop();
        }
        alter(&f.node, 2);
        if with_agent {
            // It is found when it is to become current, and not before.
            f.node.eci(&["activate"]);
            f.node.until_failed("damaged");
        } else {
            f.node.start();
        }
        eventually("laid out anew", || (numbers(&f.node)[2] == 3).then_some(()));
        assert_eq!(numbers(&f.node)[0], 1);
        assert!(f.node.eci(&["activate"]).status.success());
        f.node.until("activated", |event| event["event"] == "activated" && event["generation"] == 3);
        assert_eq!((cmdline(&f.node), f.registry.body_bytes(&On::blobs())), (json!("quiet"), 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_previous_generation_that_is_lost_is_forgotten() {
    let mut f = Fixture::stopped();
    f.node.desire(&format!("image = \"{}\"\ncmdline = \"quiet\"\n", f.registry.reference(REPO, "v1")));
    f.node.start();
    f.node.until_activated("nginx:v1");
    fs::remove_dir_all(f.node.state_dir().join("generations/default/1")).unwrap();
    assert_eq!(f.fsck(&["--repair"]).1, 0);
    assert!(!f.node.state_dir().join("previous").is_symlink());
    f.is_whole();
}

/// Whatever else is in the place of a file.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_is_in_nobodys_way() {
    let places = [
        "cache/index.json",
        "generations/.highest-gone",
        "generations/default/1/launch.json",
        "generations/default/1/manifest.json",
        "generations/default/1/kernel",
        "generations/default/1",
        "generations/default",
        "blob",
    ];
    for place in places {
        for what in ["dir", "fifo", "file"] {
            let mut f = Fixture::stopped();
            let path = if place == "blob" { f.blob(&f.image.kernel) } else { f.node.state_dir().join(place) };
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir_all(&path);
            match what {
                "dir" => fs::create_dir_all(path.join("x")).unwrap(),
                "fifo" => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
                _ => fs::write(&path, "junk").unwrap(),
            }
            fs::write(f.node.state_dir().join("generations/.DS_Store"), "").unwrap();
            if f.node.state_dir().join("generations/default").is_dir() {
                fs::write(f.node.state_dir().join("generations/default/.DS_Store"), "").unwrap();
            }
            f.node.start();
            f.fsck(&["--repair"]);
            let next = Image { initrd: b"another".to_vec(), ..f.image.clone() };
            next.publish(&f.registry, REPO, "v2");
            f.node.desire_image(&f.registry.reference(REPO, "v2"));
            f.node.until_activated("nginx:v2");
            assert!(f.node.eci(&["gc"]).status.success(), "{place} {what}");
            let (report, code) = f.fsck(&["--repair"]);
            assert_eq!(code, 0, "{place} {what}: {report}");
            assert!(f.node.current("disk-root") == f.image.root && f.node.current("kernel") == f.image.kernel);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_out_of_a_layer_comes_out_of_it_again() {
    let (registry, mut node) = (Registry::http(), Node::new());
    let image = Image::new("v1").with_root_of(2 * MIB);
    let packed = gzip(&tar(&[("root.raw", &image.root)]));
    let root = annotations("disk-root", "application/vnd.lfedge.disk.layer.v1+raw", "root.raw");
    let reference = publish(&registry, "v1", b"{}", &[layer(&registry, GZIP_LAYER, &packed, &root)]);
    node.desire_image(&reference);
    node.start();
    node.until_activated(&reference);
    registry.take_log();
    let f = Fixture { registry, node, image };
    rot(&f.blob(&f.image.root));
    assert_eq!(f.fsck(&["--repair"]).1, 0);
    assert!(f.node.current("disk-root") == f.image.root);
    assert_eq!(f.paid(), packed.len() as u64);
    f.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_an_update_comes_upon_is_repaired_where_else_it_is() {
    let mut f = Fixture::stopped();
    rot(&f.blob(&f.image.root));
    let next = Image { initrd: b"another".to_vec(), ..f.image.clone() };
    next.publish(&f.registry, REPO, "v2");
    f.node.desire_image(&f.registry.reference(REPO, "v2"));
    f.node.start();
    f.node.until_activated("nginx:v2");
    assert!(f.node.current("disk-root") == f.image.root);
    let deadline = Instant::now() + PATIENCE;
    while fs::read(f.file("disk-root-root.raw")).unwrap() != f.image.root {
        assert!(Instant::now() < deadline, "the generation before has the damage still: {}", f.node.log());
        std::thread::yield_now();
    }
    let large = On::blobs().get().reference(&digest(&f.image.root));
    assert_eq!(f.registry.body_bytes(&large), f.image.root.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_looked_at_by_itself_when_it_is_time() {
    let mut f = Fixture::stopped();
    rot(&f.blob(&f.image.root));
    let note = json!({"running": false, "bytes_total": 0, "bytes_done": 0, "finished_at": "2020-01-01T00:00:00Z", "damaged": 0, "left": 0});
    fs::write(f.node.state_dir().join("fsck.json"), note.to_string()).unwrap();
    f.node.start();
    let deadline = Instant::now() + PATIENCE;
    while f.node.status()["fsck"]["damaged"] != 1 {
        assert!(Instant::now() < deadline, "{}", f.node.log());
    }
    assert!(f.node.current("disk-root") == f.image.root);
    assert!(f.node.log().contains("found damaged"), "{}", f.node.log());
    f.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_and_goes_meanwhile_is_no_damage() {
    let f = Fixture::running();
    for n in 0..8 {
        let looking = f.node.command(&["fsck", "--json", "--repair"]).stdout(Stdio::piped()).spawn().unwrap();
        let tag = format!("n{n}");
        Image::new(&tag).with_root_of(MIB).publish(&f.registry, REPO, &tag);
        f.node.desire_image(&f.registry.reference(REPO, &tag));
        f.node.until_activated(&format!("nginx:{tag}"));
        let output = looking.wait_with_output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&report["damage"], output.status.code()), (&json!([]), Some(0)));
    }
}

#[test]
fn a_directory_that_no_agent_has_been_in_is_nothing_to_look_at() {
    let node = Node::new();
    for is_there in [false, true] {
        for command in [&["fsck"][..], &["fsck", "--repair"], &["gc"], &["gc", "--dry-run"]] {
            let output = node.eci(command);
            let message = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(78), "{command:?}: {message}");
            let says = message.contains("none has kept its state in") && message.contains("--state-dir");
            assert!(says && message.contains(node.state_dir().to_str().unwrap()), "{command:?}: {message}");
            assert_eq!(
                (node.state_dir().exists(), files_below(&node.state_dir()).len()),
                (is_there, 0),
                "nothing is made"
            );
        }
        let _ = fs::create_dir(node.state_dir());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_gone_is_filled_from_the_generations() {
    let f = Fixture::stopped();
    f.registry.inject(On::any(), Fault::status(503));
    fs::remove_dir_all(f.node.state_dir().join("cache")).unwrap();
    let (report, code) = f.fsck(&["--repair"]);
    assert_eq!(code, 0, "{report}");
    assert_eq!(fs::read(f.blob(&f.image.root)).unwrap(), f.image.root);
    f.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_put_there_is_named_and_left_alone() {
    for with_agent in [false, true] {
        let f = if with_agent { Fixture::running() } else { Fixture::stopped() };
        let strays = ["cache/blobs/sha256/notes.txt", "partial/.x.new", "partial/copy"];
        for stray in strays {
            fs::write(f.node.state_dir().join(stray), "mine").unwrap();
        }
        fs::create_dir(f.node.state_dir().join("partial/dir")).unwrap();
        let named = [&strays[..], &["partial/dir"]].concat();
        for arguments in [&[][..], &["--repair"]] {
            let (report, code) = f.fsck(arguments);
            assert_eq!((&report["strays"], &report["damage"], code), (&json!(named), &json!([]), 0));
        }
        let text = String::from_utf8(f.node.eci(&["fsck"]).stdout).unwrap();
        assert!(text.contains("stray: partial/copy: "), "{text}");
        assert!(f.node.eci(&["gc"]).status.success());
        if with_agent {
            // An update gives up downloads that nobody goes on with.
            let next = Image { initrd: b"another".to_vec(), ..f.image.clone() };
            next.publish(&f.registry, REPO, "v2");
            let rubbish = f.node.leave_partial(b"rubbish", 3);
            f.node.desire_image(&f.registry.reference(REPO, "v2"));
            f.node.until_activated("nginx:v2");
            until("swept", &f.node, || !rubbish.exists());
        }
        for stray in strays {
            assert_eq!(fs::read(f.node.state_dir().join(stray)).unwrap(), b"mine", "{stray}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_of_one_are_said_as_such() {
    let f = Fixture::stopped();
    fs::remove_file(f.file("disk-root")).unwrap();
    let output = f.node.eci(&["fsck"]);
    let [out, error] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(out.contains("verified 5 blobs and 1 generation, "), "{out}");
    assert!(error.contains("found damaged: 1 part; "), "{error}");
    let shown = String::from_utf8(f.node.eci(&["status"]).stdout).unwrap();
    assert!(shown.contains("! damaged: 1 part of"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_that_cannot_be_removed_is_not_called_repaired() {
    let mut f = Fixture::stopped();
    let blob = f.blob(&f.image.root);
    let place = blob.strip_prefix(f.node.state_dir()).unwrap().to_owned();
    arm(&mut f.node, move |point| {
        let is_removed = point.operation == "remove" && point.path == place && !point.is_made;
        if is_removed { Answer::Fail(Errno::EIO) } else { Answer::Go }
    });
    f.node.start();
    f.registry.inject(On::any(), Fault::status(503));
    rot(&blob);
    let (report, code) = f.fsck(&["--repair"]);
    let outcome = &report["damage"][0]["outcome"]["failed"]["error"];
    assert_eq!((report["damage"].as_array().unwrap().len(), code), (2, 65), "{report}");
    assert!(outcome.as_str().is_some_and(|error| error.contains("cannot remove")), "{report}");
    assert!(blob.exists());
}

/// What an update comes upon concerns a generation that has the same bytes, and is what may be gone back to.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_does_not_forget_what_was_come_upon() {
    let mut f = Fixture::stopped();
    let next = Image { root: f.image.root.clone(), ..Image::new("v2") };
    next.publish(&f.registry, REPO, "v2");
    rot(&f.blob(&f.image.root));
    let root = On::blobs().get().reference(&digest(&f.image.root));
    let stall = f.registry.inject(root.once(), Fault::StallAfter(MIB as u64));
    f.node.desire_image(&f.registry.reference(REPO, "v2"));
    f.node.start();
    stall.struck(1).await;
    f.node.kill();
    f.node.start();
    stall.release();
    f.node.until_activated("nginx:v2");
    until("repaired", &f.node, || fs::read(f.file("disk-root-root.raw")).is_ok_and(|now| now == f.image.root));
    until("looked at", &f.node, || !f.node.state_dir().join("cache/look-owed").exists());
}

/// It is replaced by what is fetched, and nothing tells of it any more; the way back has the same bytes.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_another_length_does_not_cost_the_way_back() {
    let f = Fixture::running();
    let next = Image { root: f.image.root.clone(), ..Image::new("v2") };
    next.publish(&f.registry, REPO, "v2");
    fs::OpenOptions::new().write(true).open(f.blob(&f.image.root)).unwrap().set_len(1000).unwrap();
    f.node.desire(&format!("image = \"{}\"\nconfirm = \"1h\"\n", f.registry.reference(REPO, "v2")));
    f.node.until_activated("nginx:v2");
    until("repaired", &f.node, || fs::read(f.file("disk-root-root.raw")).is_ok_and(|now| now == f.image.root));
    assert!(f.node.eci(&["reconcile"]).status.success());
    let rolled_back = f.node.eci(&["rollback"]);
    assert!(rolled_back.status.success(), "{rolled_back:?}");
    until("back", &f.node, || f.node.current("initrd") == f.image.initrd);
    assert!(f.node.current("disk-root") == f.image.root);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_comes_to_its_end_though_nobody_waits_for_it() {
    let f = Fixture::running();
    rot(&f.blob(&f.image.root));
    let root = On::blobs().get().reference(&digest(&f.image.root));
    let stall = f.registry.inject(root.clone().once(), Fault::StallAfter(MIB as u64));
    let mut client = f.node.command(&["fsck", "--repair"]).stdout(Stdio::null()).spawn().unwrap();
    stall.struck(1).await;
    client.kill().unwrap();
    client.wait().unwrap();
    // Whatever the agent makes of that, it has made it by the time that it has answered twice.
    f.node.status();
    f.node.status();
    stall.release();
    until("repaired", &f.node, || f.node.status()["fsck"]["damaged"] == 1);
    assert_eq!(f.node.status()["fsck"]["left"], 0);
    assert!(f.node.current("disk-root") == f.image.root);
    assert_eq!(f.registry.body_bytes(&root), f.image.root.len() as u64);
    f.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_that_is_killed_has_lost_nothing_and_the_next_one_takes_it_up() {
    for with_agent in [false, true] {
        let mut f = if with_agent { Fixture::running() } else { Fixture::stopped() };
        let (blob, file) = (f.blob(&f.image.root), f.file("disk-root-root.raw"));
        rot(&blob);
        let rotten = fs::read(&file).unwrap();
        let root = On::blobs().get().reference(&digest(&f.image.root));
        let stall = f.registry.inject(root.clone().once(), Fault::StallAfter(MIB as u64));
        let mut repair = f.node.command(&["fsck", "--repair"]).stdout(Stdio::null()).spawn().unwrap();
        stall.struck(1).await;
        until("written", &f.node, || f.node.has_written(&f.image.root) == MIB as u64);
        if with_agent {
            f.node.kill();
        } else {
            repair.kill().unwrap();
        }
        assert!(!repair.wait().unwrap().success());
        assert!(
            !blob.exists() && fs::read(&file).unwrap() == rotten,
            "what boots stays until there is something better"
        );
        if with_agent {
            f.node.start();
            f.node.until_phase("active");
        }
        let (report, code) = f.fsck(&["--repair"]);
        assert_eq!(code, 0, "{report}");
        assert!(f.node.current("disk-root") == f.image.root);
        assert_eq!(f.registry.body_bytes(&root), f.image.root.len() as u64, "with an agent: {with_agent}");
        // Not before: a registry that goes on may count a piece that nobody takes any more.
        stall.release();
        f.is_whole();
    }
}

/// What of an image a repair has to do with.
struct Whole {
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Whole {
    /// Every blob and every file of the generation, as they are to be.
    fn of(f: &Fixture) -> Self {
        let state = f.node.state_dir();
        let places = ["cache/blobs/sha256", "generations/default/1"].map(|dir| state.join(dir));
        let all = places.iter().flat_map(|dir| files_below(dir).into_iter().map(|path| dir.join(path)));
        let files = all.filter(|path| !path.is_symlink() && !path.ends_with("launch.json"));
        Self { files: files.map(|path| (path.clone(), fs::read(path).unwrap())).collect() }
    }

    /// Puts it there again, each file with bytes of its own.
    fn restore(&self) {
        for (path, bytes) in &self.files {
            let _ = fs::remove_file(path);
            fs::write(path, bytes).unwrap();
        }
    }

    /// Whether each file is right or as it was `before`; a blob that was wrong may be gone. A file of a generation never is.
    fn is_no_worse(&self, before: &[Option<Vec<u8>>], point: &str) {
        for ((path, right), before) in self.files.iter().zip(before) {
            let now = fs::read(path).ok();
            let is_gone_rightly =
                now.is_none() && before.as_ref() != Some(right) && path.to_str().unwrap().contains("/blobs/");
            let is_well = now.as_ref() == Some(right) || now == *before || is_gone_rightly;
            assert!(is_well, "{point}: {}", path.display());
        }
    }

    fn now(&self) -> Vec<Option<Vec<u8>>> {
        self.files.iter().map(|(path, _)| fs::read(path).ok()).collect()
    }
}

/// Kill -9 before every change of the disk that a repair makes.
#[tokio::test(flavor = "multi_thread")]
async fn a_repair_that_is_killed_at_any_change_puts_nothing_broken_in_the_place_of_anything() {
    let mut f = Fixture::stopped();
    let whole = Whole::of(&f);
    // The change before which a repair is to stop, if it is, and where it tells that it has.
    let stop_at = Arc::new(AtomicUsize::new(usize::MAX));
    let (told, stopped) = channel::<String>();
    // It stops for as long as the trial goes on: an agent may come to that change after it has answered.
    let trial = Arc::new(AtomicUsize::new(0));
    let (counting, current) = (Arc::clone(&stop_at), Arc::clone(&trial));
    arm(&mut f.node, move |point| {
        let of = current.load(SeqCst);
        if !point.is_made && counting.fetch_sub(1, SeqCst) == 0 {
            told.send(point.to_string()).unwrap();
            while current.load(SeqCst) == of {
                std::thread::yield_now();
            }
        }
        Answer::Go
    });
    let damages: [&dyn Fn(&Fixture); 4] = [
        &|f| {
            // As it is where both are one file.
            fs::remove_file(f.file("disk-root-root.raw")).unwrap();
            fs::hard_link(f.blob(&f.image.root), f.file("disk-root-root.raw")).unwrap();
            rot(&f.blob(&f.image.root));
        },
        &|f| rot(&f.file("disk-root-root.raw")),
        &|f| {
            rot(&f.blob(&f.image.root));
            fs::remove_file(f.file("kernel")).unwrap();
        },
        &|f| {
            rot(&f.file("manifest.json"));
            rot(&f.file("config.json"));
            fs::remove_file(f.file("disk-root")).unwrap();
        },
    ];
    for (n, damage) in damages.into_iter().enumerate() {
        for with_agent in [false, true] {
            for change in 0.. {
                whole.restore();
                damage(&f);
                let before = whole.now();
                stop_at.store(usize::MAX, SeqCst);
                if with_agent {
                    f.node.start();
                    f.node.until_phase("active");
                }
                // What came too late for the trial before.
                while stopped.try_recv().is_ok() {}
                stop_at.store(change, SeqCst);
                let mut repair = f.node.command(&["fsck", "--repair"]);
                repair.env("ECI_FAULT_POINTS", f.node.path("points")).stdout(Stdio::null());
                let mut repair = repair.spawn().unwrap();
                let point = loop {
                    match (stopped.try_recv(), repair.try_wait().unwrap()) {
                        (Ok(point), _) => break Some(point),
                        (_, Some(status)) => {
                            assert!(status.success(), "{n}: {}", f.node.log());
                            break stopped.try_recv().ok();
                        }
                        _ => std::thread::yield_now(),
                    }
                };
                if with_agent {
                    f.node.kill();
                }
                // Where it finds no agent any more, it would do the work itself.
                let _ = repair.kill();
                repair.wait().unwrap();
                stop_at.store(usize::MAX, SeqCst);
                trial.fetch_add(1, SeqCst);
                let Some(point) = point else { break };
                whole.is_no_worse(&before, &point);
                let (report, code) = f.fsck(&["--repair"]);
                assert_eq!(code, 0, "{n}, {point}: {report}");
                assert!(
                    whole.files.iter().all(|(path, right)| fs::read(path).is_ok_and(|now| now == *right)),
                    "{n}, {point}"
                );
                f.is_whole();
            }
        }
    }
}
