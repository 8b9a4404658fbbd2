//! The main job to its end: what the agent deployed boots in QEMU, and boots anew after an update.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::agent::Node;
use crate::common::docker_registry::{DockerRegistry, program};

/// A boot takes some 3 s in software emulation; only a failure takes this long.
const BOOT: Duration = Duration::from_secs(180);

/// Loads what a virtio disk needs, then shows a line of the root disk. It stays up where its command line says so.
const INIT: &str = r#"#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t devtmpfs dev /dev
exec >/dev/console 2>&1 </dev/console
while read -r module; do $bb insmod "/modules/$module" || echo "INSMOD FAILED $module"; done </modules/order
n=0; while [ ! -b /dev/vda ] && [ $n -lt 100 ]; do $bb sleep 0.1; n=$((n+1)); done
$bb mount -t ext4 -o ro /dev/vda /mnt && $bb cat /mnt/version
$bb mount -t proc proc /proc
$bb grep -q stay /proc/cmdline && $bb sleep 100000
$bb poweroff -f
"#;

/// The programs and files that a boot takes; none, with a line that says what is missing, where one is.
pub fn kernel(test: &str) -> Option<(PathBuf, PathBuf)> {
    for name in ["qemu-system-x86_64", "busybox", "cpio", "mkfs.ext4"] {
        program(test, name)?;
    }
    match (std::env::var_os("ECI_TEST_KERNEL"), std::env::var_os("ECI_TEST_MODULES")) {
        (Some(kernel), Some(modules)) => Some((kernel.into(), modules.into())),
        _ => {
            println!("SKIP {test}: ECI_TEST_KERNEL and ECI_TEST_MODULES are not set; tests/run sets them");
            None
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An initrd of busybox, the modules and [`INIT`].
pub fn initrd(dir: &Path, modules: &Path) -> PathBuf {
    let tree = dir.join("initrd.d");
    for name in ["bin", "modules", "dev", "mnt", "proc"] {
        fs::create_dir_all(tree.join(name)).unwrap();
    }
    let busybox = program("initrd", "busybox").unwrap();
    fs::copy(busybox, tree.join("bin/busybox")).unwrap();
    for entry in fs::read_dir(modules).unwrap().flatten() {
        fs::copy(entry.path(), tree.join("modules").join(entry.file_name())).unwrap();
    }
    fs::write(tree.join("init"), INIT).unwrap();
    run(Command::new("chmod").arg("0755").arg(tree.join("init")));
    let archive = dir.join("initrd");
    let pack = "find . | sort | cpio --quiet -o -H newc -R 0:0 > \"$0\"";
    run(Command::new("sh").args(["-c", pack]).arg(&archive).current_dir(&tree));
    archive
}

/// An ext4 disk that holds a line in the file `version`.
pub fn root(dir: &Path, line: &str) -> PathBuf {
    let (tree, disk) = (dir.join(format!("{line}.d")), dir.join(format!("{line}.raw")));
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("version"), format!("{line}\n")).unwrap();
    fs::File::create(&disk).unwrap().set_len(4 << 20).unwrap();
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-d"]).arg(&tree).arg(&disk));
    disk
}

/// Boots what `current` points at, as its `launch.json` says, and gives what the machine printed.
fn boot(node: &Node) -> String {
    let launch: serde_json::Value = serde_json::from_slice(&node.current("launch.json")).unwrap();
    let file = |role: &str| {
        let files = launch["files"].as_array().unwrap();
        files.iter().find(|file| file["role"] == role).unwrap()["path"].as_str().unwrap().to_owned()
    };
    let console = node.path("console");
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-nographic", "-no-reboot", "-nodefaults", "-no-user-config", "-m", "256", "-smp", "1"])
        .args(["-serial", "stdio", "-monitor", "none"])
        .args(["-kernel", &file("kernel"), "-initrd", &file("initrd")])
        .args(["-drive", &format!("file={},format=raw,if=virtio,readonly=on", file("disk-root"))])
        .args(["-append", launch["cmdline"].as_str().unwrap()])
        .stdin(Stdio::null())
        .stdout(fs::File::create(&console).unwrap())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + BOOT;
    while qemu.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            qemu.kill().unwrap();
            qemu.wait().unwrap();
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    String::from_utf8_lossy(&fs::read(console).unwrap()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_is_deployed_and_boots_and_so_does_its_update() {
    const TEST: &str = "what_is_pushed_is_deployed_and_boots_and_so_does_its_update";
    let Some((kernel, modules)) = kernel(TEST) else { return };
    let Some(registry) = DockerRegistry::http(TEST) else { return };
    let mut node = Node::new();
    let initrd = initrd(&node.path(""), &modules);
    let desire = |node: &Node, tag: &str| {
        let image = registry.reference("edge/vm", tag);
        node.desire(&format!("image = \"{image}\"\ncmdline = \"console=ttyS0 quiet panic=-1\"\n"));
        image
    };
    for tag in ["v1", "v2"] {
        let disk = root(&node.path(""), &format!("root-disk-of-{tag}"));
        let root = format!("{}:raw", disk.display());
        let image = registry.reference("edge/vm", tag);
        let files = ["--kernel", kernel.to_str().unwrap(), "--initrd", initrd.to_str().unwrap(), "--root", &root];
        let pushed = node.eci(&[&["push"], &files[..], &[&image]].concat());
        assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
    }
    let image = desire(&node, "v1");
    node.start();
    node.until_activated(&image);
    let console = boot(&node);
    assert!(console.contains("root-disk-of-v1"), "{console}");

    let image = desire(&node, "v2");
    node.until_activated(&image);
    let console = boot(&node);
    assert!(console.contains("root-disk-of-v2"), "{console}");
}
