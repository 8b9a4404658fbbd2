//! `-v` and `--debug`: decisions, retries, requests and answers on stderr, and nothing that is secret.

use std::process::{Output, Stdio};

use crate::common::agent::Node;
use crate::common::image::Image;
use crate::common::registry::{Auth, Fault, On, Registry, digest};
use crate::common::workstation::Workstation;

const REPO: &str = "edge/nginx";
/// `user:s3cret` in base64.
const LOGIN: &str = "dXNlcjpzM2NyZXQ=";
const SIGNATURE: &str = "51gn4tur3";
/// Password, its form in a header, identity token, bearer tokens of the test registry, signature of a redirect.
const SECRETS: [&str; 6] = ["s3cret", LOGIN, "1dent1ty", "token-1", "token-2", SIGNATURE];

/// A registry that wants a token, and redirects the root disk to a signed URL of another host.
struct Fixture {
    registry: Registry,
    _store: Registry,
    workstation: Workstation,
}

impl Fixture {
    fn new(auth: impl Into<Auth>, entry: &str) -> Self {
        let (registry, store) = (Registry::builder().auth(auth).serve(), Registry::http());
        let image = Image::new("v1");
        image.publish(&registry, REPO, "v1");
        image.publish(&store, REPO, "v1");
        let root = digest(&image.root);
        let url = store.url(&format!("/v2/{REPO}/blobs/{root}?X-Amz-Signature={SIGNATURE}&X-Amz-Date=1"));
        registry.inject(On::blobs().get().reference(&root), Fault::Redirect(url));
        let workstation = Workstation::new();
        workstation.write("docker/config.json", format!(r#"{{"auths": {{"{}": {entry}}}}}"#, registry.host()));
        Self { registry, _store: store, workstation }
    }

    fn reference(&self) -> String {
        self.registry.reference(REPO, "v1")
    }

    /// What a command that succeeds says on stderr.
    fn said(&self, arguments: &[&str]) -> String {
        let mut command = self.workstation.command(arguments);
        let output = command.env("DOCKER_CONFIG", self.workstation.path("docker")).output().unwrap();
        says(&output)
    }
}

fn says(output: &Output) -> String {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(output.status.success(), "{said}");
    has_no_secret(&said);
    said
}

#[track_caller]
fn has_no_secret(said: &str) {
    for secret in SECRETS {
        assert!(!said.contains(secret), "{secret}: {said}");
    }
}

#[track_caller]
fn has(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn debug_log_shows_requests_without_secrets() {
    let password = r#"{"username": "user", "password": "s3cret"}"#;
    let bearer = || Auth::bearer().login("user", "s3cret");
    for (auth, entry, who) in [
        (Auth::basic("user", "s3cret"), password, "user \"user\""),
        (bearer().into(), password, "user \"user\""),
        (bearer().identity_token("1dent1ty").into(), r#"{"identitytoken": "1dent1ty"}"#, "the identity token"),
    ] {
        let f = Fixture::new(auth, entry);
        let reference = f.reference();
        let said = f.said(&["pull", "--debug", "--dir", "out", &reference]);
        let manifest = f.registry.url(&format!("/v2/{REPO}/manifests/v1"));
        has(&said, &["request HEAD ", "answer 401 to HEAD ", "answer 200 to GET ", &manifest, "ms="]);
        has(
            &said,
            &["credentials for ", who, "docker/config.json", "X-Amz-Signature=…", "answer 307", "are there already"],
        );
        f.said(&["inspect", "--debug", &reference]);
        // -v has the decisions, and no requests; without it, there is neither.
        let said = f.said(&["pull", "-v", "--dir", "again", &reference]);
        has(&said, &["credentials for ", who, "are there already"]);
        assert!(!said.contains("request ") && !said.contains("answer "), "{said}");
        let said = f.said(&["pull", "--dir", "third", &reference]);
        assert!(said.lines().last().unwrap_or_default().starts_with("pulled "), "{said}");
        assert!(!said.contains("credentials for") && !said.contains("are there already"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn debug_log_of_push_shows_blobs_and_retries() {
    let f = Fixture::new(Auth::bearer().login("user", "s3cret"), r#"{"username": "user", "password": "s3cret"}"#);
    f.workstation.write("k", "kernel");
    let target = f.registry.reference("edge/pushed", "v1");
    f.registry.inject(On::uploads().once(), Fault::status(503));
    let said = f.said(&["push", "--debug", "--kernel", "k", &target]);
    has(&said, &["request PUT ", "request POST ", "answer 503 to POST ", "trying again in", "): sent", "pushed "]);
    let said = f.said(&["push", "-v", "--kernel", "k", &target]);
    has(&said, &["kernel (sha256:", "it was there already", "0 B sent"]);
    assert!(!said.contains("request "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn platform_and_mirror_choices_are_shown() {
    let (registry, mirror, workstation) = (Registry::http(), Registry::http(), Workstation::new());
    workstation.write("k", "kernel");
    let (reference, copy) = (registry.reference(REPO, "v1"), mirror.reference(REPO, "v1"));
    for target in [&reference, &copy] {
        workstation.must(&["push", "--kernel", "k", "--platform", "linux/arm64", "--platform", "linux/amd64", target]);
    }
    let table = format!("[registry.\"{}\"]\nmirrors = [{:?}]\n", registry.host(), mirror.url(""));
    workstation.write("agent.toml", table);
    let pull = |dir: &str| {
        let output = workstation.eci(&["pull", "-v", "--platform", "linux/arm64", "--dir", dir, &reference]);
        says(&output)
    };
    has(
        &pull("a"),
        &["answered by mirror ", &mirror.host(), "for linux/arm64; index sha256:", "has it for linux/arm64"],
    );
    mirror.inject(On::any(), Fault::status(500));
    has(&pull("b"), &["asking the registry ", &registry.host()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn login_and_commands_of_a_node_show_requests() {
    let f = Fixture::new(Auth::bearer().login("user", "s3cret"), "{}");
    let mut command =
        f.workstation.command(&["login", "--debug", "--username", "user", "--password-stdin", &f.registry.host()]);
    command.env("REGISTRY_AUTH_FILE", f.workstation.path("auth.json"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"s3cret\n").unwrap();
    let said = says(&child.wait_with_output().unwrap());
    has(&said, &["asks for Bearer; trying user \"user\"", "answer 401 to GET ", "/v2/"]);

    let image = Image::new("v1");
    let registry = Registry::http();
    image.publish(&registry, REPO, "v1");
    let reference = registry.reference(REPO, "v1");
    let mut node = Node::new();
    node.desire_image(&reference);
    node.start();
    node.until_activated(&reference);
    for (command, path) in [("fsck", "POST /v1/fsck"), ("gc", "POST /v1/gc"), ("status", "GET /v1/status")] {
        let said = says(&node.eci(&[command, "--debug"]));
        has(&said, &[&format!("request {path}"), &format!("answer 200 to {path}")]);
        let quiet = says(&node.eci(&[command]));
        assert!(!quiet.contains("request "), "{quiet}");
    }
    node.stop();
    for command in ["fsck", "gc"] {
        has(&says(&node.eci(&[command, "-v"])), &["no agent answers on ", "going on with the state directory"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_logs_requests_at_level_debug() {
    for (level, is_shown) in [("debug", true), ("info", false)] {
        let f = Fixture::new(Auth::bearer().login("user", "s3cret"), "{}");
        let password = r#"{"username": "user", "password": "s3cret"}"#;
        let file =
            f.workstation.write("agent.json", format!(r#"{{"auths": {{"{}": {password}}}}}"#, f.registry.host()));
        let table = format!("[log]\nlevel = {level:?}\n[registry.\"{}\"]\ncredentials = {file:?}\n", f.registry.host());
        let mut node = Node::with_config(&table);
        f.registry.inject(On::blobs().once(), Fault::status(503));
        node.desire_image(&f.reference());
        node.start();
        node.until_activated(&f.reference());
        node.stop();
        let log = node.log();
        has_no_secret(&log);
        for part in ["request GET ", "answer 503 to GET ", "X-Amz-Signature=…", "next try", "credentials for "] {
            assert_eq!(log.contains(part), is_shown, "{level}: {part}: {log}");
        }
    }
}
