//! The virtual machine of an edge node: images of it that are good and bad, the hypervisor that runs what `current` points
//! at, and the place where a machine reports that it is up.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::agent::Node;
use super::vm::{Kernel, disk, end_of, qemu};
use super::workstation::Workstation;

/// A boot takes some 3 s in software emulation; only a failure takes this long.
pub const BOOT: Duration = Duration::from_secs(180);
/// How soon a hypervisor notices that it has something else to run.
const NOTICE: Duration = Duration::from_millis(20);

/// Loads what virtio's devices need, shows a line of the root disk, and does what the disk says.
const INIT: &str = r#"#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t devtmpfs dev /dev
exec >/dev/console 2>&1 </dev/console
while read -r module; do $bb insmod "/modules/$module" || echo "INSMOD FAILED $module"; done </modules/order
n=0; while [ ! -b /dev/vda ] && [ $n -lt 100 ]; do $bb sleep 0.1; n=$((n+1)); done
$bb mount -t ext4 -o ro /dev/vda /mnt && $bb cat /mnt/version && . /mnt/main
$bb poweroff -f
"#;

/// What a machine does once it has booted.
pub enum Main {
    /// It turns itself off.
    PowersOff,
    /// It stays, and says nothing more.
    Stays,
    /// It reports in, and stays.
    Reports,
    /// It stops for good before it reports; the hypervisor's process goes on.
    Halts,
}

impl Main {
    fn script(&self) -> &'static str {
        match self {
            Self::PowersOff => "",
            Self::Stays => "while :; do $bb sleep 1000; done\n",
            // The connection says for as long as it is there that the machine is.
            Self::Reports => {
                "$bb ip address add 10.0.2.15/24 dev eth0; $bb ip link set eth0 up\n\
                 { $bb cat /mnt/version; while :; do $bb sleep 1000; done; } | $bb nc 10.0.2.100 7000\n"
            }
            Self::Halts => "echo \"$($bb cat /mnt/version) halts\"; $bb halt -f\n",
        }
    }
}

/// Where images of the machine are made: they differ in their root disks alone.
pub struct Builder {
    workstation: Workstation,
    kernel: Kernel,
    initrd: PathBuf,
}

impl Builder {
    /// None, and a line that says what is missing, where a machine cannot boot here.
    pub fn found(test: &str) -> Option<Self> {
        let (kernel, workstation) = (Kernel::found(test)?, Workstation::new());
        let initrd = kernel.initrd(&workstation.path(""), INIT, &[]);
        Some(Self { workstation, kernel, initrd })
    }

    /// Pushes the image that shows and reports `version`, which no other image of this builder has.
    pub fn push(&self, reference: &str, version: &str, main: &Main) {
        let files = [("version", &*format!("{version}\n"), false), ("main", main.script(), false)];
        let root = format!("{}:raw", disk(&self.workstation.path(""), version, &files).display());
        let (kernel, initrd) = (self.kernel.image.to_str().unwrap(), self.initrd.to_str().unwrap());
        self.workstation.must(&["push", "--kernel", kernel, "--initrd", initrd, "--root", &root, reference]);
    }
}

/// What `desired.toml` says to boot an image of a [`Builder`], and more lines.
pub fn desired(reference: &str, more: &str) -> String {
    format!("image = \"{reference}\"\ncmdline = \"console=ttyS0 quiet panic=-1\"\n{more}")
}

/// A command of QEMU for what is in the directory of a generation, as its `launch.json` says.
pub fn qemu_for(generation: &Path, console: &Path) -> Command {
    let launch: Value = serde_json::from_slice(&fs::read(generation.join("launch.json")).unwrap()).unwrap();
    let file = |role: &str| {
        let files = launch["files"].as_array().unwrap();
        files.iter().find(|file| file["role"] == role).unwrap()["path"].as_str().unwrap().to_owned()
    };
    let mut qemu = qemu(console, 256);
    qemu.args(["-no-reboot", "-kernel", &file("kernel"), "-initrd", &file("initrd")]);
    qemu.args(["-drive", &format!("file={},format=raw,if=virtio,readonly=on", file("disk-root"))]);
    qemu.args(["-append", launch["cmdline"].as_str().unwrap()]);
    qemu.stdin(Stdio::null()).stdout(Stdio::null());
    qemu
}

/// Runs what `current` of the workload "default" points at, and runs it anew when that changes or the machine ends, as a
/// unit for a hypervisor does. Ends with its machine when it is dropped.
pub struct Hypervisor {
    stop: Sender<()>,
    runs: Option<JoinHandle<()>>,
    console: PathBuf,
}

impl Hypervisor {
    /// Machines report to `reports`.
    pub fn start(node: &Node, reports: &Reports) -> Self {
        let (stop, stopped) = channel();
        let (current, console) = (node.state_dir().join("current"), node.path("console"));
        let shown = console.clone();
        // Whatever the machine asks for, it reaches nothing but this one address.
        let network = format!("user,id=net,restrict=on,guestfwd=tcp:10.0.2.100:7000-tcp:{}", reports.address);
        let runs = std::thread::spawn(move || {
            let wait = || stopped.recv_timeout(NOTICE) == Err(RecvTimeoutError::Timeout);
            while wait() {
                let Ok(generation) = fs::canonicalize(&current) else { continue };
                let mut qemu = qemu_for(&generation, &shown);
                // The card's boot ROM is in another package.
                qemu.args(["-netdev", &network, "-device", "virtio-net-pci,netdev=net,romfile="]);
                let mut machine = Process(qemu.spawn().unwrap());
                let is_same = || fs::canonicalize(&current).is_ok_and(|now| now == generation);
                while machine.0.try_wait().unwrap().is_none() && is_same() {
                    if !wait() {
                        return;
                    }
                }
            }
        });
        Self { stop, runs: Some(runs), console }
    }

    /// Waits until the machine that runs has shown this on its console.
    pub fn until_shown(&self, text: &str) {
        let deadline = Instant::now() + BOOT;
        while !end_of(&self.console).contains(text) {
            assert!(Instant::now() < deadline, "{text:?} is never shown: {}", end_of(&self.console));
            std::thread::sleep(NOTICE);
        }
    }
}

impl Drop for Hypervisor {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        let ended = self.runs.take().map(JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()) || std::thread::panicking(), "the hypervisor has panicked");
    }
}

/// A process that ends when it is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where machines report in, and where a health check asks whether the one that runs now has done so.
///
/// The emulator connects when it starts; a line comes once its machine says what it is, and the end with the machine. A
/// port that the emulator itself forwards would not do for a check by TCP: it takes connections whatever becomes of its
/// machine.
pub struct Reports {
    address: std::net::SocketAddr,
    health: std::net::SocketAddr,
    up: Arc<Up>,
    is_over: Arc<AtomicBool>,
}

/// The versions of the machines that are up.
#[derive(Default)]
struct Up {
    versions: Mutex<Vec<String>>,
    changed: Condvar,
}

impl Reports {
    pub fn open() -> Self {
        let (up, is_over) = (Arc::<Up>::default(), Arc::new(AtomicBool::new(false)));
        let reported = Arc::clone(&up);
        let address = listen(&is_over, move |stream| {
            let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
            let Some(version) = lines.next() else { return };
            reported.change(|versions| versions.push(version.clone()));
            lines.for_each(drop);
            reported.change(|versions| versions.retain(|up| *up != version));
        });
        let asked = Arc::clone(&up);
        let health = listen(&is_over, move |mut stream| {
            let mut head = BufReader::new(&stream).lines().map_while(Result::ok);
            while head.next().is_some_and(|line| !line.is_empty()) {}
            let status = if asked.versions.lock().unwrap().is_empty() { "503 Service Unavailable" } else { "200 OK" };
            let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        });
        Self { address, health, up, is_over }
    }

    /// Answers 200 while a machine is up, and 503 while none is.
    pub fn health_url(&self) -> String {
        format!("http://{}/", self.health)
    }

    /// Waits until a machine of this version has reported and is still there.
    pub fn until_up(&self, version: &str) {
        self.until(&format!("{version} up"), |versions| versions.contains(&version.to_owned()));
    }

    /// Waits until no machine is up.
    pub fn until_down(&self) {
        self.until("nothing up", |versions| versions.is_empty());
    }

    fn until(&self, what: &str, wanted: impl Fn(&[String]) -> bool) {
        let up = self.up.versions.lock().unwrap();
        let (up, time) = self.up.changed.wait_timeout_while(up, BOOT, |versions| !wanted(versions)).unwrap();
        assert!(!time.timed_out(), "never {what}, but {up:?}");
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        for address in [self.address, self.health] {
            let _ = TcpStream::connect(address);
        }
    }
}

impl Up {
    fn change(&self, change: impl FnOnce(&mut Vec<String>)) {
        change(&mut self.versions.lock().unwrap());
        self.changed.notify_all();
    }
}

/// Has each connection to an address of its own handled by a thread, until it is over.
fn listen(is_over: &Arc<AtomicBool>, handle: impl Fn(TcpStream) + Clone + Send + 'static) -> std::net::SocketAddr {
    let (listener, is_over) = (TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), Arc::clone(is_over));
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            if is_over.load(Ordering::SeqCst) {
                return;
            }
            let handle = handle.clone();
            std::thread::spawn(move || handle(stream));
        }
    });
    address
}
