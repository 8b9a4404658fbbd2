//! File systems that lack an operation, and directories that are mounted apart: the agent refuses them at its start, a
//! user's command does without.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;

use crate::common::agent::{ECI, Node};
use crate::common::disk_image::{EXFAT, Kind, Mounted, VFAT, make, mount_apart, run};
use crate::common::image::Image;
use crate::common::registry::Registry;
use crate::common::service::eventually;
use crate::common::workstation::{Workstation, names_in};
use crate::strace_faults::may_trace;

/// The exit of an agent that does not start, and its message.
fn refused(node: &Node) -> (Option<i32>, String) {
    let said = node.log().len();
    let (mut agent, _notify) = node.spawn(&[]);
    let status = eventually("ended", || agent.try_wait().unwrap());
    (status.code(), node.log()[said..].to_owned())
}

fn mount_at(dir: &Path, is_bind: bool, elsewhere: &Path) {
    fs::create_dir_all(dir).unwrap();
    let to = dir.to_str().unwrap();
    if is_bind {
        fs::create_dir_all(elsewhere).unwrap();
        run("mount", &["--bind", elsewhere.to_str().unwrap(), to]).unwrap();
    } else {
        run("mount", &["-t", "tmpfs", "tmpfs", to]).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_and_partial_on_other_mounts_are_refused() {
    if mount_apart("cache_and_partial_on_other_mounts_are_refused").is_none() {
        return;
    }
    let registry = Registry::http();
    Image::new("v1").publish(&registry, "edge/nginx", "v1");
    for name in ["cache", "partial", "cache/blobs", "cache/blobs/sha256"] {
        // A bind mount is of the same file system, and the kernel renames nothing across it all the same.
        for is_bind in [false, true] {
            let mut node = Node::new();
            node.desire_image(&registry.reference("edge/nginx", "v1"));
            fs::create_dir_all(node.state_dir().join("cache")).unwrap();
            let dir = node.state_dir().join(name);
            mount_at(&dir, is_bind, &node.path("elsewhere"));
            registry.take_log();
            let (code, said) = refused(&node);
            assert_eq!(code, Some(78), "{name}, {is_bind}: {said}");
            let partial = node.state_dir().join("partial");
            assert!(said.contains(partial.to_str().unwrap()) && said.contains("one file system"), "{said}");
            assert!(registry.take_log().is_empty(), "nothing was fetched");
            for arguments in [&["fsck"][..], &["fsck", "--repair"], &["gc"]] {
                let output = node.eci(arguments);
                let said = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(78), "{name}, {arguments:?}: {said}");
                assert!(said.contains("one file system"), "{said}");
            }
            run("umount", &[dir.to_str().unwrap()]).unwrap();
            node.start();
            node.until_activated("nginx:v1");
            let left =
                [node.state_dir(), node.state_dir().join("partial"), node.state_dir().join("cache/blobs/sha256")];
            let probes = left.iter().flat_map(|dir| names_in(dir)).filter(|name| name.contains("probe"));
            assert_eq!(probes.count(), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_state_directory_may_be_a_mount() {
    if mount_apart("the_whole_state_directory_may_be_a_mount").is_none() {
        return;
    }
    let registry = Registry::http();
    Image::new("v1").publish(&registry, "edge/nginx", "v1");
    for (name, is_copied) in [("", false), ("workloads", false), ("generations", true)] {
        for is_bind in [false, true] {
            let mut node = Node::new();
            node.desire_image(&registry.reference("edge/nginx", "v1"));
            mount_at(&node.state_dir().join(name), is_bind, &node.path("elsewhere"));
            node.start();
            node.until_activated("nginx:v1");
            assert_eq!(node.current("disk-root"), b"root disk of v1");
            assert_eq!(node.log().contains("takes its room twice"), is_copied, "{name}: {}", node.log());
            node.stop();
            assert!(node.eci(&["fsck"]).status.success());
            let mounted = node.state_dir().join(name);
            eventually("unmounted", || run("umount", &[mounted.to_str().unwrap()]).ok());
        }
    }
}

/// A stick, mounted; none, and a line that says so, where that cannot be.
fn stick(test: &str, kind: Kind, image: &Path, dir: &Path) -> Option<Mounted> {
    mount_apart(test)?;
    make(test, kind, image)?;
    match Mounted::mount(kind, image, dir) {
        Ok(mounted) => Some(mounted),
        Err(error) => {
            println!("SKIP {test}: {error}");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_on_vfat_is_refused() {
    const TEST: &str = "a_state_directory_on_vfat_is_refused";
    for kind in [VFAT, EXFAT] {
        let node = Node::new();
        let Some(_stick) = stick(TEST, kind, &node.path("image"), &node.state_dir()) else { continue };
        let (code, said) = refused(&node);
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains("cannot make symbolic links") && said.contains("ext4, XFS, btrfs or tmpfs"), "{said}");
        assert!(said.contains(node.state_dir().to_str().unwrap()), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_pushed_to_and_pulled_onto_a_stick() {
    const TEST: &str = "images_are_pushed_to_and_pulled_onto_a_stick";
    for kind in [VFAT, EXFAT] {
        let (workstation, image) = (Workstation::new(), Image::new("v1"));
        let Some(_stick) = stick(TEST, kind, &workstation.path("image"), &workstation.path("stick")) else { continue };
        for _ in 0..2 {
            workstation.push(&image, "oci:stick/images:v1");
            workstation.must(&["pull", "--dir", "stick/out", "oci:stick/images:v1"]);
            workstation.has_pulled_bytes("stick/out", &image);
            assert_eq!(names_in(&workstation.path("stick/images")), ["blobs", "index.json", "oci-layout"]);
        }
    }
}

/// Runs a command under a tracer that has all such calls fail; its exit code, and what it said.
fn traced(mut command: Command, calls: &str, errno: Errno, errors: &Path) -> (Option<i32>, String) {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "signal=none", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
    strace.args(["-e", &format!("inject={calls}:error={errno:?}")]);
    strace.arg(command.get_program()).args(command.get_args());
    strace.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(dir) = command.get_current_dir() {
        strace.current_dir(dir);
    }
    command = strace;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(errors).unwrap());
    let mut child = command.spawn().unwrap();
    let status = eventually("ended", || child.try_wait().unwrap());
    (status.code(), fs::read_to_string(errors).unwrap())
}

const LACKING: [(&str, Errno, &str, &str); 5] = [
    ("fsync,fdatasync", Errno::EINVAL, "cannot sync directories", "cannot sync"),
    ("fsync,fdatasync", Errno::ENOSYS, "cannot sync directories", "cannot sync"),
    ("flock", Errno::EOPNOTSUPP, "has no locks", "has no locks"),
    ("flock", Errno::ENOLCK, "has no locks", "has no locks"),
    ("chmod,fchmod,fchmodat", Errno::EPERM, "cannot set modes", "cannot set modes"),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_refuses_a_file_system_that_lacks_an_operation() {
    if !may_trace("an_agent_refuses_a_file_system_that_lacks_an_operation") {
        return;
    }
    for (calls, errno, refusal, _) in LACKING {
        let mut node = Node::new();
        let desired = node.desired();
        let agent = node.command(&["agent", "--desired", desired.to_str().unwrap()]);
        let (code, said) = traced(agent, calls, errno, &node.path("errors"));
        assert_eq!(code, Some(78), "{calls}, {errno}: {said}");
        assert!(said.contains(refusal) && said.contains("ext4, XFS, btrfs or tmpfs"), "{calls}: {said}");
        assert!(said.contains(node.state_dir().to_str().unwrap()), "{calls}: {said}");
        node.start();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_skips_missing_operations_with_a_warning() {
    if !may_trace("a_pull_skips_missing_operations_with_a_warning") {
        return;
    }
    let (workstation, image) = (Workstation::new(), Image::new("v1"));
    workstation.push(&image, "oci:images:v1");
    for (n, (calls, errno, _, lost)) in LACKING.into_iter().enumerate() {
        let dir = format!("out-{n}");
        let pull = workstation.command(&["pull", "--dir", &dir, "oci:images:v1"]);
        let (code, said) = traced(pull, calls, errno, &workstation.path("errors"));
        assert_eq!((code, said.matches(lost).count()), (Some(0), 1), "{calls}, {errno}: {said}");
        workstation.has_pulled_bytes(&dir, &image);
    }
    // A disk that fails is no file system that lacks something.
    for (calls, errno) in [("fsync,fdatasync", Errno::EIO), ("chmod,fchmod,fchmodat", Errno::EROFS)] {
        let pull = workstation.command(&["pull", "--dir", "failed", "oci:images:v1"]);
        let (code, said) = traced(pull, calls, errno, &workstation.path("errors"));
        assert_eq!(code, Some(73), "{calls}, {errno}: {said}");
    }
}

/// Every directory and file below, with its mode.
fn modes(dir: &Path) -> Vec<(String, bool, u32)> {
    use std::os::unix::fs::MetadataExt;
    let found = fs::symlink_metadata(dir).unwrap();
    let mut all = vec![(dir.display().to_string(), found.is_dir(), found.mode() & 0o7777)];
    if found.is_dir() {
        all.extend(names_in(dir).iter().flat_map(|name| modes(&dir.join(name))));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_files_have_the_modes_of_the_umask() {
    for umask in [0o077, 0o002, 0o022, 0o027] {
        let (workstation, image) = (Workstation::new(), Image::new("v1"));
        let run = |arguments: &[&str]| {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("umask {umask:o} && exec \"$0\" \"$@\""), ECI]).args(arguments);
            command.current_dir(workstation.path("")).env("ECI_CONFIG", workstation.path("agent.toml"));
            let output = command.output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let push = |to| workstation.push_arguments(&image, to);
        for (to, format) in [("oci:new/images:v1", "artifacts"), ("oci:legacy:v1", "legacy")] {
            let arguments = push(to);
            let arguments: Vec<_> = arguments.iter().map(String::as_str).chain(["--format", format]).collect();
            run(&arguments);
        }
        run(&["pull", "--dir", "new/er/out", "oci:new/images:v1"]);
        run(&["pull", "--dir", "unpacked", "oci:legacy:v1"]);
        run(&["pullfiles", "--kernel", "some/where/kernel", "--root", "root", "oci:new/images:v1"]);
        workstation.has_pulled_bytes("new/er/out", &image);
        let made = ["new", "legacy", "unpacked", "some", "root"].map(|name| modes(&workstation.path(name)));
        for (path, is_dir, mode) in made.into_iter().flatten() {
            let whole = if is_dir { 0o777 } else { 0o666 };
            assert_eq!(format!("{mode:o}"), format!("{:o}", whole & !umask), "{path} under {umask:o}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_files_have_their_own_modes_under_any_umask() {
    let (registry, node) = (Registry::http(), Node::new());
    Image::new("v1").publish(&registry, "edge/nginx", "v1");
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    for umask in ["077", "002"] {
        let (mut agent, _notify) = node.spawn_after(&format!("umask {umask}"), Stdio::null());
        eventually("active", || node.state_dir().join("current/kernel").exists().then_some(()));
        agent.kill().unwrap();
        agent.wait().unwrap();
        let of = |name: &str| modes(&node.state_dir().join(name));
        for (path, is_dir, mode) in of("generations").into_iter().chain(of("cache/blobs")) {
            let fixed = if is_dir { 0o755 } else { 0o444 };
            let is_link = fs::symlink_metadata(&path).unwrap().is_symlink();
            assert!(is_link || mode == fixed, "{path}: {mode:o}");
        }
        assert_eq!(of("partial")[0].2, 0o700);
        assert_eq!(of("state.json")[0].2, 0o600);
        fs::remove_dir_all(node.state_dir()).unwrap();
    }
}
