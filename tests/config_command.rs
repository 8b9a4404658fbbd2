//! `eci config`, and what commands and the agent do about a configuration that is wrong.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::agent::{ECI, Node};
use crate::common::image::Image;
use crate::common::registry::Registry;
use crate::common::service::Service;
use crate::common::socket::Socket;

const NOBODY: u32 = 65534;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{}", said(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A command that finds the socket in the configuration alone.
fn by_config(node: &Node, arguments: &[&str]) -> Command {
    let mut command = node.command(arguments);
    command.env_remove("ECI_SOCKET");
    command
}

fn with_socket(more: &str) -> Node {
    let node = Node::new();
    node.configure(&format!("[api]\nsocket = {:?}\n{more}", node.socket()));
    fs::create_dir(node.path("etc/agent.d")).unwrap();
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_warn_of_a_bad_drop_in() {
    let registry = Registry::builder().serve();
    Image::new("v1").publish(&registry, "edge/nginx", "v1");
    let mut node = with_socket("");
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.start();
    node.until_activated("nginx:v1");
    let drop_in = node.path("etc/agent.d/win.toml");
    let clients = [
        (["status"].as_slice(), 0),
        (&["status", "--json"], 0),
        (&["reconcile"], 0),
        (&["gc"], 0),
        (&["confirm"], 0),
        (&["activate"], 0),
        (&["rollback"], 75),
        (&["exec", "--", "true"], 0),
    ];
    for text in ["", "[window]\ndayz = 1\n", "[window\n", "[cache]\nscrub = \"1s\"\n"] {
        fs::write(&drop_in, text).unwrap();
        for (arguments, code) in clients {
            let output = by_config(&node, arguments).output().unwrap();
            let text_said = said(&output);
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text_said}");
            assert_eq!(
                text_said.contains("warning: ") && text_said.contains("win.toml"),
                !text.is_empty(),
                "{text_said}"
            );
        }
        let mut events = by_config(&node, &["events", "--since", "0-0"]);
        let mut events = events.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // It ends when its output has lost its reader.
        let mut first = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(events.stdout.take().unwrap()), &mut first).unwrap();
        assert!(first.contains("desired-accepted"), "{first}");
        events.kill().unwrap();
        events.wait().unwrap();
        // What the configuration is for in full does not go on with a part of it.
        for arguments in
            [["agent"].as_slice(), &["fsck"], &["apply", node.desired().to_str().unwrap()], &["config", "check"]]
        {
            if text.is_empty() {
                continue;
            }
            let output = by_config(&node, arguments).output().unwrap();
            assert_eq!(output.status.code(), Some(78), "{arguments:?}: {}", said(&output));
        }
    }
    node.stop();
    fs::write(&drop_in, "[cache]\nkeeep = 1\n").unwrap();
    let output = by_config(&node, &["gc"]).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "what stays is a matter of all settings: {}", said(&output));
    out(&by_config(&node, &["status"]).output().unwrap());
    fs::write(&drop_in, "").unwrap();
    out(&by_config(&node, &["gc"]).output().unwrap());
}

#[test]
fn named_file_that_is_absent_is_an_error_for_clients() {
    let node = with_socket("");
    let absent = node.path("absent.toml");
    let output = by_config(&node, &["activate", "--config", absent.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{}", said(&output));
    assert!(said(&output).contains("absent.toml"), "{}", said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_files_end_with_77() {
    const TEST: &str = "unreadable_files_end_with_77";
    let registry = Registry::builder().serve();
    let mut node = with_socket("");
    if node.unprivileged(TEST).is_none() {
        return;
    }
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    let drop_in = node.path("etc/agent.d/private.toml");
    fs::write(&drop_in, "").unwrap();
    let as_nobody = |arguments: &[&str]| by_config(&node, arguments).uid(NOBODY).gid(NOBODY).output().unwrap();
    fs::set_permissions(&drop_in, fs::Permissions::from_mode(0o644)).unwrap();
    out(&as_nobody(&["config", "check"]));
    fs::set_permissions(&drop_in, fs::Permissions::from_mode(0o600)).unwrap();
    chown(&drop_in, Some(0), Some(0)).unwrap();
    for arguments in [["config", "check"].as_slice(), &["config", "show"], &["agent"], &["fsck"]] {
        let output = as_nobody(arguments);
        assert_eq!(output.status.code(), Some(77), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains("private.toml"), "{arguments:?}: {}", said(&output));
    }
    // A client goes as far as the socket.
    let output = as_nobody(&["status"]);
    assert!(said(&output).contains("warning: ") && said(&output).contains("private.toml"), "{}", said(&output));
    assert!(said(&output).contains("no agent"), "{}", said(&output));
    fs::remove_file(&drop_in).unwrap();
    // The same of the desired state.
    let candidate = node.path("candidate.toml");
    fs::write(&candidate, "image = \"registry.example.com/edge/nginx:1\"\n").unwrap();
    fs::set_permissions(&candidate, fs::Permissions::from_mode(0o600)).unwrap();
    let apply = || {
        as_nobody(&["apply", "--desired", node.path("installed.toml").to_str().unwrap(), candidate.to_str().unwrap()])
    };
    assert_eq!(apply().status.code(), Some(77), "{}", said(&apply()));
    chown(&candidate, Some(NOBODY), None).unwrap();
    out(&apply());
    let desired = node.path("private-desired.toml");
    fs::write(&desired, "image = \"registry.example.com/edge/nginx:1\"\n").unwrap();
    fs::write(node.path("etc/agent.d/desired.toml"), format!("[desired]\npath = {desired:?}\n")).unwrap();
    out(&as_nobody(&["config", "check"]));
    fs::set_permissions(&desired, fs::Permissions::from_mode(0o600)).unwrap();
    let output = as_nobody(&["config", "check"]);
    assert_eq!(output.status.code(), Some(77), "{}", said(&output));
    assert!(said(&output).contains("private-desired.toml"), "{}", said(&output));
}

#[test]
fn check_names_every_error() {
    let node = with_socket("");
    let check = || node.eci(&["config", "check"]);
    let text = out(&check());
    assert!(text.contains("ok: ") && text.contains("agent.toml") && text.contains("is not there yet"), "{text}");
    fs::write(node.path("etc/agent.d/10-a.toml"), "[window]\ndayz = 1\n[retry]\nmax = \"fast\"\n").unwrap();
    fs::write(node.path("etc/agent.d/20-b.toml"), "state_dir = 7\n").unwrap();
    let output = check();
    assert_eq!(output.status.code(), Some(78));
    let text = said(&output);
    for want in ["10-a.toml:2:1: window.dayz: ", "10-a.toml:4:7: retry.max: ", "20-b.toml:1:13: state_dir: "] {
        assert!(text.lines().any(|line| line.starts_with("eci: ") && line.contains(want)), "{want}: {text}");
    }
    fs::remove_file(node.path("etc/agent.d/20-b.toml")).unwrap();
    // Each file is right by itself.
    fs::write(node.path("etc/agent.d/10-a.toml"), "[window]\nstart = \"02:00\"\n").unwrap();
    let text = said(&check());
    assert!(text.contains("10-a.toml:1:2: window: start and end go together"), "{text}");
    fs::write(node.path("etc/agent.d/20-b.toml"), "[window]\nend = \"03:00\"\n").unwrap();
    assert_eq!(out(&check()).lines().filter(|line| line.starts_with("ok: ")).count(), 4);
    // A desired state that is wrong is another matter; a path that leads nowhere is not.
    let desired = node.path("desired-dir.toml");
    fs::write(node.path("etc/agent.d/30.toml"), format!("[desired]\npath = {desired:?}\n")).unwrap();
    fs::write(&desired, "imge = 1\n").unwrap();
    let output = check();
    assert!(output.status.success() && said(&output).contains("warning: ") && said(&output).contains("imge"));
    fs::remove_file(&desired).unwrap();
    fs::create_dir(&desired).unwrap();
    assert_eq!(check().status.code(), Some(78), "{}", said(&check()));
}

#[test]
fn show_has_every_value_and_its_place() {
    let node = with_socket("[registry.\"a.example\"]\nproxy = \"http://user:s3cret@proxy.example:3128\"\n");
    fs::write(node.path("etc/agent.d/10.toml"), "[retry]\nmax = \"7m\"\n").unwrap();
    let text = out(&by_config(&node, &["config", "show"]).env_remove("ECI_STATE_DIR").output().unwrap());
    assert!(!text.contains("s3cret"), "{text}");
    let line = |key: &str| text.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap().to_owned();
    assert_eq!(line("max"), format!("max = \"7m\"  # {}:2", node.path("etc/agent.d/10.toml").display()));
    assert!(line("socket").ends_with(&format!("# {}:2", node.path("etc/agent.toml").display())), "{text}");
    assert_eq!(line("state_dir"), "state_dir = \"/var/lib/eci-agent\"  # default");
    assert!(text.contains("[registry.\"a.example\"]"), "{text}");
    // It is a configuration again, and the same one.
    let again = node.path("again.toml");
    fs::write(&again, &text).unwrap();
    let shown = |arguments: &[&str]| -> Value {
        serde_json::from_str(&out(&by_config(&node, arguments).output().unwrap())).unwrap()
    };
    let values = |document: &Value| -> Vec<(String, Value)> {
        let values = document["values"].as_array().unwrap().iter();
        values.map(|entry| (entry["key"].as_str().unwrap().to_owned(), entry["value"].clone())).collect()
    };
    let first = shown(&["config", "show", "--json"]);
    assert_eq!(values(&first), values(&shown(&["config", "show", "--json", "--config", again.to_str().unwrap()])));
    let entry =
        |key: &str| first["values"].as_array().unwrap().iter().find(|entry| entry["key"] == key).unwrap().clone();
    assert_eq!((entry("retry.max")["set_by"].as_str(), entry("retry.max")["line"].as_u64()), (Some("file"), Some(2)));
    assert_eq!((entry("cache.keep")["set_by"].as_str(), &entry("cache.keep")["file"]), (Some("default"), &Value::Null));
    assert_eq!(entry("state_dir")["set_by"], "command-line", "the environment names it");
    assert_eq!(entry("state_dir")["value"], node.state_dir().to_str().unwrap());
    assert!(entry("registry.\"a.example\".redirects")["value"] == "public", "{first}");
    assert_eq!(first["files"].as_array().unwrap().len(), 2);
    fs::write(node.path("etc/agent.d/10.toml"), "[retry]\nmaxx = \"7m\"\n").unwrap();
    assert_eq!(node.eci(&["config", "show"]).status.code(), Some(78));
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_reload_is_in_the_status_until_the_next_good_one() {
    let node = Node::new();
    let service = Service::start(&node);
    let reload = || {
        service.signal(Signal::SIGHUP);
        service.until_told("READY=1");
    };
    let metrics = || String::from_utf8(Socket::open(&node.socket()).get("/metrics").body).unwrap();
    assert_eq!(node.status()["agent"]["config_error"], Value::Null);
    assert!(metrics().contains("eci_config_rejected 0\n"));
    let good = fs::read_to_string(node.path("etc/agent.toml")).unwrap();
    fs::write(node.path("etc/agent.toml"), "[window]\ndayz = 1\n").unwrap();
    reload();
    let error = node.status()["agent"]["config_error"].clone();
    assert_eq!((error["kind"].as_str(), error["attempts"].as_u64()), (Some("config-invalid"), Some(1)));
    assert!(error["message"].as_str().unwrap().contains("agent.toml:2:1: window.dayz"), "{error}");
    assert!(metrics().contains("eci_config_rejected 1\n"));
    let shown = by_config(&node, &["status", "--socket", node.socket().to_str().unwrap()]).output().unwrap();
    assert!(out(&shown).contains("window.dayz") && out(&shown).contains("eci config check"), "{}", out(&shown));
    reload();
    assert_eq!(node.status()["agent"]["config_error"]["attempts"], 2);
    fs::write(node.path("etc/agent.toml"), good).unwrap();
    reload();
    assert_eq!(node.status()["agent"]["config_error"], Value::Null);
    assert!(metrics().contains("eci_config_rejected 0\n"));
}

#[test]
fn unit_checks_the_configuration_before_a_reload() {
    let unit = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/eci-agent.service")).unwrap();
    let reloads: Vec<_> = unit.lines().filter_map(|line| line.strip_prefix("ExecReload=")).collect();
    assert_eq!(reloads.len(), 2, "{reloads:?}");
    assert!(reloads[1].contains("kill -HUP"), "{reloads:?}");
    let node = with_socket("");
    let check = || {
        let words: Vec<_> = reloads[0].split(' ').collect();
        assert_eq!(words[0], "/usr/bin/eci");
        node.eci(&words[1..])
    };
    out(&check());
    fs::write(node.path("etc/agent.d/x.toml"), "[window]\ndayz = 1\n").unwrap();
    assert_eq!(check().status.code(), Some(78));
}

#[test]
fn fatal_errors_have_the_priority_of_errors_in_the_journal() {
    let node = with_socket("");
    fs::write(node.path("etc/agent.d/x.toml"), "[window]\ndayz = 1\n").unwrap();
    let run = |is_journal: bool, arguments: &[&str]| {
        let log = fs::File::create(node.path("journal")).unwrap();
        let found = log.metadata().unwrap();
        let stream = format!("{}:{}", found.dev(), found.ino() + u64::from(!is_journal));
        let mut command = Command::new(ECI);
        command.args(arguments).env("ECI_CONFIG", node.path("etc/agent.toml")).env("JOURNAL_STREAM", stream);
        command.stdout(Stdio::null()).stderr(log).status().unwrap();
        fs::read_to_string(node.path("journal")).unwrap()
    };
    let text = run(true, &["agent"]);
    assert!(text.lines().last().unwrap().starts_with("<3>eci: ") && text.contains("window.dayz"), "{text}");
    assert!(run(true, &["status"]).starts_with("<4>eci: warning: "));
    let text = run(false, &["agent"]);
    assert!(text.starts_with("eci: ") && text.contains("window.dayz"), "{text}");
    // A failure after the log was opened.
    fs::remove_file(node.path("etc/agent.d/x.toml")).unwrap();
    let (blocked, socket) = (node.path("file"), node.socket());
    fs::write(&blocked, "").unwrap();
    let text = run(true, &["agent", "--socket", socket.to_str().unwrap(), "--state-dir", blocked.to_str().unwrap()]);
    assert!(text.lines().last().unwrap().starts_with("<3>eci: "), "{text}");
}
