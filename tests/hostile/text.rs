//! Text from outside: file names, terminal sequences, labels of metrics, and secrets that must not be shown.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::server::Server;
use super::{Bounds, mib, secs};
use crate::common::agent::{Node, files_below};
use crate::common::image::{Image, MANIFEST};
use crate::common::registry::{Auth, Fault, On, Registry, digest};
use crate::common::socket::Socket;
use crate::common::workstation::{Workstation, names_in};

const REPO: &str = "edge/nginx";
const BOUNDS: Bounds = Bounds { memory: mib(160), wire: mib(2), requests: 200, within: secs(60) };
/// Clears the screen, sets the title, starts a new line of the log, goes back in the line.
const INJECTED: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\nlevel=ERROR msg=owned\r\u{9b}31m\u{8}";

/// Characters that reorder a line, have no width, or end a line for some programs.
const INVISIBLE: &str = "\u{202e}\u{2066}\u{200b}\u{200f}\u{2028}\u{2029}\u{feff}\u{ad}\u{61c}\u{2060}\u{e0041}";

/// Puts an image whose root disk has this title, in this role.
fn titled(registry: &Registry, tag: &str, role: &str, title: &str) -> String {
    let disk = registry.put_blob(REPO, title.as_bytes().to_vec());
    let config = registry.put_blob(REPO, &b"{}"[..]);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.lfedge.eci.config.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "application/vnd.lfedge.disk.layer.v1+raw", "digest": disk, "size": title.len(),
            "annotations": {"org.lfedge.eci.role": role, "org.opencontainers.image.title": title}}],
    });
    registry.put_manifest(REPO, Some(tag), MANIFEST, manifest.to_string());
    registry.reference(REPO, tag)
}

fn has_no_controls(text: &str) {
    let is_odd = |c: char| (c.is_control() && c != '\n' && c != '\t') || INVISIBLE.contains(c);
    let odd = text.chars().find(|c| is_odd(*c));
    assert_eq!(odd, None, "{text:?}");
    assert!(!text.lines().any(|line| line.starts_with("level=ERROR")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn file_names_lead_nowhere() {
    let case = BOUNDS.start();
    let registry = Registry::http();
    let good = Image::new("good");
    good.publish(&registry, REPO, "good");
    let mut node = Node::new();
    node.desire_image(&registry.reference(REPO, "good"));
    node.start();
    node.until_activated("good");
    let outside = || {
        let files = files_below(&node.path(""));
        files.into_iter().filter(|path| !path.starts_with("state")).collect::<Vec<_>>()
    };
    let before = outside();
    let workstation = Workstation::new();
    for (n, title) in ["../x", "..", "/etc/x", "a/b", "a\\b", "a\0b", "a\u{1b}[2Jb", "-rf", "", ".bashrc", ".eci-pull"]
        .iter()
        .enumerate()
    {
        let reference = titled(&registry, &format!("v{n}"), "disk-root", title);
        node.desire_image(&reference);
        node.until_failed("file-name-invalid");
        has_no_controls(&case.fails(&workstation.command(&["pull", "--dir", "out", &reference]), 65));
        assert!(names_in(&workstation.path("out")).is_empty(), "{title:?}");
    }
    // Names that the node itself uses, and characters that separate options, are taken under other names or refused.
    for (n, title) in ["launch.json", "disk-root", "kernel", "manifest.json", "a,readonly=off", "a=b", "%s{kernel}"]
        .iter()
        .enumerate()
    {
        let reference = titled(&registry, &format!("w{n}"), "disk-root", title);
        node.desire_image(&reference);
        node.until(title, |event| {
            matches!(event["event"].as_str(), Some("activated" | "failed"))
                && event["message"].as_str().is_some_and(|message| message.contains(&reference))
        });
        let stable = node.state_dir().join("current/disk-root");
        assert!(fs::symlink_metadata(&stable).unwrap().is_symlink() || stable.is_file(), "{title}");
        let shown = node.eci(&["exec", "--", "echo", "file={disk-root}"]);
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(shown.trim().ends_with("/disk-root") && !shown.contains(','), "{title}: {shown}");
    }
    assert_eq!(outside(), before);
    case.agent(&node).registry(&registry);
}

#[tokio::test(flavor = "multi_thread")]
async fn text_from_outside_cannot_steer_a_terminal() {
    for format in ["auto", "json"] {
        let case = BOUNDS.start();
        let body = json!({"errors": [{"code": INJECTED, "message": INJECTED}]}).to_string();
        let errors = Server::start(move |_, answer| answer.answer(404, "", &body));
        let registry = Registry::http();
        let named = titled(&registry, "v1", "disk-root", &format!("{INJECTED}.raw"));
        let mut node = Node::with_config(&format!("[log]\nformat = \"{format}\"\n"));
        node.desire_image(&named);
        node.start();
        node.until_failed("file-name-invalid");
        node.desire_image(&errors.reference());
        node.until_failed("not-found");
        registry.put_manifest(REPO, Some("v2"), MANIFEST, format!("{{\"schemaVersion\": \"{INJECTED}\"}}"));
        node.desire_image(&registry.reference(REPO, "v2"));
        node.until_failed("manifest-invalid");
        node.desire(&format!("image = \"{}\"\n", INJECTED.replace('\n', "")));
        node.until_rejected("desired-invalid");
        has_no_controls(&node.log());
        for arguments in [&["status"][..], &["events", "--since", "0-0", "--json"]] {
            if arguments[0] == "status" {
                let output = node.eci(arguments);
                has_no_controls(&String::from_utf8(output.stdout).unwrap());
            }
        }
        let mut socket = Socket::open(&node.socket());
        for target in [&format!("/v1/workloads/{}", "%1b%5b2J"), "/v1/status", "/metrics"] {
            has_no_controls(&String::from_utf8(socket.get(target).body).unwrap());
        }
        let workstation = Workstation::new();
        for reference in [&named, &errors.reference(), &registry.reference(REPO, "v2")] {
            for command in ["inspect", "pull"] {
                let output = case.run(&workstation.command(&[command, reference]));
                has_no_controls(&super::stderr(&output));
                has_no_controls(&String::from_utf8(output.stdout).unwrap());
            }
        }
        // A layout, whose names come from a stick.
        let layout = workstation.path("stick");
        Image::new("v1").write_layout(&layout, INJECTED);
        let output = case.run(&workstation.command(&["inspect", &format!("oci:{}", layout.display())]));
        has_no_controls(&super::stderr(&output));
        has_no_controls(&String::from_utf8(output.stdout).unwrap());
        case.agent(&node).registry(&registry).server(&errors);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invisible_characters_are_shown() {
    let case = BOUNDS.start();
    let registry = Registry::http();
    let text = format!("gpj.{INVISIBLE}exe");
    let workstation = Workstation::new();
    let named = titled(&registry, "v1", "disk-root", &format!("{text}.raw"));
    let mut manifest = Image::new("v1").manifest();
    manifest["annotations"] = json!({format!("org.example.{text}"): text, "org.opencontainers.image.title": text});
    Image::new("v1").publish(&registry, REPO, "v2");
    registry.put_manifest(REPO, Some("v2"), MANIFEST, manifest.to_string());
    let errors = {
        let body = json!({"errors": [{"code": text, "message": text}]}).to_string();
        Server::start(move |_, answer| answer.answer(404, "", &body))
    };
    let mut node = Node::new();
    node.desire_image(&errors.reference());
    node.start();
    node.until_failed("not-found");
    let status = node.eci(&["status"]);
    let events = String::from_utf8(Socket::open(&node.socket()).get("/v1/status").body).unwrap();
    for shown in [node.log(), String::from_utf8(status.stdout).unwrap(), events] {
        has_no_controls(&shown);
        assert!(shown.contains("gpj."), "it is about that text: {shown}");
    }
    for reference in [named, registry.reference(REPO, "v2"), errors.reference()] {
        for arguments in [&["inspect"][..], &["inspect", "--json"], &["pull", "--dir", "out"]] {
            let output = case.run(&workstation.command(&[arguments, &[&reference]].concat()));
            has_no_controls(&super::stderr(&output));
            has_no_controls(&String::from_utf8(output.stdout).unwrap());
        }
    }
    case.agent(&node).registry(&registry).server(&errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_metrics_have_no_text_from_outside() {
    let case = BOUNDS.start();
    let registry = Registry::http();
    let mut node = Node::new();
    let evil = "edge/evil-label";
    registry.put_manifest(evil, Some("evil-tag"), MANIFEST, r#"{"evil": "evil"}"#.to_owned());
    node.desire(&format!("[workload.router]\nimage = \"{}\"\n", registry.reference(evil, "evil-tag")));
    node.start();
    node.until_failed("manifest-invalid");
    let text = String::from_utf8(Socket::open(&node.socket()).get("/metrics").body).unwrap();
    assert!(text.contains("workload=\"router\""), "the names of workloads are the operator's");
    assert!(!text.contains("evil"), "{text}");
    case.agent(&node).registry(&registry);
}

/// A node and a registry between which all secrets go: a password, a token, a query that signs.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_in_no_output() {
    // `user:s3cret-pass` in base64.
    const LOGIN: &str = "dXNlcjpzM2NyZXQtcGFzcw==";
    let secrets = ["s3cret-pass", LOGIN, "s1gned-query", "r3alm-query", "t0ken-text"];
    let case = BOUNDS.start();
    let image = Image::new("v1");
    let storage = Registry::http();
    let there = storage.url(&format!("/v2/{REPO}/blobs/{}?X-Amz-Signature=s1gned-query", digest(&image.root)));
    for auth in [
        Auth::basic("user", "s3cret-pass"),
        Auth::bearer().login("user", "s3cret-pass").answer(r#"{"token": "t0ken-text"}"#).into(),
    ] {
        let registry = Registry::builder().auth(auth).serve();
        image.publish(&registry, REPO, "v1");
        registry.inject(On::blobs().get().reference(&digest(&image.root)), Fault::Redirect(there.clone()));
        let mut node = Node::new();
        let file = node.path("logins.json");
        fs::write(&file, format!(r#"{{"auths": {{"{}": {{"auth": "{LOGIN}"}}}}}}"#, registry.host())).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let table = format!("[log]\nlevel = \"trace\"\n[registry.\"{}\"]\ncredentials = {file:?}\n", registry.host());
        node.configure(&table);
        node.desire_image(&registry.reference(REPO, "v1"));
        node.start();
        let failed = node.until("failed", |event| event["event"] == "failed");
        let mut socket = Socket::open(&node.socket());
        let mut shown = vec![node.log(), failed.to_string()];
        for target in ["/v1/status", "/metrics", "/v1/plan"] {
            shown.push(String::from_utf8_lossy(&socket.get(target).body).into_owned());
        }
        shown.push(String::from_utf8(node.eci(&["status"]).stdout).unwrap());
        shown.extend(
            files_below(&node.state_dir())
                .iter()
                .filter(|path| path.ends_with("state.json"))
                .map(|path| fs::read_to_string(node.state_dir().join(path)).unwrap()),
        );
        for secret in secrets {
            for text in &shown {
                assert!(!text.contains(secret), "{secret} in {text}");
            }
        }
        assert!(node.log().contains(&registry.host()), "the log is about it");
        case.agent(&node).registry(&registry);
    }
    assert!(storage.log().iter().any(|request| request.uri.contains("s1gned-query")), "the secret was in use");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_credential_helpers_lead_nowhere() {
    let case = BOUNDS.start();
    let registry = Registry::http();
    Image::new("v1").publish(&registry, REPO, "v1");
    let workstation = Workstation::new();
    let proof = workstation.path("it-was-run");
    let script = workstation.write("x", format!("#!/bin/sh\ntouch {}\n", proof.display()));
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["../../x", "../x", "/bin/sh", "a/b", "a b", "", "-x", "x;touch y", "\u{1b}"] {
        for form in [json!({"credsStore": name}), json!({"credHelpers": {registry.host(): name}})] {
            workstation.write("docker/config.json", form.to_string());
            let mut command = workstation.command(&["inspect", &registry.reference(REPO, "v1")]);
            command.env("DOCKER_CONFIG", workstation.path("docker"));
            let output = case.run(&command);
            has_no_controls(&super::stderr(&output));
            assert!(output.status.success(), "a public image needs no login: {name}: {}", super::stderr(&output));
        }
    }
    assert!(!proof.exists());
    case.registry(&registry);
}
