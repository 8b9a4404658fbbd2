//! The state directory and the socket, as another local user finds them, and files in them that were altered.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Bounds, mib, secs};
use crate::common::agent::{Node, copy_program};
use crate::common::image::Image;
use crate::common::registry::{Registry, digest};

const REPO: &str = "edge/nginx";
const BOUNDS: Bounds = Bounds { memory: mib(160), wire: mib(8), requests: 60, within: secs(60) };
/// A user who is nobody's friend.
const OTHER: &str = "54321";

fn running(config: &str) -> (Registry, Node, Image) {
    let registry = Registry::http();
    let image = Image::new("v1").with_root_of(1 << 20);
    image.publish(&registry, REPO, "v1");
    let mut node = Node::with_config(config);
    node.desire(&format!(
        "image = \"{}\"\ncmdline = \"a={{kernel}} b={{disk-root}} {{{{\"\n",
        registry.reference(REPO, "v1")
    ));
    node.start();
    node.until_activated("nginx:v1");
    (registry, node, image)
}

/// Runs a shell as another user; false if it may not do what it tries.
fn other_may(dir: &Path, script: &str) -> bool {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", OTHER, "--regid", OTHER, "--clear-groups", "sh", "-c", script]);
    command.current_dir(dir).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

#[tokio::test(flavor = "multi_thread")]
async fn other_users_change_nothing_in_the_state_directory() {
    const TEST: &str = "other_users_change_nothing_in_the_state_directory";
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP {TEST}: only root may become somebody else");
        return;
    }
    let case = BOUNDS.start();
    let (registry, node, image) = running("");
    fs::set_permissions(node.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let state = node.state_dir();
    let blob = format!("cache/blobs/{}", digest(&image.root).replace(':', "/"));
    assert!(other_may(Path::new("/"), "true"), "the shell itself works");
    let writable = tempfile::tempdir().unwrap();
    fs::set_permissions(writable.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let w = writable.path().display();
    assert!(other_may(Path::new("/"), &format!("echo x > {w}/mine")));
    for script in [
        format!("echo x >> {blob}"),
        format!("ln {blob} {w}/linked && echo x >> {w}/linked"),
        format!("mv {blob} {w}/"),
        format!("rm -f {blob}"),
        "ls partial".to_owned(),
        "cat state.json".to_owned(),
        "touch new".to_owned(),
        "touch cache/new".to_owned(),
        "touch generations/default/new".to_owned(),
        "echo x >> current/disk-root".to_owned(),
        "ln -sfn /etc current".to_owned(),
        "mkdir workloads/x".to_owned(),
    ] {
        assert!(!other_may(&state, &script), "{script}");
    }
    let output = case.run(&node.command(&["fsck"]));
    assert!(output.status.success(), "{output:?}");
    case.agent(&node).registry(&registry);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_users_cannot_open_the_socket() {
    const TEST: &str = "other_users_cannot_open_the_socket";
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP {TEST}: only root may become somebody else");
        return;
    }
    let _case = BOUNDS.start();
    let (_registry, node, _) = running("[api]\ngroup = \"daemon\"\n");
    fs::set_permissions(node.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let program = node.path("eci");
    copy_program(&program);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let reconcile = |user: &[&str]| {
        let pointed = node.command(&[]);
        let mut command = Command::new("setpriv");
        command.args(user).arg("--").arg(&program).arg("reconcile").current_dir("/");
        command.envs(pointed.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.output().unwrap().status.code()
    };
    let ids = ["--reuid", OTHER, "--regid", OTHER];
    assert_eq!(reconcile(&[&ids[..], &["--clear-groups"]].concat()), Some(77));
    assert_eq!(reconcile(&[&ids[..], &["--groups", "2,70000"]].concat()), Some(77));
    assert_eq!(reconcile(&[&ids[..], &["--groups", "1"]].concat()), Some(0), "a member may");
}

#[tokio::test(flavor = "multi_thread")]
async fn altered_launch_descriptions_are_not_booted() {
    let case = BOUNDS.start();
    let (_registry, node, _) = running("");
    let launch = node.state_dir().join("current/launch.json");
    let genuine = fs::read_to_string(&launch).unwrap();
    let run = || case.run(&node.command(&["exec", "--", "cat", "{disk-root}"]));
    assert!(run().status.success());
    let disk = fs::canonicalize(node.state_dir()).unwrap().join("generations/default/1");
    for (from, to) in [
        (format!("{}/disk-root-root.raw", disk.display()), "/etc/passwd".to_owned()),
        ("disk-root-root.raw".to_owned(), "../../../../etc/passwd".to_owned()),
        (genuine.clone(), "{}".to_owned()),
        (genuine.clone(), String::new()),
        (genuine.clone(), "[".repeat(100_000)),
    ] {
        let altered = genuine.replace(&from, &to);
        assert_ne!(altered, genuine, "{from}");
        fs::remove_file(&launch).unwrap();
        fs::write(&launch, altered).unwrap();
        let output = run();
        assert!(!output.status.success() && output.stdout.is_empty(), "{to:.40}: {output:?}");
    }
    fs::remove_file(&launch).unwrap();
    fs::write(&launch, &genuine).unwrap();
    assert!(run().status.success());
    case.agent(&node);
}

#[tokio::test(flavor = "multi_thread")]
async fn placeholders_are_filled_in_once() {
    let case = BOUNDS.start();
    let (_registry, node, _) = running("");
    let shown = case.must(&node.command(&["exec", "--", "echo", "{cmdline}", "{{cmdline}}", "x={disk-root}"]));
    assert!(shown.starts_with("a={kernel} b={disk-root} {{ {cmdline} x=/"), "{shown}");
    for words in ["{kernel", "kernel}", "{}", "{dis\u{1b}k}", "{../kernel}"] {
        let said = case.fails(&node.command(&["exec", "--", "echo", words]), 64);
        assert!(!said.contains('\u{1b}'), "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn altered_blobs_are_found() {
    // The agent's own user, such as a hook of it, can write to what it owns.
    let case = BOUNDS.start();
    let (_registry, node, image) = running("");
    assert!(case.run(&node.command(&["fsck"])).status.success());
    let blob = node.state_dir().join("cache/blobs").join(digest(&image.root).replace(':', "/"));
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
    let found = fs::metadata(&blob).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&blob).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"EVIL!", 1000).unwrap();
    file.set_modified(found.modified().unwrap()).unwrap();
    drop(file);
    let output = case.run(&node.command(&["fsck"]));
    assert_eq!(output.status.code(), Some(65), "{output:?}");
    assert!(case.run(&node.command(&["fsck", "--repair"])).status.success());
    assert!(node.current("disk-root") == image.root);
    case.agent(&node);
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_checks_at_once_end() {
    let case = BOUNDS.start();
    let (_registry, node, _) = running("");
    let (fsck, case) = (node.command(&["fsck"]), &case);
    std::thread::scope(|scope| {
        let checks: Vec<_> = (0..40).map(|_| scope.spawn(|| case.run(&fsck))).collect();
        for check in checks {
            let output = check.join().unwrap();
            assert!(matches!(output.status.code(), Some(0 | 75)), "{output:?}");
        }
    });
    assert_eq!(case.run(&node.command(&["fsck"])).status.code(), Some(0));
    case.agent(&node);
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_get_no_secrets_and_no_descriptors() {
    let case = BOUNDS.start();
    let registry = Registry::http();
    Image::new("v1").publish(&registry, REPO, "v1");
    let mut node = Node::new();
    let shown = node.path("shown");
    // The descriptor of the listing itself is the third.
    let script = format!("{{ env; ls -l /proc/self/fd; }} > {}", shown.display());
    node.configure(&format!("[hooks]\npre_activate = [\"/bin/sh\", \"-c\", {script:?}]\n"));
    node.environment = [
        ("http_proxy", "http://user:s3cret@127.0.0.1:9"),
        ("CREDENTIALS_DIRECTORY", "/nowhere/s3cret"),
        ("REGISTRY_AUTH_FILE", "/nowhere/s3cret"),
        ("AWS_SECRET_ACCESS_KEY", "s3cret"),
    ]
    .map(|(name, value)| (name, value.into()))
    .to_vec();
    node.desire_image(&registry.reference(REPO, "v1"));
    node.start();
    node.until_activated("nginx:v1");
    let shown = fs::read_to_string(shown).unwrap();
    assert!(!shown.contains("s3cret") && !shown.contains("NOTIFY_SOCKET") && !shown.contains("proxy"), "{shown}");
    let names = shown.lines().filter_map(|line| line.split_once('=').filter(|(name, _)| !name.contains(' ')));
    let odd: Vec<_> = names
        .filter(|(name, _)| !matches!(*name, "PATH" | "PWD" | "SHLVL" | "_" | "OLDPWD") && !name.starts_with("ECI_"))
        .collect();
    assert!(odd.is_empty(), "{odd:?}");
    for line in shown.lines().filter(|line| line.contains(" -> ")) {
        let target = line.split_once(" -> ").unwrap().1;
        let is_own = target.starts_with("pipe:")
            || target.contains("/dev/null")
            || target.contains("/shown")
            || target.contains("/proc/");
        assert!(is_own, "{line}");
    }
    case.agent(&node).registry(&registry);
}
