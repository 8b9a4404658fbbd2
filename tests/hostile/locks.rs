//! Locks and links in the state directory: another local user, and the service account itself.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{Bounds, mib, secs};
use crate::common::agent::Node;
use crate::common::image::Image;
use crate::common::registry::Registry;
use crate::common::service::eventually;

const REPO: &str = "edge/nginx";
const BOUNDS: Bounds = Bounds { memory: mib(128), wire: mib(1), requests: 60, within: secs(60) };
const OTHER: &str = "54321";
/// The user that [`Node::unprivileged`] gives the state directory to.
const ACCOUNT: u32 = 65534;

/// A node whose agent runs as a user without privileges; none if this process may not arrange that.
fn running(test: &str) -> Option<(Registry, Node)> {
    let registry = Registry::http();
    for tag in ["v1", "v2", "v3", "v4"] {
        Image::new(tag).publish(&registry, REPO, tag);
    }
    let mut node = Node::new();
    node.unprivileged(test)?;
    node.desire_image(&registry.reference(REPO, "v1"));
    node.start();
    node.until_activated("nginx:v1");
    Some((registry, node))
}

/// A lock that another user holds until its standard input ends; none if that user cannot have it.
fn held(path: &Path) -> Option<Child> {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", OTHER, "--regid", OTHER, "--clear-groups", "flock", "-n"]).arg(path);
    command
        .args(["sh", "-c", "echo held; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    if line.is_empty() {
        child.wait().unwrap();
    }
    (line == "held\n").then_some(child)
}

fn end(mut child: Child) {
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_of_other_users_stop_nothing() {
    let Some((registry, mut node)) = running("locks_of_other_users_stop_nothing") else { return };
    let case = BOUNDS.start();
    let state = node.state_dir();
    end(held(&node.path("etc")).expect("a lock on what anybody can open"));
    for private in ["lock", "leases", "leases/default", "leases/default/1", "state.json", "partial"] {
        assert!(held(&state.join(private)).is_none(), "{private}");
    }
    // Directories that everybody may read can be locked, and nothing heeds it.
    let holders: Vec<_> = ["", "generations", "generations/default", "generations/default/1", "cache"]
        .iter()
        .filter_map(|dir| held(&state.join(dir)))
        .collect();
    assert!(holders.len() >= 3, "{} locks", holders.len());
    assert!(case.run(&node.command(&["exec", "--", "cat", "{disk-root}"])).status.success());
    assert!(node.stop().success());
    node.start();
    for tag in ["v2", "v3", "v4"] {
        node.desire_image(&registry.reference(REPO, tag));
        node.until_activated(tag);
    }
    eventually("the first generation is collected", || (!state.join("generations/default/1").exists()).then_some(()));
    case.agent(&node).registry(&registry);
    holders.into_iter().for_each(end);
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_links_lead_root_nowhere() {
    let Some((registry, mut node)) = running("planted_links_lead_root_nowhere") else { return };
    let case = BOUNDS.start();
    assert!(node.stop().success());
    let roots = tempfile::tempdir().unwrap();
    fs::set_permissions(roots.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (file, dir) = (roots.path().join("shadow"), roots.path().join("root"));
    fs::write(&file, "precious").unwrap();
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    for (name, target) in
        [("lock", &file), ("cache", &dir), ("generations", &dir), ("partial", &dir), ("state.json", &file)]
    {
        let (place, aside) = (node.state_dir().join(name), node.path("aside"));
        fs::rename(&place, &aside).unwrap();
        symlink(target, &place).unwrap();
        lchown(&place, Some(ACCOUNT), Some(ACCOUNT)).unwrap();
        for command in [&["gc"][..], &["fsck"], &["fsck", "--repair"], &["status"]] {
            case.run(&node.command(command));
            assert_eq!(fs::read_to_string(&file).unwrap(), "precious", "{name} {command:?}");
            let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
            assert_eq!((mode(&file), mode(&dir)), (0o600, 0o700), "{name} {command:?}");
            assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "{name} {command:?}");
        }
        let _ = fs::remove_file(&place);
        let _ = fs::remove_dir_all(&place);
        fs::rename(&aside, &place).unwrap();
    }
    for command in [&["gc"][..], &["fsck"]] {
        case.must(&node.command(command));
    }
    case.registry(&registry);
}
