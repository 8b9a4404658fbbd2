//! Readers of the log that stall or go, and do not block the program.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::common::agent::Node;
use crate::common::image::Image;
use crate::common::registry::Registry;
use crate::common::workstation::Workstation;

/// An agent that logs all it can into a small pipe, and the pipe's end that is to be read.
fn logging_into_a_pipe(registry: &Registry) -> (Node, File) {
    let mut node = Node::with_config("[log]\nlevel = \"trace\"\n");
    let (pipe, log) = (node.path("pipe"), node.log.clone());
    mkfifo(&pipe, Mode::from_bits_truncate(0o600)).unwrap();
    // Open for both, it opens at once, and the agent always has a reader.
    let reader = OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    fcntl(&reader, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    Image::new("v1").publish(registry, "edge/nginx", "v1");
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.log = pipe;
    node.start();
    node.log = log;
    node.until_activated("nginx:v1");
    (node, reader)
}

/// Has the agent log more than may wait.
fn log_much(node: &Node) {
    for n in 0..100 {
        node.desire(&format!("{}{n} = 1\n", "x".repeat(4000)));
        node.until_rejected("desired-invalid");
    }
}

fn updates_go_on(registry: &Registry, node: &Node) {
    Image::new("v2").publish(registry, "edge/nginx", "v2");
    node.desire_image(&registry.reference("edge/nginx", "v2"));
    node.until_activated("nginx:v2");
    assert_eq!(node.status()["workloads"]["default"]["current"]["generation"], 2);
    assert_eq!(node.current("disk-root"), b"root disk of v2");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_survives_a_log_without_a_reader() {
    let registry = Registry::http();
    let (mut node, reader) = logging_into_a_pipe(&registry);
    log_much(&node);
    updates_go_on(&registry, &node);
    // Once it is read again, it says how much is missing.
    let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
    let notice = lines.find(|line| line.contains("log lines were dropped")).unwrap();
    assert!(notice.contains("lines=") && notice.contains("WARN"), "{notice}");
    drop(lines);
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_a_log_reader_ends_in_time() {
    let registry = Registry::http();
    let (mut node, reader) = logging_into_a_pipe(&registry);
    log_much(&node);
    let begun = std::time::Instant::now();
    assert!(node.stop().success());
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
    drop(reader);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_survives_a_log_reader_that_has_gone() {
    let registry = Registry::http();
    let (node, reader) = logging_into_a_pipe(&registry);
    drop(reader);
    updates_go_on(&registry, &node);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_with_a_reader_has_every_line() {
    let registry = Registry::http();
    let (mut node, reader) = logging_into_a_pipe(&registry);
    let reading = std::thread::spawn(move || {
        let lines = BufReader::new(reader).lines().map(Result::unwrap);
        let mut seen = Vec::new();
        for line in lines {
            let is_last = line.contains("stopping");
            seen.push(line);
            if is_last {
                break;
            }
        }
        seen
    });
    updates_go_on(&registry, &node);
    assert!(node.stop().success());
    let seen = reading.join().unwrap();
    let has = |part: &str| seen.iter().any(|line| line.contains(part));
    assert!(has("ready") && has("nginx:v2") && !has("were dropped"), "{seen:?}");
    // An agent that cannot start says why, behind all that it logged.
    std::fs::write(node.state_dir().join("state.json"), "{\"version\": 999}").unwrap();
    let output = node.eci(&["agent"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.lines().last().unwrap().starts_with("eci: "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_works_without_a_stderr_reader() {
    let (workstation, image) = (Workstation::new(), Image::new("v1"));
    workstation.push(&image, "oci:images:v1");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut pull = workstation.command(&["pull", "--debug", "--dir", "out", "oci:images:v1"]);
    assert!(pull.stderr(writer).status().unwrap().success());
    workstation.has_pulled("out", &image);
}
