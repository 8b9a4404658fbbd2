//! The way to a registry: proxies, client certificates, credential helpers, limits, registries that want to be left alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use crate::common::agent::Node;
use crate::common::image::Image;
use crate::common::proxy::Proxy;
use crate::common::registry::{Auth, Fault, On, Registry, digest};

const REPO: &str = "edge/nginx";
const MIB: usize = 1 << 20;

fn node_with(registry: &Registry, table: &str) -> Node {
    let node = Node::new();
    node.configure(&format!("[registry.\"{}\"]\n{table}", registry.host()));
    node.desire_image(&registry.reference(REPO, "v1"));
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_of_any_kind_carries_all_requests() {
    for secure in [false, true] {
        for scheme in ["http", "socks5", "socks5h"] {
            let registry = if secure { Registry::builder().https().serve() } else { Registry::http() };
            Image::new("v1").publish(&registry, REPO, "v1");
            let proxy = Proxy::start().await;
            let mut node = node_with(&registry, &format!("proxy = \"{}\"\n", proxy.url(scheme)));
            if let Some(ca) = registry.ca_pem() {
                let file = node.path("ca.pem");
                fs::write(&file, ca).unwrap();
                let table = format!("proxy = \"{}\"\nca = {file:?}\n", proxy.url(scheme));
                node.configure(&format!("[registry.\"{}\"]\n{table}", registry.host()));
            }
            node.start();
            node.until_activated("nginx:v1");
            assert!(proxy.connections() > 0);
            let peers: std::collections::BTreeSet<_> = registry.log().iter().map(|request| request.peer).collect();
            assert!(peers.len() <= proxy.connections(), "nothing goes past {scheme}");
            // The proxy's own end of each is what the registry sees.
            assert!(registry.count(&On::any()) > 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxys_password_is_shown_to_nobody_else() {
    let registry = Registry::http();
    let proxy = Proxy::start().await;
    let url = proxy.url("http").replace("http://", "http://user:s3cret@");
    let mut node = node_with(&registry, &format!("proxy = \"{url}\"\n"));
    node.start();
    node.until_failed("not-found");
    assert!(proxy.heads().to_lowercase().contains("proxy-authorization: basic"), "{}", proxy.heads());
    assert!(!node.log().contains("s3cret") && !node.status().to_string().contains("s3cret"));
    let wrong = Node::new();
    wrong.configure("[registry.\"a.example\"]\nproxy = \"ftp://user:s3cret@b.example\"\n");
    let said = wrong.eci(&["agent"]);
    assert_eq!(said.status.code(), Some(78));
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("proxy") && !said.contains("s3cret"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_shown_where_it_is_wanted() {
    let registry = Registry::builder().https().client_certificates().serve();
    Image::new("v1").publish(&registry, REPO, "v1");
    let mut node = node_with(&registry, "");
    let file = |name: &str, text: &str| {
        let path = node.path(name);
        fs::write(&path, text).unwrap();
        path
    };
    let identity = registry.client_identity().unwrap();
    let ca = file("ca.pem", registry.ca_pem().unwrap());
    let (cert, key) = (file("cert.pem", &identity.certificate_pem), file("key.pem", &identity.key_pem));
    let table = |more: &str| node.configure(&format!("[registry.\"{}\"]\nca = {ca:?}\n{more}", registry.host()));
    table("");
    node.start();
    node.until("refusal", |event| event["event"] == "failed");
    let certificate = format!("client_cert = {cert:?}\nclient_key = {key:?}\n");
    node.configure(&format!("[registry.\"{}\"]\nca = {ca:?}\n{certificate}", registry.host()));
    node.signal(nix::sys::signal::Signal::SIGHUP);
    node.until_activated("nginx:v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_helper_is_asked() {
    for (answer, auth) in [
        (r#"{"ServerURL": "x", "Username": "user", "Secret": "s3cret"}"#, Auth::basic("user", "s3cret")),
        (
            r#"{"Username": "<token>", "Secret": "s3cret"}"#,
            Auth::bearer().login("a", "b").identity_token("s3cret").into(),
        ),
    ] {
        let registry = Registry::builder().auth(auth).serve();
        Image::new("v1").publish(&registry, REPO, "v1");
        let node = Node::new();
        let helper = node.path("docker-credential-test");
        let script = format!(
            "#!/bin/sh\nread host\n[ \"$1 $host\" = \"get {}\" ] || exit 1\nprintf '%s' '{answer}'\n",
            registry.host()
        );
        fs::write(&helper, script).unwrap();
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
        let logins = node.path("config.json");
        fs::write(&logins, format!(r#"{{"credHelpers": {{"{}": "test"}}}}"#, registry.host())).unwrap();
        let dir = helper.parent().unwrap().display().to_string();
        let path = format!("{dir}:{}", std::env::var("PATH").unwrap_or_default());
        let output = node
            .command(&["pull", "--dir", &format!("{dir}/out"), &registry.reference(REPO, "v1")])
            .env("PATH", path)
            .env("DOCKER_CONFIG", &dir)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        assert!(!said.contains("s3cret"));
    }
}

/// Waits until so many workloads run, in whatever order they come to.
fn all_activated(node: &Node, count: usize) {
    let seen = std::cell::RefCell::new(std::collections::BTreeSet::new());
    node.until("all of them", |event| {
        if event["event"] == "activated" {
            seen.borrow_mut().insert(event["workload"].to_string());
        }
        seen.borrow().len() == count
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn one_answer_of_later_is_enough_for_all_workloads() {
    let registry = Registry::http();
    let mut node = Node::new();
    let mut desired = String::new();
    for n in 0..10 {
        let tag = format!("v{n}");
        Image::new(&tag).publish(&registry, REPO, &tag);
        desired += &format!("[workload.w{n}]\nimage = \"{}\"\n", registry.reference(REPO, &tag));
    }
    node.desire(&desired);
    let busy = registry.inject(On::any().once(), Fault::too_many_requests("1"));
    node.start();
    all_activated(&node, 10);
    let log = registry.log();
    let turned_away = busy.strikes();
    let early = log.iter().filter(|request| request.at < log[0].at + std::time::Duration::from_millis(900)).count();
    // Those that were under way when it said so, and nobody after them.
    assert!(turned_away == 1 && early <= 10, "{early} of {}", log.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_workloads_together_keep_to_the_bandwidth() {
    let registry = Registry::http();
    let mut node = Node::with_config("[transfer]\nbandwidth = \"8MiB/s\"\n");
    let mut desired = String::new();
    for n in 0..3 {
        let tag = format!("v{n}");
        Image::new(&tag).with_root_of(4 * MIB).publish(&registry, REPO, &tag);
        desired += &format!("[workload.w{n}]\nimage = \"{}\"\n", registry.reference(REPO, &tag));
    }
    node.desire(&desired);
    let begun = Instant::now();
    node.start();
    all_activated(&node, 3);
    // Never faster; how much slower a busy machine is, is no matter of this test.
    assert!(begun.elapsed().as_secs_f64() >= 12.0 / 8.0 * 0.95, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_trickles_is_cut() {
    let registry = Registry::http();
    let image = Image::new("v1").with_root_of(MIB);
    image.publish(&registry, REPO, "v1");
    let mut node = Node::with_config("[transfer]\nidle_timeout = \"500ms\"\n");
    let root = On::blobs().get().reference(&digest(&image.root));
    let trickle = registry.inject(root, Fault::Trickle(1, std::time::Duration::from_millis(20)));
    node.desire_image(&registry.reference(REPO, "v1"));
    node.start();
    node.until_failed("timeout");
    trickle.remove();
    node.until_activated("nginx:v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_takes_no_more_of_the_network_than_it_may() {
    let registry = Registry::http();
    let image = Image::new("v1").with_root_of(3 * MIB);
    image.publish(&registry, REPO, "v1");
    let mut node = Node::with_config("[transfer]\nmax_wire_bytes = \"2MiB\"\n");
    node.desire_image(&registry.reference(REPO, "v1"));
    node.start();
    let failed = node.until_failed("over-budget");
    assert!(failed["message"].as_str().unwrap().contains("max_wire_bytes = 2.0 MiB allows"), "{failed}");
    assert_eq!(node.status()["workloads"]["default"]["phase"], "blocked");
    let came = registry.body_bytes(&On::blobs().get());
    // What was on its way when it stopped was sent, and not taken.
    assert!(came >= 2 * MIB as u64 && came <= 3 * MIB as u64 + 100, "{came}");
    // Whoever asks again gets the same answer, and no bytes.
    assert!(node.eci(&["reconcile"]).status.success());
    node.until_failed("over-budget");
    assert_eq!(registry.body_bytes(&On::blobs().get()), came);
    node.configure("[transfer]\nmax_wire_bytes = \"10MiB\"\n");
    node.signal(nix::sys::signal::Signal::SIGHUP);
    node.until_activated("nginx:v1");
    assert!(node.current("disk-root") == image.root);
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_that_nobody_wants_any_more_are_given_up() {
    let registry = Registry::http();
    let image = Image::new("large").with_root_of(3 * MIB);
    image.publish(&registry, REPO, "large");
    Image::new("small").publish(&registry, REPO, "small");
    let mut node = Node::new();
    let root = On::blobs().get().reference(&digest(&image.root));
    registry.inject(root.clone().once(), Fault::DropAfter(MIB as u64));
    registry.inject(root.skip(1), Fault::status(503));
    node.desire_image(&registry.reference(REPO, "large"));
    node.start();
    node.until_failed("registry-error");
    assert!(node.partial(&image.root).exists(), "it is wanted, and will go on");
    node.desire_image(&registry.reference(REPO, "small"));
    node.until_activated("nginx:small");
    let deadline = Instant::now() + crate::common::agent::PATIENCE;
    while !crate::common::agent::files_below(&node.state_dir().join("partial")).is_empty() {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
}

/// The library that tells a program another time; none, and a line that says so, where it is not installed.
fn faketime(test: &str) -> Option<std::path::PathBuf> {
    let known = ["x86_64", "aarch64"].map(|arch| format!("/usr/lib/{arch}-linux-gnu/faketime/libfaketime.so.1"));
    let found = known.into_iter().map(std::path::PathBuf::from).find(|path| path.exists());
    if found.is_none() {
        println!("SKIP {test}: libfaketime is not installed");
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_plainly_wrong_is_called_so() {
    const TEST: &str = "a_clock_that_is_plainly_wrong_is_called_so";
    let Some(library) = faketime(TEST) else { return };
    // No certificate of it is valid before 1975.
    let registry = Registry::builder().https().serve();
    Image::new("v1").publish(&registry, REPO, "v1");
    let node = Node::new();
    let ca = node.path("ca.pem");
    fs::write(&ca, registry.ca_pem().unwrap()).unwrap();
    node.configure(&format!("[registry.\"{}\"]\nca = {ca:?}\n", registry.host()));
    let pull = |time: &str| {
        let out = node.path("out").display().to_string();
        let mut command = node.command(&["pull", "--dir", &out, &registry.reference(REPO, "v1")]);
        command.env("LD_PRELOAD", &library).env("FAKETIME", time).output().unwrap()
    };
    let said = pull("@1971-01-01 00:00:00");
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(text.contains("clock is wrong: it says 1971-01-01"), "{text}");
    assert_eq!(said.status.code(), Some(69));
    assert!(pull("+0").status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_redirected_to_learns_nothing_that_proves_who_we_are() {
    let registry = Registry::builder().auth(Auth::basic("user", "s3cret")).serve();
    // It asks for a token, and has a token service of its own, which gives none to strangers.
    let elsewhere = Registry::builder().auth(Auth::bearer().login("other", "pass")).serve();
    let image = Image::new("v1").with_root_of(MIB);
    image.publish(&registry, REPO, "v1");
    let root = digest(&image.root);
    let url = elsewhere.url(&format!("/v2/{REPO}/blobs/{root}"));
    let redirect = registry.inject(On::blobs().get().reference(&root), Fault::Redirect(url));
    let node = Node::new();
    let logins = node.path("logins.json");
    let login = format!(r#"{{"auths": {{"{}": {{"username": "user", "password": "s3cret"}}}}}}"#, registry.host());
    fs::write(&logins, login).unwrap();
    let mut node = node;
    node.configure(&format!("[registry.\"{}\"]\ncredentials = {logins:?}\n", registry.host()));
    node.desire_image(&registry.reference(REPO, "v1"));
    node.start();
    node.until_failed("unauthorized");
    let asked = elsewhere.log();
    assert!(!asked.is_empty() && asked.iter().all(|request| request.authorization.is_none()), "{asked:?}");
    redirect.remove();
    node.until_activated("nginx:v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_service_cannot_pass_an_identity_token_on() {
    let auth = Auth::bearer().login("user", "no one knows it").identity_token("s3cret");
    let (registry, elsewhere) = (Registry::builder().auth(auth).serve(), Registry::http());
    Image::new("v1").publish(&registry, REPO, "v1");
    registry.inject(On::token(), Fault::Redirect(elsewhere.url("/token")));
    let mut node = Node::new();
    let logins = node.path("logins.json");
    fs::write(&logins, format!(r#"{{"auths": {{"{}": {{"identitytoken": "s3cret"}}}}}}"#, registry.host())).unwrap();
    node.configure(&format!("[registry.\"{}\"]\ncredentials = {logins:?}\n", registry.host()));
    node.desire_image(&registry.reference(REPO, "v1"));
    node.start();
    node.until_failed("registry-error");
    assert_eq!(elsewhere.log().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_reached_by_https_and_one_that_wants_a_password() {
    let registry = Registry::http();
    Image::new("v1").publish(&registry, REPO, "v1");
    let tls = crate::common::registry::Tls::new(false).unwrap();
    let secure = Proxy::start_secure(tls.acceptor).await;
    let mut node = Node::new();
    let ca = node.path("ca.pem");
    fs::write(&ca, tls.ca_pem).unwrap();
    let host = registry.host();
    node.configure(&format!(
        "[registry.\"{host}\"]\nproxy = \"{}\"\nca = {ca:?}\ninsecure = true\n",
        secure.url("https")
    ));
    node.desire_image(&registry.reference(REPO, "v1"));
    node.start();
    node.until_activated("nginx:v1");
    assert!(secure.connections() > 0 && secure.heads().contains("/v2/edge/nginx/"), "{}", secure.heads());

    let socks = Proxy::start().await;
    let url = socks.url("socks5").replace("://", "://user:s3cret@");
    let mut node = node_with(&registry, &format!("proxy = \"{url}\"\n"));
    node.start();
    node.until_activated("nginx:v1");
    assert!(socks.heads().contains("user s3cret"));
    assert!(!node.log().contains("s3cret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_proxy_counts_for_a_proxy_that_was_named_as_well() {
    let registry = Registry::http();
    Image::new("v1").publish(&registry, REPO, "v1");
    let proxy = Proxy::start().await;
    let node = node_with(&registry, &format!("proxy = \"{}\"\n", proxy.url("http")));
    let out = node.path("out").display().to_string();
    let pull = |no_proxy: &str| {
        let mut command = node.command(&["pull", "--dir", &out, &registry.reference(REPO, "v1")]);
        assert!(command.env("NO_PROXY", no_proxy).output().unwrap().status.success());
        proxy.connections()
    };
    assert_eq!(pull("127.0.0.1"), 0);
    assert!(pull("elsewhere.example") > 0);
}
