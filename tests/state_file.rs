//! The state directory outlives what is done to it: upgrades and downgrades of the agent, damage, disks that fail or turn
//! read-only, and whole directories that vanish.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use nix::errno::Errno;
use serde_json::Value;

use crate::common::agent::{Node, files_below};
use crate::common::fault_points::{Answer, arm};
use crate::common::image::Image;
use crate::common::registry::{On, Registry, digest};
use crate::common::service::{Service, eventually};
use crate::mishaps::Small;

const REPO: &str = "edge/nginx";

/// What is done to something, and in words.
type Case<T> = (&'static str, fn(&T));

/// A registry with two images, v1 and v2.
fn registry() -> (Registry, [Image; 2]) {
    let registry = Registry::http();
    let images = ["v1", "v2"].map(Image::new);
    images[0].publish(&registry, REPO, "v1");
    images[1].publish(&registry, REPO, "v2");
    (registry, images)
}

/// A node that runs v1.
fn running(registry: &Registry) -> Node {
    let mut node = Node::new();
    run_v1(&mut node, registry);
    node
}

fn run_v1(node: &mut Node, registry: &Registry) {
    node.desire_image(&registry.reference(REPO, "v1"));
    node.start();
    node.until_phase("active");
}

/// Everything below `dir`: where it points or what is in it.
fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let content = |path: PathBuf| {
        let full = dir.join(&path);
        let target = fs::read_link(&full).map(|target| target.to_string_lossy().into_owned().into_bytes());
        (path, target.unwrap_or_else(|_| fs::read(full).unwrap()))
    };
    files_below(dir).into_iter().map(content).collect()
}

/// A case in the repository.
fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Makes `to` the state directory that an older version left: modes, hard links and paths as they were.
fn restore_v1(to: &Path) {
    let from = data("state-v1/state");
    assert!(Command::new("cp").arg("-a").arg(&from).arg(to).status().unwrap().success());
    fs::set_permissions(to.join("state.json"), fs::Permissions::from_mode(0o600)).unwrap();
    let files = files_below(to).into_iter().map(|path| to.join(path));
    for path in files.filter(|path| path.starts_with(to.join("generations")) && !path.is_symlink()) {
        let bytes = fs::read(&path).unwrap();
        let blob = to.join("cache/blobs").join(digest(&bytes).replace(':', "/"));
        fs::remove_file(&path).unwrap();
        if blob.exists() {
            fs::set_permissions(&blob, fs::Permissions::from_mode(0o444)).unwrap();
            fs::hard_link(blob, path).unwrap();
        } else {
            let text = String::from_utf8(bytes).unwrap().replace("/var/lib/eci-agent", to.to_str().unwrap());
            fs::write(path, text).unwrap();
        }
    }
}

fn generation(node: &Node, workload: &str) -> Value {
    node.status()["workloads"][workload]["current"]["generation"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_version_left_is_taken_up() {
    let mut node = Node::new();
    restore_v1(&node.state_dir());
    fs::copy(data("state-v1/desired.toml"), node.desired()).unwrap();
    let links = |node: &Node| {
        ["current", "previous", "workloads/default/current", "workloads/router/current"]
            .map(|link| fs::read_link(node.state_dir().join(link)).unwrap())
    };
    let before = links(&node);
    node.start();
    // Nothing answers there.
    for workload in ["default", "router"] {
        node.until("unreachable", |event| event["workload"] == workload && event["kind"] == "unreachable");
    }
    let status = node.status();
    assert_eq!((generation(&node, "default"), generation(&node, "router")), (2.into(), 1.into()), "{status}");
    assert_eq!(status["workloads"]["default"]["previous"]["generation"], 1, "{status}");
    assert_eq!(status["desired"]["accepted_at"], "2026-11-25T09:16:30.187474691Z", "the same is not accepted again");
    assert_eq!(links(&node), before);
    assert_eq!(node.current("disk-root"), b"root disk of v2");

    let registry = Registry::http();
    let image = Image::new("v3");
    image.publish(&registry, REPO, "v3");
    node.desire_image(&registry.reference(REPO, "v3"));
    node.until_activated("nginx:v3");
    eventually("retired", || node.status()["workloads"].get("router").is_none().then_some(()));
    assert_eq!((generation(&node, "default"), node.current("disk-root")), (3.into(), image.root));
    assert!(node.stop().success());
    let state: Value = serde_json::from_slice(&fs::read(node.state_dir().join("state.json")).unwrap()).unwrap();
    assert_eq!((&state["version"], &state["retired"]["router"]), (&4.into(), &1.into()), "{state}");
    node.start();
    node.until_phase("active");
    assert_eq!(generation(&node, "default"), 3);
}

/// Format 2 knew of no probation and no hooks: what runs is final, and no hook is run for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_ran_under_format_2_is_final_and_is_not_announced_again() {
    let mut node = Node::new();
    restore_v1(&node.state_dir());
    fs::copy(data("state-v2/state.json"), node.state_dir().join("state.json")).unwrap();
    fs::copy(data("state-v2/desired.toml"), node.desired()).unwrap();
    node.configure("[hooks]\npost_activate = [\"/bin/false\"]\n");
    node.start();
    for workload in ["default", "router"] {
        node.until("unreachable", |event| event["workload"] == workload && event["kind"] == "unreachable");
    }
    let status = node.status();
    assert_eq!(status["desired"]["accepted_at"], "2026-11-28T21:57:55.350987649Z", "the same is not accepted again");
    let current = &status["workloads"]["default"]["current"];
    assert_eq!((&current["generation"], &current["confirmed"]), (&2.into(), &true.into()), "{status}");
    assert!(!node.log().contains("hook-failed"), "{}", node.log());
}

/// Format 3 did not know what generations say of themselves: what is found is trusted once, and held to from then on.
#[tokio::test(flavor = "multi_thread")]
async fn what_generations_said_under_format_3_is_trusted_once_and_noted() {
    let mut node = Node::new();
    let state = node.state_dir();
    restore_v1(&state);
    fs::copy(data("state-v3/state.json"), state.join("state.json")).unwrap();
    fs::copy(data("state-v3/desired.toml"), node.desired()).unwrap();
    node.start();
    for workload in ["default", "router"] {
        node.until("unreachable", |event| event["workload"] == workload && event["kind"] == "unreachable");
    }
    assert_eq!((generation(&node, "default"), generation(&node, "router")), (2.into(), 1.into()));
    let record = |of: &str| state.join("generations").join(of).join("launch.json");
    let noted = || -> Value { serde_json::from_slice(&fs::read(state.join("state.json")).unwrap()).unwrap() };
    eventually("noted", || (noted()["version"] == 4).then_some(()));
    for (workload, number) in [("default", "1"), ("default", "2"), ("router", "1")] {
        let found = digest(&fs::read(record(&format!("{workload}/{number}"))).unwrap());
        assert_eq!(noted()["workloads"][workload]["records"][number], found, "{workload}/{number}");
    }
    assert!(node.stop().success());

    let path = record("default/2");
    let text = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, text.replacen("\"cmdline\": null", "\"cmdline\": \"x\"", 1)).unwrap();
    node.start();
    // Nothing says what is to be laid out in its place, and what ran before is as it was.
    node.until("gone back", |event| event["event"] == "activated" && event["generation"] == 1);
    assert_eq!((generation(&node, "default"), generation(&node, "router")), (1.into(), 1.into()));
}

#[test]
fn what_a_newer_version_left_is_refused_and_nothing_of_it_is_changed() {
    let node = Node::new();
    let state = node.state_dir();
    restore_v1(&state);
    let text = fs::read_to_string(state.join("state.json")).unwrap();
    fs::write(state.join("state.json"), text.replace("\"version\": 1", "\"version\": 5")).unwrap();
    // A start sweeps these, as a rule.
    fs::create_dir(state.join("generations/default/.3.new")).unwrap();
    fs::write(state.join("generations/default/.3.new/kernel"), "").unwrap();
    let before = snapshot(&state);
    let ended = Service::spawn(&node, &[]).ended();
    assert_eq!(ended.code(), Some(78), "{}", node.log());
    assert!(node.log().contains("was written by a newer version (format 5"), "{}", node.log());
    for command in ["gc", "status"] {
        assert_eq!(node.eci(&[command]).status.code(), Some(78), "{command}");
    }
    assert!(snapshot(&state) == before);
}

#[test]
fn a_second_agent_is_refused_however_it_spells_the_directory() {
    let node = Node::new();
    let first = Service::start(&node);
    symlink(node.state_dir(), node.path("link")).unwrap();
    for spelling in [node.state_dir(), node.path("link"), node.path("etc/../state/."), node.path("link/../state")] {
        let socket = node.path("other.sock");
        let arguments = ["agent", "--socket", socket.to_str().unwrap(), "--state-dir", spelling.to_str().unwrap()];
        let second = node.command(&arguments).output().unwrap();
        let message = String::from_utf8_lossy(&second.stderr).into_owned();
        assert_eq!(second.status.code(), Some(75), "{spelling:?}: {message}");
        assert!(message.contains(&format!("process {}", first.pid())), "{spelling:?}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_number_is_used_twice_whatever_becomes_of_workload_and_state() {
    for damage in [None, Some("cut"), Some("gone")] {
        let (registry, _) = registry();
        let reference = registry.reference(REPO, "v1");
        let with = |more: &str| format!("[workload.router]\nimage = \"{reference}\"\n{more}");
        let firewall = format!("[workload.firewall]\nimage = \"{reference}\"\n");
        let mut node = Node::new();
        node.desire(&with(&firewall));
        node.start();
        node.until("active", |event| event["workload"] == "firewall" && event["phase"] == "active");
        // So that its numbers are not those that a new one begins with.
        node.desire(&with(&firewall.replace("v1", "v2")));
        node.until_activated("nginx:v2");
        node.desire(&with(""));
        node.until("retired", |event| event["event"] == "retired");
        let generations = node.state_dir().join("generations/firewall");
        eventually("collected", || files_below(&generations).is_empty().then_some(()));
        assert!(node.stop().success());
        let file = node.state_dir().join("state.json");
        match damage {
            None => {}
            Some("gone") => fs::remove_file(file).unwrap(),
            Some(_) => {
                let bytes = fs::read(&file).unwrap();
                fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
            }
        }
        node.desire(&with(&firewall));
        node.start();
        node.until("back", |event| event["workload"] == "firewall" && event["event"] == "activated");
        assert_eq!((generation(&node, "firewall"), generation(&node, "router")), (3.into(), 1.into()), "{damage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_state_cannot_be_saved_nothing_that_needs_it_is_begun() {
    for (errno, kind) in [(Errno::ENOSPC, "disk-full"), (Errno::EIO, "io"), (Errno::EROFS, "read-only")] {
        let (registry, images) = registry();
        let mut node = Node::new();
        let is_ill = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&is_ill);
        arm(&mut node, move |point| {
            // What is read-only is so for every file.
            let is_hit = errno == Errno::EROFS || point.path.to_string_lossy().contains("state.json");
            if is_hit && !point.is_made && asked.load(SeqCst) { Answer::Fail(errno) } else { Answer::Go }
        });
        run_v1(&mut node, &registry);
        assert!(node.status()["agent"]["error"].is_null());
        let asked_for = registry.count(&On::manifests());
        let saved = fs::read(node.state_dir().join("state.json")).unwrap();
        is_ill.store(true, SeqCst);
        node.desire_image(&registry.reference(REPO, "v2"));
        // The agent's own, then the workload's.
        let failed = node.until_failed(kind);
        assert!(failed["workload"].is_null() && failed["message"].as_str().unwrap().contains("state.json"), "{failed}");
        for _ in 0..3 {
            node.until("refused", |event| event["workload"] == "default" && event["kind"] == kind);
        }
        let status = node.status();
        assert_eq!(status["agent"]["error"]["kind"], kind, "{status}");
        assert!(status["agent"]["error"]["retry_at"].is_string(), "{status}");
        assert_eq!(registry.count(&On::manifests()), asked_for, "nothing is asked for");
        assert_eq!(fs::read(node.state_dir().join("state.json")).unwrap(), saved);
        assert_eq!(node.current("initrd"), images[0].initrd);
        let table = node.eci(&["status"]).stdout;
        assert!(String::from_utf8(table).unwrap().contains(&format!("! {kind}: cannot")));

        is_ill.store(false, SeqCst);
        node.until_activated("nginx:v2");
        assert_eq!(node.current("initrd"), images[1].initrd);
        assert!(node.status()["agent"]["error"].is_null());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_that_nothing_waits_for_is_made_up_for() {
    let (registry, _) = registry();
    let mut node = Node::new();
    let is_ill = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&is_ill);
    arm(&mut node, move |point| {
        let is_state = point.path.to_string_lossy().contains("state.json");
        if is_state && !point.is_made && asked.load(SeqCst) { Answer::Fail(Errno::EIO) } else { Answer::Go }
    });
    run_v1(&mut node, &registry);
    is_ill.store(true, SeqCst);
    let text = format!("# another text\nimage = \"{}\"\n", registry.reference(REPO, "v1"));
    node.desire(&text);
    node.until_failed("io");
    assert_eq!(node.status()["workloads"]["default"]["phase"], "active", "what runs is not touched");
    is_ill.store(false, SeqCst);
    let file = node.state_dir().join("state.json");
    eventually("saved", || fs::read_to_string(&file).unwrap().contains(&digest(text.as_bytes())).then_some(()));
    eventually("well", || node.status()["agent"]["error"].is_null().then_some(()));
}

/// Mounts what is at `dir` again with `options`.
fn remount(dir: &Path, options: &str) {
    let mounted = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(dir).output().unwrap();
    assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_turns_read_only_is_reported_and_recovered_from() {
    let test = "a_file_system_that_turns_read_only_is_reported_and_recovered_from";
    let (registry, images) = registry();
    let mut node = Node::new();
    let Some(_small) = Small::mount(test, node.state_dir(), 10) else { return };
    run_v1(&mut node, &registry);
    remount(&node.state_dir(), "ro");
    // Noticed when somebody asks, and by itself within a minute.
    assert!(node.eci(&["reconcile"]).status.success());
    let failed = node.until_failed("read-only");
    assert!(failed["message"].as_str().unwrap().contains("mounted read-only"), "{failed}");
    assert_eq!(node.status()["agent"]["error"]["kind"], "read-only");
    assert_eq!(node.status()["workloads"]["default"]["phase"], "active", "what runs goes on");

    node.desire_image(&registry.reference(REPO, "v2"));
    node.until("refused", |event| event["workload"] == "default" && event["kind"] == "read-only");
    assert_eq!(node.current("initrd"), images[0].initrd);
    remount(&node.state_dir(), "rw");
    node.until_activated("nginx:v2");
    assert_eq!(node.current("initrd"), images[1].initrd);
    assert!(node.status()["agent"]["error"].is_null());
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_read_only_file_system_says_so_and_the_node_still_boots() {
    let test = "a_start_on_a_read_only_file_system_says_so_and_the_node_still_boots";
    let (registry, images) = registry();
    let mut node = Node::new();
    let Some(_small) = Small::mount(test, node.state_dir(), 10) else { return };
    run_v1(&mut node, &registry);
    assert!(node.stop().success());
    remount(&node.state_dir(), "ro");
    let before = snapshot(&node.state_dir());
    // The service manager starts it again every few seconds, until this ends otherwise.
    assert_eq!(Service::spawn(&node, &[]).ended().code(), Some(73));
    assert!(node.log().lines().last().unwrap().contains("mounted read-only"), "{}", node.log());
    assert!(snapshot(&node.state_dir()) == before);
    assert_eq!(node.status()["workloads"]["default"]["current"]["generation"], 1, "the directory speaks for itself");
    assert_eq!(node.current("initrd"), images[0].initrd);
    remount(&node.state_dir(), "rw");
    node.start();
    node.until_phase("active");
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_vanished_is_made_anew_by_the_next_start() {
    let vanish: [Case<Node>; 3] = [
        ("removed", |node| fs::remove_dir_all(node.state_dir()).unwrap()),
        ("moved", |node| fs::rename(node.state_dir(), node.path("moved")).unwrap()),
        ("another", |node| {
            fs::rename(node.state_dir(), node.path("moved")).unwrap();
            fs::create_dir(node.state_dir()).unwrap();
            fs::write(node.state_dir().join("lock"), "").unwrap();
        }),
    ];
    for (how, vanish) in vanish {
        for by_asking in [true, false] {
            let (registry, images) = registry();
            let mut node = running(&registry);
            vanish(&node);
            if by_asking {
                // The answer may not come: the agent ends.
                node.eci(&["reconcile"]);
            } else {
                node.desire_image(&registry.reference(REPO, "v2"));
            }
            assert_eq!(node.ended().code(), Some(73), "{how}: {}", node.log());
            assert!(node.log().contains("is not the directory any more"), "{how}: {}", node.log());
            let made = ["cache", "workloads", "generations"].map(|name| node.state_dir().join(name).exists());
            assert_eq!(made, [false; 3], "{how}: nothing is done without the lock");
            node.start();
            node.until_activated("nginx:v");
            assert_eq!(node.current("initrd"), images[usize::from(!by_asking)].initrd, "{how}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_something_was_mounted_over_is_left_to_the_next_start() {
    let test = "a_directory_that_something_was_mounted_over_is_left_to_the_next_start";
    let (registry, images) = registry();
    let mut node = running(&registry);
    let Some(small) = Small::mount(test, node.state_dir(), 10) else { return };
    node.eci(&["reconcile"]);
    assert_eq!(node.ended().code(), Some(73), "{}", node.log());
    node.start();
    node.until_activated("nginx:v1");
    // And back.
    drop(small);
    node.eci(&["reconcile"]);
    assert_eq!(node.ended().code(), Some(73), "{}", node.log());
    registry.stop().await;
    node.start();
    assert_eq!(node.current("initrd"), images[0].initrd, "it was there all the time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_generation_is_noticed_while_the_agent_runs() {
    let damages: [Case<Path>; 5] = [
        ("a file is gone", |dir| fs::remove_file(dir.join("kernel")).unwrap()),
        ("a file is cut", |dir| {
            fs::remove_file(dir.join("initrd")).unwrap();
            fs::write(dir.join("initrd"), "in").unwrap();
        }),
        ("a link is gone", |dir| fs::remove_file(dir.join("disk-root")).unwrap()),
        ("its record is gone", |dir| fs::remove_file(dir.join("launch.json")).unwrap()),
        ("all of it is gone", |dir| fs::remove_dir_all(dir).unwrap()),
    ];
    for (what, damage) in damages {
        let (registry, [image, _]) = registry();
        let node = running(&registry);
        damage(&node.state_dir().join("generations/default/1"));
        assert!(node.eci(&["reconcile"]).status.success());
        node.until("mended", |event| event["event"] == "activated" && event["generation"] == 2);
        let made = ["kernel", "initrd", "disk-root"].map(|name| node.current(name));
        assert_eq!(made, [image.kernel, image.initrd, image.root], "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_are_gone_are_set_again_without_the_registry() {
    for gone in ["workloads", "workloads/default/current", "current"] {
        let (registry, [image, _]) = registry();
        let node = running(&registry);
        registry.stop().await;
        let path = node.state_dir().join(gone);
        if gone == "workloads" {
            fs::remove_dir_all(path).unwrap()
        } else {
            fs::remove_file(path).unwrap()
        }
        assert!(node.eci(&["reconcile"]).status.success());
        for link in ["current", "workloads/default/current"] {
            assert_eq!(fs::read(node.state_dir().join(link).join("initrd")).unwrap(), image.initrd, "{gone}");
        }
        assert_eq!(generation(&node, "default"), 1, "{gone}");
    }
}
