//! Root's commands in a state directory of the service account without an agent.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use nix::fcntl::{Flock, FlockArg};

use crate::common::agent::Node;
use crate::common::fault_points::{Answer, arm};
use crate::common::image::Image;
use crate::common::registry::Registry;

/// A node whose agent has run as a user without privileges; none if this process may not arrange that.
fn node(test: &str) -> Option<(Registry, Node)> {
    let registry = Registry::http();
    Image::new("v1").publish(&registry, "edge/nginx", "v1");
    let mut node = Node::new();
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.unprivileged(test)?;
    node.start();
    node.until_activated("nginx:v1");
    node.stop();
    Some((registry, node))
}

fn ends(node: &Node, arguments: &[&str]) -> (Option<i32>, String) {
    let output = node.eci(arguments);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

const COMMANDS: [&[&str]; 4] = [&["gc"], &["gc", "--dry-run"], &["fsck"], &["fsck", "--repair"]];

/// Everything below a directory that is not `owner`'s.
fn of_others(dir: &Path, owner: u32) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let metadata = entry.path().symlink_metadata().unwrap();
        if metadata.uid() != owner {
            found.push(entry.path().display().to_string());
        }
        if metadata.is_dir() {
            found.extend(of_others(&entry.path(), owner));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn root_leaves_nothing_of_its_own_in_the_state_directory() {
    let Some((_registry, node)) = node("root_leaves_nothing_of_its_own_in_the_state_directory") else { return };
    let state = node.state_dir();
    let owner = fs::metadata(&state).unwrap().uid();
    fs::remove_file(state.join("lock")).unwrap();
    for command in COMMANDS.into_iter().chain([&["status"][..], &["exec", "--", "true"]]) {
        let (code, said) = ends(&node, command);
        assert_eq!(code, Some(0), "{command:?}: {said}");
        assert_eq!(of_others(&state, owner), Vec::<String>::new(), "{command:?}");
    }
    assert!(state.join("lock").exists() && owner != 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_follows_no_link_of_the_service_account() {
    let Some((_registry, node)) = node("root_follows_no_link_of_the_service_account") else { return };
    let root = tempfile::tempdir().unwrap();
    let (file, dir) = (root.path().join("shadow"), root.path().join("root"));
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&file, "precious").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    let is_untouched = || {
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        fs::read_to_string(&file).unwrap() == "precious"
            && (mode(&file), mode(&dir)) == (0o600, 0o700)
            && fs::read_dir(&dir).unwrap().next().is_none()
    };
    for name in ["lock", "cache", "generations", "partial", "leases", "workloads"] {
        // A victim of root's, and one that the service account may write to as well.
        for is_shared in [false, true] {
            let (place, aside) = (node.state_dir().join(name), node.path("aside"));
            fs::rename(&place, &aside).unwrap();
            let mut target = if name == "lock" { file.clone() } else { dir.clone() };
            if is_shared && name != "lock" {
                target.clone_from(&aside);
            }
            symlink(&target, &place).unwrap();
            std::os::unix::fs::lchown(&place, Some(65534), Some(65534)).unwrap();
            for command in COMMANDS {
                let (code, said) = ends(&node, command);
                assert!(code != Some(0) && said.contains("symbolic link"), "{name} {command:?}: {code:?}: {said}");
                assert!(said.contains(place.to_str().unwrap()), "{name} {command:?}: {said}");
                assert!(is_untouched(), "{name} {command:?}");
            }
            fs::remove_file(&place).unwrap();
            fs::rename(&aside, &place).unwrap();
            assert_eq!(ends(&node, &["gc"]).0, Some(0), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_that_a_service_account_may_not_take_stays_as_it_is() {
    let Some((_registry, node)) = node("the_lock_that_a_service_account_may_not_take_stays_as_it_is") else { return };
    let lock = node.state_dir().join("lock");
    chown(&lock, Some(0), Some(0)).unwrap();
    let before = fs::read_to_string(&lock).unwrap();
    let (code, said) = ends(&node, &["gc"]);
    assert_eq!(code, Some(77), "root's file is not the service account's: {said}");
    assert_eq!(fs::read_to_string(&lock).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_threads_have_the_owners_ids() {
    let Some((_registry, mut node)) = node("all_threads_have_the_owners_ids") else { return };
    let (pid, seen) = (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::new(BTreeSet::new())));
    let (of, noted) = (Arc::clone(&pid), Arc::clone(&seen));
    arm(&mut node, move |_| {
        while of.load(SeqCst) == 0 {
            std::thread::yield_now();
        }
        let tasks: Vec<_> = fs::read_dir(format!("/proc/{}/task", of.load(SeqCst))).unwrap().flatten().collect();
        assert!(tasks.len() > 1, "a command has several threads");
        for task in tasks {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            let is_id = |line: &&str| ["Uid:", "Gid:", "Groups:"].iter().any(|key| line.starts_with(key));
            let ids = status.lines().filter(is_id).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
            noted.lock().unwrap().extend(ids);
        }
        Answer::Go
    });
    fs::set_permissions(node.path("points"), fs::Permissions::from_mode(0o666)).unwrap();
    for command in [&["gc"][..], &["fsck", "--repair"]] {
        pid.store(0, SeqCst);
        seen.lock().unwrap().clear();
        let environment = node.environment.iter().map(|(name, value)| (name, value));
        let child = node.command(command).envs(environment).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let child = child.unwrap();
        pid.store(child.id(), SeqCst);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let owner = nix::unistd::User::from_uid(65534.into()).unwrap().map_or(65534, |user| user.gid.as_raw());
        let expected = ["Uid: 65534 65534 65534 65534".to_owned(), format!("Gid: {owner} {owner} {owner} {owner}")];
        let seen = seen.lock().unwrap();
        assert!(expected.iter().all(|ids| seen.contains(ids)), "{command:?}: {seen:?}");
        let groups = seen.iter().filter(|ids| ids.starts_with("Groups:")).collect::<Vec<_>>();
        assert_eq!((seen.len(), groups), (3, vec![&format!("Groups: {owner}")]), "{command:?}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_directory_stays_as_it_is() {
    let Some((_registry, node)) = node("roots_directory_stays_as_it_is") else { return };
    let state = node.state_dir();
    let owned = std::process::Command::new("chown").args(["-R", "0:0"]).arg(&state).status().unwrap();
    assert!(owned.success());
    // An operator may have moved it.
    fs::rename(state.join("cache"), node.path("moved")).unwrap();
    symlink(node.path("moved"), state.join("cache")).unwrap();
    for command in COMMANDS {
        let (code, said) = ends(&node, command);
        assert_eq!(code, Some(0), "{command:?}: {said}");
        assert_eq!(of_others(&state, 0), Vec::<String>::new(), "{command:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_runs_a_command_as_root_on_what_the_owner_could_open() {
    let Some((_registry, node)) = node("root_runs_a_command_as_root_on_what_the_owner_could_open") else { return };
    let state = node.state_dir();
    let run = |words: &[&str]| {
        let output = node.eci(&[&["exec", "--"], words].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let ids = || std::process::Command::new("id").output().map(|output| String::from_utf8(output.stdout).unwrap());
    assert_eq!(run(&["id"]), (Some(0), ids().unwrap(), String::new()));
    assert_eq!(run(&["cat", "{disk-root}"]), (Some(0), "root disk of v1".to_owned(), String::new()));

    // A unit may leave root without the right to change its ids. It boots.
    match std::process::Command::new("setpriv").arg("--bounding-set=-setuid,-setgid").arg("true").status() {
        Ok(status) if status.success() => {
            let eci = node.command(&["exec", "--", "cat", "{disk-root}"]);
            let mut command = std::process::Command::new("setpriv");
            command.arg("--bounding-set=-setuid,-setgid").arg(eci.get_program()).args(eci.get_args());
            command.envs(eci.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let output = command.output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"root disk of v1"[..]), "{said}");
            assert!(said.starts_with("eci: warning: cannot become the owner of "), "{said}");
        }
        _ => println!("SKIP root without capabilities: no setpriv"),
    }

    // The lease is had by the command, and no file of root's is locked in its place.
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("1"), "").unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let runs = |is_leased: bool| {
        let mut command = node.command(&["exec", "--", "sh", "-c", "echo runs; exec cat"]);
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = spawned.unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let is_free = |path: PathBuf| Flock::lock(File::open(path).unwrap(), FlockArg::LockExclusiveNonblock).is_ok();
        assert_eq!(is_free(state.join("leases/default/1")), !is_leased);
        assert!(is_free(root.path().join("1")));
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    };
    runs(true);
    fs::rename(state.join("leases/default"), state.join("aside")).unwrap();
    symlink(root.path(), state.join("leases/default")).unwrap();
    runs(false);
    fs::remove_file(state.join("leases/default")).unwrap();
    fs::rename(state.join("aside"), state.join("leases/default")).unwrap();

    // A file of the generation is a link to one of root's.
    let (kernel, secret) = (state.join("generations/default/1/kernel"), root.path().join("secret"));
    let size = usize::try_from(fs::metadata(&kernel).unwrap().len()).unwrap();
    fs::write(&secret, vec![b's'; size]).unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(&kernel).unwrap();
    symlink(&secret, &kernel).unwrap();
    let (code, out, err) = run(&["cat", "{kernel}"]);
    assert_eq!((code, out.as_str()), (Some(65), ""), "{err}");
}
