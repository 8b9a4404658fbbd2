//! The disk as the unit gives it to QEMU: every node named, so that no header leads it to another file.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::agent::Node;
use crate::common::disk_image::run;
use crate::common::docker_registry::program;
use crate::common::registry::Registry;
use crate::common::workstation::Workstation;
use crate::units::said;

const SIZE: usize = 1 << 20;
/// Byte that the image's disk is full of, and byte of a file that is none of the guest's business.
const DISK: u8 = 0x11;
const SECRET: u8 = 0x53;

/// Words of the unit's command line that open the disk, and those that make the smallest machine of it.
fn machine(node: &Node) -> Vec<String> {
    let start = said("eci-vm@.service", "ExecStart", "default", node);
    let words: Vec<&str> = start.split_ascii_whitespace().collect();
    let with_value = |flag: &str| {
        let at = words.iter().position(|word| *word == flag).unwrap_or_else(|| panic!("the unit has no {flag}"));
        [words[at], words[at + 1]]
    };
    let flags = ["-sandbox", "-machine", "-blockdev", "-device"].map(with_value).concat();
    let more =
        ["-nodefaults", "-no-user-config", "-accel", "tcg", "-m", "64", "-display", "none", "-S", "-qmp", "stdio"];
    flags.iter().chain(&more).map(|word| (*word).to_owned()).collect()
}

/// Has QEMU open its disks and read the first sector of one; the nodes that it has by their names, and what it read.
/// None, and what QEMU says, if it does not start.
fn opened(mut qemu: Command, disk: &str) -> Result<(Value, u8), String> {
    let read = |byte: u8| format!("qemu-io {disk} \"read -P {byte:#x} 0 512\"");
    let ask = |line: String| json!({"execute": "human-monitor-command", "arguments": {"command-line": line}});
    let questions = [
        json!({"execute": "qmp_capabilities"}),
        json!({"execute": "query-named-block-nodes"}),
        ask(read(DISK)),
        ask(read(SECRET)),
        ask(read(0)),
        json!({"execute": "quit"}),
    ];
    let mut child = qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // QEMU that does not start reads nothing.
    let _ = questions.iter().try_for_each(|question| writeln!(input, "{question}"));
    let output = child.wait_with_output().unwrap();
    drop(input);
    let said = String::from_utf8(output.stdout).unwrap();
    let (answers, reads): (Vec<&str>, Vec<&str>) = said.lines().partition(|line| line.starts_with('{'));
    let answers = answers.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let answers: Vec<Value> = answers.filter_map(|answer| answer.get("return").cloned()).collect();
    let Some(nodes) = answers.get(1) else { return Err(String::from_utf8_lossy(&output.stderr).into_owned()) };
    // Each read ends with a line of its own, before which a line says if the bytes are others.
    let reads: Vec<_> = reads.split_inclusive(|line| line.starts_with("read ")).take(3).collect();
    let is_right = |lines: &[&str]| !lines.iter().any(|line| line.contains("verification failed"));
    let found = [DISK, SECRET, 0].into_iter().zip(reads).find(|(_, lines)| is_right(lines));
    Ok((nodes.clone(), found.unwrap_or_else(|| panic!("other bytes: {said}")).0))
}

fn node_of<'a>(nodes: &'a Value, name: &str) -> &'a Value {
    let named = |node: &&Value| node["node-name"] == name;
    nodes.as_array().unwrap().iter().find(named).unwrap_or_else(|| panic!("no node {name}: {nodes}"))
}

/// QEMU's name of a format.
fn driver(kind: &str) -> &str {
    match kind {
        "iso" => "raw",
        "vhd" => "vpc",
        other => other,
    }
}

/// A node whose agent has deployed a root disk of this format.
struct Fixture {
    workstation: Workstation,
    registry: Registry,
    node: Node,
}

impl Fixture {
    fn new(test: &str) -> Option<Self> {
        for name in ["qemu-img", "qemu-system-x86_64"] {
            program(test, name)?;
        }
        let (workstation, registry, mut node) = (Workstation::new(), Registry::http(), Node::new());
        fs::write(workstation.path("raw"), vec![DISK; SIZE]).unwrap();
        fs::write(workstation.path("secret"), vec![SECRET; SIZE]).unwrap();
        workstation.write("vmlinuz", "the kernel");
        node.start();
        Some(Self { workstation, registry, node })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.workstation.path(name)
    }

    fn deploy(&self, kind: &str, disks: &str) {
        let (file, raw) = (self.path(&format!("a,b.{kind}")), self.path("raw"));
        if kind == "iso" {
            let mut disc = vec![DISK; SIZE];
            disc[0x8001..0x8006].copy_from_slice(b"CD001");
            fs::write(&file, disc).unwrap();
        } else {
            let [raw, file] = [&raw, &file].map(|path| path.to_str().unwrap());
            run("qemu-img", &["convert", "-O", driver(kind), raw, file]).unwrap();
        }
        let reference = self.registry.reference("edge/vm", &format!("{kind}-{disks}"));
        let root = format!("{}:{kind}", file.display());
        self.workstation.must(&["push", "--force", "--kernel", "vmlinuz", "--root", &root, &reference]);
        self.node.desire(&format!("image = \"{reference}\"\ndisks = \"{disks}\"\n"));
        self.node.until_activated(&reference);
    }

    /// QEMU as the unit runs it.
    fn unit(&self) -> Command {
        let mut command = self.node.command(&["exec", "default", "--", "qemu-system-x86_64"]);
        command.args(machine(&self.node));
        command
    }

    /// The same as it is now, without what `eci exec` checks before.
    fn unit_as_filled(&self) -> Command {
        let words = machine(&self.node);
        let words: Vec<&str> =
            ["exec", "default", "--", "printf", "%s\\n"].into_iter().chain(words.iter().map(|w| &**w)).collect();
        let output = self.node.eci(&words);
        assert!(output.status.success(), "{output:?}");
        let mut command = Command::new("qemu-system-x86_64");
        command.args(String::from_utf8(output.stdout).unwrap().lines());
        command
    }

    /// QEMU as the unit ran it before, which goes by what the header names.
    fn unit_before(&self) -> Command {
        let mut command = self.unit_as_filled();
        let words: Vec<_> = command.get_args().map(|word| word.to_str().unwrap().to_owned()).collect();
        let at = words.iter().position(|word| word == "-blockdev").unwrap();
        let drive =
            format!("file={},format=qcow2,if=none,id=disk-root,readonly=on", self.stable("disk-root").display());
        let mut before = words.clone();
        before.splice(at..at + 2, ["-drive".to_owned(), drive]);
        command = Command::new("qemu-system-x86_64");
        command.args(before);
        command
    }

    fn stable(&self, name: &str) -> PathBuf {
        self.node.state_dir().join("current").join(name)
    }

    fn disk(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.stable(name)).unwrap()
    }

    /// Puts a file in the place of what the agent has laid out, as a bad disk or somebody with its rights may.
    fn replace(&self, name: &str, with: &Path) {
        let disk = self.disk(name);
        fs::remove_file(&disk).unwrap();
        fs::copy(with, &disk).unwrap();
        fs::set_permissions(&disk, fs::Permissions::from_mode(0o644)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_opens_each_format_as_the_unit_names_it() {
    let Some(f) = Fixture::new("qemu_opens_each_format_as_the_unit_names_it") else { return };
    for kind in ["raw", "iso", "qcow2", "qcow", "vmdk", "vhd", "vhdx"] {
        for (disks, read_only) in [("read-only", true), ("writable", false), ("overlay", false)] {
            f.deploy(kind, disks);
            let (nodes, byte) = opened(f.unit(), "disk-root").unwrap_or_else(|said| panic!("{kind} {disks}: {said}"));
            let top = node_of(&nodes, "disk-root");
            let overlay = disks == "overlay";
            let expected = if overlay { "qcow2" } else { driver(kind) };
            assert_eq!(
                (&top["drv"], &top["ro"], byte),
                (&json!(expected), &json!(read_only), DISK),
                "{kind} {disks}: {top}"
            );
            if overlay {
                let base = node_of(&nodes, "disk-root-base");
                assert_eq!((&base["drv"], &base["ro"]), (&json!(driver(kind)), &json!(true)), "{kind}: {base}");
            }
            let files = nodes.as_array().unwrap().iter().filter(|node| node["drv"] == "file").count();
            assert_eq!(files, if overlay { 2 } else { 1 }, "{kind} {disks}: {nodes}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_leads_qemu_to_no_other_file() {
    let Some(f) = Fixture::new("a_header_leads_qemu_to_no_other_file") else { return };
    f.deploy("qcow2", "read-only");
    let (unit, before) = (f.unit_as_filled(), f.unit_before());
    let (planted, secret) = (f.path("planted"), f.path("secret"));
    let [planted, secret] = [&planted, &secret].map(|path| path.to_str().unwrap());
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, planted, "1M"]).unwrap();
    // `eci exec` looks at lengths before: a longer one is not complete.
    let length = fs::metadata(f.disk("disk-root")).unwrap().len();
    fs::File::options().write(true).open(planted).unwrap().set_len(length).unwrap();
    f.replace("disk-root", Path::new(planted));
    assert_eq!(opened(before, "disk-root").unwrap().1, SECRET, "this is what the header is for");
    let (nodes, byte) = opened(unit, "disk-root").unwrap();
    assert_eq!(byte, 0, "{nodes}");
    assert!(!nodes.to_string().contains("/secret\",\"drv\""), "{nodes}");
    let refused = f.unit().output().unwrap();
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(65), "{message}");
    assert!(message.contains("backing file") && message.contains("disk-root"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlay_lies_on_its_base_whatever_its_header_names() {
    let Some(f) = Fixture::new("an_overlay_lies_on_its_base_whatever_its_header_names") else { return };
    f.deploy("raw", "overlay");
    assert_eq!(opened(f.unit(), "disk-root").unwrap().1, DISK);
    let (overlay, secret) = (f.disk("disk-root"), f.path("secret"));
    let [overlay, secret] = [&overlay, &secret].map(|path| path.to_str().unwrap());
    run("qemu-img", &["rebase", "-u", "-F", "raw", "-b", secret, overlay]).unwrap();
    assert_eq!(opened(f.unit_before(), "disk-root").unwrap().1, SECRET, "this is what the header is for");
    assert_eq!(opened(f.unit(), "disk-root").unwrap().1, DISK);
}
