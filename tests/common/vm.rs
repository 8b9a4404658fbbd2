//! Virtual machines in QEMU, by software emulation: what they boot, and the process that one is.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};

use super::docker_registry::program;

/// How much of what a machine showed a failure repeats, in bytes.
const SHOWN: usize = 8 << 10;

/// Debian's kernel, and its modules for virtio's devices and the power button.
pub struct Kernel {
    pub image: PathBuf,
    modules: PathBuf,
}

/// What a file of a machine is to be: its path, its text, and whether it can be run.
pub type TextFile<'a> = (&'a str, &'a str, bool);

impl Kernel {
    /// None, and a line that says what is missing, where a program or file that a boot takes is not there.
    pub fn found(test: &str) -> Option<Self> {
        for name in ["qemu-system-x86_64", "busybox", "cpio", "mkfs.ext4"] {
            program(test, name)?;
        }
        match (std::env::var_os("ECI_TEST_KERNEL"), std::env::var_os("ECI_TEST_MODULES")) {
            (Some(image), Some(modules)) => Some(Self { image: image.into(), modules: modules.into() }),
            _ => {
                println!("SKIP {test}: ECI_TEST_KERNEL and ECI_TEST_MODULES are not set; tests/run sets them");
                None
            }
        }
    }

    /// An initrd in `dir` of busybox, the modules, the script `init` and more files.
    pub fn initrd(&self, dir: &Path, init: &str, more: &[TextFile]) -> PathBuf {
        let tree = dir.join("initrd.d");
        for name in ["bin", "modules", "dev", "mnt", "sys"] {
            fs::create_dir_all(tree.join(name)).unwrap();
        }
        fs::copy(program("initrd", "busybox").unwrap(), tree.join("bin/busybox")).unwrap();
        for entry in fs::read_dir(&self.modules).unwrap().flatten() {
            fs::copy(entry.path(), tree.join("modules").join(entry.file_name())).unwrap();
        }
        write_files(&tree, &[&[("init", init, true)], more].concat());
        let archive = dir.join("initrd");
        let pack = "find . | sort | cpio --quiet -o -H newc -R 0:0 > \"$0\"";
        run(Command::new("sh").args(["-c", pack]).arg(&archive).current_dir(&tree));
        archive
    }
}

/// A small ext4 disk `NAME.raw` in `dir` that holds these files.
pub fn disk(dir: &Path, name: &str, files: &[TextFile]) -> PathBuf {
    let (tree, disk) = (dir.join(format!("{name}.d")), dir.join(format!("{name}.raw")));
    fs::create_dir(&tree).unwrap();
    write_files(&tree, files);
    fs::File::create(&disk).unwrap().set_len(4 << 20).unwrap();
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-d"]).arg(&tree).arg(&disk));
    disk
}

fn write_files(tree: &Path, files: &[TextFile]) {
    for (path, text, is_program) in files {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(if *is_program { 0o755 } else { 0o644 })).unwrap();
    }
}

/// Runs a command that has to succeed.
pub fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A command of QEMU that emulates the smallest machine with a serial console, which goes to the file `console`. Nothing
/// that a user of this machine has set for QEMU has a say.
pub fn qemu(console: &Path, megabytes: u32) -> Command {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg", "-nographic", "-nodefaults", "-no-user-config", "-monitor", "none", "-smp", "1"]);
    qemu.args(["-m", &megabytes.to_string(), "-serial", &format!("file:{}", console.display())]);
    qemu
}

/// The end of what a machine showed on its console.
pub fn end_of(console: &Path) -> String {
    let shown = fs::read(console).unwrap_or_default();
    String::from_utf8_lossy(&shown[shown.len().saturating_sub(SHOWN)..]).into_owned()
}

/// All that a machine showed on its console.
pub fn all_of(console: &Path) -> String {
    String::from_utf8_lossy(&fs::read(console).unwrap_or_default()).into_owned()
}

/// A machine that runs until it is dropped, and the lines to and from its port `eci`.
pub struct Machine {
    process: Child,
    port: ChildStdin,
    pub lines: Receiver<String>,
}

impl Machine {
    /// Starts what [`qemu`] and the caller have put together, with the port.
    pub fn start(mut qemu: Command) -> Self {
        qemu.args(["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=port,name=eci"]);
        qemu.args(["-chardev", "stdio,id=port,signal=off"]);
        let mut process = qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (port, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { process, port, lines }
    }

    /// How its process has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().unwrap()
    }

    /// Sends a line. A machine that has ended meanwhile shows in what it does not answer.
    pub fn send(&mut self, line: &str) {
        let _ = self.port.write_all(format!("{line}\n").as_bytes());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
