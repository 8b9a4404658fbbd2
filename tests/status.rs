//! `eci status` and `eci events` as operators and their monitoring run them.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::common::agent::Node;
use crate::common::image::Image;
use crate::common::registry::{Fault, On, Registry};
use crate::common::schema;
use crate::common::service::eventually;

/// The time in which an operator is told that an agent hangs.
const SOON: Duration = Duration::from_secs(3);

fn published() -> Registry {
    let registry = Registry::http();
    for tag in ["v1", "v2"] {
        Image::new(tag).publish(&registry, "edge/nginx", tag);
    }
    registry
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The exit code and stdout of `eci status --check`.
fn check(node: &Node) -> (Option<i32>, String) {
    let output = node.eci(&["status", "--check"]);
    (output.status.code(), out(&output))
}

/// Runs a command, and holds it to the time; the machine that tests run on may be busy.
fn soon(node: &Node, arguments: &[&str]) -> Output {
    let begun = Instant::now();
    let output = node.eci(arguments);
    assert!(begun.elapsed() < SOON + Duration::from_secs(1), "{:?}", begun.elapsed());
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_agent_is_told_from_a_stopped_one() {
    let registry = published();
    let mut node = Node::new();
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.start();
    node.until_phase("active");
    assert_eq!(check(&node), (Some(0), "OK: 1 workload runs what is desired\n".to_owned()));

    node.signal(Signal::SIGSTOP);
    let hung = soon(&node, &["status"]);
    let hung_check = soon(&node, &["status", "--check"]);
    node.signal(Signal::SIGCONT);
    assert!(out(&hung).starts_with("agent    does not answer\n") && out(&hung).contains("nginx:v1"), "{}", out(&hung));
    assert_eq!(hung_check.status.code(), Some(3), "{}", out(&hung_check));
    assert!(out(&hung_check).starts_with("UNKNOWN: "), "{}", out(&hung_check));
    eventually("it goes on", || (check(&node).0 == Some(0)).then_some(()));

    assert!(node.stop().success());
    let stopped = soon(&node, &["status"]);
    assert!(out(&stopped).starts_with("agent    not running\n"), "{}", out(&stopped));
    let (code, text) = check(&node);
    assert!(code == Some(2) && text.starts_with("CRITICAL: "), "{code:?} {text}");
}

/// As systemd holds it: connections are taken by the kernel, and no process answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_is_held_without_an_agent_does_not_answer() {
    let mut node = Node::new();
    node.start();
    node.until_rejected("desired-absent");
    assert!(node.stop().success());
    let _held = std::os::unix::net::UnixListener::bind(node.socket()).unwrap();
    assert!(out(&soon(&node, &["status"])).starts_with("agent    does not answer\n"));
    assert_eq!(soon(&node, &["status", "--check"]).status.code(), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_leaves_what_is_desired_active() {
    let registry = published();
    let config = "[desired]\npoll = \"off\"\n[retry]\ninitial = \"10h\"\nmax = \"10h\"\n";
    let mut node = Node::with_config(config);
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.start();
    node.until_phase("active");
    let fault = registry.inject(On::manifests(), Fault::status(503));
    assert!(node.eci(&["reconcile"]).status.success());
    node.until_failed("registry-error");
    let workload = node.status()["workloads"]["default"].clone();
    assert_eq!((&workload["phase"], &workload["drift"]), (&json!("active"), &json!(false)), "{workload}");
    assert_eq!(workload["error"]["kind"], "registry-error");
    let (code, text) = check(&node);
    assert!(code == Some(1) && text.starts_with("WARNING: default: registry-error: "), "{code:?} {text}");
    // So it is after a restart, which has not resolved anything.
    assert!(node.stop().success());
    node.start();
    node.until_failed("registry-error");
    assert_eq!(node.status()["workloads"]["default"]["phase"], "active");

    node.desire_image(&registry.reference("edge/nginx", "v2"));
    node.until("backoff", |event| event["kind"] == "registry-error" && event["phase"] == "backoff");
    assert_eq!(node.status()["workloads"]["default"]["drift"], true);
    fault.remove();
    assert!(node.eci(&["reconcile"]).status.success());
    node.until_activated("v2");
    node.until_phase("active");
    assert_eq!(check(&node).0, Some(0));
    let shown = out(&node.eci(&["status"]));
    assert!(shown.contains("previous: generation 1, ") && shown.contains("nginx:v1 ("), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_has_a_document_and_an_exit_code_for_each_state() {
    let registry = published();
    let mut node = Node::new();
    node.desire_image(&registry.reference("edge/nginx", "absent"));
    node.start();
    node.until_failed("not-found");
    let output = node.eci(&["status", "--check", "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &document["level"], &document["exit_code"]),
        (Some(2), &json!("critical"), &json!(2))
    );
    assert_eq!(document["findings"][0]["workload"], "default");
    let unknown = node.eci(&["status", "absent", "--check"]);
    assert_eq!(unknown.status.code(), Some(3), "{}", out(&unknown));
    node.desire("");
    node.until_rejected("desired-invalid");
    assert_eq!(check(&node).0, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn screens_have_the_width_of_columns() {
    let registry = published();
    let mut node = Node::new();
    let reference = registry.reference("edge/nginx", "v1");
    let digest = Image::new("v1").publish(&registry, "edge/nginx", "v1");
    node.desire_image(&format!("{reference}@{digest}"));
    node.start();
    node.until_phase("active");
    for width in [60, 80, 120] {
        for arguments in [&["status"][..], &["status", "default"], &["status", "--check"]] {
            let mut command = node.command(arguments);
            let output = command.env("COLUMNS", width.to_string()).env("LC_ALL", "C").output().unwrap();
            let text = out(&output);
            assert!(text.is_ascii() && text.lines().all(|line| line.len() <= width), "{width}\n{text}");
        }
    }
    // To a pipe, nothing is shortened.
    assert!(out(&node.eci(&["status"])).contains(&format!("{reference}@{digest}")));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_name_their_workload_and_are_as_documented() {
    let registry = published();
    let mut node = Node::with_config("[desired]\nretire = \"confirm\"\n");
    let workload = |name: &str, tag: &str, more: &str| {
        format!("[workload.{name}]\nimage = \"{}\"\n{more}", registry.reference("edge/nginx", tag))
    };
    let other = workload("other", "v1", "");
    node.desire(&(workload("router", "v1", "") + &other));
    node.start();
    node.until("active", |event| event["workload"] == "router" && event["phase"] == "active");
    node.desire(&(workload("router", "v2", "confirm = \"1h\"\n") + &other));
    node.until("probation", |event| event["workload"] == "router" && event["phase"] == "probation");
    assert!(node.eci(&["rollback", "router"]).status.success());
    node.until("rolled back", |event| event["event"] == "rolled-back");
    node.desire(&other);
    node.until("pending", |event| event["event"] == "retirement-pending");
    node.desire(&(workload("router", "v2", "confirm = \"2h\"\n") + &other));
    node.until("cancelled", |event| event["event"] == "retirement-cancelled");
    node.desire("workloads = 1");
    node.until_rejected("desired-invalid");

    let mut command = node.command(&["events", "--json", "--since", "0-0"]);
    let mut follower = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut names = std::collections::BTreeSet::new();
    for line in std::io::BufRead::lines(std::io::BufReader::new(follower.stdout.take().unwrap())) {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        schema::check_event(&event);
        names.insert(event["event"].as_str().unwrap().to_owned());
        if event["event"] == "desired-rejected" {
            break;
        }
    }
    let _ = follower.wait();
    for name in ["activated", "desired-accepted", "phase", "retirement-cancelled", "retirement-pending", "rolled-back"]
    {
        assert!(names.contains(name), "{name}: {names:?}");
    }

    let mut command = node.command(&["events", "--since", "0-0"]);
    let mut follower = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(follower.stdout.take().unwrap()));
    let activated = lines.map(Result::unwrap).find(|line| line.contains("  activated ")).unwrap();
    let _ = follower.wait();
    let columns: Vec<_> = activated.split_whitespace().take(3).collect();
    assert!(["router", "other"].contains(&columns[1]) && columns[2] == "activated", "{activated}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_with_json_has_a_line_for_each_document() {
    let registry = published();
    let mut node = Node::new();
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.start();
    node.until_phase("active");
    let mut command = node.command(&["status", "--json", "--watch"]);
    let mut follower = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(follower.stdout.take().unwrap()));
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(first["workloads"]["default"]["phase"], "active");
    node.desire_image(&registry.reference("edge/nginx", "v2"));
    let documents = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let updated = documents.into_iter().any(|status| status["workloads"]["default"]["current"]["generation"] == 2);
    assert!(updated);
    let _ = follower.wait();
}
