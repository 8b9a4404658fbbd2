//! Clients of the socket: connections that are held, requests that are malformed, peers without the right.

use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Bounds, Case, kib, mib, secs};
use crate::common::agent::Node;
use crate::common::image::Image;
use crate::common::registry::{Fault, On, Registry};
use crate::common::service::eventually;
use crate::common::socket::Socket;

const API: Bounds = Bounds { memory: mib(128), wire: kib(16), requests: 40, within: secs(30) };
/// Longer than any answer takes while others hold connections.
const PROMPT: Duration = secs(4);

fn running() -> (Node, Case) {
    running_with("")
}

fn running_with(config: &str) -> (Node, Case) {
    let mut node = Node::with_config(config);
    node.start();
    (node, API.start())
}

/// A request and a command are both answered in time.
fn answers_promptly(node: &Node) {
    let since = Instant::now();
    assert_eq!(Socket::open(&node.socket()).get("/healthz").status, 200);
    assert!(since.elapsed() < PROMPT, "{:?}", since.elapsed());
    let since = Instant::now();
    let status = node.eci(&["status"]);
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.status.success() && text.contains(", pid "), "{text} {}", super::stderr(&status));
    assert!(since.elapsed() < PROMPT, "{:?}", since.elapsed());
}

/// A client that sends requests and reads no answer.
fn never_reading(node: &Node) -> UnixStream {
    use std::io::Write;
    let mut stream = UnixStream::connect(node.socket()).unwrap();
    stream.set_nonblocking(true).unwrap();
    let request = "GET /v1/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // As much as the socket takes at once.
    let _ = stream.write(request.repeat(400).as_bytes());
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_never_read_keep_no_places() {
    let (node, case) = running();
    let clients: Vec<_> = (0..64).map(|_| never_reading(&node)).collect();
    answers_promptly(&node);
    let more: Vec<_> = (0..64).map(|_| never_reading(&node)).collect();
    answers_promptly(&node);
    case.agent(&node);
    drop((clients, more));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_clients_delay_nobody() {
    let (node, case) = running();
    let clients: Vec<_> = (0..1000).map(|_| Socket::open(&node.socket())).collect();
    answers_promptly(&node);
    drop(clients);
    answers_promptly(&node);
    case.agent(&node);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_closed_longest_first() {
    let (node, _case) = running();
    // The connection of the test's own follower counts until it streams.
    node.desire("");
    node.until_rejected("desired-invalid");
    let client = || {
        let mut socket = Socket::open(&node.socket());
        assert_eq!(socket.get("/healthz").status, 200);
        socket
    };
    let (mut first, mut second) = (client(), client());
    // The first is used last.
    assert_eq!(first.get("/healthz").status, 200);
    let mut others: Vec<_> = (0..63).map(|_| client()).collect();
    assert!(second.is_closed(), "one of 65 connections of a user is closed");
    assert_eq!(first.get("/healthz").status, 200, "the others are kept");
    for other in &mut others {
        assert_eq!(other.get("/healthz").status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn event_streams_are_limited_and_outlive_idle_connections() {
    let (node, case) = running();
    // The test's own follower is a stream as well, and there first.
    node.desire("");
    node.until_rejected("desired-invalid");
    let mut streams: Vec<_> = (0..50)
        .map(|_| {
            let mut stream = Socket::open(&node.socket());
            let status = stream.request("GET", "/v1/events", &[]).head().status;
            (stream, status)
        })
        .collect();
    let open = streams.iter().filter(|(_, status)| *status == 200).count();
    assert!(open == 47 && streams.iter().all(|(_, status)| matches!(status, 200 | 503)), "{open}");
    let idle: Vec<_> = (0..200).map(|_| Socket::open(&node.socket())).collect();
    answers_promptly(&node);
    drop(idle);
    node.desire("image = 1");
    node.until_rejected("desired-invalid");
    for (stream, _) in streams.iter_mut().filter(|(_, status)| *status == 200) {
        assert!(!stream.is_closed(), "a stream goes on");
    }
    case.agent(&node);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_requests_is_answered_whole() {
    let (node, case) = running();
    let clients: Vec<_> = (0..200).map(|_| Socket::open(&node.socket())).collect();
    let path = node.socket();
    let ask = || {
        (0..40).map(|_| {
            std::thread::spawn({
                let path = path.clone();
                move || Socket::open(&path).get("/v1/status").status
            })
        })
    };
    for answered in ask().collect::<Vec<_>>() {
        assert_eq!(answered.join().unwrap(), 200);
    }
    drop(clients);
    case.agent(&node);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_oversized_heads_end() {
    let (node, case) = running();
    let mut slow: Vec<_> = (0..8).map(|_| Socket::open(&node.socket())).collect();
    for socket in &mut slow {
        socket.send("GET /healthz HTTP/1.1\r\nx-a:");
    }
    let since = Instant::now();
    let head = |name: &str, size: usize| format!("GET /healthz HTTP/1.1\r\n{name}: {}\r\n\r\n", "b".repeat(size));
    let many = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "x-a: b\r\n".repeat(500));
    for (request, statuses) in [(head("x-a", 1 << 20), &[431][..]), (many, &[431])] {
        let status = Socket::open(&node.socket()).send(&request).head().status;
        assert!(statuses.contains(&status), "{status}");
    }
    for target in ["/v1/%2e%2e/status", "/v1/workloads/%2f", "/v1/workloads/%00", "//v1/status", "/v1//status"] {
        let status = Socket::open(&node.socket()).get(target).status;
        assert!(matches!(status, 400 | 404), "{target}: {status}");
    }
    for socket in &mut slow {
        assert!(socket.is_closed(), "a head has 10 s");
    }
    assert!(since.elapsed() < secs(20), "{:?}", since.elapsed());
    case.agent(&node);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_lengths_of_one_body_are_refused() {
    let (node, _case) = running();
    let hidden = "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n";
    let chunked = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
    let (chunks, length) = ("Transfer-Encoding: chunked\r\n", "Content-Length: 4\r\n");
    for headers in [
        format!("{length}{chunks}"),
        format!("{chunks}{length}"),
        "Content-Length: 4\r\nContent-Length: 5\r\n".to_owned(),
    ] {
        let mut socket = Socket::open(&node.socket());
        let request = format!("POST /v1/reconcile HTTP/1.1\r\nHost: x\r\n{headers}\r\n{chunked}");
        assert_eq!(socket.send(request).answer().status, 400, "{headers}");
        assert!(socket.is_closed(), "nothing of the rest is read as a request: {headers}");
    }
    let mut socket = Socket::open(&node.socket());
    socket.send(format!("POST /v1/reconcile HTTP/1.1\r\nHost: x\r\n{length}\r\nabcd"));
    assert_eq!(socket.answer().status, 202, "one length is none too many");
    assert_eq!(socket.get("/healthz").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_body_is_not_read_for_ever() {
    use std::io::Write;
    let (node, case) = running();
    let mut stream = UnixStream::connect(node.socket()).unwrap();
    stream.set_write_timeout(Some(secs(20))).unwrap();
    write!(stream, "POST /v1/reconcile HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", u64::MAX >> 1).unwrap();
    let mut sent = 0;
    while sent < 1 << 30 {
        let Ok(count) = stream.write(&[0; 1 << 16]) else { break };
        sent += count;
    }
    assert!(sent < 64 << 20, "{sent} bytes were taken");
    answers_promptly(&node);
    case.agent(&node);
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_reconciles_cause_one_a_second() {
    let registry = Registry::http();
    Image::new("v2").publish(&registry, "edge/nginx", "v2");
    let (node, case) = running_with("[retry]\ninitial = \"1h\"\nmax = \"1h\"\n");
    let fault = registry.inject(On::manifests(), Fault::status(503));
    node.desire_image(&registry.reference("edge/nginx", "v2"));
    node.until_failed("registry-error");
    for target in ["/v1/reconcile", "/v1/workloads/default/reconcile"] {
        let (since, before) = (Instant::now(), registry.count(&On::manifests()));
        let mut calls = 0;
        while since.elapsed() < Duration::from_millis(1500) {
            let callers: Vec<_> = (0..8)
                .map(|_| {
                    let path = node.socket();
                    std::thread::spawn(move || Socket::open(&path).ask("POST", target, &[]))
                })
                .collect();
            for caller in callers {
                let answer = caller.join().unwrap();
                assert_eq!((answer.status, answer.json()), (202, json!({})));
                calls += 1;
            }
        }
        // One at once, one a second, each of a HEAD and a GET at most.
        let most = 2 * (1 + since.elapsed().as_secs() as usize + 1);
        let requests = registry.count(&On::manifests()) - before;
        assert!(calls >= 16 && (1..=most).contains(&requests), "{calls} calls, {requests} requests");
    }
    // A call within the second is late, and not lost.
    fault.remove();
    let mut socket = Socket::open(&node.socket());
    for _ in 0..2 {
        assert_eq!(socket.ask("POST", "/v1/reconcile", &[]).status, 202);
    }
    node.until_activated("v2");
    case.agent(&node).registry(&registry);
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_follow_the_groups_of_the_process() {
    const TEST: &str = "rights_follow_the_groups_of_the_process";
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP {TEST}: only root may become somebody else");
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    // The group "daemon" is on every Debian, with the number 1; the user "daemon" has it in the user database.
    let (node, _case) = running_with("[api]\nmode = \"0666\"\ngroup = \"daemon\"\n");
    std::fs::set_permissions(node.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = node.path("eci");
    crate::common::agent::copy_program(&program);
    let reconcile = |user: &[&str]| {
        let pointed = node.command(&["reconcile"]);
        let mut command = std::process::Command::new("setpriv");
        command.args(user).arg("--").arg(&program).arg("reconcile").current_dir("/");
        command.envs(pointed.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.output().unwrap();
        (output.status.code(), super::stderr(&output))
    };
    let nobody = ["--reuid=65534", "--regid=65534"];
    for groups in ["--groups=1", "--groups=70000,1,80000"] {
        let (code, said) = reconcile(&[nobody[0], nobody[1], groups]);
        assert_eq!(code, Some(0), "{groups}: {said}");
    }
    let (code, said) = reconcile(&["--reuid=65534", "--regid=1", "--clear-groups"]);
    assert_eq!(code, Some(0), "{said}");
    for user in [&["--reuid=1", "--regid=65534", "--clear-groups"], &["--reuid=1", "--regid=65534", "--groups=2,70000"]]
    {
        let (code, said) = reconcile(user);
        assert_eq!(code, Some(77), "{user:?}: {said}");
        assert!(said.contains("uid 1 ") && said.contains("daemon"), "{said}");
    }
    // More groups than the kernel is asked for: the user database decides.
    let many = format!("--groups={}", (70_000..70_070).map(|gid: u32| gid.to_string()).collect::<Vec<_>>().join(","));
    assert_eq!(reconcile(&["--reuid=1", "--regid=65534", &many]).0, Some(0));
    assert_eq!(reconcile(&[nobody[0], nobody[1], &many]).0, Some(77));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_agent_is_not_called_absent() {
    let (mut node, case) = running();
    node.desire("");
    node.until_rejected("desired-invalid");
    assert!(node.stop().success());
    let text = case.must(&node.command(&["status"]));
    assert!(text.contains("agent    not running"), "{text}");
    // A process that listens and says nothing. Another test, with a clock of its own, is of the command's time limit.
    let listener = UnixListener::bind(node.socket()).unwrap();
    let asked = std::thread::spawn(move || listener.accept().map(drop));
    let said = case.fails(&node.command(&["reconcile"]), 69);
    assert!(said.contains("does not answer") && !said.contains("is eci-agent.service running?"), "{said}");
    asked.join().unwrap().unwrap();
    eventually("absent again", || {
        case.fails(&node.command(&["reconcile"]), 69).contains("is eci-agent.service running?").then_some(())
    });
}
