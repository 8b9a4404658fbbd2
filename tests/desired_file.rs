//! The desired-state file: how it may change, and what is wrong with it.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::process::Output;

use crate::common::agent::Node;
use crate::common::disk_image::{mount_apart, run};
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

#[tokio::test(flavor = "multi_thread")]
async fn a_write_through_another_name_is_noticed() {
    let f = running().await;
    let other = f.node.path("other.toml");
    fs::hard_link(f.node.desired(), &other).unwrap();
    fs::write(&other, f.text("v2")).unwrap();
    f.node.until_activated("nginx:v2");
    // The name leads to another file from now on.
    f.node.desire(&f.text("v1"));
    f.node.until_activated("nginx:v1");
    fs::remove_file(&other).unwrap();
    fs::hard_link(f.node.desired(), &other).unwrap();
    fs::write(&other, f.text("v2")).unwrap();
    f.node.until_activated("nginx:v2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_mounted_is_watched() {
    if mount_apart("a_file_that_is_mounted_is_watched").is_none() {
        return;
    }
    let registry = Registry::http();
    for tag in ["v1", "v2"] {
        Image::new(tag).publish(&registry, "edge/nginx", tag);
    }
    let mut node = Node::new();
    let text = |tag: &str| format!("image = \"{}\"\n", registry.reference("edge/nginx", tag));
    let source = node.path("source.toml");
    fs::write(&source, text("v1")).unwrap();
    fs::write(node.desired(), "").unwrap();
    run("mount", &["--bind", source.to_str().unwrap(), node.desired().to_str().unwrap()]).unwrap();
    node.start();
    node.until_activated("nginx:v1");
    fs::write(&source, text("v2")).unwrap();
    node.until_activated("nginx:v2");
    fs::write(node.desired(), text("v1")).unwrap();
    node.until_activated("nginx:v1");

    // It cannot be replaced, and stays as it is.
    let candidate = node.path("candidate.toml");
    fs::write(&candidate, text("v2")).unwrap();
    let desired = node.desired();
    let refused = node.eci(&["apply", candidate.to_str().unwrap(), "--desired", desired.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(73), "{said}");
    assert!(said.contains("is a mount point") && said.contains("write to the file that is mounted there"), "{said}");
    assert_eq!(fs::read_to_string(&source).unwrap(), text("v1"));
    assert_eq!(fs::read_dir(node.path("etc")).unwrap().count(), 2, "nothing is left beside it");

    // No event tells of another mount in its place; from the next look on, that file is watched.
    let other = node.path("other.toml");
    fs::write(&other, text("v2")).unwrap();
    run("umount", &[node.desired().to_str().unwrap()]).unwrap();
    run("mount", &["--bind", other.to_str().unwrap(), node.desired().to_str().unwrap()]).unwrap();
    assert!(node.eci(&["reconcile"]).status.success());
    node.until_activated("nginx:v2");
    fs::write(&other, text("v1")).unwrap();
    node.until_activated("nginx:v1");
}

fn apply(node: &Node, text: &str, uid: Option<u32>) -> Output {
    let file = node.path("candidate.toml");
    fs::write(&file, text).unwrap();
    let desired = node.desired();
    let mut command = node.command(&["apply", file.to_str().unwrap(), "--desired", desired.to_str().unwrap()]);
    if let Some(uid) = uid {
        command.uid(uid).gid(uid).current_dir("/");
    }
    command.output().unwrap()
}

const TEXT: &str = "image = \"registry.example.com/edge/nginx:1\"\n";

#[test]
fn apply_keeps_mode_and_owner() {
    let node = Node::new();
    fs::write(node.desired(), "").unwrap();
    let is_root = nix::unistd::geteuid().is_root();
    for mode in [0o640, 0o600, 0o664] {
        fs::set_permissions(node.desired(), fs::Permissions::from_mode(mode)).unwrap();
        if is_root {
            chown(node.desired(), Some(65534), Some(65534)).unwrap();
        }
        let before = fs::metadata(node.desired()).unwrap();
        let applied = apply(&node, TEXT, None);
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
        let after = fs::metadata(node.desired()).unwrap();
        assert_eq!((after.mode() & 0o7777, after.uid(), after.gid()), (mode, before.uid(), before.gid()));
        assert_ne!(after.ino(), before.ino(), "it is replaced as a whole");
    }
    fs::remove_file(node.desired()).unwrap();
    assert!(apply(&node, TEXT, None).status.success());
    assert_eq!(fs::metadata(node.desired()).unwrap().mode() & 0o7777, 0o644, "a new file is for everybody to read");
}

#[test]
fn apply_refuses_where_the_owner_cannot_be_kept() {
    let mut node = Node::new();
    if node.unprivileged("apply_refuses_where_the_owner_cannot_be_kept").is_none() {
        return;
    }
    fs::set_permissions(node.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    chown(node.path("etc"), Some(65534), Some(65534)).unwrap();
    fs::write(node.desired(), "before").unwrap();
    fs::set_permissions(node.desired(), fs::Permissions::from_mode(0o664)).unwrap();
    let refused = apply(&node, TEXT, Some(65534));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(77), "{said}");
    assert!(said.contains("belongs to user 0") && said.contains("run this as root"), "{said}");
    assert_eq!(fs::read_to_string(node.desired()).unwrap(), "before");
    chown(node.desired(), Some(65534), Some(65534)).unwrap();
    assert!(apply(&node, TEXT, Some(65534)).status.success());
    assert_eq!(fs::read_to_string(node.desired()).unwrap(), TEXT);
    assert!(
        !fs::read_dir(node.path("etc"))
            .unwrap()
            .any(|entry| { entry.unwrap().file_name().to_string_lossy().ends_with(".new") })
    );
}

#[test]
fn apply_replaces_the_file_that_a_link_leads_to() {
    let node = Node::new();
    fs::create_dir(node.path("real")).unwrap();
    symlink("../real/one.toml", node.path("etc/middle")).unwrap();
    symlink("middle", node.desired()).unwrap();
    // The file is not there yet, and is there.
    for text in [TEXT.to_owned(), TEXT.replace(":1", ":2")] {
        assert!(apply(&node, &text, None).status.success());
        assert_eq!(fs::read_to_string(node.path("real/one.toml")).unwrap(), text);
        assert!(fs::symlink_metadata(node.desired()).unwrap().is_symlink());
        assert!(fs::symlink_metadata(node.path("etc/middle")).unwrap().is_symlink());
    }
}
