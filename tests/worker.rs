//! The worker for untrusted bytes: its confinement, and its end.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Output, Stdio};
use std::time::Instant;

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use seccompiler::{SeccompAction, SeccompFilter, apply_filter};
use serde_json::json;

use crate::common::agent::{Node, PATIENCE};
use crate::common::archive::{gzip, tar};
use crate::common::registry::{On, Registry};
use crate::common::workstation::Workstation;
use crate::decompression::endless;
use crate::legacy::{GZIP_LAYER, annotations, layer, publish};

const DISK: &[u8] = b"a root disk";

/// An image of one disk in a compressed archive.
fn good(registry: &Registry, tag: &str) -> String {
    let root = annotations("disk-root", "application/vnd.lfedge.disk.layer.v1+raw", "root.raw");
    let archive = gzip(&tar(&[("root.raw", DISK)]));
    publish(registry, tag, b"{}", &[layer(registry, GZIP_LAYER, &archive, &root)])
}

/// A field of a process's status; none once it has gone.
fn field(pid: u32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?.trim().to_owned())
}

/// The children of a process.
fn children(parent: u32) -> Vec<u32> {
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    processes.filter(|pid| field(*pid, "PPid") == Some(parent.to_string())).collect()
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

fn until<T>(what: &str, node: &Node, look: impl Fn() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}; {}", node.log());
        std::thread::yield_now();
    }
}

/// The worker that reads a layer, confined.
fn confined_worker(node: &Node) -> u32 {
    until("no worker", node, || {
        children(node.pid()).into_iter().find(|pid| field(*pid, "Seccomp").as_deref() == Some("2"))
    })
}

/// Waits until a process has gone, as a zombie too.
fn until_gone(node: &Node, pid: u32) {
    until("a worker is left", node, || field(pid, "PPid").is_none().then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_confined() {
    let registry = Registry::http();
    let mut node = Node::new();
    node.environment.push(("ECI_TEST_SECRET", "hunter2".into()));
    node.desire_image(&endless(&registry));
    node.start();
    let worker = confined_worker(&node);
    for (name, value) in [("NoNewPrivs", "1"), ("Threads", "1"), ("Seccomp_filters", "1")] {
        assert_eq!(field(worker, name).as_deref(), Some(value), "{name}");
    }
    let limits = fs::read_to_string(format!("/proc/{worker}/limits")).unwrap();
    for name in ["Max core file size", "Max file size", "Max open files", "Max processes", "Max locked memory"] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert!(line.split_whitespace().take(2).eq(["0", "0"]), "{name} {line}");
    }
    // What it may use beyond its own program: buffers, and 64 MiB of decompression.
    let size: u64 = field(worker, "VmSize").unwrap().trim_end_matches(" kB").parse().unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space")).unwrap();
    let bytes: Vec<u64> = line.split_whitespace().take(2).map(|word| word.parse().unwrap()).collect();
    assert!(bytes[0] < bytes[1] && bytes[1] <= (size + (96 << 10)) << 10, "{line} {size} kB");
    // The layer and the socket, each as it was given and as it is used. What the agent itself was started with may be
    // there as well, and is of no use to it.
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{worker}/fd")).unwrap() {
        let target = fs::read_link(entry.unwrap().path()).unwrap().to_str().unwrap().to_owned();
        let kind = if target.contains("/blobs/sha256/") { "layer" } else { target.split(':').next().unwrap() };
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    assert_eq!((kinds["layer"], kinds["socket"]), (2, 2), "{kinds:?}");
    let environment = fs::read_to_string(format!("/proc/{worker}/environ")).unwrap();
    assert!(environment.split('\0').all(|word| word.is_empty() || word.starts_with("MALLOC_")), "{environment}");
    let agent = node.pid();
    assert!(fs::read_to_string(format!("/proc/{agent}/environ")).unwrap().contains("hunter2"));
    assert_eq!(field(agent, "Seccomp_filters").as_deref(), Some("0"), "the agent has none of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_is_an_error_of_its_image() {
    let registry = Registry::http();
    let (endless, good) = (endless(&registry), good(&registry, "good"));
    let mut node = Node::new();
    node.desire_image(&endless);
    node.start();
    // The agent tries again each time.
    let mut came = Vec::new();
    for _ in 0..2 {
        let worker = confined_worker(&node);
        signal(worker, Signal::SIGKILL);
        let message = node.until_failed("worker-failed")["message"].as_str().unwrap().to_owned();
        for part in [endless.as_str(), "layer sha256:", "SIGKILL"] {
            assert!(message.contains(part), "{message}");
        }
        until_gone(&node, worker);
        came.push(registry.body_bytes(&On::blobs()));
    }
    assert_eq!(came[0], came[1], "the layer is not fetched again");
    let status = node.status();
    assert_eq!(status["workloads"]["default"]["quarantined"], json!([]));
    assert_ne!(status["workloads"]["default"]["phase"], "blocked");
    node.desire_image(&good);
    node.until_activated(&good);
    assert_eq!(node.current("disk-root-root.raw"), DISK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_ends_with_what_it_works_for() {
    let registry = Registry::http();
    let (endless, good) = (endless(&registry), good(&registry, "good"));
    let mut node = Node::new();
    node.desire_image(&endless);
    node.start();
    // Another image is desired; even a worker that is stopped ends.
    let worker = confined_worker(&node);
    signal(worker, Signal::SIGSTOP);
    node.desire_image(&good);
    node.until_activated(&good);
    until_gone(&node, worker);
    // The agent is killed.
    node.desire_image(&endless);
    let worker = confined_worker(&node);
    node.kill();
    until_gone(&node, worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_of_the_program_does_not_matter() {
    let registry = Registry::http();
    let first = good(&registry, "first");
    let mut node = Node::new();
    let program = node.copied();
    node.desire_image(&first);
    node.start();
    node.until_activated(&first);
    // As a package manager does it: another file in its place, here one that is not even a program.
    fs::write(program.with_extension("new"), "not a program").unwrap();
    fs::rename(program.with_extension("new"), &program).unwrap();
    let root = annotations("disk-root", "application/vnd.lfedge.disk.layer.v1+raw", "root.raw");
    let other = layer(&registry, GZIP_LAYER, &gzip(&tar(&[("root.raw", b"another disk")])), &root);
    let second = publish(&registry, "second", b"{}", &[other]);
    node.desire_image(&second);
    // The program of the other commands is gone as well.
    let disk = node.state_dir().join("current/disk-root");
    until("not activated", &node, || (fs::read(&disk).ok()? == b"another disk").then_some(()));
}

/// Runs the program where system calls fail with EPERM, as an outer filter has it.
fn without(calls: &[i64], workstation: &Workstation, arguments: &[&str]) -> Output {
    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter: seccompiler::BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, denied, arch).unwrap().try_into().unwrap();
    let mut command = workstation.command(arguments);
    // The filter is the thread's, and its children's.
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            apply_filter(&filter).unwrap();
            command.output().unwrap()
        });
        run.join().unwrap()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_confine_itself_refuses() {
    let registry = Registry::http();
    good(&registry, "good");
    let reference = registry.reference("edge/legacy", "good");
    for (n, denied) in [libc::SYS_seccomp, libc::SYS_prlimit64].into_iter().enumerate() {
        let workstation = Workstation::new();
        let pull = ["pull", "--dir", "out", &reference];
        let output = without(&[denied], &workstation, &pull);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(69), "{n}: {said}");
        for part in ["cannot confine itself", "Operation not permitted", &reference] {
            assert!(said.contains(part), "{n}: {said}");
        }
        assert!(!workstation.path("out/disk-root-root.raw").exists());
        let disk = workstation.write("root.raw", DISK);
        let push = ["push", "--root", disk.to_str().unwrap(), "oci:layout:v1"];
        let output = without(&[denied], &workstation, &push);
        assert_eq!(output.status.code(), Some(69), "{n}: {}", String::from_utf8_lossy(&output.stderr));
        // The same under a filter that forbids something else.
        for command in [pull, ["push", "--root", disk.to_str().unwrap(), "oci:layout:v1"]] {
            let output = without(&[libc::SYS_swapon], &workstation, &command);
            assert!(output.status.success(), "{n}: {}", String::from_utf8_lossy(&output.stderr));
        }
        assert_eq!(fs::read(workstation.path("out/disk-root-root.raw")).unwrap(), DISK);
    }
}

#[test]
fn a_worker_that_nobody_asked_for_ends() {
    let workstation = Workstation::new();
    let mut command = workstation.command(&["unpack-worker", "1000"]);
    let ended = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let known = workstation.eci(&["unpack-workers"]);
    assert_eq!(known.status.code(), Some(64), "the name alone is special");
}
