//! Registries that fail: what runs stays, the status says what is wrong and when the next try is, and it gets there.

use crate::common::agent::Node;
use crate::common::image::{Image, MANIFEST};
use crate::common::registry::{Auth, Fault, Injected, On, Registry, digest};

const MIB: usize = 1 << 20;

/// A node that runs v1 and is about to want v2, whose root disk has 4 MiB.
struct Fixture {
    registry: Registry,
    node: Node,
    next: Image,
}

async fn running_with(config: &str) -> Fixture {
    let registry = Registry::http();
    Image::new("v1").publish(&registry, "edge/nginx", "v1");
    let next = Image::new("v2").with_root_of(4 * MIB);
    next.publish(&registry, "edge/nginx", "v2");
    let mut node = Node::with_config(config);
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.start();
    node.until_activated("nginx:v1");
    registry.take_log();
    Fixture { registry, node, next }
}

async fn running() -> Fixture {
    running_with("").await
}

impl Fixture {
    fn update(&self) {
        self.node.desire_image(&self.registry.reference("edge/nginx", "v2"));
    }

    fn root(&self) -> On {
        On::blobs().get().reference(&digest(&self.next.root))
    }

    /// Waits for the failure, sees that what ran still does and that the next try is announced; its message.
    fn fails_with(&self, kind: &str) -> String {
        self.node.until_failed(kind);
        assert_eq!(self.node.current("disk-root"), b"root disk of v1");
        let workload = self.node.status()["workloads"]["default"].clone();
        assert_eq!(workload["current"]["reference"], self.registry.reference("edge/nginx", "v1"));
        assert_eq!(workload["error"]["kind"], kind, "{workload}");
        assert!(workload["error"]["retry_at"].is_string(), "{workload}");
        workload["error"]["message"].as_str().unwrap().to_owned()
    }

    fn arrives(&self) {
        self.node.until_activated("nginx:v2");
        assert_eq!(self.node.current("disk-root"), self.next.root);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_named_and_tried_again() {
    for (fault, kind) in [
        (Fault::status(401), "unauthorized"),
        (Fault::status(403), "forbidden"),
        (Fault::status(404), "not-found"),
        (Fault::status(500), "registry-error"),
        (Fault::status(503), "registry-error"),
        (Fault::too_many_requests("0"), "rate-limited"),
        (Fault::ContentDigest(digest(b"other")), "not-found"),
    ] {
        let f = running().await;
        let fault = f.registry.inject(On::manifests(), fault);
        f.update();
        let message = f.fails_with(kind);
        assert!(message.contains(&f.registry.host()), "{message}");
        fault.remove();
        f.arrives();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_honoured() {
    let f = running().await;
    f.registry.inject(On::manifests().once(), Fault::too_many_requests("3600"));
    f.update();
    f.fails_with("rate-limited");
    let error = f.node.status()["workloads"]["default"]["error"].clone();
    let time = |key: &str| error[key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let wait = time("retry_at").duration_since(time("since")).as_secs();
    assert!((3599..=3601).contains(&wait), "{error}");
    // A person need not wait as long.
    assert!(f.node.eci(&["reconcile"]).status.success());
    f.arrives();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_implausible_retry_after_is_ordinary_backoff() {
    for value in ["1746136938", "99999999999999999999", "soon", "-1", "Fri, 31 Dec 9999 23:59:59 GMT"] {
        let f = running().await;
        f.registry.inject(On::manifests().once(), Fault::too_many_requests(value));
        f.update();
        f.node.until_failed("rate-limited");
        f.arrives();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_may_be_a_date_of_any_form() {
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3600);
    for form in ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"] {
        let f = running().await;
        f.registry.inject(On::manifests().once(), Fault::too_many_requests(at.strftime(form)));
        f.update();
        f.fails_with("rate-limited");
        let error = f.node.status()["workloads"]["default"]["error"].clone();
        let retry_at: jiff::Timestamp = error["retry_at"].as_str().unwrap().parse().unwrap();
        let difference = retry_at.duration_since(at).as_secs();
        assert!((-1..=2).contains(&difference), "{form}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_asked_for_without_a_coding() {
    let f = running().await;
    f.update();
    f.arrives();
    let log = f.registry.log();
    assert!(!log.is_empty());
    for request in log {
        assert_eq!(request.accept_encoding.as_deref(), Some("identity"), "{request:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_coding_that_comes_nevertheless_is_named() {
    for (on, coding) in [(On::manifests().get(), "gzip"), (On::blobs().get(), "gzip"), (On::blobs().get(), "br")] {
        let f = running().await;
        let fault = f.registry.inject(on, Fault::Coding(coding.to_owned()));
        f.update();
        let message = f.fails_with("protocol");
        assert!(message.contains(&format!("127.0.0.1 answers with the content coding {coding:?}")), "{message}");
        fault.remove();
        f.arrives();
    }
    // No coding at all, and what concerns no content.
    for (on, coding) in [(On::any(), "identity"), (On::any(), "aws-chunked"), (On::manifests().head(), "gzip")] {
        let f = running().await;
        f.registry.inject(on, Fault::Coding(coding.to_owned()));
        f.update();
        f.arrives();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_never_get_a_name() {
    // No second try before the first was looked at.
    let f = running_with("[retry]\ninitial = \"10h\"\nmax = \"10h\"\n").await;
    f.registry.inject(f.root().once(), Fault::FlipByte(2 * MIB as u64));
    f.update();
    let message = f.fails_with("digest-mismatch");
    assert!(message.contains(&digest(&f.next.root)), "{message}");
    let blob = digest(&f.next.root).replace(':', "/");
    assert!(!f.node.state_dir().join("cache/blobs").join(blob).exists());
    assert!(f.node.eci(&["reconcile"]).status.success());
    f.arrives();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_download_goes_on_where_it_stopped() {
    let f = running().await;
    f.registry.inject(f.root().once(), Fault::DropAfter(3 * MIB as u64));
    // One that breaks before it has brought much is no better than one that does not come about.
    let short = f.registry.inject(f.root().skip(1), Fault::DropAfter(1000));
    f.update();
    f.fails_with("unreachable");
    short.remove();
    f.arrives();
    let wire = f.registry.body_bytes(&f.root());
    assert_eq!(wire, f.next.root.len() as u64, "no byte is paid for twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_after_kill_minus_nine() {
    let mut f = running().await;
    let stall = f.registry.inject(f.root().once(), Fault::StallAfter(3 * MIB as u64));
    f.update();
    f.node.until_phase("fetching");
    stall.struck(1).await;
    // What the agent has taken from the wire so far may be anything; wait until it is all on disk.
    let deadline = std::time::Instant::now() + crate::common::agent::PATIENCE;
    while f.node.has_written(&f.next.root) < 3 * MIB as u64 {
        assert!(std::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    f.node.kill();
    stall.remove();
    f.node.start();
    f.arrives();
    assert_eq!(f.registry.body_bytes(&f.root()), f.next.root.len() as u64, "no byte is paid for twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_gets_ranges_wrong_is_started_again_from_zero() {
    for wrong in [Fault::IgnoreRange, Fault::ContentRange("bytes 0-1/2".to_owned()), Fault::status(416)] {
        let f = running().await;
        f.registry.inject(f.root().once(), Fault::DropAfter(3 * MIB as u64));
        f.registry.inject(f.root().skip(1).once(), wrong);
        f.update();
        f.arrives();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_lie_are_refused() {
    for fault in [Fault::PromiseMore(10), Fault::PromiseLess(10)] {
        let f = running().await;
        f.registry.inject(f.root().once(), fault);
        f.update();
        f.fails_with("size-mismatch");
        f.arrives();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_never_ends_is_cut() {
    let f = running().await;
    // What goes on after the blob's end is no part of it.
    f.registry.inject(f.root(), Fault::Endless);
    f.update();
    f.arrives();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_connection_is_cut() {
    let f = running_with("[transfer]\nidle_timeout = \"200ms\"\n").await;
    f.registry.inject(f.root().once(), Fault::StallAfter(1000));
    f.update();
    f.fails_with("timeout");
    f.arrives();
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_bytes_arrive() {
    let f = running().await;
    f.registry.inject(f.root().once(), Fault::Trickle(MIB / 4, std::time::Duration::from_millis(1)));
    f.update();
    f.arrives();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_twenty_megabytes_is_refused() {
    let f = running().await;
    f.registry.inject(On::manifests().get().once(), Fault::PadTo(20 * MIB));
    f.update();
    f.node.until_failed("manifest-too-large");
    let workload = f.node.status()["workloads"]["default"].clone();
    assert_eq!(workload["phase"], "blocked");
    assert_eq!(f.node.current("disk-root"), b"root disk of v1");
    assert!(f.node.eci(&["reconcile", "default"]).status.success());
    f.arrives();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_image_blocks() {
    let f = running().await;
    let no_image =
        f.next.manifest().to_string().replace("org.lfedge", "org.example").replace("vnd.lfedge", "vnd.example");
    for (text, kind) in [("{\"schemaVersion\": 1}", "manifest-invalid"), (no_image.as_str(), "not-bootable")] {
        f.registry.put_manifest("edge/nginx", Some("odd"), MANIFEST, text.to_owned());
        f.node.desire_image(&f.registry.reference("edge/nginx", "odd"));
        f.node.until_failed(kind);
        assert_eq!(f.node.status()["workloads"]["default"]["phase"], "blocked");
        f.node.desire_image(&f.registry.reference("edge/nginx", "v1"));
        f.node.until_phase("active");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_shown_to_a_registry_that_asks() {
    for auth in [Auth::basic("user", "s3cret"), Auth::bearer().login("user", "s3cret").into()] {
        let registry = Registry::builder().auth(auth).serve();
        Image::new("v1").publish(&registry, "edge/nginx", "v1");
        let mut node = Node::new();
        let file = node.path("credentials.json");
        node.configure(&format!("[registry.\"{}\"]\ncredentials = \"{}\"\n", registry.host(), file.display()));
        node.desire_image(&registry.reference("edge/nginx", "v1"));
        node.start();
        node.until_failed("unauthorized");
        let login = format!(r#"{{"auths": {{"{}": {{"username": "user", "password": "s3cret"}}}}}}"#, registry.host());
        std::fs::write(&file, login).unwrap();
        node.until_activated("nginx:v1");
        assert!(!node.log().contains("s3cret"));
    }
}

/// Fetches v1 with what docker's `config.json` says of the registry.
fn fetched_with(registry: &Registry, login: &str) -> Node {
    Image::new("v1").publish(registry, "edge/nginx", "v1");
    let mut node = Node::new();
    let file = node.path("credentials.json");
    std::fs::write(&file, format!(r#"{{"auths": {{"{}": {{{login}}}}}}}"#, registry.host())).unwrap();
    node.configure(&format!("[registry.\"{}\"]\ncredentials = \"{}\"\n", registry.host(), file.display()));
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.start();
    node.until_activated("nginx:v1");
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_token_stands_in_for_a_password() {
    let auth = Auth::bearer().login("user", "no one knows it").identity_token("s3cret");
    let registry = Registry::builder().auth(auth).serve();
    let node = fetched_with(&registry, r#""auth": "dXNlcjo=", "identitytoken": "s3cret""#);
    assert_eq!(registry.count(&On::token()), 1, "one token serves all requests");
    assert!(!node.log().contains("s3cret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_before_it_expires_and_when_it_is_refused() {
    // So short a life is over at once: no request goes out with the token of an earlier one.
    let registry = Registry::builder().auth(Auth::bearer().expires_in(1)).serve();
    fetched_with(&registry, "");
    let unauthorized =
        registry.log().iter().filter(|request| request.status() == Some(hyper::StatusCode::UNAUTHORIZED)).count();
    assert_eq!(unauthorized, 1, "{:?}", registry.log());
    // A token that the registry tires of is replaced too, and the answer to that is what counts.
    let registry = Registry::builder().auth(Auth::bearer().uses(1)).serve();
    fetched_with(&registry, "");
    assert!(registry.count(&On::token()) > 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn https_wants_a_ca_that_is_known() {
    let registry = Registry::builder().https().serve();
    Image::new("v1").publish(&registry, "edge/nginx", "v1");
    let mut node = Node::new();
    node.configure(&format!("[registry.\"{}\"]\ninsecure = false\n", registry.host()));
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.start();
    node.until_failed("tls");
    let ca = node.path("ca.pem");
    std::fs::write(&ca, registry.ca_pem().unwrap()).unwrap();
    node.configure(&format!("[registry.\"{}\"]\nca = \"{}\"\n", registry.host(), ca.display()));
    node.signal(nix::sys::signal::Signal::SIGHUP);
    node.until_activated("nginx:v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_that_stall_do_not_keep_the_agent_from_its_work() {
    let registry = Registry::http();
    let mut node = Node::with_config("[transfer]\nidle_timeout = \"1h\"\n");
    let mut desired = String::new();
    let mut stalls = Vec::new();
    for n in 0..20 {
        let (image, tag) = (Image::new(&n.to_string()).with_root_of(MIB), format!("v{n}"));
        image.publish(&registry, "edge/vm", &tag);
        stalls.push(registry.inject(On::blobs().get().reference(&digest(&image.root)), Fault::StallAfter(1)));
        desired += &format!("[workload.vm-{n}]\nimage = \"{}\"\n", registry.reference("edge/vm", &tag));
    }
    node.desire(&desired);
    node.start();
    let deadline = std::time::Instant::now() + crate::common::agent::PATIENCE;
    while stalls.iter().map(Injected::strikes).sum::<u64>() < 8 {
        assert!(std::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    // Time for more to stall, were more begun.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    // Reading the file, saving what it says and counting the cache take the disk, and none of them waits.
    node.desire(&desired.replace("vm-19", "other"));
    node.until("retired", |event| event["event"] == "retired");
    assert_eq!(node.status()["workloads"].as_object().unwrap().len(), 20);
    stalls.iter().for_each(Injected::remove);
    for _ in 0..20 {
        node.until("activated", |event| event["event"] == "activated");
    }
}
