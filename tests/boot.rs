//! The main job to its end: what the agent deployed boots in QEMU, and boots anew after an update.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::common::agent::Node;
use crate::common::docker_registry::DockerRegistry;
use crate::common::edge_vm::{BOOT, Builder, Hypervisor, Main, Reports, desired, qemu_for};
use crate::common::registry::Registry;
use crate::common::vm::end_of;

/// Boots what `current` points at, as its `launch.json` says, and gives what the machine showed until it turned itself off.
fn boot(node: &Node) -> String {
    let console = node.path("console");
    let mut qemu = qemu_for(&node.state_dir().join("current"), &console).spawn().unwrap();
    let deadline = Instant::now() + BOOT;
    while qemu.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            qemu.kill().unwrap();
            qemu.wait().unwrap();
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    end_of(&console)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_is_deployed_and_boots_and_so_does_its_update() {
    const TEST: &str = "what_is_pushed_is_deployed_and_boots_and_so_does_its_update";
    let Some(builder) = Builder::found(TEST) else { return };
    let Some(registry) = DockerRegistry::http(TEST) else { return };
    let mut node = Node::new();
    node.start();
    for version in ["root-disk-of-v1", "root-disk-of-v2"] {
        let image = registry.reference("edge/vm", version);
        builder.push(&image, version, &Main::PowersOff);
        node.desire(&desired(&image, ""));
        node.until_activated(&image);
        let console = boot(&node);
        assert!(console.contains(version), "{console}");
    }
}

/// The first line of the answer.
fn get(url: &str) -> String {
    let host = url.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(host).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    BufReader::new(stream).lines().next().unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hypervisor_runs_what_current_points_at_and_a_bad_machine_does_not_report() {
    const TEST: &str = "a_hypervisor_runs_what_current_points_at_and_a_bad_machine_does_not_report";
    let Some(builder) = Builder::found(TEST) else { return };
    let (registry, reports, mut node) = (Registry::http(), Reports::open(), Node::new());
    let image = |version: &str| registry.reference("edge/vm", version);
    for (version, main) in [("v1", Main::Reports), ("v2", Main::Halts), ("v3", Main::Reports)] {
        builder.push(&image(version), version, &main);
    }
    node.desire(&desired(&image("v1"), ""));
    node.start();
    let hypervisor = Hypervisor::start(&node, &reports);
    reports.until_up("v1");
    assert_eq!(get(&reports.health_url()), "HTTP/1.1 200 OK");
    node.desire(&desired(&image("v2"), ""));
    reports.until_down();
    hypervisor.until_shown(2, "v2 halts");
    assert_eq!(get(&reports.health_url()), "HTTP/1.1 503 Service Unavailable");
    node.desire(&desired(&image("v3"), ""));
    reports.until_up("v3");
}
