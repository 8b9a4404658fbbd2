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
    /// It stays until its power button is pressed, and then turns itself off.
    HearsButton,
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
            // The kernel counts how often it was pressed.
            Self::HearsButton => {
                "$bb mount -t sysfs sysfs /sys\n\
                 until read -r n rest </sys/firmware/acpi/interrupts/ff_pwr_btn && [ $n -gt 0 ]; do $bb sleep 0.1; done\n\
                 echo the button is pressed\n"
            }
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

/// What `desired.toml` says to boot an image of a [`Builder`], and more lines. Under an emulator that has to wait for its
/// turn, the kernel would else take its timer for broken, and panic.
pub fn desired(reference: &str, more: &str) -> String {
    format!("image = \"{reference}\"\ncmdline = \"console=ttyS0 quiet panic=-1 no_timer_check\"\n{more}")
}

/// What a machine boots, as words of QEMU's command line.
struct Boot<'a> {
    kernel: &'a str,
    initrd: &'a str,
    disk: &'a str,
    cmdline: &'a str,
}

impl Boot<'_> {
    fn command(&self, console: &Path) -> Command {
        let mut qemu = qemu(console, 256);
        qemu.args(["-no-reboot", "-kernel", self.kernel, "-initrd", self.initrd, "-append", self.cmdline]);
        qemu.args(["-drive", &format!("file={},format=raw,if=virtio,readonly=on", self.disk)]);
        qemu.stdin(Stdio::null()).stdout(Stdio::null());
        qemu
    }
}

/// A command of QEMU for what is in the directory of a generation, as its `launch.json` says.
pub fn qemu_for(generation: &Path, console: &Path) -> Command {
    let launch: Value = serde_json::from_slice(&fs::read(generation.join("launch.json")).unwrap()).unwrap();
    let file = |role: &str| {
        let files = launch["files"].as_array().unwrap();
        files.iter().find(|file| file["role"] == role).unwrap()["path"].as_str().unwrap()
    };
    let (kernel, initrd, disk) = (file("kernel"), file("initrd"), file("disk-root"));
    Boot { kernel, initrd, disk, cmdline: launch["cmdline"].as_str().unwrap() }.command(console)
}

/// Runs what `current` of the workload "default" points at by `eci exec`, and runs it anew when that changes or the machine
/// ends, as the units for a hypervisor do. Ends with its machine when it is dropped.
pub struct Hypervisor {
    stop: Sender<()>,
    runs: Option<JoinHandle<()>>,
    ran: Arc<Mutex<Vec<u64>>>,
    consoles: PathBuf,
}

impl Hypervisor {
    /// Machines report to `reports`.
    pub fn start(node: &Node, reports: &Reports) -> Self {
        let (stop, stopped) = channel();
        let (current, consoles) = (node.state_dir().join("current"), reports.consoles.path().to_owned());
        let boot = Boot { kernel: "{kernel}", initrd: "{initrd}", disk: "{disk-root}", cmdline: "{cmdline}" };
        let mut qemu = boot.command(&consoles.join("{generation}"));
        // Whatever the machine asks for, it reaches nothing but this one address. The card's boot ROM is in another package.
        let network = format!("user,id=net,restrict=on,guestfwd=tcp:10.0.2.100:7000-tcp:{}", reports.address);
        qemu.args(["-netdev", &network, "-device", "virtio-net-pci,netdev=net,romfile="]);
        let mut machine = node.command(&["exec", "default", "--"]);
        machine.arg(qemu.get_program()).args(qemu.get_args()).stdin(Stdio::null()).stdout(Stdio::null());
        let ran = Arc::<Mutex<Vec<u64>>>::default();
        let seen = Arc::clone(&ran);
        let runs = std::thread::spawn(move || {
            let wait = || stopped.recv_timeout(NOTICE) == Err(RecvTimeoutError::Timeout);
            while wait() {
                if !current.exists() {
                    continue;
                }
                let mut machine = Process(machine.spawn().unwrap());
                let mut on = None;
                while machine.0.try_wait().unwrap().is_none() {
                    if on.is_none() {
                        on = runs_on(&machine.0);
                        let number = |dir: &PathBuf| dir.file_name().unwrap().to_str().unwrap().parse::<u64>().unwrap();
                        seen.lock().unwrap().extend(on.as_ref().map(number));
                    }
                    if on.as_ref().is_some_and(|dir| fs::canonicalize(&current).is_ok_and(|now| now != *dir)) {
                        break;
                    }
                    if !wait() {
                        return;
                    }
                }
            }
        });
        Self { stop, runs: Some(runs), ran, consoles }
    }

    /// Waits until the machine of a generation has shown this on its console.
    pub fn until_shown(&self, generation: u64, text: &str) {
        let (deadline, console) = (Instant::now() + BOOT, self.consoles.join(generation.to_string()));
        while !end_of(&console).contains(text) {
            assert!(Instant::now() < deadline, "{text:?} is never shown: {}", end_of(&console));
            std::thread::sleep(NOTICE);
        }
    }

    /// The generations that machines were started on, one after the other.
    pub fn ran(&self) -> Vec<u64> {
        self.ran.lock().unwrap().clone()
    }
}

/// The directory of the generation that a machine runs on, once `eci exec` has become its hypervisor.
fn runs_on(machine: &Child) -> Option<PathBuf> {
    let environment = fs::read(format!("/proc/{}/environ", machine.id())).unwrap_or_default();
    let mut variables = environment.split(|byte| *byte == 0);
    let dir = variables.find_map(|variable| variable.strip_prefix(b"ECI_DIR="))?;
    Some(PathBuf::from(std::str::from_utf8(dir).unwrap()))
}

impl Drop for Hypervisor {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        let ended = self.runs.take().map(JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()) || std::thread::panicking(), "the hypervisor has panicked");
    }
}

/// A process that ends when it is dropped.
pub struct Process(pub Child);

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
    /// What machines show, by the numbers of their generations.
    consoles: tempfile::TempDir,
}

#[derive(Default)]
struct Up {
    said: Mutex<Said>,
    changed: Condvar,
}

/// The versions of the machines.
#[derive(Debug, Default)]
struct Said {
    /// Of those that are up.
    up: Vec<String>,
    /// Of all that have ever reported.
    ever: Vec<String>,
}

impl Reports {
    pub fn open() -> Self {
        let (up, is_over) = (Arc::<Up>::default(), Arc::new(AtomicBool::new(false)));
        let reported = Arc::clone(&up);
        let address = listen(&is_over, move |stream| {
            let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
            let Some(version) = lines.next() else { return };
            reported.change(|said| {
                said.up.push(version.clone());
                said.ever.push(version.clone());
            });
            lines.for_each(drop);
            reported.change(|said| said.up.retain(|up| *up != version));
        });
        let asked = Arc::clone(&up);
        let health = listen(&is_over, move |mut stream| {
            let mut head = BufReader::new(&stream).lines().map_while(Result::ok);
            while head.next().is_some_and(|line| !line.is_empty()) {}
            let status = if asked.said.lock().unwrap().up.is_empty() { "503 Service Unavailable" } else { "200 OK" };
            let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        });
        Self { address, health, up, is_over, consoles: tempfile::tempdir().unwrap() }
    }

    /// Answers 200 while a machine is up, and 503 while none is.
    pub fn health_url(&self) -> String {
        format!("http://{}/", self.health)
    }

    /// How many machines of this version have reported so far.
    pub fn count(&self, version: &str) -> usize {
        self.up.said.lock().unwrap().count(version)
    }

    /// Waits until a machine of this version has reported and is still there.
    pub fn until_up(&self, version: &str) {
        self.until_counted(version, 1);
    }

    /// The same where it is to be the machine number `count` of this version, or a later one.
    pub fn until_counted(&self, version: &str, count: usize) {
        let is_up = |said: &Said| said.up.iter().any(|up| up == version) && said.count(version) >= count;
        self.until(&format!("{version} up as machine {count} of it"), is_up);
    }

    /// Waits until no machine is up.
    pub fn until_down(&self) {
        self.until("nothing up", |said| said.up.is_empty());
    }

    fn until(&self, what: &str, wanted: impl Fn(&Said) -> bool) {
        let said = self.up.said.lock().unwrap();
        let (said, _) = self.up.changed.wait_timeout_while(said, BOOT, |said| !wanted(said)).unwrap();
        if wanted(&said) {
            return;
        }
        let text = format!("{said:?}");
        // Not with a panic while it is locked.
        drop(said);
        let consoles = fs::read_dir(&self.consoles).unwrap().map(|console| console.unwrap().path());
        let shown: Vec<_> = consoles.map(|console| format!("{}: {}", console.display(), end_of(&console))).collect();
        panic!("never {what}, but {text}; the consoles show:\n{}", shown.join("\n"));
    }
}

impl Said {
    fn count(&self, version: &str) -> usize {
        self.ever.iter().filter(|reported| *reported == version).count()
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
    fn change(&self, change: impl FnOnce(&mut Said)) {
        change(&mut self.said.lock().unwrap());
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
