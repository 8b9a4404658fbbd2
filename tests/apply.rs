//! `eci apply`: it shows what changes, asks or refuses where a workload would go, and waits if asked to.

use std::fs;
use std::io::Write;
use std::process::{Output, Stdio};

use crate::common::agent::Node;
use crate::common::image::{Image, MANIFEST};
use crate::common::pty::OnTerminal;
use crate::common::registry::Registry;
use crate::common::service::eventually;
use crate::common::socket::Socket;

/// Only an operator retires.
const CONFIRM: &str = "[desired]\nretire = \"confirm\"\n";

struct Fixture {
    registry: Registry,
    node: Node,
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

impl Fixture {
    /// A node that runs router and firewall.
    fn new(config: &str) -> Self {
        let registry = Registry::http();
        for tag in ["v1", "v2"] {
            Image::new(tag).publish(&registry, "edge/vm", tag);
        }
        let mut f = Self { registry, node: Node::with_config(config) };
        f.node.desire(&f.both());
        f.node.start();
        for _ in 0..2 {
            f.node.until("activated", |event| event["event"] == "activated");
        }
        f
    }

    fn workload(&self, name: &str, tag: &str) -> String {
        format!("[workload.{name}]\nimage = \"{}\"\n", self.registry.reference("edge/vm", tag))
    }

    fn both(&self) -> String {
        self.workload("router", "v1") + &self.workload("firewall", "v1")
    }

    fn typo(&self) -> String {
        self.both().replace("router", "ruoter")
    }

    fn arguments(&self, file: &str, more: &[&str]) -> Vec<String> {
        let desired = self.node.desired();
        let words = ["apply", file, "--desired", desired.to_str().unwrap()];
        words.iter().chain(more).map(ToString::to_string).collect()
    }

    fn command(&self, text: &str, more: &[&str]) -> std::process::Command {
        let file = self.node.path("candidate.toml");
        fs::write(&file, text).unwrap();
        let arguments = self.arguments(file.to_str().unwrap(), more);
        self.node.command(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn apply(&self, text: &str, more: &[&str]) -> Output {
        self.command(text, more).stdin(Stdio::null()).output().unwrap()
    }

    fn file(&self) -> String {
        fs::read_to_string(self.node.desired()).unwrap()
    }

    fn names(&self) -> Vec<String> {
        self.node.status()["workloads"].as_object().unwrap().keys().cloned().collect()
    }

    /// Holds that nothing was changed.
    fn is_untouched(&self) {
        assert_eq!((self.file(), self.names()), (self.both(), vec!["firewall".to_owned(), "router".to_owned()]));
        assert_eq!(self.node.status()["workloads"]["router"]["retirement"], serde_json::Value::Null);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typo_is_refused_without_a_terminal() {
    let f = Fixture::new(CONFIRM);
    let refused = f.apply(&f.typo(), &[]);
    assert_eq!(refused.status.code(), Some(64), "{}", err(&refused));
    assert!(err(&refused).contains("does not name router, which would be retired; nothing was changed: add --retire"));
    let shown = out(&refused);
    for line in ["added      ruoter", "retired    router", "unchanged  firewall", "    boots: generation 1 ("] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    f.is_untouched();
    // Positive control: it is installed where nothing goes, and with --retire.
    let more = f.both() + &f.workload("third", "v2");
    assert_eq!(f.apply(&more, &[]).status.code(), Some(0));
    f.node.until("third", |event| event["event"] == "activated" && event["workload"] == "third");
    let agreed = f.apply(&f.typo(), &["--retire"]);
    assert_eq!(agreed.status.code(), Some(0), "{}", err(&agreed));
    for _ in 0..2 {
        f.node.until("retired", |event| event["event"] == "retired");
    }
    assert!(!f.node.state_dir().join("workloads/router").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_at_a_terminal_is_asked() {
    let f = Fixture::new(CONFIRM);
    for (answer, code) in [("n\n", 64), ("\n", 64), ("\u{4}", 64), ("maybe\n", 64), ("yes\n", 0)] {
        let mut asked = OnTerminal::start(f.command(&f.typo(), &[]));
        asked.until("[y/N] ");
        assert!(asked.seen.contains("Retire router now?"), "{}", asked.seen);
        asked.type_in(answer);
        let (output, seen) = asked.end();
        assert_eq!(output.status.code(), Some(code), "{answer:?}: {seen}");
        if code == 64 {
            assert!(seen.contains("nothing was changed"), "{seen}");
            f.is_untouched();
        }
    }
    // That is as good as --retire.
    f.node.until("retired", |event| event["event"] == "retired" && event["workload"] == "router");
    // Nobody is asked where nothing goes, or who has said so.
    let unasked = OnTerminal::start(f.command(&f.typo(), &[])).end();
    assert!(unasked.0.status.success() && !unasked.1.contains("[y/N]"), "{}", unasked.1);
    let unasked = OnTerminal::start(f.command("workloads = {}\n", &["--retire"])).end();
    assert!(unasked.0.status.success() && !unasked.1.contains("[y/N]"), "{}", unasked.1);
    eventually("nothing", || f.names().is_empty().then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_shows_every_key_and_changes_nothing() {
    let f = Fixture::new("");
    let text = f.workload("router", "v2")
        + "cmdline = \"quiet\"\ndisks = \"writable\"\nactivate = \"staged\"\nconfirm = \"10m\"\nplatform = \"linux/arm64\"\n";
    let shown = f.apply(&text, &["--dry-run"]);
    assert_eq!(shown.status.code(), Some(0), "{}", err(&shown));
    let shown = out(&shown);
    for part in [
        "changed    router",
        "-> ",
        ":v2\n",
        "cmdline: none -> \"quiet\"",
        "disks: none -> \"writable\"",
        "activate: none -> \"staged\"",
        "confirm: none -> \"600s\"",
        "platform: none -> \"linux/arm64\"",
        "retired    firewall",
        "not installed (--dry-run); without a terminal, --retire is needed",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let digest = f.node.status()["workloads"]["router"]["current"]["digest"].as_str().unwrap()[7..19].to_owned();
    assert!(shown.contains(&format!("edge/vm:v1 ({digest})")), "{shown}");
    f.is_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn stdin_is_read_and_never_asked() {
    let f = Fixture::new(CONFIRM);
    let piped = |text: &str, more: &[&str]| {
        let arguments = f.arguments("-", more);
        let mut command = f.node.command(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // It may have ended for another reason.
        let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
        child.wait_with_output().unwrap()
    };
    let refused = piped("image = 3\n", &[]);
    assert_eq!(refused.status.code(), Some(78));
    assert!(err(&refused).contains("stdin:1:9: image:"), "{}", err(&refused));
    assert_eq!(piped(&"#".repeat((1 << 20) + 1), &[]).status.code(), Some(78));
    assert_eq!(piped(&f.typo(), &[]).status.code(), Some(64));
    f.is_untouched();
    let text = f.workload("router", "v2") + &f.workload("firewall", "v1");
    let applied = piped(&text, &[]);
    assert_eq!((applied.status.code(), f.file()), (Some(0), text), "{}", err(&applied));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_agent_it_says_that_nobody_reads() {
    let mut f = Fixture::new("[desired]\nretire = \"1h\"\n");
    f.node.stop();
    // By the state directory, where the file says nothing any more.
    for text in ["", "image = 3\n", &f.both()] {
        fs::write(f.node.desired(), text).unwrap();
        let refused = f.apply(&f.typo(), &[]);
        assert_eq!(refused.status.code(), Some(64), "{text:?}: {}", out(&refused));
        assert_eq!(f.file(), text);
    }
    let applied = f.apply(&f.typo(), &["--retire"]);
    let said = out(&applied);
    assert_eq!(applied.status.code(), Some(0), "{}", err(&applied));
    assert!(said.contains("no agent answers on") && said.contains("nobody reads"), "{said}");
    assert!(said.contains("retires router 60m later ([desired] retire)"), "{said}");
    // The next start is no surprise.
    f.node.start();
    f.node.until("pending", |event| event["event"] == "retirement-pending" && event["workload"] == "router");
    assert!(f.node.state_dir().join("workloads/router/current").exists());
    assert_eq!(f.apply(&f.typo(), &["--retire"]).status.code(), Some(0));
    f.node.until("retired", |event| event["event"] == "retired" && event["workload"] == "router");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_state_directory_the_file_is_what_counts() {
    let (registry, node) = (Registry::http(), Node::new());
    let f = Fixture { registry, node };
    let applied = f.apply(&f.both(), &[]);
    assert_eq!(applied.status.code(), Some(0), "{}", err(&applied));
    assert!(out(&applied).starts_with("added      firewall\n"), "{}", out(&applied));
    assert!(out(&applied).contains("nobody reads"));
    assert_eq!(f.apply(&f.typo(), &[]).status.code(), Some(64));
    assert_eq!(f.file(), f.both());
    let waited = f.apply(&f.both(), &["--wait"]);
    assert_eq!(waited.status.code(), Some(69), "there is nothing to wait for: {}", err(&waited));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_another_file_is_named() {
    let f = Fixture::new("");
    let file = f.node.path("candidate.toml");
    fs::write(&file, f.both()).unwrap();
    let other = f.node.path("other.toml");
    let applied = f.node.eci(&["apply", file.to_str().unwrap(), "--desired", other.to_str().unwrap()]);
    assert_eq!(applied.status.code(), Some(0), "{}", err(&applied));
    let said = out(&applied);
    assert!(said.contains(&format!("reads {}", f.node.desired().display())) && said.contains("nobody reads"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_retirement_is_shown_ended_or_cancelled() {
    let f = Fixture::new("[desired]\nretire = \"1h\"\n");
    // Another tool loses two of them.
    let third = f.workload("third", "v1");
    f.node.desire(&third);
    for _ in 0..2 {
        f.node.until("pending", |event| event["event"] == "retirement-pending");
    }
    let same = f.apply(&third, &[]);
    assert_eq!(same.status.code(), Some(0), "{}", err(&same));
    assert!(out(&same).contains("retired    router (pending: in 59m)"), "{}", out(&same));
    assert!(out(&same).contains("pending retirements go on: firewall, router"), "{}", out(&same));
    let kept = f.apply(&(third.clone() + &f.workload("router", "v1")), &[]);
    assert!(out(&kept).contains("changed    router") && out(&kept).contains("none: it stays"), "{}", out(&kept));
    f.node.until("cancelled", |event| event["event"] == "retirement-cancelled" && event["workload"] == "router");
    let ended = f.apply(&(third + &f.workload("router", "v1")), &["--retire", "--wait"]);
    assert_eq!(ended.status.code(), Some(0), "{}", err(&ended));
    assert_eq!(f.names(), ["router", "third"], "the other one is gone, and --wait waited for that");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_about_another_file_retires_nothing() {
    let f = Fixture::new(CONFIRM);
    f.node.desire(&f.workload("router", "v1"));
    f.node.until("pending", |event| event["event"] == "retirement-pending");
    let ask = |query: &str| {
        let mut socket = Socket::open(&f.node.socket());
        socket.ask("POST", &format!("/v1/retire{query}"), &[]).status
    };
    let other = format!("?sha256=sha256:{:064}", 1);
    assert_eq!((ask(&other), ask("?sha256=x"), ask("?all=true")), (409, 400, 400));
    assert_eq!(f.names(), ["firewall", "router"]);
    assert_eq!(ask(""), 202);
    f.node.until("retired", |event| event["event"] == "retired" && event["workload"] == "firewall");
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_ends_with_what_came_of_it() {
    let f = Fixture::new(CONFIRM);
    let firewall = f.workload("firewall", "v1");
    let updated = f.apply(&(f.workload("router", "v2") + &firewall), &["--wait=1h"]);
    assert_eq!(updated.status.code(), Some(0), "{}", err(&updated));
    assert_eq!(f.node.status()["workloads"]["router"]["current"]["generation"], 2);
    assert!(err(&updated).contains("router: active, boots generation 2"), "{}", err(&updated));
    for (keys, said) in [
        ("cmdline = \"a\"\nactivate = \"staged\"\n", "router: staged, waits for \"eci activate router\""),
        ("cmdline = \"b\"\nconfirm = \"1h\"\n", "router: probation, has to be confirmed (eci confirm router)"),
    ] {
        let settled = f.apply(&format!("{}{keys}{firewall}", f.workload("router", "v2")), &["--wait", "1h"]);
        assert_eq!(settled.status.code(), Some(0), "{}", err(&settled));
        assert!(err(&settled).contains(said), "{}", err(&settled));
    }
    let mut empty = Image::new("v1").manifest();
    empty["layers"] = serde_json::json!([]);
    f.registry.put_manifest("edge/vm", Some("empty"), MANIFEST, empty.to_string());
    let failed = f.apply(&(f.workload("router", "empty") + &firewall), &["--wait", "1h"]);
    assert_eq!(failed.status.code(), Some(65), "{}", err(&failed));
    assert!(err(&failed).contains("router is blocked"), "{}", err(&failed));
    let late = f.apply(&(f.workload("router", "absent") + &firewall), &["--wait", "2s"]);
    assert_eq!(late.status.code(), Some(69), "{}", err(&late));
    assert!(err(&late).contains("not reached after 2 s: router is"), "{}", err(&late));
}
