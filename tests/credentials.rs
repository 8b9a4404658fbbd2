//! Logins: the credentials file, credential helpers, challenges, tokens, and what is asked again after a refusal.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use hyper::{Method, StatusCode};

use crate::common::agent::Node;
use crate::common::image::Image;
use crate::common::registry::{Auth, Fault, Kind, On, Refusals, Registry, digest};
use crate::common::workstation::Workstation;

const REPO: &str = "edge/nginx";
/// `user:s3cret` in base64.
const LOGIN: &str = "dXNlcjpzM2NyZXQ=";
/// `other:pass` in base64.
const OTHER: &str = "b3RoZXI6cGFzcw==";

fn registry(auth: impl Into<Auth>) -> Registry {
    let registry = Registry::builder().auth(auth).serve();
    Image::new("v1").publish(&registry, REPO, "v1");
    registry
}

fn basic() -> Auth {
    Auth::basic("user", "s3cret")
}

/// `eci pull` with this text as `config.json`; `HOST` in it stands for the registry.
fn pull(registry: &Registry, config: &str) -> Output {
    let workstation = Workstation::new();
    workstation.write("docker/config.json", config.replace("HOST", &registry.host()));
    let reference = registry.reference(REPO, "v1");
    let mut command = workstation.command(&["pull", "--dir", "out", &reference]);
    command.env("DOCKER_CONFIG", workstation.path("docker")).output().unwrap()
}

#[track_caller]
fn pulls(registry: &Registry, config: &str) -> String {
    let output = pull(registry, config);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{config}: {said}");
    assert!(!said.contains("s3cret"), "{said}");
    said
}

#[track_caller]
fn refused(code: i32, registry: &Registry, config: &str) -> String {
    let output = pull(registry, config);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{config}: {said}");
    assert!(!said.contains("s3cret"), "{said}");
    said
}

/// One entry of `auths`.
fn auths(key: &str, login: &str) -> String {
    format!(r#"{{"auths": {{"{key}": {{"auth": "{login}"}}}}}}"#)
}

/// The different `Authorization` headers that came.
fn shown_to(registry: &Registry) -> Vec<String> {
    let mut shown: Vec<_> = registry.log().iter().filter_map(|request| request.authorization.clone()).collect();
    shown.sort();
    shown.dedup();
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn login_of_the_nearest_path_is_sent() {
    let registry = registry(basic());
    let entry = |key: &str, login: &str| format!(r#""HOST{key}": {{"auth": "{login}"}}"#);
    let (wrong, right) = (|key: &str| entry(key, OTHER), |key: &str| entry(key, LOGIN));
    for entries in [
        vec![wrong(""), wrong("/aaa"), right("/edge")],
        vec![wrong(""), wrong("/edge"), right("/edge/nginx")],
        vec![right(""), wrong("/aaa"), wrong("/ed"), wrong("/edge/nginx/x"), wrong("/edge/ngin"), wrong("/Edge")],
    ] {
        registry.take_log();
        pulls(&registry, &format!(r#"{{"auths": {{{}}}}}"#, entries.join(",")));
        assert_eq!(shown_to(&registry), [format!("Basic {LOGIN}")], "{entries:?}");
    }
    for key in ["HOST", "https://HOST/v1/", "https://HOST/v2/", "https://HOST", "http://HOST/", "HOST/"] {
        pulls(&registry, &auths(key, LOGIN));
    }
    registry.take_log();
    for key in ["HOST/aaa", "HOST0", "127.0.0.1", "HOST/edge/nginx/x", "other.example"] {
        let said = refused(77, &registry, &auths(key, LOGIN));
        assert!(said.contains("no credentials for") && said.contains("config.json"), "{said}");
    }
    assert_eq!(shown_to(&registry), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_config_has_no_login() {
    let (public, private, open) = (registry(Auth::bearer()), registry(basic()), registry(Auth::Open));
    for nothing in ["", " \n", "null", "{}", r#"{"auths": null}"#, "\u{feff}", r#"{"auths": {"HOST": {}}}"#] {
        pulls(&public, nothing);
        pulls(&open, nothing);
        let said = refused(77, &private, nothing);
        assert!(said.contains("no credentials"), "{said}");
    }
    for login in [
        auths("HOST", "dXNl\\ncjpz\\r\\nM2NyZXQ=\\n"),
        auths("HOST", "dXNlcjpzM2NyZXQAAA=="),
        format!(r#"{{"auths": {{"HOST": {{"username": "", "password": "", "auth": "{LOGIN}"}}}}, "unknown": [1]}}"#),
        format!("\u{feff}{}", auths("HOST", LOGIN)),
        r#"{"auths": {"HOST": {"username": "user", "password": "s3cret"}}}"#.to_owned(),
    ] {
        pulls(&private, &login);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn auth_that_cannot_be_decoded_is_named() {
    let (private, open) = (registry(basic()), registry(Auth::Open));
    for wrong in ["s3cret!", "czNjcmV0", "dXNlcjpzM2NyZXQ"] {
        let said = refused(78, &private, &auths("HOST", wrong));
        assert!(said.contains("config.json") && said.contains(&private.host()), "{said}");
        assert!(!said.contains(wrong), "{said}");
        pulls(&open, &auths("HOST", wrong));
        // An entry for something else does not matter.
        let more = format!(r#"{{"auths": {{"x": {{"auth": "{wrong}"}}, "HOST": {{"auth": "{LOGIN}"}}}}}}"#);
        pulls(&private, &more);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn helper_that_fails_matters_to_private_images_only() {
    let (public, private) = (registry(Auth::bearer()), registry(basic()));
    let workstation = Workstation::new();
    let helper = |name: &str, script: &str| {
        let path = workstation.write(&format!("bin/docker-credential-{name}"), format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    helper("broken", "echo s3cret; exit 3");
    helper("unknown", "echo 'credentials not found in native keychain'; exit 1");
    helper("empty", "echo '{\"Username\": \"\", \"Secret\": \"\"}'");
    helper("good", "echo '{\"Username\": \"user\", \"Secret\": \"s3cret\"}'");
    let pull = |registry: &Registry, config: String| {
        workstation.write("docker/config.json", config.replace("HOST", &registry.host()));
        let path = format!("{}:{}", workstation.path("bin").display(), std::env::var("PATH").unwrap_or_default());
        let mut command = workstation.command(&["pull", "--dir", "out", &registry.reference(REPO, "v1")]);
        command.env("PATH", path).env("DOCKER_CONFIG", workstation.path("docker"));
        let output = command.output().unwrap();
        let _ = fs::remove_dir_all(workstation.path("out"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("s3cret"), "{said}");
        (output.status.code(), said)
    };
    for form in [r#"{"credHelpers": {"HOST": "NAME"}}"#, r#"{"credsStore": "NAME"}"#] {
        for (name, why) in [("absent", "no such program"), ("broken", "exit status: 3"), ("../x", "no name")] {
            let config = form.replace("NAME", name);
            let (code, said) = pull(&public, config.clone());
            assert_eq!(code, Some(0), "{said}");
            assert!(said.contains(name) && said.contains(why), "it warns: {said}");
            let (code, said) = pull(&private, config);
            assert_eq!(code, Some(77), "{said}");
            let error = said.lines().find(|line| line.contains("answers 401")).unwrap();
            assert!(error.contains(name) && error.contains(why), "{said}");
        }
        for name in ["unknown", "empty"] {
            assert_eq!(pull(&public, form.replace("NAME", name)).0, Some(0));
            let (code, said) = pull(&private, form.replace("NAME", name));
            assert_eq!((code, said.contains("failed")), (Some(77), false), "{said}");
        }
        assert_eq!(pull(&private, form.replace("NAME", "good")).0, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn challenges_of_every_form_are_met() {
    let login = auths("HOST", LOGIN);
    let bearer = registry(Auth::bearer().login("user", "s3cret"));
    let private = registry(basic());
    let realm = bearer.url("/token");
    let challenge = |lines: &[&[u8]]| Refusals {
        challenge: lines.iter().map(|line| line.to_vec()).collect(),
        ..Refusals::default()
    };
    let shared: [&[&[u8]]; 9] = [
        &[b"Negotiate YII=", b"{}"],
        &[b"{}", b"Negotiate YII="],
        &[b"Negotiate YII=, {}, NTLM"],
        &[b"Digest realm=\"a, Basic b\", nonce=\"\\\"\", {}"],
        &[b"@@@, {}"],
        &[b"\"", b"{}"],
        &[b"Foo x=\"f\xfcr\", {}"],
        &[b", ,{},"],
        &[b"Bearer realm=\"no URL\", {}"],
    ];
    for lines in shared {
        for registry in [&bearer, &private] {
            registry.set_refusals(challenge(lines));
            pulls(registry, &login);
        }
    }
    let basics: [&[u8]; 6] = [
        b"Basic",
        b"Basic realm=/",
        b"bAsIC realm = \"x\"",
        b"Basic realm=\"f\xfcr\"",
        b"Basic realm=f\xfcr",
        b"Basic realm=\"x",
    ];
    for line in basics {
        private.set_refusals(challenge(&[line]));
        pulls(&private, &login);
    }
    for line in [
        "Bearer realm=URL",
        "Bearer , realm = \"URL\"",
        "BEARER REALM=\"URL\" , service = x",
        "Bearer service=\"a\\\"b\", realm=URL",
    ] {
        bearer.set_refusals(challenge(&[line.replace("URL", &realm).as_bytes()]));
        pulls(&bearer, &login);
    }
    // What cannot be met is said.
    private.set_refusals(challenge(&[b"Negotiate YII=, Digest realm=\"x\""]));
    private.take_log();
    let said = refused(77, &private, &login);
    assert!(said.contains("negotiate and digest"), "{said}");
    assert_eq!(shown_to(&private), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn token_answers_of_every_form_are_read() {
    for answer in [
        r#"{"token": "", "access_token": "TOKEN"}"#,
        r#"{"token": null, "access_token": "TOKEN", "expires_in": null, "issued_at": null}"#,
        r#"{"token": "TOKEN", "expires_in": "300"}"#,
        r#"{"token": "TOKEN", "expires_in": 300.5, "issued_at": "1970-01-01T00:00:00Z"}"#,
        r#"{"token": "TOKEN", "expires_in": -1}"#,
        r#"{"token": "TOKEN", "expires_in": 0}"#,
    ] {
        let registry = registry(Auth::bearer().answer(answer));
        pulls(&registry, "{}");
        assert_eq!(registry.count(&On::token()), 1, "{answer}");
        assert!(!shown_to(&registry).contains(&"Bearer ".to_owned()), "{answer}");
    }
    for answer in [r#"{"token": ""}"#, "{}", "null", "", r#"{"token": 7}"#] {
        let registry = registry(Auth::bearer().answer(answer));
        let said = refused(69, &registry, "{}");
        assert!(said.contains("no token"), "{said}");
        assert_eq!(shown_to(&registry), Vec::<String>::new());
    }
}

/// A node that runs v1 and is about to want v2 from a registry that wants `auth`.
fn node_on(auth: impl Into<Auth>) -> (Registry, Node) {
    let registry = registry(auth);
    Image::new("v2").publish(&registry, REPO, "v2");
    let mut node = Node::new();
    let file = node.path("config.json");
    node.configure(&format!("[registry.\"{}\"]\ncredentials = {file:?}\n", registry.host()));
    fs::write(file, auths(&registry.host(), LOGIN)).unwrap();
    node.desire_image(&registry.reference(REPO, "v1"));
    node.start();
    node.until_activated("nginx:v1");
    registry.take_log();
    (registry, node)
}

fn expired() -> Refusals {
    Refusals { forbids: Some("Your authorization token has expired.".to_owned()), ..Refusals::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_login_is_read_after_a_403() {
    let renewed = || Auth::basic("other", "pass");
    let tokens = || Auth::bearer().login("other", "pass");
    for (before, after) in [(basic(), renewed()), (Auth::bearer().login("user", "s3cret").into(), tokens().into())] {
        let (registry, node) = node_on(before);
        registry.set_auth(after);
        registry.revoke_tokens();
        registry.set_refusals(expired());
        fs::write(node.path("config.json"), auths(&registry.host(), OTHER)).unwrap();
        node.desire_image(&registry.reference(REPO, "v2"));
        node.until_activated("nginx:v2");
        let forbidden = |request: &&std::sync::Arc<crate::common::registry::Request>| {
            request.status() == Some(StatusCode::FORBIDDEN)
        };
        assert_eq!(registry.log().iter().filter(forbidden).count(), 1, "{:?}", registry.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_login_is_read_after_other_refusals() {
    for status in [StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND, StatusCode::GONE] {
        let (registry, node) = node_on(basic());
        registry.set_auth(Auth::basic("other", "pass"));
        registry.set_refusals(Refusals { hides: true, hides_as: Some(status), ..Refusals::default() });
        fs::write(node.path("config.json"), auths(&registry.host(), OTHER)).unwrap();
        node.desire_image(&registry.reference(REPO, "v2"));
        node.until_activated("nginx:v2");
        let refused = registry.log().iter().filter(|it| it.status().is_some_and(|it| it.is_client_error())).count();
        assert_eq!(refused, 1, "{:?}", registry.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn login_that_has_not_changed_is_not_sent_again_after_a_404() {
    let (registry, node) = node_on(basic());
    node.desire_image(&registry.reference(REPO, "v3"));
    node.until_failed("not-found");
    assert_eq!(registry.count(&On::manifests().head()), registry.count(&On::manifests().get()));
}

#[tokio::test(flavor = "multi_thread")]
async fn token_service_may_redirect_within_its_origin_alone() {
    let login = auths("HOST", LOGIN);
    let moved = registry(Auth::bearer().login("user", "s3cret"));
    let there = moved.url(&format!("/token?scope=repository:{REPO}:pull"));
    moved.inject(On::token().once(), Fault::Redirect(there));
    pulls(&moved, &login);
    let (lured, other) = (registry(Auth::bearer().login("user", "s3cret")), registry(Auth::bearer()));
    lured.inject(On::token(), Fault::Redirect(other.url("/token")));
    let said = refused(69, &lured, &login);
    assert!(said.contains("/token") && said.contains("307"), "{said}");
    assert_eq!(other.log().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_in_place_of_a_name_is_not_shown() {
    let registry = registry(basic());
    // `s3cret:` and `s3cret:x-oauth-basic`.
    for login in ["czNjcmV0Og==", "czNjcmV0Ongtb2F1dGgtYmFzaWM="] {
        let said = refused(77, &registry, &auths("HOST", login));
        assert!(said.contains("tried a login without a password of"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_without_a_challenge_says_so() {
    let registry = registry(basic());
    registry.set_refusals(Refusals { challenge: vec![b" ".to_vec()], ..Refusals::default() });
    let said = refused(77, &registry, &auths("HOST", LOGIN));
    assert!(said.contains("it does not say how to log in"), "{said}");
    assert_eq!(shown_to(&registry), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_is_tried_once_and_reported() {
    // Long enough between two tries that the journal has one.
    for auth in [basic(), Auth::bearer().login("user", "s3cret").into()] {
        let is_bearer = matches!(auth, Auth::Bearer(_));
        let (registry, mut node) = node_on(auth);
        node.stop();
        let file = node.path("config.json");
        let table = format!("[registry.\"{}\"]\ncredentials = {file:?}\n", registry.host());
        node.configure(&format!("{table}[retry]\ninitial = \"1h\"\nmax = \"1h\"\n"));
        node.start();
        node.desire_image(&registry.reference(REPO, "v1"));
        node.until_phase("active");
        registry.revoke_tokens();
        registry.set_auth(Auth::basic("nobody", "nothing"));
        registry.set_refusals(expired());
        registry.take_log();
        node.desire_image(&registry.reference(REPO, "v2"));
        // There is no token service any more, which says nothing of the image.
        node.until_failed(if is_bearer { "protocol" } else { "forbidden" });
        let message = node.status()["workloads"]["default"]["error"]["message"].as_str().unwrap().to_owned();
        if !is_bearer {
            assert!(message.contains("Your authorization token has expired."), "{message}");
            assert!(message.contains("user \"user\"") && message.contains("config.json"), "{message}");
            assert!(!message.contains("s3cret"), "{message}");
        }
        let asked = registry.log();
        assert!(asked.len() <= 4, "{asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_that_fails_is_followed_by_one_get() {
    let head = || On::manifests().head();
    for status in [400, 401, 403, 404, 405, 500, 501] {
        let registry = registry(Auth::Open);
        registry.inject(head(), Fault::status(status));
        pulls(&registry, "{}");
        assert_eq!(registry.count(&head()), 1, "{status}");
    }
    // The body of the answer to GET says why.
    let private = registry(Auth::Open);
    private.inject(On::manifests(), Fault::status(403));
    let said = refused(77, &private, "{}");
    assert!(said.contains("DENIED"), "{said}");
    assert_eq!((private.count(&head()), private.count(&On::manifests().get())), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn push_asks_by_get_if_head_is_refused() {
    let registry = Registry::http();
    registry.inject(On::blobs().head(), Fault::status(403));
    let workstation = Workstation::new();
    workstation.push(&Image::new("v1"), &registry.reference(REPO, "v1"));
    registry.inject(On::blobs().get(), Fault::status(403));
    let arguments = workstation.push_arguments(&Image::new("v2"), &registry.reference(REPO, "v2"));
    let said = workstation.fails(77, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(said.contains("DENIED"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_get_follows_a_429_to_head() {
    for fault in [Fault::too_many_requests(3600), Fault::RetryAfter(StatusCode::SERVICE_UNAVAILABLE, "3600".to_owned())]
    {
        let registry = registry(Auth::Open);
        registry.inject(On::manifests(), fault);
        let mut node = Node::new();
        node.desire_image(&registry.reference(REPO, "v1"));
        node.start();
        node.until("refusal", |event| event["event"] == "failed");
        assert_eq!(registry.count(&On::manifests().get()), 0);
        assert_eq!(registry.count(&On::manifests().head()), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_image_is_requested_with_a_login() {
    let hides = || Refusals { hides: true, ..Refusals::default() };
    for auth in [basic(), Auth::bearer().login("user", "s3cret").into()] {
        let registry = registry(auth);
        registry.set_refusals(hides());
        pulls(&registry, &auths("HOST", LOGIN));
        assert_eq!(registry.count(&On::ping()), 1);
        registry.take_log();
        // Without a login there is nothing to try.
        refused(69, &registry, "{}");
        assert_eq!((registry.count(&On::ping()), registry.count(&On::manifests())), (0, 2));
        assert_eq!(shown_to(&registry), Vec::<String>::new());
        registry.take_log();
        // A helper that failed may be why.
        let said = refused(69, &registry, r#"{"credHelpers": {"HOST": "absent"}}"#);
        assert!(said.lines().any(|line| line.contains("404") && line.contains("docker-credential-absent")), "{said}");
    }
    // A registry that is open to all is not shown a login for an image that is not there.
    let open = Registry::http();
    refused(69, &open, &auths("HOST", LOGIN));
    assert_eq!((open.count(&On::ping()), open.count(&On::manifests())), (1, 2));
    assert_eq!(shown_to(&open), Vec::<String>::new());
}

/// A registry that leads to another one for the root disk.
struct Redirect {
    registry: Registry,
    target: Registry,
}

fn redirect(auth: impl Into<Auth>) -> Redirect {
    let registry = registry(basic());
    let target = self::registry(auth);
    let root = digest(&Image::new("v1").root);
    let url = target.url(&format!("/v2/{REPO}/blobs/{root}"));
    registry.inject(On::blobs().get().reference(&root), Fault::Redirect(url));
    Redirect { registry, target }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirect_target_gets_a_token_of_its_own() {
    let f = redirect(Auth::bearer());
    pulls(&f.registry, &auths("HOST", LOGIN));
    let shown = shown_to(&f.target);
    assert!(!shown.is_empty() && shown.iter().all(|shown| shown.starts_with("Bearer ")), "{shown:?}");
    assert_eq!(shown_to(&f.registry), [format!("Basic {LOGIN}")], "and no token of another");
    assert_eq!(f.target.count(&On::token()), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_target_gets_only_its_own_login() {
    for auth in [Auth::basic("other", "pass"), Auth::bearer().login("other", "pass").into()] {
        let f = redirect(auth);
        let own = format!(r#""HOST": {{"auth": "{LOGIN}"}}"#);
        let others = format!(r#""{}": {{"auth": "{OTHER}"}}"#, f.target.host());
        let said = refused(77, &f.registry, &format!(r#"{{"auths": {{{own}}}}}"#));
        assert!(said.contains(&f.target.host()) && said.contains("no credentials"), "{said}");
        assert_eq!(shown_to(&f.target), Vec::<String>::new());
        pulls(&f.registry, &format!(r#"{{"auths": {{{own}, {others}}}}}"#));
        // The file may also be named for the target's own host.
        let workstation = Workstation::new();
        let (own, others) = (auths(&f.registry.host(), LOGIN), auths(&f.target.host(), OTHER));
        let files = [
            (f.registry.host(), workstation.write("own", own)),
            (f.target.host(), workstation.write("others", others)),
        ];
        let tables = files.map(|(host, file)| format!("[registry.\"{host}\"]\ncredentials = {file:?}\n"));
        workstation.write("agent.toml", tables.concat());
        workstation.must(&["pull", "--dir", "out", &f.registry.reference(REPO, "v1")]);
        assert!(!shown_to(&f.target).contains(&format!("Basic {LOGIN}")));
        assert!(!shown_to(&f.registry).contains(&format!("Basic {OTHER}")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_names_the_login_that_was_tried() {
    for auth in [basic(), Auth::bearer().login("user", "s3cret").into()] {
        let registry = registry(auth);
        let said = refused(77, &registry, &auths("HOST", OTHER));
        assert!(said.contains("user \"other\"") && said.contains("config.json") && !said.contains("pass"), "{said}");
        let said = refused(77, &registry, "{}");
        assert!(said.contains("no credentials for") && said.contains("config.json"), "{said}");
        let basics = registry.log().iter().filter(|request| request.endpoint.kind == Kind::Manifest).count();
        assert!(basics <= 8, "{:?}", registry.log());
        assert!(registry.log().iter().all(|request| request.method != Method::POST));
    }
    let registry = registry(basic());
    let workstation = Workstation::new();
    let said = workstation.fails(77, &["pull", &registry.reference(REPO, "v1")]);
    assert!(said.contains("there are no credentials"), "{said}");
}
