//! Redirects: to other hosts, schemes and networks, and round in circles.

use std::net::TcpListener;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use super::server::Server;
use super::{Bounds, kib, mib, secs};
use crate::common::image::{Image, MANIFEST};
use crate::common::registry::{Auth, Fault, On, Registry, digest};
use crate::common::workstation::Workstation;

const REPO: &str = "edge/nginx";
const BOUNDS: Bounds = Bounds { memory: mib(128), wire: kib(64), requests: 40, within: secs(30) };
/// `user:s3cret` in base64.
const LOGIN: &str = "dXNlcjpzM2NyZXQ=";

/// A workstation that logs in to `host`.
fn workstation(host: &str) -> Workstation {
    let workstation = Workstation::new();
    let file = workstation.write("logins.json", format!(r#"{{"auths": {{"{host}": {{"auth": "{LOGIN}"}}}}}}"#));
    workstation.write("agent.toml", format!("[registry.\"{host}\"]\ncredentials = {file:?}\n"));
    workstation
}

#[tokio::test(flavor = "multi_thread")]
async fn redirect_target_gets_no_login() {
    let case = BOUNDS.start();
    let registry = Registry::builder().auth(Auth::basic("user", "s3cret")).serve();
    let image = Image::new("v1");
    image.publish(&registry, REPO, "v1");
    let workstation = workstation(&registry.host());
    let pull = workstation.command(&["pull", "--dir", "out", &registry.reference(REPO, "v1")]);
    let root = On::blobs().reference(&digest(&image.root));
    // Another port, another name of this machine, and a target that asks for a login.
    let asking = Server::start(|_, answer| answer.answer(401, "WWW-Authenticate: Basic realm=\"x\"\r\n", ""));
    let other = Server::start(|_, answer| answer.answer(404, "", ""));
    let named = other.url("/there").replace("127.0.0.1", "localhost");
    for url in [asking.url("/there"), other.url("/there"), named, other.url("/there").replace("//", "//user@")] {
        let fault = registry.inject(root.clone(), Fault::Redirect(url));
        assert!(!case.run(&pull).status.success());
        fault.remove();
    }
    let heads = [asking.heads(), other.heads()].concat();
    assert!(heads.len() >= 3, "{heads:?}");
    for head in heads {
        let head = head.to_lowercase();
        assert!(!head.contains("authorization") && !head.contains("referer") && !head.contains("cookie"), "{head}");
    }
    case.registry(&registry).must(&pull);
}

#[tokio::test(flavor = "multi_thread")]
async fn https_is_never_left_for_http() {
    let case = BOUNDS.start();
    let plain =
        Server::start(|_, answer| answer.answer(200, "Content-Type: application/json\r\n", r#"{"token": "T"}"#));
    let registry = Registry::builder().https().serve();
    let image = Image::new("v1");
    image.publish(&registry, REPO, "v1");
    let workstation = Workstation::new();
    let ca = workstation.write("ca.pem", registry.ca_pem().unwrap());
    workstation.write("agent.toml", format!("[registry.\"{}\"]\nca = {ca:?}\n", registry.host()));
    let pull = workstation.command(&["pull", "--dir", "out", &registry.reference(REPO, "v1")]);
    for on in [On::manifests(), On::blobs()] {
        let fault = registry.inject(on, Fault::Redirect(plain.url("/there")));
        let said = case.fails(&pull, 69);
        assert!(said.contains("http"), "{said}");
        fault.remove();
    }
    registry.inject(On::uploads(), Fault::Location(plain.url("/there")));
    let arguments = workstation.push_arguments(&Image::new("v2"), &registry.reference(REPO, "v2"));
    let push = workstation.command(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(!case.run(&push).status.success());
    let challenge = format!("Bearer realm=\"{}\"", plain.url("/token"));
    registry.set_auth(Auth::bearer());
    registry.set_refusals(crate::common::registry::Refusals {
        challenge: vec![challenge.into_bytes()],
        ..Default::default()
    });
    assert!(!case.run(&pull).status.success());
    assert_eq!(plain.heads(), Vec::<String>::new(), "nothing is sent in the clear");
    registry.set_auth(Auth::default());
    case.registry(&registry).must(&pull);
}

#[tokio::test(flavor = "multi_thread")]
async fn redirect_loops_end() {
    let case = BOUNDS.start();
    let server = Server::start(|head, answer| {
        // To itself, and to ever new places.
        let path = head.split(' ').nth(1).unwrap_or_default();
        let next = if path.contains("blobs") { path.to_owned() } else { format!("{path}x") };
        answer.answer(307, &format!("Location: {next}\r\n"), "");
    });
    case.fails(&Workstation::new().command(&["inspect", &server.reference()]), 69);
    let requests = server.heads().len();
    assert!((2..=24).contains(&requests), "{requests} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_to_other_schemes_are_refused() {
    for target in
        ["file:///etc/passwd", "gopher://127.0.0.1:70/x", "ftp://127.0.0.1/x", "data:,x", "//", "http://", "\u{7f}"]
    {
        let case = BOUNDS.start();
        let server = Server::start(move |_, answer| answer.answer(307, &format!("Location: {target}\r\n"), ""));
        let output = case.run(&Workstation::new().command(&["inspect", &server.reference()]));
        assert!(matches!(output.status.code(), Some(65 | 69)), "{target}: {output:?}");
        assert!(!super::stderr(&output).contains("root:"), "{target}");
    }
}

/// Runs `what` in a network of its own, in which this machine has the addresses; nothing if this process may not.
fn in_own_network(test: &'static str, addresses: &'static [&'static str], what: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            println!("SKIP {test}: only root can have a network of its own");
            return;
        }
        let ip = |arguments: &[&str]| Command::new("ip").args(arguments).status().is_ok_and(|status| status.success());
        let is_up = ip(&["link", "set", "lo", "up"])
            && addresses.iter().all(|address| ip(&["address", "add", address, "dev", "lo"]));
        if !is_up {
            println!("SKIP {test}: the program ip is missing");
            return;
        }
        what();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn redirects_reach_no_internal_address() {
    // A registry at a public address; the metadata service of a cloud, a neighbour and this machine.
    in_own_network(
        "redirects_reach_no_internal_address",
        &["203.0.114.7/32", "169.254.169.254/32", "10.0.0.5/32"],
        || {
            let case = BOUNDS.start();
            let bind = |address: &str| TcpListener::bind(address).unwrap();
            let secret = |_: &str, answer: &mut super::server::Answer| answer.answer(200, "", "secret");
            let inside: Vec<_> =
                ["169.254.169.254:80", "10.0.0.5:80", "127.0.0.1:8080"].map(|it| Server::on(bind(it), secret)).into();
            let outside = Server::on(bind("203.0.114.7:81"), secret);
            let target = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
            let told = std::sync::Arc::clone(&target);
            let registry = Server::on(bind("203.0.114.7:5000"), move |_, answer| {
                answer.answer(307, &format!("Location: {}\r\n", told.lock().unwrap()), "");
            });
            let inspect = |more: &str| {
                let table = format!("[registry.\"{}\"]\ninsecure = true\n{more}", registry.host);
                let workstation = Workstation::with_config(&table);
                let mut command = workstation.command(&["inspect", &registry.reference()]);
                command.env("no_proxy", "*");
                case.run(&command).status.code()
            };
            for url in [
                "http://169.254.169.254/latest/meta-data/iam",
                "http://10.0.0.5/",
                "http://127.0.0.1:8080/admin?do=reboot",
                "http://localhost:8080/admin",
                "http://2852039166/latest",
                "http://0x7f.1:8080/",
                "http://[::ffff:10.0.0.5]/",
                "http://[::ffff:127.0.0.1]:8080/",
            ] {
                url.clone_into(&mut target.lock().unwrap());
                assert_eq!(inspect(""), Some(69), "{url}");
                for server in &inside {
                    assert_eq!(server.heads(), Vec::<String>::new(), "{url}");
                }
            }
            outside.url("/").clone_into(&mut target.lock().unwrap());
            inspect("");
            assert!(!outside.heads().is_empty(), "a public target is asked");
            "http://10.0.0.5/".clone_into(&mut target.lock().unwrap());
            inspect("redirects = \"any\"\n");
            assert!(!inside[1].heads().is_empty(), "the table allows it");
            case.server(&registry);
        },
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn mirror_by_plain_http_decides_no_tag() {
    let case = Bounds { wire: mib(1), within: secs(40), ..BOUNDS }.start();
    let (origin, mirror) = (Registry::http(), Registry::http());
    let (good, evil) = (Image::new("good"), Image::new("MALICIOUS"));
    let genuine = good.publish(&origin, REPO, "v1");
    evil.publish(&mirror, REPO, "v1");
    let mut node = crate::common::agent::Node::with_config(&format!(
        "[registry.\"{}\"]\nmirrors = [{:?}]\n",
        origin.host(),
        mirror.url("")
    ));
    node.desire_image(&origin.reference(REPO, "v1"));
    node.start();
    node.until_activated("nginx:v1");
    assert_eq!(node.current("initrd"), good.initrd);
    assert_eq!(node.status()["workloads"]["default"]["current"]["digest"], genuine);
    assert_eq!(mirror.count(&On::manifests().reference("v1")), 0, "it is not asked for a tag");
    // Without the registry, what runs stays.
    origin.stop().await;
    assert!(node.eci(&["reconcile"]).status.success());
    node.until_failed("unreachable");
    assert_eq!(node.current("initrd"), good.initrd);
    case.agent(&node).registry(&origin).registry(&mirror);
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_of_a_mirror_does_not_block() {
    let case = Bounds { wire: mib(1), within: secs(40), ..BOUNDS }.start();
    // The last one: the digest of a manifest that nobody has.
    for nonsense in [r#"{"schemaVersion":2,"mediaType":"x/y"}"#, "<html>", "[", "", "absent"] {
        let (origin, mirror) = (Registry::http(), Registry::builder().https().serve());
        let good = Image::new("good");
        good.publish(&origin, REPO, "v1");
        mirror.put_manifest(REPO, Some("v1"), MANIFEST, nonsense.to_owned());
        if nonsense == "absent" {
            mirror.inject(On::manifests().get(), Fault::status(404));
        } else {
            mirror.inject(On::manifests().head(), Fault::status(405));
        }
        let mut node = crate::common::agent::Node::new();
        let ca = node.path("ca.pem");
        std::fs::write(&ca, mirror.ca_pem().unwrap()).unwrap();
        node.configure(&format!(
            "[registry.\"{}\"]\nmirrors = [{:?}]\n[registry.\"{}\"]\nca = {ca:?}\nresolve_tags = true\n",
            origin.host(),
            mirror.url(""),
            mirror.host()
        ));
        node.desire_image(&origin.reference(REPO, "v1"));
        node.start();
        node.until_activated("nginx:v1");
        assert!(origin.count(&On::manifests().reference("v1")) > 0 && mirror.count(&On::manifests()) > 0, "{nonsense}");
        case.agent(&node).registry(&origin).registry(&mirror);
    }
}
