//! A guest: Debian with systemd in a virtual machine, with the agent as a package would install it. And what scripts in it
//! do, as they do in a container of it.
//!
//! The test sends scripts over a port of the machine and gets their output and exit code back (`tests/guest/answer`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::agent::ECI;
use super::disk_image::{copy, scratch};
use super::docker_registry::program;
use super::image::Image;
use super::vm::{Kernel, Machine, all_of, qemu, run};
use super::workstation::Workstation;

/// A boot takes some 12 s on a slow machine; only a failure takes this long.
const BOOT: Duration = Duration::from_secs(240);
/// What a script may take inside of the guest, and how much longer the answer may take to arrive.
pub const SCRIPT: Duration = Duration::from_secs(120);
const SLACK: Duration = Duration::from_secs(60);
/// How soon it is looked again for what nobody announces.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Where the guest's registry has the images.
const REPOSITORY: &str = "127.0.0.1:5000/edge/nginx";

/// What the installation of a package does. What it has unpacked outlives a power cut from then on. A container has it there
/// from the start.
pub const INSTALL: &str = "
    set -e
    test ! -b /dev/vdb || tar -x -f /dev/vdb -C / --no-overwrite-dir
    sync
    systemd-sysusers
    systemd-tmpfiles --create
    systemctl daemon-reload
    systemctl preset eci-agent.service eci-agent.socket
    systemctl start registry.service eci-agent.socket eci-agent.service
";

/// A machine with disks of its own, whether it runs or not.
pub struct Guest {
    dir: tempfile::TempDir,
    kernel: Kernel,
    initrd: PathBuf,
    machine: Option<Machine>,
    /// The kernel's name for the boot that runs.
    boot_id: String,
    scripts: u32,
}

/// What became of a script.
#[derive(Debug)]
pub struct Answer {
    pub code: i32,
    pub output: String,
}

impl Guest {
    /// A guest that is off. Its second disk is an archive with the program, its units and the images, by their tags. None,
    /// and a line that says what is missing, where it cannot be made.
    pub fn new(test: &str, images: &[(&str, Image)]) -> Option<Self> {
        let kernel = Kernel::found(test)?;
        program(test, "strip")?;
        let Some(debian) = std::env::var_os("ECI_TEST_GUEST") else {
            println!("SKIP {test}: ECI_TEST_GUEST is not set; tests/run sets it");
            return None;
        };
        let dir = scratch();
        copy(Path::new(&debian), &dir.path().join("root.raw"));
        pack(dir.path(), images);
        let files = [
            ("guest/usr/lib/eci-test/answer", include_str!("../guest/answer"), true),
            ("guest/etc/systemd/system/answer.service", include_str!("../guest/answer.service"), false),
            ("guest/etc/systemd/system/look.service", include_str!("../guest/look.service"), false),
            ("guest/etc/systemd/system/registry.service", include_str!("../guest/registry.service"), false),
            (
                "guest/etc/systemd/system/multi-user.target.d/tests.conf",
                "[Unit]\nWants=answer.service look.service\n",
                false,
            ),
            ("guest/etc/systemd/journald.conf.d/tests.conf", "[Journal]\nStorage=volatile\n", false),
        ];
        let initrd = kernel.initrd(dir.path(), include_str!("../guest/init"), &files);
        Some(Self { dir, kernel, initrd, machine: None, boot_id: String::new(), scripts: 0 })
    }

    /// Turns it on, and waits until it answers.
    pub fn boot(&mut self) {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let mut qemu = qemu(&self.console(), 512);
        qemu.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(&self.initrd);
        // What the guest has written stays written when the emulator is killed; only the guest's own memory is lost.
        qemu.args(["-drive", &format!("file={},format=raw,if=virtio,cache=unsafe", path("root.raw"))]);
        qemu.args(["-drive", &format!("file={},format=raw,if=virtio,readonly=on", path("package.tar"))]);
        qemu.args(["-append", "console=ttyS0 panic=-1 mitigations=off systemd.show_status=1"]);
        self.machine = Some(Machine::start(qemu));
        self.until_booted();
    }

    /// Starts it anew from within, and waits until it answers again.
    pub fn reboot(&mut self) {
        self.send("systemctl reboot");
        self.until_booted();
    }

    /// Ends it as a power cut does.
    pub fn cut_power(&mut self) {
        self.machine = None;
    }

    fn until_booted(&mut self) {
        let deadline = Instant::now() + BOOT;
        loop {
            // The script that asked for the reboot may be answered before.
            let line = self.line(deadline, "it does not boot");
            if let Some(id) = line.strip_prefix("BOOT ").filter(|id| *id != self.boot_id) {
                self.boot_id = id.to_owned();
                return;
            }
        }
    }

    fn send(&mut self, script: &str) {
        self.scripts += 1;
        let line = format!("{} {} {}", self.scripts, SCRIPT.as_secs(), STANDARD.encode(script));
        self.machine.as_mut().unwrap().send(&line);
    }

    fn line(&mut self, deadline: Instant, what: &str) -> String {
        let begun = Instant::now();
        let machine = self.machine.as_mut().unwrap();
        if let Ok(line) = machine.lines.recv_timeout(deadline.saturating_duration_since(begun)) {
            return line;
        }
        let (waited, ended) = (begun.elapsed().as_secs(), machine.ended());
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        panic!(
            "the guest says nothing: {what}\nwaited {waited} s; QEMU {}; the load of this machine is {}; the whole console:\n{}",
            ended.map_or_else(|| "still runs".to_owned(), |status| format!("has ended with {status}")),
            load.trim_end(),
            all_of(&self.console())
        );
    }

    fn console(&self) -> PathBuf {
        self.dir.path().join("console")
    }
}

impl System for Guest {
    fn run(&mut self, script: &str) -> Answer {
        self.send(script);
        let id = self.scripts.to_string();
        let line = self.line(Instant::now() + SCRIPT + SLACK, script);
        let mut words = line.split(' ');
        assert_eq!((words.next(), words.next()), (Some("DONE"), Some(id.as_str())), "{line}");
        let code = words.next().unwrap().parse().unwrap();
        let output = STANDARD.decode(words.next().unwrap_or_default()).unwrap();
        Answer { code, output: String::from_utf8_lossy(&output).trim_end().to_owned() }
    }
}

/// A Debian with systemd and the agent that scripts of bash run in.
pub trait System: Sized {
    /// Runs a script to its end.
    fn run(&mut self, script: &str) -> Answer;

    /// Runs a script that has to succeed; its output.
    fn must(&mut self, script: &str) -> String {
        let answer = self.run(script);
        if answer.code != 0 {
            panic!("{script}: {answer:?}\n{}", self.journal());
        }
        answer.output
    }

    /// Runs a script that has to print exactly this.
    fn prints(&mut self, script: &str, expected: &str) {
        let answer = self.run(script);
        if answer.output != expected {
            panic!("{script}: {answer:?} in place of {expected:?}\n{}", self.journal());
        }
    }

    /// Looks again and again until there is something.
    fn eventually<T>(&mut self, what: &str, mut look: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + SCRIPT;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            if Instant::now() > deadline {
                let status = self.run("eci status").output;
                panic!("never {what}: {status}\n{}", self.journal());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Writes a file; a power cut does not take that back.
    fn write(&mut self, path: &str, text: &str, mode: &str) {
        let text = STANDARD.encode(text);
        self.must(&format!(
            "mkdir -p $(dirname {path}) && base64 -d <<<{text} >{path} && chmod {mode} {path} && sync {path} $(dirname {path})"
        ));
    }

    /// Desires the image of this tag; a power cut does not take that back.
    fn desire(&mut self, tag: &str) {
        self.desire_so(tag, "");
    }

    /// The same with more lines in `desired.toml`.
    fn desire_so(&mut self, tag: &str, more: &str) {
        self.write("/run/desired.toml", &format!("image = \"{REPOSITORY}:{tag}\"\n{more}"), "0644");
        self.must("eci apply /run/desired.toml");
    }

    /// Waits until the workload "default" is active with the image of this tag; its status.
    fn until_active(&mut self, tag: &str) -> Value {
        let reference = format!("{REPOSITORY}:{tag}");
        self.eventually(&format!("active with {tag}"), |guest| {
            let answer = guest.run("eci status default --json");
            let status: Value = serde_json::from_str(&answer.output).ok()?;
            (status["phase"] == "active" && status["current"]["reference"] == *reference).then_some(status)
        })
    }

    /// What the agent has told the journal since the machine was turned on.
    fn journal(&mut self) -> String {
        self.run("journalctl --no-pager -o short-monotonic -u eci-agent.service").output
    }
}

/// Makes `package.tar` in `dir`.
fn pack(dir: &Path, images: &[(&str, Image)]) {
    let stage = dir.join("package");
    unpack(&stage);
    let workstation = Workstation::new();
    fs::create_dir_all(stage.join("srv")).unwrap();
    for (tag, image) in images {
        workstation.push(image, &format!("oci:{}:{tag}", stage.join("srv/images").display()));
    }
    let tar = ["--owner=0", "--group=0", "--mode=u=rwX,go=rX", "-C"];
    run(Command::new("tar").arg("-cf").arg(dir.join("package.tar")).args(tar).arg(&stage).args(["usr", "srv"]));
    fs::remove_dir_all(&stage).unwrap();
}

/// Puts what a package has below `root`.
pub fn unpack(root: &Path) {
    let is_installed = |path: &Path| path.is_file() && path.extension().is_some();
    let install = |from: &Path, to: &str| {
        fs::create_dir_all(root.join(to)).unwrap();
        for entry in fs::read_dir(from).unwrap().flatten().filter(|entry| is_installed(&entry.path())) {
            fs::copy(entry.path(), root.join(to).join(entry.file_name())).unwrap();
        }
    };
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    install(&units, "usr/lib/systemd/system");
    install(&units.join("sysusers.d"), "usr/lib/sysusers.d");
    install(&units.join("tmpfiles.d"), "usr/lib/tmpfiles.d");
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    run(Command::new("strip").arg("-o").arg(root.join("usr/bin/eci")).arg(ECI));
}
