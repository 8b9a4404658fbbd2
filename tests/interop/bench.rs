//! A bench to build images on: files, a registry, and the settings that keep other people's tools to this directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::common::agent::{ECI, Node};
use crate::common::docker_registry::program;
use crate::common::image::Image;
use crate::common::registry::Registry;
use crate::common::workstation::{Workstation, names_in};

/// The bench, and the image whose files are there.
pub struct Bench {
    dir: tempfile::TempDir,
    pub registry: Registry,
    pub image: Image,
}

impl Bench {
    pub fn new() -> Self {
        let mut image = Image { disks: vec![b"data".repeat(1000)], ..Image::new("bench").with_root_of(300_001) };
        // It goes by the name of a qcow2: the magic, and a header that names no other file.
        image.root[..112].fill(0);
        image.root[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        let bench = Self { dir: tempfile::tempdir().unwrap(), registry: Registry::http(), image };
        let image = &bench.image;
        let files = [("vmlinuz", &image.kernel), ("initrd.img", &image.initrd), ("root.qcow2", &image.root)];
        files.into_iter().chain([("data.raw", &image.disks[0])]).for_each(|(name, bytes)| bench.write(name, bytes));
        // Unlike the program, these tools want TLS of a registry on loopback too.
        let registries = format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", bench.registry.host());
        fs::create_dir_all(bench.path(".config/containers")).unwrap();
        bench.write(".config/containers/registries.conf", registries);
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\nrunroot = {:?}\ngraphroot = {:?}\n",
            bench.path("storage/run"),
            bench.path("storage/root")
        );
        bench.write("storage.conf", storage);
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// Runs a script of a shell, which has to succeed; what it prints.
    pub fn sh(&self, script: &str) -> String {
        self.run(Path::new("sh"), &["-euc", script])
    }

    /// Runs a script of Python.
    pub fn python(&self, python: &Path, script: &str) -> String {
        self.run(python, &["-c", script])
    }

    fn run(&self, program: &Path, arguments: &[&str]) -> String {
        let output = self.output(program, arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn output(&self, program: &Path, arguments: &[&str]) -> Output {
        let own = Path::new(ECI).parent().unwrap().to_owned();
        let others = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(std::iter::once(own).chain(std::env::split_paths(&others))).unwrap();
        Command::new(program)
            .args(arguments)
            .current_dir(self.dir.path())
            .env("PATH", path)
            .env("HOME", self.dir.path())
            .env("BUILDAH_ISOLATION", "chroot")
            .env_remove("XDG_CONFIG_HOME")
            .env("CONTAINERS_STORAGE_CONF", self.path("storage.conf"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Whether `buildah` is there and can work on this machine; a line that says why not.
    pub fn has_buildah(&self, test: &str) -> bool {
        if program(test, "buildah").is_none() {
            return false;
        }
        let output = self.output(Path::new("sh"), &["-euc", "buildah rm $(buildah from scratch)"]);
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
            println!("SKIP {test}: buildah cannot work here: {reason}");
        }
        output.status.success()
    }

    /// Deploys an image by an agent, pulls it by the program, and compares both with the bench's files.
    pub fn is_deployed_and_pulled(&self, reference: &str) {
        let image = &self.image;
        let files = [("kernel", &image.kernel), ("initrd", &image.initrd), ("disk-root-root.qcow2", &image.root)];
        let files: Vec<_> = files.into_iter().chain([("disk-0-data.raw", &image.disks[0])]).collect();
        let mut node = Node::new();
        node.desire_image(reference);
        node.start();
        node.until_activated(reference);
        let workstation = Workstation::new();
        workstation.must(&["pull", "--dir", "out", reference]);
        for (name, bytes) in &files {
            assert!(node.current(name) == **bytes, "{name} of {reference} is deployed as another");
            assert!(fs::read(workstation.path("out").join(name)).unwrap() == **bytes, "{name} is pulled as another");
        }
        assert_eq!(names_in(&workstation.path("out")).len(), files.len() + 2, "config and manifest beside them");
    }
}

/// A Python that has the package `oras`; none, and a line that says so, where there is none.
pub fn python_with_oras(test: &str) -> Option<PathBuf> {
    let python = std::env::var_os("ECI_TEST_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from);
    let has_it = Command::new(&python).args(["-c", "import oras.client"]).stdin(Stdio::null()).output();
    if has_it.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    println!("SKIP {test}: no Python with the package oras (tests/run makes one)");
    None
}
