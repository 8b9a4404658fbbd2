//! What the units of virtual machines run, as they say it: a machine that boots what is current, is asked to shut down, and is
//! started anew where `current` has changed and not otherwise. And what the document says of other hypervisors.

use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::agent::{ECI, Node};
use crate::common::edge_vm::{BOOT, Builder, Main, desired};
use crate::common::image::Image;
use crate::common::registry::Registry;

/// A process that ends with the test, however that does.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a unit says of `key`, its lines joined, as it is for the instance `instance` on this node.
pub fn said(unit: &str, key: &str, instance: &str, node: &Node) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(unit);
    let text = fs::read_to_string(path).unwrap().replace("\\\n", "");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key}="))).unwrap();
    line.replace("%i", instance)
        .replace("/usr/bin/eci", ECI)
        .replace("/var/lib/eci-agent", node.state_dir().to_str().unwrap())
        .replace(&format!("/run/eci-vm/{instance}"), node.path("run").to_str().unwrap())
}

/// Runs what a unit has a shell run.
fn shell(node: &Node, script: &str, environment: &[(&str, &str)]) -> Output {
    let script = script.strip_prefix("/bin/sh -c '").unwrap().strip_suffix('\'').unwrap().replace("$$", "$");
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &script]).env("RUNTIME_DIRECTORY", node.path("run"));
    command.envs(environment.iter().copied()).output().unwrap()
}

fn push(builder: &Builder, node: &Node, tag: &str) -> String {
    let reference = format!("oci:{}:{tag}", node.path("images").display());
    builder.push(&reference, &format!("root-disk-of-{tag}"), &Main::Stays);
    reference
}

fn desire(node: &Node, reference: &str) {
    node.desire(&desired(reference, ""));
    node.until_activated(reference);
}

fn wait(what: &str, console: &Path, is_so: impl FnMut() -> bool) {
    let (deadline, mut is_so) = (Instant::now() + BOOT, is_so);
    while !is_so() {
        assert!(Instant::now() < deadline, "never {what}: {}", fs::read_to_string(console).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machine_of_the_unit_boots_what_is_current_and_hears_of_a_stop() {
    const TEST: &str = "the_machine_of_the_unit_boots_what_is_current_and_hears_of_a_stop";
    const UNIT: &str = "eci-vm@.service";
    let Some(builder) = Builder::found(TEST) else { return };
    let mut node = Node::with_config("[cache]\nkeep = 0\nreserve = \"0B\"\n");
    let (one, two) = (push(&builder, &node, "v1"), push(&builder, &node, "v2"));
    node.desire("");
    node.start();
    desire(&node, &one);

    fs::create_dir(node.path("run")).unwrap();
    let prepared = shell(&node, &said(UNIT, "ExecStartPre", "default", &node), &[]);
    assert!(prepared.status.success(), "{prepared:?}");
    let (console, start) = (node.path("console"), said(UNIT, "ExecStart", "default", &node));
    // Some machines have a KVM that works half.
    let start = start.replace("-accel kvm ", "");
    let (program, words) = start.split_once(' ').unwrap();
    let mut machine = Command::new(program);
    machine.args(words.split_ascii_whitespace()).env("ECI_STATE_DIR", node.state_dir());
    machine.env("ECI_CONFIG", node.path("etc/agent.toml")).stdin(Stdio::null());
    let log = fs::File::create(&console).unwrap();
    let machine = machine.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let mut machine = Machine(machine);
    let printed = || fs::read_to_string(&console).unwrap_or_default();
    wait("booted", &console, || printed().contains("root-disk-of-v1") || machine.0.try_wait().unwrap().is_some());
    assert!(printed().contains("root-disk-of-v1"), "{}", printed());

    // What it runs on stays, whatever comes.
    desire(&node, &two);
    assert!(node.eci(&["gc"]).status.success());
    assert!(node.state_dir().join("generations/default/1/kernel").exists());

    let stop = said(UNIT, "ExecStop", "default", &node).replace("timeout 60", "timeout 1");
    let pid = machine.0.id().to_string();
    let stopped = shell(&node, &stop, &[("MAINPID", &pid)]);
    assert!(stopped.status.success(), "{stopped:?}");
    let mut out = fs::File::options();
    let mut out = out.read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(node.path("run/monitor.out")).unwrap();
    let mut heard = vec![0; 65536];
    let count = out.read(&mut heard).unwrap();
    let heard = String::from_utf8_lossy(&heard[..count]).into_owned();
    // QEMU shows what is typed, with what moves the cursor in between.
    assert!(heard.contains("system_powerdown") && !heard.contains("unknown command"), "{heard:?}");
    // This guest does not listen to its button.
    kill(Pid::from_raw(machine.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    wait("ended", &console, || machine.0.try_wait().unwrap().is_some());
    assert!(machine.0.wait().unwrap().success(), "{}", printed());
    assert!(node.eci(&["gc"]).status.success());
    assert!(!node.state_dir().join("generations/default/1").exists(), "nobody runs on it any more");
    let stopped = shell(&node, &stop, &[]);
    assert!(stopped.status.success(), "an end that comes by itself leaves nothing to stop: {stopped:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_started_anew_only_where_it_does_not_run_on_what_is_current() {
    const UNIT: &str = "eci-vm-restart@.service";
    let (registry, mut node) = (Registry::http(), Node::new());
    for tag in ["v1", "v2"] {
        Image::new(tag).publish(&registry, "edge/router", tag);
    }
    let desire = |tag: &str| format!("[workload.router]\nimage = \"{}\"\n", registry.reference("edge/router", tag));
    node.desire(&desire("v1"));
    node.start();
    node.until_activated("router:v1");
    let machine = Machine(node.command(&["exec", "router", "--", "sleep", "1000"]).spawn().unwrap());
    let environ = PathBuf::from(format!("/proc/{}/environ", machine.0.id()));
    wait("runs", Path::new(""), || String::from_utf8_lossy(&fs::read(&environ).unwrap()).contains("ECI_DIR="));

    // A stand-in for systemctl, which says what it is asked for.
    let (bin, asked) = (node.path("bin"), node.path("asked"));
    fs::create_dir(&bin).unwrap();
    stand_in(&node, "systemctl", "echo \"$@\" >>\"$ASKED\"\n[ \"$1\" != show ] || echo \"$PID\"");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let looks = |pid: &str| {
        let script = said(UNIT, "ExecStart", "eci-vm@router", &node);
        let asked = asked.to_str().unwrap();
        let output = shell(&node, &script, &[("PATH", &path), ("ASKED", asked), ("PID", pid)]);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let text = fs::read_to_string(asked).unwrap_or_default();
        let _ = fs::remove_file(asked);
        text
    };
    let (show, restart) =
        ("show --property=MainPID --value eci-vm@router.service\n", "--no-block restart eci-vm@router.service\n");
    let pid = machine.0.id().to_string();
    assert_eq!(looks(&pid), show, "it runs on what is current");
    assert_eq!(looks("0"), format!("{show}{restart}"), "it does not run");
    node.desire(&desire("v2"));
    node.until_activated("router:v2");
    assert_eq!(looks(&pid), format!("{show}{restart}"), "it runs on what was current");
    node.desire("[workload.other]\nimage = \"oci:/nowhere:x\"\n");
    node.until("retired", |event| event["event"] == "retired");
    assert_eq!(looks(&pid), "", "there is nothing to start it on");
}

/// What the document has a shell run for the hypervisor that `program` is of.
pub fn documented(program: &str) -> String {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/hypervisors.md");
    let document = fs::read_to_string(document).unwrap();
    let mut scripts = document.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    scripts.find(|script| script.contains("eci exec") && script.contains(program)).unwrap().to_owned()
}

/// A program that is called `name` and writes down what it is given.
fn stand_in(node: &Node, name: &str, script: &str) {
    let path = node.path("bin").join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    assert!(Command::new("chmod").arg("0755").arg(path).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scripts_for_other_hypervisors_give_them_what_there_is() {
    let (registry, mut node) = (Registry::http(), Node::new());
    let image = Image { disks: vec![b"data".to_vec()], ..Image::new("v1") };
    image.publish(&registry, "edge/vm", "v1");
    node.desire(&format!("image = \"{}\"\ncmdline = \"console=ttyS0 quiet\"\n", registry.reference("edge/vm", "v1")));
    node.start();
    node.until_activated("vm:v1");
    for dir in ["bin", "run"] {
        fs::create_dir(node.path(dir)).unwrap();
    }
    let path = format!("{}:{}", node.path("bin").display(), std::env::var("PATH").unwrap());
    std::os::unix::fs::symlink(ECI, node.path("bin/eci")).unwrap();
    stand_in(&node, "cloud-hypervisor", "printf '%s\\n' \"$@\"");
    stand_in(&node, "firecracker", "cat \"$3\"");
    // A machine that ends as soon as it has started.
    stand_in(&node, "virsh", "echo $$ >\"${2%/*}/default.pid\" && cat \"$2\"");

    let run = |program: &str| {
        let run = node.path("run").display().to_string();
        let script = documented(program).replace("/run/eci-vm/default", &run).replace("/run/libvirt/qemu", &run);
        let mut command = Command::new("sh");
        command.args(["-c", &script]).env("PATH", &path).env("ECI_STATE_DIR", node.state_dir());
        let output = command.env("ECI_CONFIG", node.path("etc/agent.toml")).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let dir = fs::canonicalize(node.state_dir()).unwrap().join("generations/default/1");
    let d = dir.display();
    let words = run("cloud-hypervisor");
    for word in [format!("{d}/kernel"), "console=ttyS0 quiet".to_owned(), format!("path={d}/disk-0,readonly=on")] {
        assert!(words.lines().any(|line| line == word), "{word}: {words}");
    }
    let config: serde_json::Value = serde_json::from_str(&run("firecracker")).unwrap();
    let (source, drive) = (&config["boot-source"], &config["drives"][0]);
    assert_eq!(
        (&source["kernel_image_path"], &source["initrd_path"], &source["boot_args"]),
        (&serde_json::json!(dir.join("kernel")), &serde_json::json!(dir.join("initrd")), &"console=ttyS0 quiet".into())
    );
    assert_eq!(
        (&drive["path_on_host"], &drive["is_read_only"]),
        (&serde_json::json!(dir.join("disk-root")), &true.into())
    );
    let domain = run("virsh");
    for line in [
        format!("<kernel>{d}/kernel</kernel>"),
        "<cmdline>console=ttyS0 quiet</cmdline>".to_owned(),
        "<driver name=\"qemu\" type=\"raw\"/>".to_owned(),
        format!("<source file=\"{d}/disk-root\"/>"),
    ] {
        assert!(domain.contains(&line), "{line}: {domain}");
    }
}
