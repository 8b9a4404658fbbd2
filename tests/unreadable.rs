//! Files that a user may not read: every command says which one, and ends with 77.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::agent::copy_program;

/// The user `nobody` of most systems.
const NOBODY: u32 = 65534;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Runs a command in `dir` as a user whom modes bind.
fn run(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(dir.join("eci"));
    command.args(arguments).current_dir(dir).env("ECI_CONFIG", dir.join("agent.toml"));
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.output().unwrap()
}

#[test]
fn unreadable_files_end_with_77() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let path = |name: &str| dir.join(name);
    set_mode(dir, 0o777);
    copy_program(&path("eci"));
    let layout = path("layout");
    for (name, text) in [("agent.toml", ""), ("k", "kernel"), ("r.raw", "root"), ("c.json", "{}"), ("ca.pem", "x")] {
        fs::write(path(name), text).unwrap();
        set_mode(&path(name), 0o644);
    }
    let push: &[&str] = &["push", "--kernel", "k", "--root", "r.raw", "--config", "c.json", "oci:layout:v1"];
    let inspect: &[&str] = &["inspect", "oci:layout:v1"];
    for arguments in [push, inspect] {
        let output = run(dir, arguments);
        assert!(output.status.success(), "{output:?}");
    }
    for (name, arguments) in [
        ("k", push),
        ("r.raw", push),
        ("c.json", push),
        ("agent.toml", push),
        ("layout/index.json", inspect),
        ("layout/oci-layout", inspect),
    ] {
        let file = path(name);
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        set_mode(&file, 0);
        let output = run(dir, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(77), "{name}: {said}");
        assert!(said.contains(name.rsplit('/').next().unwrap()), "{name}: {said}");
        set_mode(&file, mode);
    }
    assert!(layout.is_dir() && run(dir, inspect).status.success());
    for key in ["ca = \"CA\"", "client_cert = \"CA\"\nclient_key = \"CA\""] {
        let table = format!("[registry.\"127.0.0.1:9\"]\n{key}\n").replace("CA", path("ca.pem").to_str().unwrap());
        fs::write(path("agent.toml"), table).unwrap();
        for (mode, code) in [(0o644, 78), (0, 77)] {
            set_mode(&path("ca.pem"), mode);
            let output = run(dir, &["inspect", "127.0.0.1:9/a:1"]);
            assert_eq!(output.status.code(), Some(code), "{key}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
