//! The agent as a service: told ready, stopped, reloaded, watched and handed its socket as systemd does it.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::common::agent::Node;
use crate::common::image::Image;
use crate::common::registry::{Fault, On, Registry, digest};
use crate::common::service::{Service, eventually};
use crate::common::socket::{Events, Socket};

/// What a stop may take (`systemd/eci-agent.service` counts on it).
const STOP: Duration = Duration::from_secs(5);

fn published() -> Registry {
    let registry = Registry::http();
    Image::new("v1").publish(&registry, "edge/nginx", "v1");
    registry
}

/// A node whose agent has deployed v1 and is stopped.
fn deployed() -> (Registry, Node) {
    let registry = published();
    let mut node = Node::new();
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.start();
    node.until_phase("active");
    assert!(node.stop().success());
    (registry, node)
}

/// Runs the agent to an end that comes by itself: its exit code and the last line that it says.
fn fails(node: &Node) -> (Option<i32>, String) {
    let status = Service::spawn(node, &[]).ended();
    (status.code(), node.log().lines().last().unwrap_or_default().to_owned())
}

#[test]
fn ready_is_told_once_the_socket_answers() {
    let node = Node::new();
    let service = Service::spawn(&node, &[]);
    assert_eq!(service.told(), "READY=1", "the first that is told");
    assert_eq!(Socket::open(&node.socket()).get("/readyz").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_takes_no_longer_than_it_may_whatever_goes_on() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let registry = Registry::http();
        let image = Image::new("v1").with_root_of(4 << 20);
        image.publish(&registry, "edge/nginx", "v1");
        let root = On::blobs().get().reference(&digest(&image.root));
        let stall = registry.inject(root, Fault::StallAfter(1000));
        let node = Node::new();
        node.desire_image(&registry.reference("edge/nginx", "v1"));
        let mut service = Service::start(&node);
        stall.struck(1).await;
        let mut stream = Events::open(&node.socket(), None);
        let (mut idle, mut half) = (Socket::open(&node.socket()), Socket::open(&node.socket()));
        assert_eq!(idle.get("/healthz").status, 200);
        half.send("GET /healthz HTT");
        let since = Instant::now();
        service.signal(signal);
        assert_eq!(service.told(), "STOPPING=1");
        assert_eq!(stream.next(), None, "the stream ends, and well");
        assert!(service.ended().success(), "{}", node.log());
        assert!(since.elapsed() < STOP, "{:?}", since.elapsed());
        assert!(!node.socket().exists(), "a socket of its own is removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_reading_does_not_hold_up_a_stop() {
    let node = Node::new();
    let mut service = Service::start(&node);
    let mut client = Socket::open(&node.socket());
    // More answers than a socket's buffers hold, and none of them read.
    client.send("GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(200));
    assert_eq!(Socket::open(&node.socket()).get("/healthz").status, 200);
    let since = Instant::now();
    assert!(service.stop().success());
    assert!(since.elapsed() < STOP, "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn systemctl_shows_what_the_workloads_are_at() {
    let registry = published();
    let node = Node::with_config("[retry]\ninitial = \"10h\"\nmax = \"10h\"\n");
    let service = Service::start(&node);
    service.until_shown("nothing is desired");
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    service.until_shown("default: active, boots generation 1");
    registry.inject(On::manifests(), Fault::status(503));
    node.desire_image(&registry.reference("edge/nginx", "v2"));
    service.until_shown("default: backoff (registry-error), boots generation 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hang_up_reads_the_configuration_again() {
    let registry = published();
    registry.inject(On::manifests().times(2), Fault::status(503));
    let node = Node::with_config("[log]\nlevel = \"warn\"\n[retry]\ninitial = \"10h\"\nmax = \"10h\"\n");
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    let service = Service::start(&node);
    let mut events = Events::open(&node.socket(), Some("0-0"));
    events.until(|sent| sent.event == "failed");
    assert!(!node.log().contains("INFO"), "{}", node.log());

    // With the old settings, the second failure would wait for hours.
    node.configure("[log]\nlevel = \"info\"\n");
    service.signal(Signal::SIGHUP);
    assert_eq!([service.told(), service.told()], ["RELOADING=1", "READY=1"]);
    events.until(|sent| sent.event == "activated");
    assert!(node.log().contains("INFO"), "{}", node.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hang_up_with_a_broken_configuration_changes_nothing_and_says_where() {
    let registry = published();
    let node = Node::new();
    let mut service = Service::start(&node);
    node.configure("[log]\nlevel = \"loud\"\n");
    service.signal(Signal::SIGHUP);
    assert_eq!([service.told(), service.told()], ["RELOADING=1", "READY=1"]);
    let place = format!("{}:2:9: log.level", node.path("etc/agent.toml").display());
    assert!(node.log().contains(&place), "{}", node.log());
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    Events::open(&node.socket(), Some("0-0")).until(|sent| sent.event == "activated");

    fs::remove_file(node.path("etc/agent.toml")).unwrap();
    service.signal(Signal::SIGHUP);
    assert_eq!([service.told(), service.told()], ["RELOADING=1", "READY=1"]);
    assert!(service.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_restart_changes_is_said_at_a_reload() {
    let node = Node::new();
    let service = Service::start(&node);
    node.configure("[api]\nmode = \"0600\"\n");
    service.signal(Signal::SIGHUP);
    service.until_told("READY=1");
    assert!(node.log().contains("only with a restart"), "{}", node.log());
}

#[test]
fn the_watchdog_is_fed_where_there_is_one() {
    let node = Node::new();
    let own = "export WATCHDOG_USEC=20000 WATCHDOG_PID=$$";
    let mut service = Service::spawn_after(&node, own, Stdio::null());
    for _ in 0..5 {
        service.until_told("WATCHDOG=1");
    }
    assert!(service.stop().success());
    for other in ["", "export WATCHDOG_USEC=20000 WATCHDOG_PID=1", "export WATCHDOG_USEC=soon WATCHDOG_PID=$$"] {
        let mut service = Service::spawn_after(&node, other, Stdio::null());
        service.until_told("READY=1");
        // Some work, and all the time that it takes.
        assert_eq!(Socket::open(&node.socket()).ask("POST", "/v1/reconcile", &[]).status, 202);
        service.signal(Signal::SIGTERM);
        assert_eq!(service.until_told("STOPPING=1"), ["STOPPING=1"], "{other}");
        service.ended();
    }
}

/// Passes `socket` to the agent as systemd does: as descriptor 3, announced for its process id.
fn handed(node: &Node, socket: impl Into<OwnedFd>) -> Service {
    let hand = "exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$";
    Service::spawn_after(node, hand, Stdio::from(socket.into()))
}

#[test]
fn a_socket_that_is_passed_is_served_and_left_in_place() {
    let node = Node::new();
    let path = node.path("passed.sock");
    let socket = UnixListener::bind(&path).unwrap();
    // Clients may come before the agent does.
    let mut early = Socket::open(&path);
    early.request("GET", "/healthz", &[]);
    let mut service = handed(&node, socket.try_clone().unwrap());
    service.until_told("READY=1");
    assert_eq!(early.answer().status, 200);
    assert!(!node.socket().exists(), "it binds none of its own");
    assert!(service.stop().success());
    assert!(path.exists(), "what systemd made, systemd removes");

    let mut between = Socket::open(&path);
    between.request("GET", "/healthz", &[]);
    handed(&node, socket).until_told("READY=1");
    drop(between);
}

#[test]
fn a_service_that_may_not_bind_its_socket_says_what_to_enable() {
    const TEST: &str = "a_service_that_may_not_bind_its_socket_says_what_to_enable";
    let mut node = Node::new();
    let Some(()) = node.unprivileged(TEST) else { return };
    let uid = node.uid.unwrap();
    // A directory of root's, and one that is not there in it.
    for socket in ["etc/agent.sock", "etc/none/agent.sock"].map(|name| node.path(name)) {
        let socket = socket.to_str().unwrap();
        let mut service = Service::spawn(&node, &[("ECI_SOCKET", socket)]);
        assert_eq!(service.ended().code(), Some(78), "{}", node.log());
        let log = node.log();
        let last = log.lines().last().unwrap();
        assert!(last.contains("systemctl enable --now eci-agent.socket") && last.contains(socket), "{log}");
        // By hand, it is not allowed.
        let mut by_hand = node.command(&["agent", "--socket", socket]);
        let output = by_hand.uid(uid).gid(uid).current_dir("/").env_remove("NOTIFY_SOCKET").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(77), "{said}");
    }
    assert!(Service::start(&node).stop().success(), "where it may, it binds one by itself");
}

#[test]
fn a_socket_for_another_process_is_not_taken() {
    let node = Node::new();
    let socket = UnixListener::bind(node.path("passed.sock")).unwrap();
    let hand = "exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=1";
    let service = Service::spawn_after(&node, hand, Stdio::from(OwnedFd::from(socket)));
    service.until_told("READY=1");
    assert_eq!(Socket::open(&node.socket()).get("/healthz").status, 200);
}

#[test]
fn what_is_passed_and_is_no_listening_socket_is_refused() {
    let node = Node::new();
    let refused = |mut service: Service, why: &str| {
        assert_eq!(service.ended().code(), Some(78), "{}", node.log());
        let log = node.log();
        assert!(log.lines().last().unwrap().contains(why), "{why}: {log}");
    };
    refused(handed(&node, fs::File::open("/dev/null").unwrap()), "fd 3 is not a socket");
    refused(handed(&node, UnixStream::pair().unwrap().0), "Accept=yes");
    refused(handed(&node, std::net::TcpListener::bind("127.0.0.1:0").unwrap()), "unix stream socket");
    let socket = UnixListener::bind(node.path("passed.sock")).unwrap();
    let two = "exec 3<&0 4<&0 0</dev/null; export LISTEN_FDS=2 LISTEN_PID=$$";
    refused(Service::spawn_after(&node, two, Stdio::from(OwnedFd::from(socket))), "several");
    let none = "export LISTEN_FDS=1 LISTEN_PID=$$; exec 3<&-";
    refused(Service::spawn_after(&node, none, Stdio::null()), "fd 3");
}

#[test]
fn one_agent_a_state_directory() {
    let node = Node::new();
    let first = Service::start(&node);
    let other = node.path("other.sock");
    let second = node.command(&["agent", "--socket", other.to_str().unwrap()]).output().unwrap();
    let message = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(75), "{message}");
    assert!(message.contains(&format!("process {}", first.pid())), "{message}");
    assert!(!other.exists());
    assert_eq!(Socket::open(&node.socket()).get("/healthz").status, 200);
}

#[test]
fn a_socket_that_nobody_serves_is_replaced_and_any_other_is_not() {
    let node = Node::new();
    let living = UnixListener::bind(node.socket()).unwrap();
    let (code, message) = fails(&node);
    assert_eq!(code, Some(75), "{message}");
    assert!(message.contains("another process listens on it"), "{message}");
    UnixStream::connect(node.socket()).expect("the other's socket is as it was");

    drop(living);
    assert!(node.socket().exists());
    assert!(Service::start(&node).stop().success());

    fs::write(node.socket(), "precious").unwrap();
    let (code, message) = fails(&node);
    assert_eq!(code, Some(78), "{message}");
    assert!(message.contains("something else"), "{message}");
    assert_eq!(fs::read_to_string(node.socket()).unwrap(), "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_is_set_aside_and_rebuilt_from_what_there_is() {
    for (damage, desired) in [("{\"version\": 1, \"accep", None), ("", None), ("[]", Some("nonsense"))] {
        let (registry, mut node) = deployed();
        registry.stop().await;
        let state = node.state_dir();
        fs::write(state.join("state.json"), damage).unwrap();
        if let Some(text) = desired {
            fs::write(node.desired(), text).unwrap();
        }
        let current = fs::read_link(state.join("current")).unwrap();
        node.start();
        match desired {
            Some(_) => drop(node.until_rejected("desired-invalid")),
            None => drop(node.until_failed("unreachable")),
        }
        assert_eq!(fs::read_to_string(state.join("state.json.damaged-0")).unwrap(), damage);
        assert_eq!(fs::read_link(state.join("current")).unwrap(), current);
        assert_eq!(node.current("disk-root"), b"root disk of v1");
        let workload = node.status()["workloads"]["default"].clone();
        assert_eq!(workload["current"]["generation"], 1, "{workload}");
        assert!(node.log().contains("state.json is damaged"), "{}", node.log());
    }
}

#[test]
fn a_state_of_a_newer_version_is_refused_and_kept() {
    let node = Node::new();
    assert!(Service::start(&node).stop().success());
    let file = node.state_dir().join("state.json");
    let newer = json!({"version": 5, "everything": "else"}).to_string();
    fs::write(&file, &newer).unwrap();
    let (code, message) = fails(&node);
    assert_eq!(code, Some(78), "{message}");
    assert!(message.contains("newer version") && message.contains("state.json"), "{message}");
    assert_eq!(fs::read_to_string(&file).unwrap(), newer);
}

/// How often the threads of a process have been switched to, so far.
fn switches(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_task = |task: std::io::Result<fs::DirEntry>| {
        let text = fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default();
        let counts = text.lines().filter(|line| line.contains("_ctxt_switches:"));
        counts.map(|line| line.split_whitespace().last().unwrap().parse::<u64>().unwrap()).sum::<u64>()
    };
    tasks.map(of_task).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_agent_sleeps() {
    let registry = published();
    let node = Node::with_config("[desired]\npoll = \"off\"\n");
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    let service = Service::start(&node);
    Events::open(&node.socket(), Some("0-0")).until(|sent| sent.event == "phase" && sent.data["phase"] == "active");
    // Threads that have nothing more to do end within seconds; then nothing moves.
    let (mut last, mut since) = (switches(service.pid()), Instant::now());
    eventually("asleep", || {
        let now = switches(service.pid());
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_millis(1500)).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_log_nobody_reads_any_more_goes_on() {
    let registry = published();
    let node = Node::new();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let service = Service::spawn_after(&node, "exec 2>&0 0</dev/null", Stdio::from(writer));
    service.until_told("READY=1");
    let mut some = [0; 10];
    std::io::Read::read_exact(&mut reader, &mut some).unwrap();
    drop(reader);
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    Events::open(&node.socket(), Some("0-0")).until(|sent| sent.event == "activated");
}

#[test]
fn lines_have_priorities_where_the_journal_reads_them_and_nowhere_else() {
    let node = Node::new();
    let found = |path: &std::path::Path| {
        let found = fs::metadata(path).unwrap();
        format!("{}:{}", std::os::unix::fs::MetadataExt::dev(&found), std::os::unix::fs::MetadataExt::ino(&found))
    };
    fs::File::create(&node.log).unwrap().flush().unwrap();
    let journal = found(&node.log);
    for (stream, has) in [(journal.as_str(), true), ("1:2", false)] {
        fs::write(&node.log, "").unwrap();
        let mut service = Service::spawn(&node, &[("JOURNAL_STREAM", stream)]);
        service.until_told("READY=1");
        assert!(service.stop().success());
        assert_eq!(node.log().lines().all(|line| line.starts_with('<')), has, "{}", node.log());
    }
}
