//! Images to and from Debian's containerd, which keeps them as they are.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::bench::Bench;
use super::recipes::recipe;
use crate::common::agent::PATIENCE;
use crate::common::docker_registry::program;

/// The time between two looks at whether it answers.
const TICK: Duration = Duration::from_millis(20);

/// A containerd with a store of its own, which runs until it is dropped.
struct Containerd {
    dir: tempfile::TempDir,
    process: Child,
}

impl Containerd {
    /// None, and a line that says so, if it is not installed or cannot work here.
    fn start(test: &str) -> Option<Self> {
        program(test, "ctr")?;
        program(test, "containerd")?;
        if !nix::unistd::geteuid().is_root() {
            println!("SKIP {test}: containerd wants to be root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        // Without the plugins that listen on the network or write outside of the directory.
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            path("root"),
            path("state"),
            path("socket"),
            path("socket.ttrpc")
        );
        fs::write(path("config.toml"), config).unwrap();
        let log = fs::File::create(path("log")).unwrap();
        let process = Command::new("containerd")
            .arg("--config")
            .arg(path("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut containerd = Self { dir, process };
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(containerd.socket()).is_err() {
            let log = fs::read_to_string(containerd.dir.path().join("log")).unwrap();
            assert!(containerd.process.try_wait().unwrap().is_none(), "containerd has ended: {log}");
            assert!(Instant::now() < deadline, "containerd does not answer: {log}");
            std::thread::sleep(TICK);
        }
        Some(containerd)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// Runs a script whose `ctr` speaks to this containerd.
    fn sh(&self, bench: &Bench, script: &str) -> String {
        bench.sh(&format!("export CONTAINERD_ADDRESS={}\n{script}", self.socket().display()))
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recipes_for_containerd() {
    let Some(containerd) = Containerd::start("the_recipes_for_containerd") else { return };
    let bench = Bench::new();
    containerd.sh(&bench, &recipe("containerd-push", &bench));
    let listed = containerd.sh(&bench, "ctr image ls -q");
    assert_eq!(listed.trim(), format!("{}/edge/nginx:1.4.2", bench.registry.host()));
    fs::remove_dir_all(bench.path("images")).unwrap();
    containerd.sh(&bench, &recipe("containerd-pull", &bench));
    for (name, bytes) in [("kernel", &bench.image.kernel), ("disk-root-root.qcow2", &bench.image.root)] {
        assert!(fs::read(bench.path("nginx").join(name)).unwrap() == *bytes, "{name}");
    }
    bench.is_deployed_and_pulled(&format!("oci:{}:1.4.2", bench.path("exported").display()));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_formats_and_an_index_go_through_containerd() {
    let Some(containerd) = Containerd::start("both_formats_and_an_index_go_through_containerd") else { return };
    let bench = Bench::new();
    let files = "--kernel vmlinuz --initrd initrd.img --root root.qcow2:qcow2 --disk data.raw";
    for (tag, flags, all) in [
        ("artifacts", "", ""),
        ("legacy", "--format legacy", ""),
        ("index", "--platform linux/amd64 --platform linux/arm64", "--all-platforms"),
    ] {
        let pushed = bench.sh(&format!("eci push {files} {flags} --remote ./in-{tag} a.example/edge/nginx:{tag}"));
        containerd.sh(
            &bench,
            &format!(
                "tar -C in-{tag} -cf - . | ctr image import --no-unpack {all} --base-name a.example/edge/nginx -
                mkdir out-{tag}
                ctr image export {all} - a.example/edge/nginx:{tag} | tar -C out-{tag} -xf -"
            ),
        );
        let digest = pushed.trim().split_once('@').unwrap().1;
        bench.sh(&format!("eci pull --platform linux/amd64 --dir d-{tag} oci:out-{tag}:{tag}@{digest}"));
        for (name, bytes) in [("kernel", &bench.image.kernel), ("disk-0-data.raw", &bench.image.disks[0])] {
            assert!(fs::read(bench.path(&format!("d-{tag}")).join(name)).unwrap() == *bytes, "{tag}: {name}");
        }
    }
    // An image of the legacy format is one that containerd can unpack.
    containerd.sh(
        &bench,
        "tar -C in-legacy -cf - . | ctr image import --snapshotter native --base-name a.example/edge/unpacked -",
    );
}
