//! The commands around the agent: what they print, where, and how they end.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

use crate::common::agent::{ECI, Node};
use crate::common::image::Image;
use crate::common::registry::{Fault, On, Registry, digest};
use crate::common::service::{Service, eventually};

const COMMANDS: [&str; 5] = ["agent", "status", "events", "apply", "reconcile"];

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Holds a command to its exit code, to silence on stdout and to what it says on stderr.
fn fails(node: &Node, arguments: &[&str], with: i32, saying: &str) {
    let output = node.eci(arguments);
    assert_eq!((code(&output), out(&output).as_str()), (Some(with), ""), "{arguments:?}: {}", err(&output));
    assert!(err(&output).contains(saying), "{arguments:?}: {saying}: {}", err(&output));
}

/// A node whose agent is to deploy v1, of a registry that has v1 and v2.
fn node_with(config: &str) -> (Registry, Node) {
    let registry = Registry::http();
    for tag in ["v1", "v2"] {
        Image::new(tag).publish(&registry, "edge/nginx", tag);
    }
    let node = Node::with_config(config);
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    (registry, node)
}

fn running() -> (Registry, Node) {
    let (registry, mut node) = node_with("");
    node.start();
    node.until_phase("active");
    (registry, node)
}

#[test]
fn what_the_command_line_gets_wrong_is_usage() {
    let node = Node::new();
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["status", "--frobnicate"],
        &["status", "one", "two"],
        &["--socket"],
        &["--socket", ""],
        &["apply"],
        &["status", "UPPER"],
        &["reconcile", "../etc"],
        &["events", "--since", "yesterday"],
        &["events", "--since", "1-1\n"],
    ] {
        fails(&node, arguments, 64, "");
        assert!(!err(&node.eci(arguments)).is_empty(), "{arguments:?}");
    }
}

#[test]
fn every_command_explains_itself() {
    let node = Node::new();
    let help = node.eci(&["--help"]);
    let listed: Vec<_> = out(&help)
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .map_while(|line| line.strip_prefix("  ")?.split(' ').next().map(str::to_owned))
        // Lines of an explanation that goes on have no name.
        .filter(|name| !name.is_empty())
        .collect();
    assert!(COMMANDS.iter().all(|command| listed.iter().any(|listed| listed == command)), "{listed:?}");
    for command in listed {
        for flag in ["--help", "-h"] {
            let help = node.eci(&[&command, flag]);
            assert_eq!((code(&help), err(&help).as_str()), (Some(0), ""));
            let text = out(&help);
            assert!(text.contains(&format!("Usage: eci {command}")) && text.contains("--socket <PATH>"), "{text}");
        }
    }
    let version = node.eci(&["--version"]);
    assert_eq!((code(&version), out(&version)), (Some(0), format!("eci {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn an_agent_that_is_not_there_is_unreachable() {
    let node = Node::new();
    let socket = node.socket();
    for arguments in [&["status"][..], &["status", "--watch"], &["events"], &["reconcile"], &["reconcile", "default"]] {
        fails(&node, arguments, 69, socket.to_str().unwrap());
    }
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    fails(&node, &["reconcile"], 69, "no agent answers");
}

#[test]
fn a_socket_path_that_no_socket_can_have_is_named_as_such() {
    let node = Node::new();
    let long = node.path(&"x".repeat(108));
    for command in [&["status"][..], &["agent"]] {
        let arguments = [command, &["--socket", long.to_str().unwrap()]].concat();
        fails(&node, &arguments, 64, "107 bytes");
    }
    node.configure(&format!("[api]\nsocket = \"{}\"\n", long.display()));
    let output = node.command(&["status"]).env_remove("ECI_SOCKET").output().unwrap();
    assert_eq!(code(&output), Some(78), "{}", err(&output));
}

#[test]
fn a_wrong_configuration_is_named_with_its_place() {
    let node = Node::new();
    let file = node.path("etc/agent.toml").display().to_string();
    let apply = node.path("candidate.toml");
    fs::write(&apply, "image = \"registry.example.com/edge/nginx:1\"\n").unwrap();
    node.configure("[log]\nlevel = \"loud\"\n");
    for command in COMMANDS {
        let more = if command == "apply" { vec![apply.to_str().unwrap()] } else { vec![] };
        // A client of the socket goes on, and finds no agent.
        let code = if ["status", "events", "reconcile"].contains(&command) { 69 } else { 78 };
        fails(&node, &[vec![command], more].concat(), code, &format!("{file}:2:9: log.level: "));
    }
    node.configure("[api]\nsokcet = \"/x\"\n");
    fails(&node, &["config", "check"], 78, &format!("{file}:2:1: api.sokcet: "));
    fs::remove_file(&file).unwrap();
    for (arguments, code) in [(["status"].as_slice(), 69), (&["fsck"], 78)] {
        fails(&node, arguments, code, &file);
    }
}

#[test]
fn apply_fails_by_kind() {
    let node = Node::new();
    let candidate = node.path("candidate.toml");
    let apply = |text: Option<&str>, to: &str, with: i32, saying: &str| {
        let _ = fs::remove_file(&candidate);
        text.into_iter().for_each(|text| fs::write(&candidate, text).unwrap());
        fails(&node, &["apply", candidate.to_str().unwrap(), "--desired", to], with, saying);
    };
    let desired = node.desired();
    let good = "image = \"registry.example.com/edge/nginx:1\"\n";
    apply(None, desired.to_str().unwrap(), 78, "candidate.toml");
    apply(Some("image = \"nginx\"\n"), desired.to_str().unwrap(), 78, "candidate.toml:1:9: image: ");
    apply(Some(good), node.path("absent/desired.toml").to_str().unwrap(), 73, "absent");
    assert!(!desired.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_is_pointed_at_may_stand_anywhere() {
    let (_registry, mut node) = running();
    let (socket, state) = (node.socket(), node.state_dir());
    let (socket, state) = (socket.to_str().unwrap(), state.to_str().unwrap());
    let config = node.path("etc/agent.toml");
    let run = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = Command::new(ECI);
        command.args(arguments).envs(environment.iter().copied()).current_dir(node.path(""));
        for name in ["ECI_SOCKET", "ECI_STATE_DIR", "ECI_CONFIG"] {
            if environment.iter().all(|(given, _)| *given != name) {
                command.env_remove(name);
            }
        }
        command.output().unwrap()
    };
    let nowhere = [("ECI_SOCKET", "/nowhere"), ("ECI_STATE_DIR", "/nowhere")];
    for (arguments, environment) in [
        (&["--socket", socket, "status"][..], &[][..]),
        (&["status", "--socket", socket], &[]),
        (&["status"], &[("ECI_SOCKET", socket)]),
        (&["status", "--socket", socket], &nowhere),
        (&["status", "--socket", "agent.sock"], &nowhere),
        (&["status", "default", "--socket", socket], &[("ECI_CONFIG", config.to_str().unwrap())]),
    ] {
        let output = run(arguments, environment);
        assert_eq!(code(&output), Some(0), "{arguments:?}: {}", err(&output));
        assert!(out(&output).contains("nginx:v1"), "{arguments:?}: {}", out(&output));
    }
    assert!(node.stop().success());
    let run = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = Command::new(ECI);
        command.args(arguments).env("ECI_SOCKET", "/nowhere").envs(environment.iter().copied());
        command.output().unwrap()
    };
    for (arguments, environment) in [
        (&["--state-dir", state, "status"][..], &[][..]),
        (&["status", "--state-dir", state], &[("ECI_STATE_DIR", "/nowhere")]),
        (&["status"], &[("ECI_STATE_DIR", state)]),
    ] {
        let output = run(arguments, environment);
        assert!(out(&output).contains("nginx:v1"), "{arguments:?}: {}{}", out(&output), err(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_says_what_runs_what_comes_and_what_is_wrong() {
    let registry = Registry::http();
    Image::new("v1").publish(&registry, "edge/nginx", "v1");
    let next = Image::new("v2").with_root_of(4 << 20);
    next.publish(&registry, "edge/nginx", "v2");
    let reference = |tag: &str| registry.reference("edge/nginx", tag);
    let mut node = Node::with_config("[desired]\npoll = \"off\"\n[retry]\ninitial = \"10h\"\nmax = \"10h\"\n");
    let table = |node: &Node, parts: &[&str]| {
        let output = node.eci(&["status"]);
        assert_eq!((code(&output), err(&output).as_str()), (Some(0), ""));
        let text = out(&output);
        assert!(parts.iter().all(|part| text.contains(part)), "{parts:#?}\n{text}");
        assert!(text.lines().all(|line| line.trim_end() == line), "no blanks at the end: {text}");
        text
    };
    node.start();
    node.until_rejected("desired-absent");
    let pid = format!("pid {}", node.pid());
    table(&node, &["agent    ", &pid, "nothing accepted yet", "! desired-absent: ", "0 blobs", "no workloads"]);

    let fault = registry.inject(On::manifests(), Fault::status(503));
    node.desire_image(&reference("v1"));
    node.until_failed("registry-error");
    let wanted = format!("> wanted: {}", reference("v1"));
    let text = table(&node, &["default   backoff  -", &wanted, "! registry-error: ", "(failed once, ", "retry in "]);
    assert!(!text.contains("desired-absent"), "{text}");

    fault.remove();
    assert!(node.eci(&["reconcile"]).status.success());
    node.until_phase("active");
    let text = table(&node, &[&reference("v1"), "in force for ", "WORKLOAD  PHASE   CURRENT"]);
    let row = text.lines().find(|line| line.starts_with("default")).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!((row[1], row[2], row[3], row[4].len()), ("active", reference("v1").as_str(), "1", 12), "{text}");
    assert!(!text.contains("> wanted") && !text.contains('!'), "{text}");

    let stall = registry.inject(On::blobs().get().reference(&digest(&next.root)), Fault::StallAfter(1 << 20));
    node.desire_image(&reference("v2"));
    stall.struck(1).await;
    let wanted = format!("> wanted: {}", reference("v2"));
    table(&node, &["default   fetching  ", &reference("v1"), &wanted, " % of 4.0 MiB, "]);
    stall.remove();
    node.until_phase("active");

    registry.put_manifest("edge/nginx", Some("odd"), crate::common::image::MANIFEST, "{\"schemaVersion\": 1}");
    node.desire_image(&reference("odd"));
    node.until_failed("manifest-invalid");
    table(&node, &["blocked", &reference("v2"), "! manifest-invalid: ", "not retried by itself"]);

    let one = node.eci(&["status", "default"]);
    assert!(out(&one).starts_with("WORKLOAD") && out(&one).contains("blocked"), "{}", out(&one));
    fails(&node, &["status", "absent"], 64, "there is no workload absent");
    fails(&node, &["reconcile", "absent"], 64, "there is no workload absent");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_look_back_for_a_length_of_time() {
    let mut node = Node::new();
    node.desire("x = 1\n");
    node.start();
    node.until_rejected("desired-invalid");
    for since in ["1h", "1d", "0-0"] {
        let first = Follower::of(&node, &["events", "--since", since]).line();
        assert!(first.contains("desired-rejected"), "{since}: {first}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_wrote_cannot_steer_the_terminal() {
    let mut node = Node::new();
    node.desire("\"\\u001b[2J\\nforged\" = 1\n");
    node.start();
    node.until_rejected("desired-invalid");
    let mut events = Follower::of(&node, &["events", "--since", "0-0"]);
    let first = events.line();
    assert!(first.contains("desired-rejected") && first.contains("forged"), "{first}");
    let status = out(&node.eci(&["status"]));
    for text in [first, status] {
        assert!(text.chars().all(|char| char == '\n' || !char.is_control()), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("forged")), "{text}");
    }
}

/// One of each kind: of direction, of no width, filler, separator, C1.
const INVISIBLE: [char; 6] = ['\u{202e}', '\u{200b}', '\u{2066}', '\u{3164}', '\u{2028}', '\u{9b}'];

#[test]
fn invisible_characters_are_escaped_in_all_output() {
    let invisible: String = INVISIBLE.iter().collect();
    for format in ["auto", "json"] {
        let mut node = Node::with_config(&format!("[log]\nformat = \"{format}\"\n"));
        // Readable Hebrew stays, so that the text was passed on at all.
        node.desire(&format!("\"שלום{}\" = 1\n", invisible.replace(['\u{9b}'], "")));
        node.start();
        node.until_rejected("desired-invalid");
        let json = out(&node.eci(&["status", "--json"]));
        for text in [json, out(&node.eci(&["status"])), node.log()] {
            assert!(!text.contains(INVISIBLE), "{text:?}");
        }
        let shown = |locale: &str| out(&node.command(&["status"]).env("LC_ALL", locale).output().unwrap());
        assert!(shown("C.UTF-8").contains("שלום"));
        assert!(shown("C").contains("\\u05e9") && shown("C").is_ascii());
    }
}

#[test]
fn version_lists_the_crates_in_the_program() {
    let node = Node::new();
    let text = out(&node.eci(&["version"]));
    assert!(text.starts_with(concat!("eci ", env!("CARGO_PKG_VERSION"), " (")), "{text}");
    let build: Value = serde_json::from_str(&out(&node.eci(&["version", "--json"]))).unwrap();
    let named = |name: &str| build["components"].as_array().unwrap().iter().find(|it| it["name"] == name).cloned();
    assert_eq!(named("eci-agent").unwrap()["license"], "Apache-2.0");
    let lock = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).unwrap();
    for name in ["hyper", "rustls", "ring", "zstd-sys"] {
        let version = named(name).unwrap()["version"].as_str().unwrap().to_owned();
        assert!(lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"")), "{name} {version}");
    }
    // Neither what only tests need nor procedural macros are in the program.
    assert_eq!([named("proptest"), named("rcgen"), named("serde_derive")], [None, None, None]);
    assert_eq!(build["features"], serde_json::json!(["fault-points"]), "what the tests are built with");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_agent_the_state_directory_speaks() {
    let (_registry, mut node) = running();
    let running = node.status();
    assert!(node.stop().success());
    let table = node.eci(&["status"]);
    assert_eq!(code(&table), Some(0));
    let text = out(&table);
    assert!(text.contains("agent    not running") && text.contains("nginx:v1"), "{text}");
    assert!(err(&table).contains("this is what") && err(&table).contains("state"), "{}", err(&table));
    let offline: Value = serde_json::from_slice(&node.eci(&["status", "--json"]).stdout).unwrap();
    assert!(offline["agent"].is_null());
    assert_eq!(offline["desired"]["sha256"], running["desired"]["sha256"]);
    let current = |status: &Value| status["workloads"]["default"]["current"]["digest"].clone();
    assert_eq!(current(&offline), current(&running));
    assert_eq!(offline["cache"]["blobs"], running["cache"]["blobs"]);

    // Looking changes nothing, not even what is damaged.
    let state = node.state_dir().join("state.json");
    fs::write(&state, "damaged").unwrap();
    assert!(out(&node.eci(&["status"])).contains("nginx:v1"));
    assert_eq!(fs::read_to_string(&state).unwrap(), "damaged");
}

/// A command that goes on, read line by line.
struct Follower {
    process: Child,
    /// None once the test has read enough.
    lines: Option<BufReader<ChildStdout>>,
}

impl Follower {
    fn of(node: &Node, arguments: &[&str]) -> Self {
        let mut process = node.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = process.stdout.take().map(BufReader::new);
        Self { process, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.as_mut().unwrap().read_line(&mut line).unwrap();
        line
    }

    fn until(&mut self, part: &str) -> String {
        loop {
            let line = self.line();
            assert!(!line.is_empty(), "it ended without {part:?}");
            if line.contains(part) {
                return line;
            }
        }
    }

    /// Reads until it says no more.
    fn rest(&mut self) {
        self.lines.as_mut().unwrap().read_to_end(&mut Vec::new()).unwrap();
    }

    /// Its exit code, and what it said on stderr.
    fn ended(&mut self) -> (Option<i32>, String) {
        let status = eventually("ended", || self.process.try_wait().unwrap());
        let mut text = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (status.code(), text)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_changes_and_ends_with_the_agent() {
    let (registry, mut node) = running();
    let mut table = Follower::of(&node, &["status", "--watch"]);
    let mut json = Follower::of(&node, &["status", "default", "--json", "--watch"]);
    table.until("nginx:v1");
    json.until("nginx:v1");
    node.desire_image(&registry.reference("edge/nginx", "v2"));
    let row = table.until("nginx:v2  2 ");
    assert!(!row.contains('\u{1b}'), "no terminal, no clearing: {row:?}");
    json.until("\"generation\":2");
    assert!(node.stop().success());
    for follower in [&mut table, &mut json] {
        follower.rest();
        assert_eq!(follower.ended(), (Some(0), String::new()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_lines_and_end_with_the_agent() {
    let (_registry, mut node) = running();
    let mut json = Follower::of(&node, &["events", "--json", "--since", "0-0"]);
    let mut text = Follower::of(&node, &["events", "--since", "0-0"]);
    let first: Value = serde_json::from_str(&json.line()).unwrap();
    assert_eq!(first["event"], "desired-accepted");
    let line = text.line();
    let words: Vec<_> = line.split_whitespace().collect();
    assert!(words[0].parse::<jiff::Timestamp>().is_ok() && words[1..3] == ["-", "desired-accepted"], "{line}");
    let second: Value = serde_json::from_str(&json.line()).unwrap();
    let resumed = Follower::of(&node, &["events", "--json", "--since", first["id"].as_str().unwrap()]).line();
    assert_eq!(serde_json::from_str::<Value>(&resumed).unwrap(), second);
    assert!(node.stop().success());
    for follower in [&mut json, &mut text] {
        follower.rest();
        assert_eq!(follower.ended(), (Some(0), String::new()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_is_no_good_end() {
    let (_registry, mut node) = running();
    let mut events = Follower::of(&node, &["events", "--since", "0-0"]);
    events.line();
    node.kill();
    let (code, message) = events.ended();
    assert_eq!(code, Some(69), "{message}");
    assert!(message.contains("agent.sock"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_enough_ends_the_command() {
    let (registry, node) = running();
    let mut tags = ["v2", "v1"].iter().cycle();
    for arguments in [&["status"][..], &["status", "--json"], &["events", "--since", "0-0"], &["status", "--watch"]] {
        let mut command = Follower::of(&node, arguments);
        assert!(!command.line().is_empty());
        command.lines = None;
        // Those who wait for changes notice at the next.
        let status = eventually("ended", || {
            let tag = tags.next().unwrap();
            node.desire_image(&registry.reference("edge/nginx", tag));
            node.until_activated(&format!("nginx:{tag}"));
            command.process.try_wait().unwrap()
        });
        assert_eq!((status.code(), command.ended().1.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_ends_a_command_that_waits() {
    let (_registry, node) = running();
    for arguments in
        [&["events", "--since", "0-0"][..], &["events", "--json", "--since", "0-0"], &["status", "--watch"]]
    {
        for is_socket in [false, true] {
            // Nothing happens meanwhile: there is no next line to notice it by.
            let mut command = if is_socket {
                let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
                let theirs = std::os::fd::OwnedFd::from(theirs);
                let process = node.command(arguments).stdout(theirs).stderr(Stdio::piped()).spawn().unwrap();
                assert!(BufReader::new(ours).read_line(&mut String::new()).unwrap() > 0);
                Follower { process, lines: None }
            } else {
                let mut command = Follower::of(&node, arguments);
                assert!(!command.line().is_empty());
                command.lines = None;
                command
            };
            assert_eq!(command.ended(), (Some(0), String::new()), "{arguments:?}, {is_socket}");
        }
    }
    // One that is still there is waited for: what goes to a file has no reader that could go.
    let file = fs::File::create(node.path("events")).unwrap();
    let process = node.command(&["events"]).stdout(file).stderr(Stdio::piped()).spawn().unwrap();
    let mut waiting = [Follower { process, lines: None }, Follower::of(&node, &["events"])];
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(waiting.iter_mut().all(|command| command.process.try_wait().unwrap().is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_cannot_be_written_is_a_failure() {
    let (_registry, node) = running();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = node.command(&["status"]).stdout(full).output().unwrap();
    assert_eq!(code(&output), Some(73), "{}", err(&output));

    // Where even the message has no reader, the exit code still says what went wrong.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(node.command(&["status", "absent"]).stderr(writer).status().unwrap().code(), Some(64));
}

#[test]
fn more_is_logged_when_asked_for() {
    let node = Node::with_config("[log]\nlevel = \"error\"\n");
    for (flag, has) in [("--quiet-as-configured", false), ("-v", true), ("--verbose", true), ("--debug", true)] {
        fs::write(&node.log, "").unwrap();
        let set = if has { format!("set -- \"$@\" {flag}") } else { String::new() };
        let mut service = Service::spawn_after(&node, &set, Stdio::null());
        service.until_told("READY=1");
        assert!(service.stop().success());
        assert_eq!(node.log().contains("ready"), has, "{flag}: {}", node.log());
    }
}

#[test]
fn apply_says_if_no_agent_answers() {
    let mut node = Node::new();
    node.configure(&format!("[desired]\npath = {:?}\n", node.desired()));
    let candidate = node.path("candidate.toml");
    fs::write(&candidate, "image = \"oci:/nowhere:1\"\n").unwrap();
    let apply = |node: &Node| node.eci(&["apply", candidate.to_str().unwrap()]);
    let warning = |output: &Output| out(output).contains("no agent");
    let output = apply(&node);
    assert!(output.status.success() && warning(&output), "{output:?}");
    node.start();
    let output = apply(&node);
    assert!(output.status.success() && !warning(&output), "{output:?}");
}
