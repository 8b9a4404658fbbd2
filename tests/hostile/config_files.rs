//! Configuration files that other users wrote, or that are not files: no command waits for them or obeys them as root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Output;

use super::{Bounds, mib, secs};
use crate::common::agent::Node;

const NOBODY: u32 = 65534;
/// Of each command.
const BOUNDS: Bounds = Bounds { memory: mib(64), wire: 0, requests: 0, within: secs(10) };

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A command that needs the configuration and neither an agent nor a registry.
fn ends(node: &Node) -> (Option<i32>, String) {
    let output = BOUNDS.start().run(&node.command(&["apply", node.path("candidate.toml").to_str().unwrap()]));
    (output.status.code(), said(&output))
}

fn refuses(node: &Node, named: &Path, saying: &str) {
    let (code, said) = ends(node);
    assert_eq!(code, Some(78), "{saying}: {said}");
    assert!(said.contains(named.to_str().unwrap()) && said.contains(saying), "{saying}: {said}");
    assert!(!node.desired().exists(), "{saying}");
}

fn node() -> Node {
    let node = Node::new();
    node.configure(&format!("[desired]\npath = \"{}\"\n", node.desired().display()));
    fs::write(node.path("candidate.toml"), "image = \"registry.example.com/edge/nginx:1\"\n").unwrap();
    fs::create_dir(node.path("etc/agent.d")).unwrap();
    node
}

#[test]
fn a_drop_in_that_is_not_a_file_is_refused_at_once() {
    let node = node();
    let drop_in = node.path("etc/agent.d/x.toml");
    nix::unistd::mkfifo(&drop_in, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refuses(&node, &drop_in, "no regular file");
    fs::remove_file(&drop_in).unwrap();
    symlink("/dev/zero", &drop_in).unwrap();
    refuses(&node, &drop_in, "no regular file");
    fs::remove_file(&drop_in).unwrap();
    fs::write(&drop_in, vec![b'#'; (1 << 20) + 1]).unwrap();
    refuses(&node, &drop_in, "1 MiB");
    fs::write(&drop_in, "").unwrap();
    assert_eq!(ends(&node).0, Some(0), "{}", ends(&node).1);
}

#[test]
fn root_does_not_obey_the_drop_in_of_a_service_account() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP root_does_not_obey_the_drop_in_of_a_service_account: only root gives files away");
        return;
    }
    let node = node();
    let (drop_in, victim) = (node.path("etc/agent.d/x.toml"), node.path("victim"));
    fs::write(&victim, "secret").unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&drop_in, format!("[desired]\npath = \"{}\"\n", victim.display())).unwrap();
    chown(&drop_in, Some(NOBODY), Some(NOBODY)).unwrap();
    refuses(&node, &drop_in, "user 65534");
    chown(&drop_in, Some(0), Some(0)).unwrap();
    fs::set_permissions(&drop_in, fs::Permissions::from_mode(0o664)).unwrap();
    refuses(&node, &drop_in, "mode 0664");
    fs::set_permissions(&drop_in, fs::Permissions::from_mode(0o644)).unwrap();
    let dir = node.path("etc/agent.d");
    chown(&dir, Some(NOBODY), Some(NOBODY)).unwrap();
    refuses(&node, &dir, "user 65534");
    chown(&dir, Some(0), Some(0)).unwrap();
    // The directory of the drop-in is root's, and the one above it is the account's, which can put another one there.
    let above = node.path("etc");
    chown(&above, Some(NOBODY), Some(NOBODY)).unwrap();
    refuses(&node, &above, "user 65534");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "secret");
    chown(&above, Some(0), Some(0)).unwrap();
    assert_eq!(ends(&node).0, Some(0));
    assert!(fs::read_to_string(&victim).unwrap().starts_with("image = "), "the drop-in is root's, and is obeyed");
}
