//! libvirt itself, with a daemon that is this test's alone: what the document has it do boots what is current, and keeps that for
//! as long as the machine runs.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::agent::{ECI, Node};
use crate::common::disk_image::{mount_apart, run};
use crate::common::docker_registry::program;
use crate::common::edge_vm::{BOOT, Builder, Main, Process, desired};
use crate::units::documented;

/// Has the daemon find a system without machines and networks of its own, without a bus to ask on, and with its user; `$0` is a
/// directory to keep things in. Some machines have a KVM that works half, which libvirt would wait for for more than a minute;
/// `namespaces` would give each machine a /dev that what hides it cannot be moved to.
const SET_UP: &str = r#"
set -e
for dir in /etc/libvirt /run /var/lib /var/cache /var/log; do mount -t tmpfs -o mode=0755 tmpfs $dir; done
mkdir -p /var/lib/libvirt /var/log/libvirt/qemu
cat >/etc/libvirt/qemu.conf <<E
dynamic_ownership = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
E
{ grep -v ^libvirt-qemu: /etc/passwd; echo libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin; } >"$0/passwd"
{ grep -v ^libvirt-qemu: /etc/group; echo libvirt-qemu:x:64055:; } >"$0/group"
: >"$0/kvm"
for file in /etc/passwd /etc/group /dev/kvm; do [ ! -e $file ] || mount --bind "$0/${file##*/}" $file; done
"#;
/// libvirt's user, as Debian numbers it.
const USER: u32 = 64055;

const CONSOLE: &str = "/var/log/libvirt/qemu/default-serial.log";

/// The daemon, the one that keeps its logs, and the machine that it has started, all of which end with it.
struct Libvirt {
    daemon: Process,
    _logs: Process,
}

impl Libvirt {
    fn start(node: &Node) -> Self {
        let logs = Process(Command::new("virtlogd").stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        until(node, "logs are kept", || UnixStream::connect("/run/libvirt/virtlogd-sock").is_ok());
        Self { daemon: daemon(node), _logs: logs }
    }

    /// Ends the daemon alone, as an upgrade of its package does, and starts it anew after `meanwhile`.
    fn restart(&mut self, node: &Node, meanwhile: impl FnOnce()) {
        kill(Pid::from_raw(self.daemon.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        assert!(self.daemon.0.wait().unwrap().success());
        meanwhile();
        self.daemon = daemon(node);
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        if let Some(pid) = machine() {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

fn daemon(node: &Node) -> Process {
    let log = fs::OpenOptions::new().create(true).append(true).open(node.path("libvirtd.log")).unwrap();
    let mut daemon = Command::new("libvirtd");
    daemon.args(["--config", "/dev/null"]).stdin(Stdio::null()).stderr(log);
    let daemon = Process(daemon.spawn().unwrap());
    until(node, "libvirt answers", || run("virsh", &["list", "--name"]).is_ok());
    daemon
}

/// The process of the machine that runs.
fn machine() -> Option<Pid> {
    let pid = fs::read_to_string("/run/libvirt/qemu/default.pid").ok()?;
    pid.trim().parse().ok().map(Pid::from_raw)
}

fn until(node: &Node, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + BOOT;
    while !is_so() {
        let log = || fs::read_to_string(node.path("libvirtd.log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "never {what}: {}\n{}", console(), log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn console() -> String {
    fs::read_to_string(CONSOLE).unwrap_or_default()
}

/// Starts what is current, and waits until it has shown `text`.
fn boot(node: &Node, text: &str) -> Process {
    let script = documented("virsh").replace("type=\"kvm\"", "type=\"qemu\"");
    let path = format!("{}:{}", node.path("bin").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.args(["-c", &script]).env("PATH", path).env("ECI_STATE_DIR", node.state_dir());
    command.env("ECI_CONFIG", node.path("etc/agent.toml")).stdin(Stdio::null());
    let mut waits = Process(command.spawn().unwrap());
    until(node, "booted", || console().contains(text) || waits.0.try_wait().unwrap().is_some());
    assert!(console().contains(text), "{}", console());
    waits
}

/// Presses the machine's button, and waits until the command that waits for it has ended.
fn shut_down(node: &Node, mut waits: Process) {
    run("virsh", &["shutdown", "default"]).unwrap();
    until(node, "ended", || waits.0.try_wait().unwrap().is_some());
    assert!(waits.0.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn libvirt_boots_what_is_current_and_keeps_it_whatever_becomes_of_its_daemon() {
    const TEST: &str = "libvirt_boots_what_is_current_and_keeps_it_whatever_becomes_of_its_daemon";
    if ["libvirtd", "virtlogd", "virsh"].iter().any(|name| program(TEST, name).is_none()) {
        return;
    }
    let Some(builder) = Builder::found(TEST) else { return };
    let Some(()) = mount_apart(TEST) else { return };
    let mut node = Node::with_config("[cache]\nkeep = 0\nreserve = \"0B\"\n");
    // libvirt's user has to get through.
    fs::set_permissions(node.path(""), fs::Permissions::from_mode(0o711)).unwrap();
    fs::create_dir(node.path("bin")).unwrap();
    std::os::unix::fs::symlink(ECI, node.path("bin/eci")).unwrap();
    run("sh", &["-c", SET_UP, node.path("bin").to_str().unwrap()]).unwrap();
    let image = |version: &str| format!("oci:{}:{version}", node.path("images").display());
    let (one, two) = (image("v1"), image("v2"));
    builder.push(&one, "root-disk-of-v1", &Main::HearsButton);
    builder.push(&two, "root-disk-of-v2", &Main::HearsButton);
    node.desire(&desired(&one, ""));
    node.start();
    node.until_activated(&one);

    let mut libvirt = Libvirt::start(&node);
    let mut waits = boot(&node, "root-disk-of-v1");
    assert_eq!(fs::metadata(format!("/proc/{}", machine().unwrap())).unwrap().uid(), USER);
    let generation = node.state_dir().join("generations/default/1");
    for name in ["kernel", "initrd", "disk-root"] {
        let owner = fs::metadata(generation.join(name)).unwrap().uid();
        assert_eq!(owner, nix::unistd::geteuid().as_raw(), "{name} is still the agent's");
    }

    node.desire(&desired(&two, ""));
    node.until_activated(&two);
    let is_kept = |generation: &Path| {
        assert!(node.eci(&["gc"]).status.success());
        generation.exists()
    };
    assert!(is_kept(&generation), "a machine runs on it");
    libvirt.restart(&node, || {
        // Whoever asks for the machine is told now that there is none.
        run("virsh", &["domstate", "default"]).unwrap_err();
        assert!(is_kept(&generation), "the machine runs without the daemon");
    });
    assert!(waits.0.try_wait().unwrap().is_none() && is_kept(&generation), "it does so under the new one");
    shut_down(&node, waits);
    assert!(console().contains("the button is pressed"), "{}", console());
    assert!(!is_kept(&generation), "nobody runs on it any more");

    let waits = boot(&node, "root-disk-of-v2");
    shut_down(&node, waits);
}
