//! The guest's Debian as a container of systemd-nspawn: it has systemd and the sandboxes of units as a machine has, and the speed
//! of this one, which leaves it time to emulate another.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::disk_image::{EXT4_AS_IT_COMES, Mounted, copy, mount_apart, run, scratch};
use super::docker_registry::program;
use super::edge_vm::{BOOT, Process};
use super::guest::{Answer, SCRIPT, System, unpack};
use super::vm::all_of;

/// Prints a new control group below that of this process, `$0`, in the hierarchy that systemd wants to itself.
const GROUP: &str = r#"
set -e
mount -t tmpfs -o mode=0755 tmpfs /run
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ours=$(sed -n 's/^0:://p' /proc/self/cgroup)
group=/sys/fs/cgroup${ours%/}/$0
mkdir "$group"
echo "$group"
"#;

/// Becomes the container with its root at `$1`, in the group `$0`. What a container is allowed by itself leaves out the filters
/// that `DeviceAllow` is made of.
const BOOT_IT: &str = r#"
echo $$ >"$0/cgroup.procs"
exec systemd-nspawn --quiet --register=no --keep-unit --private-network --system-call-filter=bpf --resolv-conf=off \
    --timezone=off --notify-ready=yes --console=read-only --boot --directory "$1"
"#;

/// A container that runs, with the agent as a package would install it.
pub struct Container {
    nspawn: Process,
    /// Its first process.
    leader: Pid,
    group: PathBuf,
    console: PathBuf,
    _root: Mounted,
    _dir: tempfile::TempDir,
}

impl Container {
    /// Boots one, after `arrange` has put what it likes below its root. None, and a line that says what is missing, where it
    /// cannot be.
    pub fn boot(test: &str, arrange: impl FnOnce(&Path)) -> Option<Self> {
        for name in ["systemd-nspawn", "nsenter", "strip"] {
            program(test, name)?;
        }
        let Some(debian) = std::env::var_os("ECI_TEST_GUEST") else {
            println!("SKIP {test}: ECI_TEST_GUEST is not set; tests/run sets it");
            return None;
        };
        mount_apart(test)?;
        let dir = scratch();
        let (disk, root, console) = (dir.path().join("root.raw"), dir.path().join("root"), dir.path().join("console"));
        copy(Path::new(&debian), &disk);
        let mounted = Mounted::mount(EXT4_AS_IT_COMES, &disk, &root).unwrap();
        unpack(&root);
        fs::write(root.join("etc/systemd/system/registry.service"), include_str!("../guest/registry.service")).unwrap();
        arrange(&root);

        let name = format!("eci-test-{}", dir.path().file_name().unwrap().to_str().unwrap());
        let group = PathBuf::from(run("sh", &["-c", GROUP, &name]).unwrap().trim());
        let notify = dir.path().join("notify");
        let notified = UnixDatagram::bind(&notify).unwrap();
        let shown = fs::File::create(&console).unwrap();
        let mut nspawn = Command::new("sh");
        nspawn.args(["-c", BOOT_IT]).arg(&group).arg(&root).env("NOTIFY_SOCKET", &notify);
        nspawn.stdin(Stdio::null()).stdout(shown.try_clone().unwrap()).stderr(shown);
        let nspawn = Process(nspawn.spawn().unwrap());
        let leader = leader(&notified, &console);
        Some(Self { nspawn, leader, group, console, _root: mounted, _dir: dir })
    }
}

impl Container {
    /// Runs a program of this machine in the container's network.
    pub fn in_network(&self, command: &[&str]) {
        let leader = self.leader.to_string();
        run("nsenter", &[&["--target", &leader, "--net"], command].concat()).unwrap();
    }
}

/// Waits until it has booted; its first process, as it is called here.
fn leader(notified: &UnixDatagram, console: &Path) -> Pid {
    notified.set_read_timeout(Some(BOOT)).unwrap();
    let (mut leader, mut message) = (None, [0; 4096]);
    loop {
        let count = notified.recv(&mut message);
        let count = count.unwrap_or_else(|error| panic!("it does not boot: {error}: {}", all_of(console)));
        let message = String::from_utf8_lossy(&message[..count]);
        let pid = message.lines().find_map(|line| line.strip_prefix("X_NSPAWN_LEADER_PID="));
        leader = pid.map(|pid| Pid::from_raw(pid.parse().unwrap())).or(leader);
        if message.lines().any(|line| line == "READY=1") {
            return leader.unwrap();
        }
    }
}

impl System for Container {
    fn run(&mut self, script: &str) -> Answer {
        let (leader, seconds) = (self.leader.to_string(), SCRIPT.as_secs().to_string());
        let mut command = Command::new("nsenter");
        command.args(["--target", &leader, "--mount", "--uts", "--ipc", "--net", "--pid", "/usr/bin/env", "-i"]);
        command.args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "timeout", &seconds, "bash", "-c"]);
        let output = command.arg(format!("exec 2>&1\n{script}")).stdin(Stdio::null()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let output_text = String::from_utf8_lossy(&text).trim_end().to_owned();
        Answer { code: output.status.code().unwrap_or(-1), output: output_text }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the container showed:\n{}", all_of(&self.console));
        }
        // All others end with it, and so does what has started it.
        let _ = kill(self.leader, Signal::SIGKILL);
        let _ = self.nspawn.0.wait();
        let _ = run("find", &[self.group.to_str().unwrap(), "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]);
    }
}
