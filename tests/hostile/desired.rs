//! Desired-state files that are no files, too large, too deep or too many.

use std::fs;

use nix::sys::stat::Mode;

use super::{Bounds, kib, mib, secs};
use crate::common::agent::Node;
use crate::common::image::Image;
use crate::common::registry::Registry;

const REPO: &str = "edge/nginx";
const BOUNDS: Bounds = Bounds { memory: mib(160), wire: kib(64), requests: 40, within: secs(60) };

/// Time that a process has computed so far, in clock ticks of 10 ms.
fn ticks(node: &Node) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", node.pid())).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').map(str::to_owned).collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn desired_files_that_are_none_change_nothing() {
    let case = BOUNDS.start();
    let registry = Registry::http();
    let good = Image::new("v1");
    good.publish(&registry, REPO, "v1");
    Image::new("v2").publish(&registry, REPO, "v2");
    let mut node = Node::new();
    node.desire_image(&registry.reference(REPO, "v1"));
    node.start();
    node.until_activated("nginx:v1");
    let before = ticks(&node);
    let many: String = (0..300).map(|n| format!("[workload.w{n}]\nimage = \"r.example/a/b:c\"\n")).collect();
    let texts = [
        " ".repeat(2 << 20),
        format!("image = {}", "[".repeat(100_000)),
        format!("image{} = 1", ".a".repeat(100_000)),
        format!("{}\nimage = \"\u{7f}\u{1b}[2J\"\n", "[a]\n".repeat(2)),
        "image = \"\u{0}\"".to_owned(),
        many,
    ];
    for (n, text) in texts.iter().enumerate() {
        node.desire(text);
        node.until(&format!("rejected file {n}"), |event| event["event"] == "desired-rejected");
    }
    for kind in ["pipe", "zeros", "directory"] {
        // The same error twice is one event.
        node.desire("image = 1\n");
        node.until("rejected text", |event| {
            event["event"] == "desired-rejected" && event["message"].as_str().unwrap().contains(":1:9")
        });
        let new = node.path("etc/new");
        match kind {
            "pipe" => nix::unistd::mkfifo(&new, Mode::S_IRWXU).unwrap(),
            "zeros" => std::os::unix::fs::symlink("/dev/zero", &new).unwrap(),
            _ => {
                fs::create_dir(&new).unwrap();
                fs::remove_file(node.desired()).unwrap();
            }
        }
        fs::rename(&new, node.desired()).unwrap();
        node.until(&format!("rejected {kind}"), |event| {
            event["event"] == "desired-rejected" && event["kind"] != "desired-absent"
        });
    }
    assert!(ticks(&node) - before < 1000, "it has computed for {} ticks", ticks(&node) - before);
    assert_eq!(node.current("initrd"), good.initrd);
    fs::remove_dir(node.desired()).unwrap();
    node.desire_image(&registry.reference(REPO, "v2"));
    node.until_activated("nginx:v2");
    case.agent(&node).registry(&registry);
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_refuses_what_the_agent_would() {
    let case = BOUNDS.start();
    let node = Node::new();
    let pipe = node.path("pipe");
    nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let (large, deep) = (node.path("large"), node.path("deep"));
    fs::write(&large, " ".repeat(2 << 20)).unwrap();
    fs::write(&deep, format!("image = {}", "[".repeat(100_000))).unwrap();
    for path in [pipe.to_str().unwrap(), "/dev/zero", "/", large.to_str().unwrap(), deep.to_str().unwrap()] {
        let output = case.run(&node.command(&["apply", path]));
        assert!(matches!(output.status.code(), Some(64..=78)), "{path}: {output:?}");
        assert!(!node.desired().exists(), "{path}");
    }
}
