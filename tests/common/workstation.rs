//! A workstation: a directory with files to push, and the program to push and pull them with.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::agent::ECI;
use super::image::Image;

/// A workstation.
pub struct Workstation {
    dir: tempfile::TempDir,
}

impl Workstation {
    /// Retries are made at once.
    pub fn new() -> Self {
        Self::with_config("[retry]\ninitial = \"10ms\"\n")
    }

    /// With this as its `agent.toml`.
    pub fn with_config(text: &str) -> Self {
        let workstation = Self { dir: tempfile::tempdir().unwrap() };
        workstation.write("agent.toml", text);
        workstation
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The path of a file with these bytes.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A command of the program, run in the workstation's directory. Proxies are set that nobody is at: what is on
    /// loopback is never reached through one.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(ECI);
        command.args(arguments).current_dir(self.dir.path()).env("ECI_CONFIG", self.path("agent.toml"));
        for name in ["http_proxy", "https_proxy", "all_proxy"] {
            command.env(name, "http://127.0.0.1:9");
        }
        command
    }

    pub fn eci(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that has to succeed; its output.
    pub fn must(&self, arguments: &[&str]) -> String {
        let output = self.eci(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that has to fail with `code`; what it says.
    pub fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.eci(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        said
    }

    /// Pushes an image's files; what the program prints.
    pub fn push(&self, image: &Image, reference: &str) -> String {
        let arguments = self.push_arguments(image, reference);
        self.must(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Writes an image's files; the command line that pushes them.
    pub fn push_arguments(&self, image: &Image, reference: &str) -> Vec<String> {
        self.write("vmlinuz", &image.kernel);
        self.write("initrd.img", &image.initrd);
        self.write("root.raw", &image.root);
        let mut arguments = ["push", "--kernel", "vmlinuz", "--initrd", "initrd.img", "--root", "root.raw:raw"]
            .map(ToOwned::to_owned)
            .to_vec();
        for (n, bytes) in image.disks.iter().enumerate() {
            self.write(&format!("{n}/data.raw"), bytes);
            arguments.extend(["--disk".to_owned(), format!("{n}/data.raw")]);
        }
        arguments.push(reference.to_owned());
        arguments
    }

    /// Checks that a directory has the image's files, as a pull writes them, and nothing else.
    pub fn has_pulled(&self, dir: &str, image: &Image) {
        for name in self.has_pulled_bytes(dir, image) {
            let mode = fs::metadata(self.path(dir).join(&name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o644, "{name}");
        }
    }

    /// The same whatever the files' modes; their names.
    pub fn has_pulled_bytes(&self, dir: &str, image: &Image) -> Vec<String> {
        let dir = self.path(dir);
        let read = |name: &str| fs::read(dir.join(name)).unwrap();
        assert_eq!(read("kernel"), image.kernel);
        assert_eq!(read("initrd"), image.initrd);
        assert!(read("disk-root-root.raw") == image.root, "the root disk is another");
        for (n, bytes) in image.disks.iter().enumerate() {
            assert!(read(&format!("disk-{n}-data.raw")) == *bytes, "disk {n} is another");
        }
        let names = names_in(&dir);
        assert_eq!(names.len(), 5 + image.disks.len(), "{names:?}");
        names
    }
}

/// The names in a directory, in order.
pub fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
