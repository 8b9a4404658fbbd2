//! The desired-state file: how it may change, and what is wrong with it.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::symlink;

use crate::common::agent::Node;
use crate::common::image::Image;
use crate::common::registry::Registry;

struct Fixture {
    registry: Registry,
    node: Node,
}

/// A node that runs v1, of a registry that has v1 and v2.
async fn running() -> Fixture {
    let registry = Registry::http();
    for tag in ["v1", "v2"] {
        Image::new(tag).publish(&registry, "edge/nginx", tag);
    }
    let mut node = Node::new();
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.start();
    node.until_activated("nginx:v1");
    Fixture { registry, node }
}

impl Fixture {
    fn text(&self, tag: &str) -> String {
        format!("image = \"{}\"\n", self.registry.reference("edge/nginx", tag))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_wrong_changes_nothing_and_is_named_with_its_place() {
    let f = running().await;
    let path = f.node.desired().display().to_string();
    for (text, place) in [
        (String::new(), "is empty".to_owned()),
        ("image = \"127.0.0.1:5000/edge/ng".to_owned(), format!("{path}:1:")),
        (format!("{}imge = \"x\"\n", f.text("v2")), format!("{path}:2:1: imge:")),
        ("\n\nimage = \"nginx\"\n".to_owned(), format!("{path}:3:9: image:")),
    ] {
        f.node.desire(&text);
        let rejected = f.node.until_rejected("desired-invalid");
        let message = rejected["message"].as_str().unwrap();
        assert!(message.contains(&place), "{message}");
        let status = f.node.status();
        assert_eq!(status["desired"]["error"]["kind"], "desired-invalid");
        assert_eq!(status["workloads"]["default"]["phase"], "active");
    }
    fs::remove_file(f.node.desired()).unwrap();
    f.node.until_rejected("desired-absent");
    assert_eq!(f.node.current("disk-root"), b"root disk of v1");

    f.node.desire(&f.text("v2"));
    f.node.until_activated("nginx:v2");
    assert!(f.node.status()["desired"]["error"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_stays_in_force_over_a_restart_with_a_wrong_file() {
    let mut f = running().await;
    f.node.stop();
    fs::write(f.node.desired(), "nonsense").unwrap();
    f.node.start();
    // Which of the two comes first is open: file and registry are asked at the same time.
    let (rejected, active) = (Cell::new(false), Cell::new(false));
    f.node.until("rejected and active", |event| {
        rejected.set(rejected.get() || event["event"] == "desired-rejected");
        active.set(active.get() || (event["event"] == "phase" && event["phase"] == "active"));
        rejected.get() && active.get()
    });
    let status = f.node.status();
    assert!(status["desired"]["accepted_at"].is_string());
    assert_eq!(status["workloads"]["default"]["current"]["generation"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_in_place_is_taken_up() {
    let f = running().await;
    fs::write(f.node.desired(), f.text("v2")).unwrap();
    f.node.until_activated("nginx:v2");
}

#[tokio::test(flavor = "multi_thread")]
async fn links_swapped_by_config_management_are_taken_up() {
    // As a ConfigMap mount has it: desired.toml -> ..data/desired.toml, ..data -> ..v1, swapped by rename.
    let f = running().await;
    let etc = f.node.path("etc");
    for tag in ["v1", "v2"] {
        fs::create_dir(etc.join(format!("..{tag}"))).unwrap();
        fs::write(etc.join(format!("..{tag}/desired.toml")), f.text(tag)).unwrap();
    }
    symlink("..v1", etc.join("..data")).unwrap();
    symlink("..data/desired.toml", etc.join("link")).unwrap();
    fs::rename(etc.join("link"), f.node.desired()).unwrap();
    for tag in ["v2", "v1"] {
        symlink(format!("..{tag}"), etc.join("..tmp")).unwrap();
        fs::rename(etc.join("..tmp"), etc.join("..data")).unwrap();
        f.node.until_activated(&format!("nginx:{tag}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_created_later_is_noticed() {
    let registry = Registry::http();
    Image::new("one").publish(&registry, "edge/nginx", "v1");
    let mut node = Node::new();
    let later = node.path("etc/later");
    symlink(later.join("deep/desired.toml"), node.desired()).unwrap();
    node.start();
    node.until_rejected("desired-absent");
    fs::create_dir_all(later.join("deep")).unwrap();
    fs::write(later.join("deep/desired.toml"), format!("image = \"{}\"\n", registry.reference("edge/nginx", "v1")))
        .unwrap();
    node.until_activated("nginx:v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_installs_a_file_that_is_right_and_refuses_one_that_is_not() {
    let f = running().await;
    let desired = f.node.desired();
    let apply = |text: &str| {
        let file = f.node.path("candidate.toml");
        fs::write(&file, text).unwrap();
        f.node.eci(&["apply", file.to_str().unwrap(), "--desired", desired.to_str().unwrap()])
    };
    let refused = apply("image = 3\n");
    assert_eq!(refused.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("candidate.toml:1:9: image:"));
    assert_eq!(fs::read_to_string(&desired).unwrap(), f.text("v1"));
    assert!(apply(&f.text("v2")).status.success());
    f.node.until_activated("nginx:v2");
}
