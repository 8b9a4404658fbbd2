//! `eci exec`: a command runs on what a workload boots, and keeps that for as long as it runs.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::agent::{Node, PATIENCE};
use crate::common::image::Image;
use crate::common::registry::Registry;

const REPO: &str = "edge/nginx";

/// A node that boots v1 with the command line `quiet`, whose agent runs.
fn running(config: &str) -> (Registry, Node) {
    let registry = Registry::http();
    for tag in ["v1", "v2", "v3"] {
        Image { disks: vec![tag.into()], ..Image::new(tag) }.publish(&registry, REPO, tag);
    }
    let mut node = Node::with_config(config);
    desire(&node, &registry, "v1");
    node.start();
    node.until_activated("nginx:v1");
    (registry, node)
}

fn desire(node: &Node, registry: &Registry, tag: &str) {
    node.desire(&format!("image = \"{}\"\ncmdline = \"quiet\"\n", registry.reference(REPO, tag)));
}

fn ends(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// Holds a command to its exit code, to having run nothing, and to what it says.
fn refuses(node: &Node, arguments: &[&str], with: i32, saying: &str) {
    let proof = node.path("it-was-run");
    let run = ["sh", "-c", "touch \"$0\"", proof.to_str().unwrap()];
    let (code, out, err) = ends(&node.eci(&[&["exec"], arguments, &["--"], &run].concat()));
    assert_eq!((code, out.as_str()), (with, ""), "{arguments:?}: {err}");
    assert!(err.contains(saying), "{arguments:?}: {saying}: {err}");
    assert!(!proof.exists(), "{arguments:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_gets_what_its_words_stand_for_with_and_without_an_agent() {
    let (_registry, mut node) = running("");
    let dir = fs::canonicalize(node.state_dir()).unwrap().join("generations/default/1");
    let d = dir.display();
    let script = "printf '%s\n' \"$@\"; echo \"$ECI_WORKLOAD $ECI_GENERATION $ECI_DIR\"; cat; exit 7";
    let words =
        "{kernel} {initrd} file={disk-root},format={disk-root.format} {disk-0} {cmdline} {workload}/{generation} {{";
    for _ in ["with", "without"] {
        let mut command = node.command(&["exec", "default", "--", "sh", "-c", script, "sh"]);
        let mut child = command.args(words.split(' ')).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"standard input\n").unwrap();
        let output = child.wait_with_output().unwrap();
        let expected = format!(
            "{d}/kernel\n{d}/initrd\nfile={d}/disk-root,format=raw\n{d}/disk-0\nquiet\ndefault/1\n{{\n\
             default 1 {d}\nstandard input\n"
        );
        assert_eq!(ends(&output), (7, expected, String::new()));
        if node.socket().exists() {
            node.stop();
        }
    }
    assert_eq!(ends(&node.eci(&["exec", "--", "cat", "{disk-root}", "{disk-0}"])).1, "root disk of v1v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_filled_in_or_run_is_told_and_nothing_is_run() {
    let (registry, mut node) = running("");
    let run = |words: &[&str]| ends(&node.eci(&[&["exec", "--"], words].concat()));
    for (words, code, saying) in [
        (&["echo", "{kernal}"][..], 64, "{disk-root.format}"),
        (&["echo", "a}"], 64, "{{"),
        (&["echo", "{disk-1}"], 65, "the image has no disk-1"),
        (&["no-such-program"], 69, "no-such-program"),
        (&["{kernel}"], 77, "cannot run"),
    ] {
        let (found, out, err) = run(words);
        assert_eq!((found, out.as_str()), (code, ""), "{words:?}: {err}");
        assert!(err.contains(saying), "{words:?}: {err}");
    }
    refuses(&node, &["absent"], 75, "workloads with something to boot: default");
    refuses(&node, &["UPPER"], 64, "no name of a workload");
    assert_eq!(ends(&node.eci(&["exec", "default", "true"])).0, 64, "-- is wanted");

    let of = |name: &str| format!("[workload.{name}]\nimage = \"{}\"\n", registry.reference(REPO, "v1"));
    node.desire(&(of("default") + &of("router")));
    node.until("activated", |event| event["event"] == "activated" && event["workload"] == "router");
    refuses(&node, &[], 64, "name one of default and router");
    assert_eq!(ends(&node.eci(&["exec", "router", "--", "echo", "{workload}"])).1, "router\n");

    node.stop();
    fs::remove_file(node.state_dir().join("workloads/router/current/initrd")).unwrap();
    refuses(&node, &["router"], 65, "router/1 is not complete");
    fs::remove_dir_all(node.state_dir().join("generations/router/1")).unwrap();
    refuses(&node, &["router"], 65, "router/1 is not complete");
    fs::remove_dir_all(node.state_dir()).unwrap();
    refuses(&node, &["router"], 75, "workload router has nothing to boot yet (eci status says why)");
    refuses(&node, &[], 75, "has anything to boot");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_privileges_runs_what_it_may_read() {
    const TEST: &str = "a_user_without_privileges_runs_what_it_may_read";
    let (_registry, mut node) = running("");
    node.stop();
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP {TEST}: only root can run a process as somebody else");
        return;
    }
    fs::set_permissions(node.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let program = node.path("eci");
    crate::common::agent::copy_program(&program);
    let mut command = Command::new(program);
    command.env("ECI_STATE_DIR", node.state_dir()).env("ECI_CONFIG", node.path("etc/agent.toml"));
    command.gid(65534).uid(65534).current_dir("/");
    let output = command.args(["exec", "--", "cat", "{disk-root}"]).output().unwrap();
    let (code, out, err) = ends(&output);
    assert_eq!((code, out.as_str()), (0, "root disk of v1"), "{err}");
    assert!(err.contains("warning: generation default/1 runs without a lease") && err.contains("eci-vm"), "{err}");
}

/// A lock on a generation's directory, as any user can take one, and an older `eci exec` did.
fn lock_of_directory(node: &Node, generation: u64) -> Flock<File> {
    let dir = node.state_dir().join("generations/default").join(generation.to_string());
    Flock::lock(File::open(dir).unwrap(), FlockArg::LockExclusiveNonblock).unwrap()
}

/// What a boot does: the boot in the file is over.
fn boot(node: &Node) {
    let mark = node.state_dir().join("leases/_boot");
    assert_ne!(fs::read_to_string(&mark).unwrap(), "none");
    fs::write(mark, format!("{} 1", "0".repeat(32))).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_a_directory_holds_up_neither_boot_nor_collection() {
    let (registry, node) = running("[cache]\nkeep = 0\nreserve = \"0B\"\n");
    let leases = node.state_dir().join("leases");
    for path in [&*leases, &leases.join("default"), &leases.join("default/1"), &node.state_dir().join("lock")] {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o027, 0, "{}: {mode:o}", path.display());
    }
    let _lock = lock_of_directory(&node, 1);
    let output = node.eci(&["exec", "--", "cat", "{disk-root}"]);
    assert_eq!(ends(&output), (0, "root disk of v1".to_owned(), String::new()));
    update(&registry, &node, "v2");
    update(&registry, &node, "v3");
    assert_eq!(kept(&node), [(3, "current".to_owned())]);
    assert!(!leases.join("default/1").exists() && leases.join("default/3").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_of_an_older_version_is_kept_until_the_next_boot() {
    let (registry, mut node) = running("[cache]\nkeep = 0\nreserve = \"0B\"\n");
    node.stop();
    let leases = node.state_dir().join("leases");
    fs::remove_dir_all(&leases).unwrap();
    assert_eq!(ends(&node.eci(&["exec", "--", "true"])), (0, String::new(), String::new()), "an older agent runs");
    let lock = lock_of_directory(&node, 1);
    node.start();
    assert!(leases.join("default/1").is_file(), "an existing generation gets its lease");
    update(&registry, &node, "v2");
    update(&registry, &node, "v3");
    assert_eq!(kept(&node), [(1, "in-use".to_owned()), (3, "current".to_owned())]);
    node.stop();
    boot(&node);
    node.start();
    assert_eq!(kept(&node), [(3, "current".to_owned())]);
    assert_eq!(fs::read_to_string(leases.join("_boot")).unwrap(), "none");
    drop(lock);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_has_directory_locks_count_again() {
    let (registry, mut node) = running("[cache]\nkeep = 0\nreserve = \"0B\"\n");
    for is_older in [true, false] {
        let current = node.status()["workloads"]["default"]["current"]["generation"].as_u64().unwrap();
        node.stop();
        if is_older {
            // An older version writes its process id alone.
            fs::write(node.state_dir().join("lock"), "1\n").unwrap();
        } else {
            boot(&node);
        }
        let _lock = lock_of_directory(&node, current);
        node.start();
        update(&registry, &node, "v2");
        update(&registry, &node, "v3");
        let kept = kept(&node);
        let in_use = (current, "in-use".to_owned());
        assert_eq!((kept.contains(&in_use), kept.len()), (is_older, 1 + usize::from(is_older)), "{kept:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_a_lock_on_the_directory_too() {
    let (_registry, node) = running("");
    let mut runs = waiting(&node, "echo runs; exec cat");
    for path in ["leases/default/1", "generations/default/1"] {
        let file = File::open(node.state_dir().join(path)).unwrap();
        assert!(Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err(), "{path}");
    }
    drop(runs.stdin.take());
    runs.wait().unwrap();
    lock_of_directory(&node, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_leased_boots_with_a_warning() {
    let (_registry, mut node) = running("");
    let lease = node.state_dir().join("leases/default/1");
    let boots = |node: &Node, is_leased: bool| {
        let (code, out, err) = ends(&node.eci(&["exec", "--", "cat", "{disk-root}"]));
        assert_eq!((code, out.as_str()), (0, "root disk of v1"), "{err}");
        assert_eq!(err.contains("without a lease"), !is_leased, "{err}");
    };
    boots(&node, true);
    fs::remove_file(&lease).unwrap();
    boots(&node, false);
    nix::unistd::mkfifo(&lease, nix::sys::stat::Mode::S_IRWXU).unwrap();
    boots(&node, false);
    // A collection makes it again.
    assert!(node.eci(&["gc"]).status.success());
    boots(&node, true);
    let held = Flock::lock(File::open(&lease).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
    boots(&node, false);
    drop(held);
    boots(&node, true);
    node.stop();
    fs::write(node.state_dir().join("leases/default/7"), "").unwrap();
    fs::create_dir_all(node.state_dir().join("leases/gone/1")).unwrap();
    node.start();
    let left = crate::common::agent::files_below(&node.state_dir().join("leases"));
    assert_eq!(left, ["_boot", "default/1"].map(std::path::PathBuf::from));
    assert!(!node.state_dir().join("leases/gone").exists());
}

/// A command that says that it runs, and then waits until its standard input ends.
fn waiting(node: &Node, script: &str) -> Child {
    let mut command = node.command(&["exec", "--", "sh", "-c", script, "{disk-root}"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "runs\n");
    child
}

/// Why each generation that stays does, after a collection.
fn kept(node: &Node) -> Vec<(u64, String)> {
    let output = node.eci(&["gc", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let kept = report["kept"].as_array().unwrap().iter();
    kept.map(|kept| (kept["generation"].as_u64().unwrap(), kept["why"].as_str().unwrap().to_owned())).collect()
}

fn update(registry: &Registry, node: &Node, tag: &str) {
    desire(node, registry, tag);
    node.until_activated(&format!("nginx:{tag}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_kept_until_it_ends_however_it_does() {
    let (registry, node) = running("[cache]\nkeep = 0\nreserve = \"0B\"\n");
    let mut first = waiting(&node, "echo runs; cat >/dev/null; exec cat \"$0\"");
    let mut second = waiting(&node, "echo runs; exec cat");
    update(&registry, &node, "v2");
    update(&registry, &node, "v3");
    let in_use = [(1, "in-use".to_owned()), (3, "current".to_owned())];
    assert_eq!(kept(&node), in_use);
    second.kill().unwrap();
    second.wait().unwrap();
    assert_eq!(kept(&node), in_use, "the other one runs still");
    drop(first.stdin.take());
    let output = first.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"root disk of v1", "its path leads to what it was");
    let deadline = Instant::now() + PATIENCE;
    while kept(&node) != in_use[1..] {
        assert!(Instant::now() < deadline, "{}", node.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_leaves_running_keeps_it_as_well() {
    let (registry, node) = running("[cache]\nkeep = 0\nreserve = \"0B\"\n");
    let pid = node.path("pid");
    let script = format!("exec 3<&0; cat <&3 >/dev/null & echo $! >{}; echo runs", pid.display());
    let mut parent = waiting(&node, &script);
    let input = parent.stdin.take();
    assert!(parent.wait().unwrap().success(), "the command itself has ended");
    update(&registry, &node, "v2");
    assert_eq!(kept(&node), [(1, "in-use".to_owned()), (2, "current".to_owned())]);
    let left = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    kill(Pid::from_raw(left), Signal::SIGKILL).unwrap();
    drop(input);
    let deadline = Instant::now() + PATIENCE;
    while kept(&node).len() > 1 {
        assert!(Instant::now() < deadline, "{}", node.log());
    }
}
