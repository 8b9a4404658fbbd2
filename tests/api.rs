//! The API as a client on the socket sees it.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::agent::Node;
use crate::common::image::Image;
use crate::common::registry::{Fault, On, Registry};
use crate::common::schema;
use crate::common::service::{Service, eventually};
use crate::common::socket::{Answer, Events, Sent, Socket};

const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";

/// A node that runs v1, of a registry that has v1 and v2.
struct Fixture {
    registry: Registry,
    node: Node,
}

fn running_with(config: &str) -> Fixture {
    let registry = Registry::http();
    for tag in ["v1", "v2"] {
        Image::new(tag).publish(&registry, "edge/nginx", tag);
    }
    let mut node = Node::with_config(config);
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.start();
    node.until_phase("active");
    Fixture { registry, node }
}

fn running() -> Fixture {
    running_with("")
}

impl Fixture {
    fn socket(&self) -> Socket {
        Socket::open(&self.node.socket())
    }

    fn update(&self) {
        self.node.desire_image(&self.registry.reference("edge/nginx", "v2"));
    }
}

fn document() -> Value {
    serde_json::from_str(include_str!("../src/api/openapi.json")).unwrap()
}

/// Holds a value to a named schema of the document.
fn check(schema: &str, value: &Value) {
    let reference = json!({"$ref": format!("#/components/schemas/{schema}")});
    schema::check(&document(), &reference, value, schema);
}

/// Holds an answer to what it refuses with, and to the form of a problem document.
fn refuses(answer: &Answer, status: u16, kind: &str) {
    assert_eq!((answer.status, answer.content_type()), (status, PROBLEM), "{answer:?}");
    let problem = answer.json();
    check("Problem", &problem);
    assert_eq!((&problem["status"], &problem["kind"]), (&json!(status), &json!(kind)), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_answers_as_the_document_says() {
    let f = running();
    let mut socket = f.socket();
    let served = socket.get("/v1/openapi.json");
    assert_eq!((served.status, served.content_type()), (200, JSON));
    let document = document();
    assert_eq!(served.json(), document);
    for (path, item) in document["paths"].as_object().unwrap() {
        let methods = item.as_object().unwrap().iter().filter(|(method, _)| *method != "parameters");
        for (method, operation) in methods {
            let (success, response) = operation["responses"].as_object().unwrap().iter().next().unwrap();
            let (media_type, content) = response["content"].as_object().unwrap().iter().next().unwrap();
            let target = path.replace("{name}", "default");
            if media_type == "text/event-stream" {
                check("Event", &Events::open(&f.node.socket(), Some("0-0")).next().unwrap().data);
                continue;
            }
            let answer = socket.ask(&method.to_uppercase(), &target, &[]);
            if path.ends_with("/rollback") {
                // There is nothing to go back to on this node.
                refuses(&answer, 409, "conflict");
                continue;
            }
            assert_eq!((answer.status.to_string(), answer.content_type()), (success.clone(), media_type.as_str()));
            let body = match media_type.as_str() {
                text if text.starts_with("text/plain") => Value::String(String::from_utf8(answer.body).unwrap()),
                _ => answer.json(),
            };
            schema::check(&document, &content["schema"], &body, path);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_of_the_status_is_there_from_the_first_answer_on() {
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    let registry = Registry::http();
    let fault = registry.inject(On::manifests(), Fault::status(503));
    let mut node = Node::with_config("[retry]\ninitial = \"1h\"\nmax = \"1h\"\n");
    node.start();
    node.until_rejected("desired-absent");
    let status = Socket::open(&node.socket()).get("/v1/status").json();
    check("Status", &status);
    assert_eq!(keys(&status), "agent cache desired fsck workloads");
    assert_eq!(keys(&status["agent"]), "config_error error pid started_at uptime_s version");
    assert_eq!(keys(&status["fsck"]), "bytes_done bytes_total damaged finished_at left running");
    assert_eq!(keys(&status["desired"]), "accepted_at error path sha256");
    assert_eq!(keys(&status["desired"]["error"]), "attempts kind message retry_at since");
    assert_eq!(keys(&status["cache"]), "allocated_bytes blobs bytes free_bytes");
    assert_eq!((&status["desired"]["sha256"], &status["workloads"]), (&Value::Null, &json!({})));
    assert_eq!((&status["agent"]["pid"], &status["desired"]["path"]), (&json!(node.pid()), &json!(node.desired())));

    let reference = registry.reference("edge/nginx", "v1");
    node.desire_image(&reference);
    node.until_failed("registry-error");
    let status = Socket::open(&node.socket()).get("/v1/status").json();
    check("Status", &status);
    assert!(status["desired"]["error"].is_null());
    let workload = &status["workloads"]["default"];
    assert_eq!(
        keys(workload),
        "current desired drift error health last_transfer next_poll_at phase previous probation progress quarantined \
         retirement retires_at running staged waits_for"
    );
    let absent = [
        "current",
        "health",
        "last_transfer",
        "previous",
        "probation",
        "progress",
        "retirement",
        "retires_at",
        "staged",
        "waits_for",
    ];
    assert!(workload["drift"] == true && workload["next_poll_at"].is_string(), "{workload}");
    assert!(absent.iter().all(|key| workload[key].is_null()), "{workload}");
    let empty = (&workload["quarantined"], &workload["running"], &workload["phase"]);
    assert_eq!(empty, (&json!([]), &json!([]), &json!("backoff")));
    let desired = json!({
        "reference": reference, "digest": null, "index_digest": null, "platform": null, "cmdline": null,
        "disks": "read-only", "activate": "now", "confirm_s": null,
    });
    assert_eq!(workload["desired"], desired);

    fault.remove();
    for tag in ["v1", "v2"] {
        Image::new(tag).publish(&registry, "edge/nginx", tag);
        node.desire_image(&registry.reference("edge/nginx", tag));
        assert_eq!(Socket::open(&node.socket()).ask("POST", "/v1/reconcile", &[]).status, 202);
        node.until_activated(tag);
    }
    node.until_phase("active");
    let status = Socket::open(&node.socket()).get("/v1/status").json();
    check("Status", &status);
    let workload = &status["workloads"]["default"];
    assert_eq!(keys(&workload["current"]), "activated_at confirmed digest generation index_digest reference");
    assert_eq!(keys(&workload["previous"]), keys(&workload["current"]));
    assert_eq!((&workload["progress"], &workload["drift"]), (&Value::Null, &json!(false)));
    eventually("the next poll", || {
        let status = Socket::open(&node.socket()).get("/v1/status").json();
        status["workloads"]["default"]["next_poll_at"].is_string().then_some(())
    });
    assert_eq!(keys(&workload["last_transfer"]), "bytes_done bytes_per_s bytes_total eta_s reused_bytes wire_bytes");
    let alone = Socket::open(&node.socket()).get("/v1/workloads/default");
    check("Workload", &alone.json());
    assert_eq!(alone.json()["current"], workload["current"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_is_a_problem_document() {
    let f = running();
    let mut socket = f.socket();
    for (method, target, headers, status, kind) in [
        ("GET", "/", &[][..], 404, "not-found"),
        ("GET", "/v1/status/", &[], 404, "not-found"),
        ("GET", "/v2/status", &[], 404, "not-found"),
        ("GET", "/v1/%73tatus", &[], 404, "not-found"),
        ("OPTIONS", "*", &[], 404, "not-found"),
        ("GET", "/v1/workloads/absent", &[], 404, "unknown-workload"),
        ("POST", "/v1/workloads/absent/reconcile", &[], 404, "unknown-workload"),
        ("GET", "/v1/workloads/..", &[], 400, "usage"),
        ("POST", "/v1/workloads/UPPER/reconcile", &[], 400, "usage"),
        ("GET", "/v1/events", &[("Last-Event-ID", "yesterday")], 400, "usage"),
        ("GET", "/v1/events", &[("Last-Event-ID", "")], 400, "usage"),
        ("GET", "/v1/events", &[("Last-Event-ID", "\u{e9}")], 400, "usage"),
    ] {
        let answer = socket.ask(method, target, headers);
        refuses(&answer, status, kind);
    }
    for (method, target, allow) in [
        ("POST", "/v1/status", "GET, HEAD"),
        ("DELETE", "/v1/workloads/default", "GET, HEAD"),
        ("PUT", "/healthz", "GET, HEAD"),
        ("GET", "/v1/reconcile", "POST"),
        ("HEAD", "/v1/workloads/default/reconcile", "POST"),
    ] {
        let answer = socket.ask(method, target, &[]);
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{method} {target}");
        if method != "HEAD" {
            refuses(&answer, 405, "usage");
        }
    }
    let long = "x".repeat(10_000);
    let answer = socket.get(&format!("/{long}"));
    refuses(&answer, 404, "not-found");
    assert!(answer.body.len() < 1000, "what was asked for is not sent back at any length");
    let absolute = socket.get("http://localhost/v1/status?pretty=1");
    assert_eq!(absolute.status, 200, "a query and the absolute form are understood");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_is_get_without_the_body() {
    let f = running();
    let mut socket = f.socket();
    for target in ["/healthz", "/readyz", "/v1/openapi.json", "/v1/workloads/default"] {
        let (head, get) = (socket.ask("HEAD", target, &[]), socket.get(target));
        assert_eq!(
            (head.status, head.content_type(), head.header("content-length")),
            (200, get.content_type(), get.header("content-length")),
            "{target}"
        );
    }
    assert_eq!(socket.ask("HEAD", "/v1/events", &[]).content_type(), "text/event-stream");
    assert_eq!(socket.get("/healthz").body, b"ok\n", "the stream has no body here, and the connection goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_serves_one_request_after_another() {
    let f = running();
    let mut socket = f.socket();
    for _ in 0..3 {
        assert_eq!(socket.get("/healthz").status, 200);
    }
    socket.request("GET", "/v1/status", &[]).request("GET", "/nothing", &[]).request("GET", "/healthz", &[]);
    let answers = [(); 3].map(|()| socket.answer().status);
    assert_eq!(answers, [200, 404, 200], "requests that were sent ahead are answered in order");

    // A body is of no use to any route; it is not taken for the next request.
    let body = "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n";
    socket.request("POST", "/v1/reconcile", &[("Content-Length", &body.len().to_string())]).send(body);
    assert_eq!(socket.answer().status, 202);
    assert_eq!(socket.get("/healthz").status, 200);

    let mut socket = f.socket();
    assert_eq!(socket.ask("GET", "/healthz", &[("Connection", "close")]).status, 200);
    assert!(socket.is_closed());
    let mut old = f.socket();
    assert_eq!(old.send("GET /healthz HTTP/1.0\r\n\r\n").answer().body, b"ok\n");
    assert!(old.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_is_cut_and_others_are_served() {
    let f = running();
    let many = "x-a: b\r\n".repeat(200);
    let large = format!("x-a: {}\r\n", "b".repeat(200_000));
    for (bytes, statuses) in [
        ("\u{0}\u{1}\u{2}\r\n\r\n".to_owned(), &[400][..]),
        ("GET / HTTP/9.9\r\n\r\n".to_owned(), &[400]),
        ("POST /v1/reconcile HTTP/1.1\r\nContent-Length: -1\r\n\r\n".to_owned(), &[400]),
        (format!("GET /healthz HTTP/1.1\r\n{many}\r\n"), &[431]),
        (format!("GET /healthz HTTP/1.1\r\n{large}\r\n"), &[431]),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000)), &[414, 431]),
    ] {
        let mut socket = f.socket();
        let answer = socket.send(&bytes).head();
        assert!(statuses.contains(&answer.status), "{:.40}: {answer:?}", bytes);
        assert!(f.socket().get("/healthz").status == 200);
    }
    assert!(f.socket().send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").is_closed());
    // One that says nothing, one that stops in the middle of a head, and one that has gone before its answer.
    let _idle = f.socket();
    let mut half = f.socket();
    half.send("GET /healthz HTT");
    f.socket().request("GET", "/v1/status", &[]);
    assert_eq!(f.socket().get("/healthz").status, 200);
    assert_eq!(half.send("P/1.1\r\nHost: x\r\n\r\n").answer().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_resumed_without_loss_or_repetition() {
    let f = running();
    let socket = f.node.socket();
    let active = |sent: &Sent| sent.event == "phase" && sent.data["phase"] == "active";
    let first = Events::open(&socket, Some("0-0")).until(active);
    let run = first[0].id.split_once('-').unwrap().0.to_owned();
    let numbered = (1..=first.len()).map(|number| format!("{run}-{number}")).collect::<Vec<_>>();
    assert_eq!(first.iter().map(|sent| sent.id.clone()).collect::<Vec<_>>(), numbered);
    for sent in &first {
        check("Event", &sent.data);
        assert_eq!((&sent.data["id"], &sent.data["event"]), (&json!(sent.id), &json!(sent.event)));
    }

    // The one who is there all the time, and one who comes back after every event, see the same.
    let mut whole = Events::open(&socket, None);
    f.update();
    let whole = whole.until(active);
    assert_eq!(whole[0].event, "desired-accepted", "without an id, a stream begins with what comes next");
    let mut pieces = Vec::new();
    let mut last = first.last().unwrap().id.clone();
    while pieces.len() < whole.len() {
        let next = Events::open(&socket, Some(&last)).next().unwrap();
        last.clone_from(&next.id);
        pieces.push(next);
    }
    assert_eq!(pieces, whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_of_an_earlier_run_has_seen_nothing_of_this_one() {
    let mut f = running();
    let earlier = Events::open(&f.node.socket(), Some("0-0")).next().unwrap();
    let mut stream = Events::open(&f.node.socket(), None);
    assert!(f.node.stop().success());
    assert_eq!(stream.next(), None, "a stream ends with the agent, and ends well");
    f.node.start();
    f.node.until_phase("active");
    let again = Events::open(&f.node.socket(), Some(&earlier.id)).next().unwrap();
    assert!(again.id.ends_with("-1") && again.id != earlier.id, "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_have_gone_leave_their_place() {
    let f = running();
    for _ in 0..200 {
        drop(Events::open(&f.node.socket(), None));
    }
    let mut idle: Vec<_> = (0..64).map(|_| f.socket()).collect();
    let mut next = f.socket();
    next.request("GET", "/healthz", &[]);
    idle.clear();
    assert_eq!(next.answer().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_follow_events_do_not_shut_out_others() {
    let f = running();
    let mut streams = Vec::new();
    let refused = loop {
        let mut stream = f.socket();
        let head = stream.request("GET", "/v1/events", &[]).head();
        if head.status != 200 {
            break head;
        }
        streams.push(stream);
    };
    assert_eq!((refused.status, refused.content_type()), (503, PROBLEM));
    assert!(streams.len() > 10, "{}", streams.len());
    assert_eq!(f.socket().get("/v1/status").status, 200);
    // A place that is left can be had again.
    drop(streams);
    eventually("a place", || (f.socket().request("GET", "/v1/events", &[]).head().status == 200).then_some(()));
}

/// Runs a command of the program as another user; none where the test may not.
fn as_user(test: &str, node: &Node, uid: u32, gid: u32, arguments: &[&str]) -> Option<Output> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP {test}: only root may become somebody else");
        return None;
    }
    // The node's directory and the program are for root only, as they come.
    let root = node.path("");
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755)).unwrap();
    let program: PathBuf = root.join("eci");
    if !program.exists() {
        crate::common::agent::copy_program(&program);
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let pointed = node.command(arguments);
    let mut command = std::process::Command::new(program);
    command.args(pointed.get_args()).uid(uid).gid(gid).current_dir("/");
    command.envs(pointed.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Some(command.output().unwrap())
}

const NOBODY: u32 = 65534;

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_open_the_socket_reads_and_only_some_change_things() {
    let test = "whoever_may_open_the_socket_reads_and_only_some_change_things";
    // The group "daemon" is on every Debian, with the number 1.
    let f = running_with("[api]\nmode = \"0666\"\ngroup = \"daemon\"\n");
    let run = |gid, arguments: &[&str]| as_user(test, &f.node, NOBODY, gid, arguments);
    let Some(status) = run(NOBODY, &["status", "--json"]) else { return };
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    check("Status", &serde_json::from_slice(&status.stdout).unwrap());
    for arguments in [&["reconcile"][..], &["reconcile", "default"], &["reconcile", "absent"]] {
        let refused = run(NOBODY, arguments).unwrap();
        let message = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(77), "{message}");
        assert!(message.contains("uid 65534") && message.contains("daemon"), "{message}");
    }
    let member = run(1, &["reconcile"]).unwrap();
    assert!(member.status.success(), "{}", String::from_utf8_lossy(&member.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_of_the_group_is_closed_to_others() {
    let test = "a_socket_of_the_group_is_closed_to_others";
    let f = running_with("[api]\ngroup = \"daemon\"\n");
    let found = std::fs::metadata(f.node.socket()).unwrap();
    assert_eq!(found.permissions().mode() & 0o7777, 0o660, "the default");
    let Some(refused) = as_user(test, &f.node, NOBODY, NOBODY, &["status"]) else { return };
    assert_eq!(refused.status.code(), Some(77));
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(message.contains("use sudo, or join group daemon"), "{message}");
    assert!(as_user(test, &f.node, NOBODY, 1, &["status"]).unwrap().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_short_of_descriptors_comes_back() {
    let node = Node::new();
    let service = Service::spawn_after(&node, "ulimit -n 40", std::process::Stdio::null());
    service.until_told("READY=1");
    let clients: Vec<_> = (0..60).map(|_| Socket::open(&node.socket())).collect();
    eventually("short of descriptors", || node.log().contains("could not be accepted").then_some(()));
    // Long enough for several tries.
    let since = Instant::now();
    eventually("over", || (since.elapsed() > Duration::from_millis(500)).then_some(()));
    drop(clients);
    assert_eq!(Socket::open(&node.socket()).get("/healthz").status, 200);
    assert_eq!(node.log().matches("could not be accepted").count(), 1, "it is said once, not ten times a second");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_are_what_the_status_says_and_prometheus_reads_them() {
    const TEST: &str = "the_metrics_are_what_the_status_says_and_prometheus_reads_them";
    let f = running();
    let mut socket = f.socket();
    let answer = socket.get("/metrics");
    assert_eq!((answer.status, answer.content_type()), (200, "text/plain; version=0.0.4; charset=utf-8"));
    let text = String::from_utf8(answer.body).unwrap();
    let status = f.node.status();
    let version = format!("eci_agent_info{{version={}}} 1", status["agent"]["version"]);
    for line in [
        version.as_str(),
        "eci_workload_phase{workload=\"default\",phase=\"active\"} 1",
        "eci_workload_generation{workload=\"default\",which=\"current\"} 1",
        "eci_workload_confirmed{workload=\"default\"} 1",
        "eci_desired_rejected 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    let wire = format!(
        "eci_workload_update_wire_bytes{{workload=\"default\"}} {}",
        status["workloads"]["default"]["last_transfer"]["wire_bytes"]
    );
    assert!(text.contains(&wire), "{wire}: {text}");
    assert!(!text.contains("last_error") && !text.contains("healthy"), "{text}");

    f.node.desire("");
    f.node.until_rejected("desired-invalid");
    let text = String::from_utf8(socket.get("/metrics").body).unwrap();
    assert!(text.contains("eci_desired_rejected 1\n"), "{text}");

    let mut check = match Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn() {
        Ok(check) => check,
        Err(error) => return println!("SKIP {TEST}: promtool is not there: {error}"),
    };
    check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(check.wait().unwrap().success(), "promtool has something to say of {text}");
}
