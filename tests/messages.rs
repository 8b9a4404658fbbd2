//! Messages of errors that an operator can cause: the cause, and what to do, in words.

use std::fs;
use std::os::unix::net::UnixListener;

use crate::common::agent::Node;
use crate::common::image::Image;
use crate::common::registry::Registry;
use crate::common::workstation::Workstation;

const REPO: &str = "edge/nginx";

/// Holds a message to the rules that all have.
fn is_in_words(said: &str) {
    for jargon in ["os error", "Other(", "Error(", "Some(", "Err(", "[\"", "source:", "  ", "\\\""] {
        // The parser of the command line indents its hints.
        assert!(!said.contains(jargon) || (jargon == "  " && said.starts_with("error: ")), "{jargon}: {said}");
    }
}

/// The words of a command that has to fail with `code`.
fn fails(workstation: &Workstation, code: i32, arguments: &[&str], saying: &str) {
    let said = workstation.fails(code, arguments);
    assert!(said.contains(saying), "{arguments:?}: {saying}: {said}");
    is_in_words(&said);
}

#[test]
fn mistyped_references_and_disks_say_what_to_write() {
    let w = Workstation::new();
    w.write("root.img", "x");
    w.write("vmlinuz", "x");
    let malformed = "reference \"docker://127.0.0.1:5100/edge/a:1\" is malformed: leave out docker://";
    fails(&w, 64, &["pull", "docker://127.0.0.1:5100/edge/a:1"], malformed);
    let digest = ["inspect", "127.0.0.1:5100/edge/a@sha256:123"];
    fails(&w, 64, &digest, "expected sha256: and 64 hexadecimal digits");
    let push = |root: &'static str| ["push", "--root", root, "oci:layout:v1"];
    fails(&w, 64, &push("root.img"), ".img is not a known disk type: write root.img:raw");
    fails(&w, 64, &push("root.vdi"), ".vdi is not a known disk type: write root.vdi:TYPE");
    fails(&w, 64, &push("root.img:ext4"), "ext4 is not a known disk type: write root.img:TYPE");
    w.must(&["push", "--kernel", "vmlinuz", "oci:layout:v1"]);
}

#[test]
fn what_is_not_a_layout_is_named() {
    let w = Workstation::new();
    fs::create_dir(w.path("adir")).unwrap();
    w.write("afile", "x");
    for command in ["inspect", "pull"] {
        fails(&w, 65, &[command, "oci:adir"], "adir is not an OCI image layout (no oci-layout file)");
        fails(&w, 65, &[command, "oci:afile"], "afile is not an OCI image layout (it is a file; ");
    }
    fails(&w, 65, &["serve", "adir"], "adir is not an OCI image layout (no oci-layout file)");
    fails(&w, 69, &["inspect", "oci:absent"], "there is no such directory");
    w.write("vmlinuz", "x");
    for tag in ["b", "latest"] {
        w.must(&["push", "--kernel", "vmlinuz", &format!("oci:layout:{tag}")]);
    }
    fails(&w, 69, &["inspect", "oci:layout:v3"], "there is no image \"v3\"; there are b and latest");
    fs::remove_file(w.path("layout/index.json")).unwrap();
    fails(&w, 65, &["inspect", "oci:layout:b"], "it has no file index.json");
}

#[test]
fn files_that_are_absent_have_no_error_number() {
    let w = Workstation::new();
    fails(&w, 64, &["push", "--kernel", "absent", "oci:layout:v1"], "absent: No such file or directory");
    let node = Node::new();
    for arguments in [&["apply", "absent.toml"][..], &["config", "check", "--config", "/absent/agent.toml"]] {
        let output = node.eci(arguments);
        assert_eq!(output.status.code(), Some(78), "{arguments:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("does not exist") || said.contains(": No such file or directory"), "{said}");
        is_in_words(&said);
    }
}

#[test]
fn a_string_without_quotes_is_told_in_both_files() {
    let node = Node::new();
    let desired = node.path("candidate.toml");
    let said = |arguments: &[&str]| {
        let output = node.eci(arguments);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for image in ["127.0.0.1:5100/x", "registry.example.com/x:1"] {
        fs::write(&desired, format!("image = {image}\n")).unwrap();
        let (code, said) = said(&["apply", desired.to_str().unwrap()]);
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains("candidate.toml:1:9: image: put the value in quotes: image = \"…\""), "{said}");
    }
    fs::write(&desired, "image = \"registry.example.com/x:1\"\n").unwrap();
    assert_eq!(said(&["apply", "--dry-run", desired.to_str().unwrap()]).0, Some(0));
    node.configure("[desired]\npoll = 5m\n");
    let (code, told) = said(&["config", "check"]);
    assert_eq!(code, Some(78), "{told}");
    assert!(told.contains(":2:8: poll: put the value in quotes: poll = \"…\""), "{told}");
}

#[test]
fn an_agent_that_is_absent_names_unit_and_flag() {
    let node = Node::new();
    let said = |arguments: &[&str], code: i32| {
        let output = node.eci(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        is_in_words(&said);
        said
    };
    const ADVICE: &str = ": is eci-agent.service running? (use --socket for another path)\n";
    assert!(said(&["reconcile"], 69).ends_with(&format!("(there is no such socket){ADVICE}")));
    drop(UnixListener::bind(node.socket()).unwrap());
    assert!(said(&["reconcile"], 69).ends_with(&format!("(nothing listens there){ADVICE}")));
    let exec = said(&["exec", "true"], 64);
    assert!(exec.contains("CMD is missing") && exec.contains("write eci exec -- true to run true"), "{exec}");
    assert!(said(&["exec"], 64).contains("write eci exec [WORKLOAD] -- CMD"));
    assert!(said(&["exec", "--", "true"], 75).contains("no workload has anything to boot yet (eci status says why)"));
}

#[test]
fn a_socket_that_may_not_be_opened_names_its_group() {
    const TEST: &str = "a_socket_that_may_not_be_opened_names_its_group";
    use std::os::unix::fs::PermissionsExt;
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP {TEST}: only root may become somebody else");
        return;
    }
    let node = Node::new();
    let _listener = UnixListener::bind(node.socket()).unwrap();
    fs::set_permissions(node.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let program = node.path("eci");
    crate::common::agent::copy_program(&program);
    // The group "daemon" is on every Debian, with the number 1.
    std::os::unix::fs::chown(node.socket(), None, Some(1)).unwrap();
    let said = |mode: u32, user: &[&str]| {
        fs::set_permissions(node.socket(), fs::Permissions::from_mode(mode)).unwrap();
        let pointed = node.command(&["reconcile"]);
        let mut command = std::process::Command::new("setpriv");
        command.args(user).arg("--").arg(&program).arg("reconcile").current_dir("/");
        command.envs(pointed.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let denied = format!("permission denied on {}: use sudo", node.socket().display());
    assert_eq!(said(0o660, &nobody), (Some(77), format!("eci: {denied}, or join group daemon\n")));
    assert_eq!(said(0o600, &nobody), (Some(77), format!("eci: {denied}\n")), "the group would not help");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_to_a_port_of_tls_is_named() {
    let registry = Registry::builder().https().serve();
    Image::new("v1").publish(&registry, REPO, "v1");
    let w = Workstation::new();
    let reference = registry.reference(REPO, "v1");
    let said = w.fails(69, &["inspect", &reference]);
    assert!(said.contains("if this port speaks TLS, set ca = \"FILE\", or insecure = false"), "{said}");
    // With the certificate authority, the same is right.
    let ca = w.write("ca.pem", registry.ca_pem().unwrap());
    w.write("agent.toml", format!("[registry.\"{}\"]\nca = {ca:?}\n", registry.host()));
    w.must(&["inspect", &reference]);
}

#[test]
fn an_image_that_cannot_boot_names_its_files() {
    let w = Workstation::new();
    w.write("config.json", "{}");
    w.write("notes.txt", "x");
    fails(
        &w,
        64,
        &["push", "--other", "notes.txt", "oci:layout:v1"],
        "neither a root disk nor a kernel among the files notes.txt",
    );
}
