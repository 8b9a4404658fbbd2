//! `[cache] access`: the users who may read the cache and the generations, and lock lease files.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::common::agent::{GUESTS, Node, files_below};
use crate::common::image::Image;
use crate::common::registry::Registry;

const GROUP: &str = "[cache]\nreserve = \"0B\"\naccess = \"group\"\n";
/// A user of a hypervisor, and another one.
const HYPERVISOR: [u32; 2] = [3001, GUESTS];
const OTHER: [u32; 2] = [2002, 2002];

/// A node with the group, which other users can get to; none if this process may not arrange that.
fn node(test: &str, is_member: bool) -> Option<(Registry, Node)> {
    let registry = Registry::http();
    for tag in ["v1", "v2"] {
        Image::new(tag).publish(&registry, "edge/nginx", tag);
    }
    let mut node = Node::new();
    node.with_guest_group(test, is_member)?;
    Some((registry, node))
}

fn update(registry: &Registry, node: &Node, tag: &str) {
    let image = registry.reference("edge/nginx", tag);
    node.desire(&format!(
        "[workload.default]\nimage = \"{image}\"\n[workload.vm]\nimage = \"{image}\"\ndisks = \"writable\"\n"
    ));
    let activated = std::cell::Cell::new(0);
    node.until("activated", |event| {
        activated.set(activated.get() + usize::from(event["event"] == "activated"));
        activated.get() == 2
    });
}

/// Every file and directory of the cache and the generations, links left out, with its mode and group.
fn permissions(node: &Node) -> Vec<(PathBuf, bool, u32, u32)> {
    let state = node.state_dir();
    let mut paths: Vec<PathBuf> = ["cache", "generations"].iter().flat_map(|dir| below(&state.join(dir))).collect();
    paths.sort();
    let found = |path: PathBuf| {
        let found = path.symlink_metadata().unwrap();
        (!found.is_symlink()).then(|| (path, found.is_dir(), found.mode() & 0o7777, found.gid()))
    };
    paths.into_iter().filter_map(found).collect()
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    // A file on its way to its name, such as the test for reflinks, is not one of the state directory yet.
    let is_temporary = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "new");
    for file in files_below(dir).into_iter().filter(|file| !is_temporary(file)) {
        all.extend(file.ancestors().filter(|path| !path.as_os_str().is_empty()).map(|path| dir.join(path)));
    }
    all.sort();
    all.dedup();
    all
}

/// Holds all modes to those of the access.
fn is_for(node: &Node, everyone: bool) {
    let all = permissions(node);
    assert!(all.len() > 20, "{all:?}");
    for (path, is_dir, mode, group) in all {
        let is_disk = path.ends_with("disk-root-root.raw") && path.to_str().unwrap().contains("/vm/");
        let is_document = path.ends_with("index.json") || path.ends_with("oci-layout");
        let expected = match (is_dir, is_disk, is_document) {
            (true, ..) => [0o755, 0o750],
            (_, true, _) => [0o660, 0o660],
            (.., true) => [0o644, 0o640],
            _ => [0o444, 0o440],
        };
        assert_eq!(format!("{mode:o}"), format!("{:o}", expected[usize::from(!everyone)]), "{}", path.display());
        assert!(everyone || group == GUESTS, "{}: {group}", path.display());
    }
}

/// What a user gets of the disk by `eci exec`, and what is said.
fn reads(node: &Node, [uid, gid]: [u32; 2]) -> (bool, String) {
    let output = node.as_user(uid, gid, &["exec", "default", "--", "cat", "{disk-root}"]).output().unwrap();
    let is_read = output.status.success() && output.stdout.starts_with(b"root disk of v");
    (is_read, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_follow_the_access_both_ways() {
    let Some((registry, mut node)) = node("files_follow_the_access_both_ways", true) else { return };
    node.start();
    update(&registry, &node, "v1");
    is_for(&node, true);
    let leased = (true, String::new());
    assert_eq!(reads(&node, HYPERVISOR), leased);
    let (is_read, said) = reads(&node, OTHER);
    assert!(is_read && said.contains("without a lease"), "{said}");
    for is_running in [false, true] {
        node.stop();
        node.configure(GROUP);
        if is_running {
            // What a crash may leave: some of it as it was before.
            let state = node.state_dir();
            for (path, _, mode, _) in permissions(&node).into_iter().step_by(2) {
                std::os::unix::fs::chown(&path, None, Some(65534)).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
            fs::set_permissions(state.join("generations"), fs::Permissions::from_mode(0o755)).unwrap();
        }
        node.start();
        is_for(&node, false);
        assert_eq!(reads(&node, HYPERVISOR), leased);
        let (is_read, said) = reads(&node, OTHER);
        assert!(!is_read && said.contains("[cache] access") && said.contains("denied"), "{said}");
        update(&registry, &node, if is_running { "v1" } else { "v2" });
        is_for(&node, false);
        let report = node.eci(&["fsck"]);
        assert!(report.status.success(), "{}", String::from_utf8_lossy(&report.stderr));
    }
    node.stop();
    node.configure("");
    // A command without an agent follows the configuration as well.
    assert!(node.eci(&["gc"]).status.success());
    is_for(&node, true);
    node.start();
    is_for(&node, true);
    assert!(reads(&node, OTHER).0);
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_for_the_group() {
    let Some((registry, mut node)) = node("leases_are_for_the_group", true) else { return };
    node.start();
    update(&registry, &node, "v1");
    let leases = node.state_dir().join("leases");
    for (path, mode) in [("", 0o750), ("default", 0o750), ("default/1", 0o640), ("vm/1", 0o640), ("_boot", 0o600)] {
        let found = fs::metadata(leases.join(path)).unwrap();
        assert_eq!(found.mode() & 0o7777, mode, "{path}");
        assert!(path == "_boot" || found.gid() == GUESTS, "{path}");
    }
    let opens = |[uid, gid]: [u32; 2]| {
        let ids = [format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()];
        let mut command = std::process::Command::new("setpriv");
        command.args(ids).args(["flock", "--exclusive", "--nonblock"]).arg(leases.join("default/1")).arg("true");
        command.stderr(std::process::Stdio::null()).status().unwrap().success()
    };
    assert_eq!([opens(HYPERVISOR), opens(OTHER)], [true, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn access_by_a_group_that_the_agent_is_not_in_is_refused() {
    const TEST: &str = "access_by_a_group_that_the_agent_is_not_in_is_refused";
    for (has_group, because) in [(true, "not a member of the group eci-vm"), (false, "the group eci-vm does not exist")]
    {
        let Some((registry, mut node)) = node(TEST, false) else { return };
        if !has_group {
            let groups = fs::read_to_string(node.path("group")).unwrap();
            let others: Vec<_> = groups.lines().filter(|line| !line.starts_with("eci-vm:")).collect();
            fs::write(node.path("group"), others.join("\n") + "\n").unwrap();
        }
        // By default, neither is an error.
        node.start();
        update(&registry, &node, "v1");
        node.stop();
        let warned = node.log().contains("not a member of the group eci-vm");
        assert_eq!(warned, has_group, "{}", node.log());
        let modes = || permissions(&node);
        let before = modes();
        node.configure(GROUP);
        for command in [&["agent"][..], &["gc"], &["fsck"]] {
            let output = node.eci(command);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(78), "{command:?}: {said}");
            assert!(said.contains("[cache] access") && said.contains(because) && said.contains("usermod"), "{said}");
        }
        assert_eq!(modes(), before);
        // What only reads goes on.
        assert!(node.eci(&["status"]).status.success() && reads(&node, OTHER).0);
    }
}
