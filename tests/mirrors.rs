//! Mirrors: asked first for what a digest proves, left out if they do not help, and trusted with tags only by their own
//! table and by HTTPS.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Duration;

use crate::common::agent::Node;
use crate::common::docker_registry::DockerRegistry;
use crate::common::image::Image;
use crate::common::registry::{Auth, Fault, On, Registry, digest};

const REPO: &str = "edge/nginx";
const MIB: usize = 1 << 20;

struct Fixture {
    origin: Registry,
    mirror: Registry,
    node: Node,
    image: Image,
}

/// An image that registry and mirror have, and a node that wants it and knows the mirror.
fn mirrored() -> Fixture {
    let (origin, mirror, node) = (Registry::http(), Registry::http(), Node::new());
    let image = Image::new("v1").with_root_of(4 * MIB);
    for registry in [&origin, &mirror] {
        image.publish(registry, REPO, "v1");
    }
    let f = Fixture { origin, mirror, node, image };
    f.mirrors(&[&f.mirror.url("")], "");
    f.node.desire_image(&f.origin.reference(REPO, "v1"));
    f
}

impl Fixture {
    fn mirrors(&self, urls: &[&str], more: &str) {
        let host = self.origin.host();
        self.node.configure(&format!("[registry.\"{host}\"]\nmirrors = {urls:?}\n{more}"));
    }

    /// Has the node desire the image by its digest, which needs nobody to resolve a tag.
    fn pin(&self) -> String {
        let pinned =
            format!("{}@{}", self.origin.reference(REPO, "v1"), digest(self.image.manifest().to_string().as_bytes()));
        self.node.desire_image(&pinned);
        pinned
    }

    fn root(&self) -> On {
        On::blobs().get().reference(&digest(&self.image.root))
    }

    fn arrives(&mut self) {
        self.node.start();
        self.node.until_activated("nginx:v1");
        assert!(self.node.current("disk-root") == self.image.root);
        assert!(!self.node.log().contains("event=\"failed\""), "{}", self.node.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_has_it_is_enough() {
    let mut f = mirrored();
    f.pin();
    f.origin.stop().await;
    f.arrives();
    // As containerd says it to a mirror of many registries.
    let namespace = format!("?ns={}", f.origin.host());
    assert!(f.mirror.log().iter().all(|request| request.uri.ends_with(&namespace)), "{:?}", f.mirror.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_below_a_path_has_the_repositories_there() {
    let mut f = mirrored();
    f.image.publish(&f.mirror, "proxy/hub/edge/nginx", "v1");
    f.mirrors(&[&f.mirror.url("/proxy/hub")], "");
    f.pin();
    f.origin.stop().await;
    f.arrives();
    assert_eq!(f.mirror.count(&On::any().repo(REPO)), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_mirror_lacks_or_refuses_comes_from_the_registry() {
    for fault in [404, 401, 403, 429, 500, 503].map(Fault::status) {
        let mut f = mirrored();
        f.mirror.inject(On::any(), fault);
        f.arrives();
        assert_eq!(f.origin.body_bytes(&f.root()), f.image.root.len() as u64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_is_down_is_asked_once() {
    let mut f = mirrored();
    // It takes connections and never answers, which costs as long as one may be idle.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", mute.local_addr().unwrap());
    f.mirrors(&[&url, &f.mirror.url("")], "[transfer]\nidle_timeout = \"300ms\"\n");
    f.pin();
    f.arrives();
    assert_eq!(f.origin.log().len(), 0, "the next mirror has it");
    mute.set_nonblocking(true).unwrap();
    let asked = std::iter::from_fn(|| mute.accept().ok()).count();
    assert_eq!(asked, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_was_down_is_the_last_resort() {
    let mut f = mirrored();
    f.mirror.inject(On::manifests().once(), Fault::status(500));
    f.origin.inject(On::any(), Fault::status(503));
    f.pin();
    f.node.start();
    f.node.until_activated("nginx:v1");
    assert!(f.node.current("disk-root") == f.image.root);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_serves_wrong_bytes_is_left_out_for_that_blob() {
    let mut f = mirrored();
    f.mirror.inject(f.root(), Fault::FlipByte(1000));
    f.arrives();
    let size = f.image.root.len() as u64;
    assert_eq!((f.mirror.body_bytes(&f.root()), f.origin.body_bytes(&f.root())), (size, size));
    let kernel = On::blobs().get().reference(&digest(&f.image.kernel));
    assert_eq!((f.mirror.count(&kernel), f.origin.count(&kernel)), (1, 0), "it may be right about others");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_at_another_mirror() {
    for (fault, more) in
        [(Fault::DropAfter(MIB as u64), ""), (Fault::StallAfter(MIB as u64), "[transfer]\nidle_timeout = \"300ms\"\n")]
    {
        let mut f = mirrored();
        f.mirrors(&[&f.mirror.url("")], more);
        f.mirror.inject(f.root().once(), fault);
        f.mirror.inject(f.root().skip(1), Fault::Disconnect);
        f.arrives();
        assert_eq!(f.mirror.body_bytes(&f.root()), MIB as u64);
        assert_eq!(f.origin.body_bytes(&f.root()), 3 * MIB as u64, "what the mirror has brought stays");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_that_is_known_is_never_asked_for_by_tag() {
    let mut f = mirrored();
    Image::new("old").publish(&f.mirror, REPO, "v1");
    let pinned = digest(f.image.manifest().to_string().as_bytes());
    let reference = format!("{}@{pinned}", f.origin.reference(REPO, "v1"));
    f.node.desire_image(&reference);
    f.node.start();
    f.node.until_activated(&reference);
    for registry in [&f.origin, &f.mirror] {
        assert_eq!(registry.count(&On::manifests().reference("v1")), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mirror_has_tls_and_credentials_of_its_own() {
    let mut f = mirrored();
    let mirror = Registry::builder().https().auth(Auth::basic("mirror", "s3cret")).serve();
    f.image.publish(&mirror, REPO, "v1");
    f.origin.set_auth(Auth::basic("origin", "other"));
    let (ca, logins) = (f.node.path("ca.pem"), f.node.path("logins.json"));
    std::fs::write(&ca, mirror.ca_pem().unwrap()).unwrap();
    let auths = format!(
        r#"{{"auths": {{"{}": {{"username": "mirror", "password": "s3cret"}}, "{}": {{"username": "origin", "password": "other"}}}}}}"#,
        mirror.host(),
        f.origin.host()
    );
    std::fs::write(&logins, auths).unwrap();
    let table =
        format!("credentials = {logins:?}\n[registry.\"{}\"]\nca = {ca:?}\ncredentials = {logins:?}\n", mirror.host());
    f.mirrors(&[&mirror.url("")], &table);
    // The last blob is to come from the registry.
    mirror.inject(f.root(), Fault::status(404));
    f.arrives();
    let shown = |registry: &Registry| -> BTreeSet<_> {
        registry.log().iter().filter_map(|request| request.authorization.clone()).collect()
    };
    assert!(mirror.body_bytes(&On::blobs()) > 0);
    assert_eq!((shown(&mirror).len(), shown(&f.origin).len()), (1, 1));
    assert!(shown(&mirror).is_disjoint(&shown(&f.origin)), "neither sees the other's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_shown_to_the_mirror_that_wants_it() {
    let mut f = mirrored();
    let mirror = Registry::builder().https().client_certificates().serve();
    f.image.publish(&mirror, REPO, "v1");
    let identity = mirror.client_identity().unwrap();
    let file = |name: &str, text: &str| {
        let path = f.node.path(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let ca = file("ca.pem", mirror.ca_pem().unwrap());
    let (cert, key) = (file("cert.pem", &identity.certificate_pem), file("key.pem", &identity.key_pem));
    let table =
        format!("[registry.\"{}\"]\nca = {ca:?}\nclient_cert = {cert:?}\nclient_key = {key:?}\n", mirror.host());
    f.mirrors(&[&mirror.url("")], &table);
    f.pin();
    f.arrives();
    assert_eq!((f.origin.log().len(), mirror.body_bytes(&f.root())), (0, f.image.root.len() as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_that_serve_wrong_bytes_are_left_out_one_after_another() {
    let mut f = mirrored();
    let other = Registry::http();
    f.image.publish(&other, REPO, "v1");
    f.mirrors(&[&f.mirror.url(""), &other.url("")], "");
    for mirror in [&f.mirror, &other] {
        mirror.inject(f.root(), Fault::FlipByte(1000));
    }
    f.arrives();
    let size = f.image.root.len() as u64;
    for registry in [&f.mirror, &other, &f.origin] {
        assert_eq!(registry.body_bytes(&f.root()), size, "each once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_from_before_a_restart_are_put_down_to_the_mirrors() {
    let mut f = mirrored();
    let partial = f.node.leave_partial(&f.image.root, MIB);
    let mut wrong = std::fs::read(&partial).unwrap();
    wrong[1000] ^= 1;
    std::fs::write(&partial, wrong).unwrap();
    // The rest comes from the registry; the mirror that they came from would bring them again.
    f.mirror.inject(f.root().once(), Fault::status(500));
    f.mirror.inject(f.root(), Fault::FlipByte(1000));
    f.arrives();
    assert_eq!((f.mirror.count(&f.root()), f.origin.count(&f.root())), (1, 2));
}

/// So short that a test need not wait long for what is found slow.
const IMPATIENT: &str = "[transfer]\nidle_timeout = \"300ms\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_trickles_is_left_for_the_registry() {
    // In one go, and in segments.
    for size in [4 * MIB, 20 * MIB] {
        let mut f = mirrored();
        f.image = Image::new("v1").with_root_of(size);
        for registry in [&f.origin, &f.mirror] {
            f.image.publish(registry, REPO, "v1");
        }
        f.mirrors(&[&f.mirror.url("")], IMPATIENT);
        f.mirror.inject(f.root(), Fault::Trickle(1024, Duration::from_millis(100)));
        f.arrives();
        let [slow, quick] = [&f.mirror, &f.origin].map(|registry| registry.body_bytes(&f.root()));
        assert!(slow > 0 && slow <= 64 << 10, "{slow} bytes");
        assert!(slow + quick <= size as u64 + (16 << 10), "{slow} and {quick} bytes");
        let asked = f.mirror.log().len();
        // It is not tried again with each image.
        Image::new("v2").publish(&f.origin, REPO, "v2");
        f.node.desire_image(&f.origin.reference(REPO, "v2"));
        f.node.until_activated("nginx:v2");
        assert_eq!(f.mirror.log().len(), asked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_mirror_is_taken_up_again_where_the_others_are_slower() {
    let mut f = mirrored();
    let other = Registry::http();
    f.image.publish(&other, REPO, "v1");
    f.mirrors(&[&f.mirror.url(""), &other.url("")], IMPATIENT);
    f.mirror.inject(f.root(), Fault::Trickle(32 << 10, Duration::from_millis(20)));
    for slower in [&other, &f.origin] {
        slower.inject(f.root(), Fault::Trickle(1024, Duration::from_millis(50)));
    }
    f.arrives();
    let [mirror, other, origin] = [&f.mirror, &other, &f.origin].map(|registry| registry.body_bytes(&f.root()));
    assert!(other > 0 && other <= 64 << 10 && origin > 0 && origin <= 64 << 10, "{other} and {origin} bytes");
    assert!(mirror <= f.image.root.len() as u64 + (128 << 10), "{mirror} bytes");
    assert_eq!(f.mirror.count(&f.root()), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_mirror_is_better_than_a_registry_that_refuses() {
    for refusal in [401, 404, 503] {
        let mut f = mirrored();
        f.mirrors(&[&f.mirror.url("")], IMPATIENT);
        f.mirror.inject(f.root(), Fault::Trickle(32 << 10, Duration::from_millis(20)));
        f.origin.inject(f.root(), Fault::status(refusal));
        f.arrives();
        assert_eq!((f.mirror.count(&f.root()), f.origin.body_bytes(&f.root()) < 1000), (2, true), "{refusal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn debians_registry_is_a_pull_through_cache() {
    const TEST: &str = "debians_registry_is_a_pull_through_cache";
    let Some(origin) = DockerRegistry::http(TEST) else { return };
    let Some(cache) = DockerRegistry::proxy(TEST, &origin) else { return };
    let workstation = crate::common::workstation::Workstation::new();
    let image = Image::new("v1").with_root_of(20 * MIB);
    let reference = origin.reference(REPO, "v1");
    workstation.push(&image, &reference);
    let mut node = Node::new();
    let config = format!("[registry.\"{}\"]\nmirrors = [\"http://{}\"]\n", origin.host(), cache.host());
    node.configure(&config);
    node.desire_image(&reference);
    node.start();
    node.until_activated("nginx:v1");
    assert!(node.current("disk-root") == image.root);
    // What went through the cache is there when the registry is not, once the cache has put it by.
    let blobs = |registry: &DockerRegistry| {
        let stored = crate::common::agent::files_below(&registry.data().join("docker/registry/v2/blobs"));
        let names = stored.into_iter().filter(|path| path.ends_with("data"));
        names.filter_map(|path| Some(path.parent()?.file_name()?.to_owned())).collect::<BTreeSet<_>>()
    };
    let deadline = std::time::Instant::now() + crate::common::agent::PATIENCE;
    while !blobs(&cache).is_superset(&blobs(&origin)) {
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    drop(origin);
    let mut other = Node::new();
    other.configure(&config);
    let reference = format!("{reference}@{}", digest(&node.current("manifest.json")));
    other.desire_image(&reference);
    other.start();
    other.until_activated("nginx:v1");
    assert!(other.current("disk-root") == image.root);
}

/// A mirror reached by HTTPS, and the table that trusts its certificate.
fn https_mirror(f: &Fixture, more: &str) -> Registry {
    let mirror = Registry::builder().https().serve();
    let ca = f.node.path("ca.pem");
    std::fs::write(&ca, mirror.ca_pem().unwrap()).unwrap();
    let table = format!("[registry.\"{}\"]\nca = {ca:?}\n{more}", mirror.host());
    f.mirrors(&[&mirror.url("")], &table);
    mirror
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_resolved_at_the_registry_and_not_at_a_mirror() {
    // By plain HTTP, and by HTTPS without a word of trust.
    for https in [false, true] {
        let mut f = mirrored();
        let mirror = if https { https_mirror(&f, "") } else { Registry::http() };
        if !https {
            f.mirrors(&[&mirror.url("")], "");
        }
        f.image.publish(&mirror, REPO, "blobs");
        Image::new("another").publish(&mirror, REPO, "v1");
        f.arrives();
        assert_eq!(mirror.count(&On::manifests().reference("v1")), 0);
        assert!(mirror.body_bytes(&f.root()) > 0, "it still serves the bytes");

        // Without the registry, what runs stays.
        f.origin.stop().await;
        let current = f.node.status()["workloads"]["default"]["current"]["digest"].clone();
        assert!(f.node.eci(&["reconcile"]).status.success());
        f.node.until_failed("unreachable");
        assert_eq!(f.node.status()["workloads"]["default"]["current"]["digest"], current);
        assert_eq!(mirror.count(&On::manifests().reference("v1")), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_is_trusted_with_tags_resolves_them() {
    let mut f = mirrored();
    let mirror = https_mirror(&f, "resolve_tags = true\n");
    f.image.publish(&mirror, REPO, "v1");
    f.origin.stop().await;
    f.arrives();
    assert!(mirror.count(&On::manifests().reference("v1")) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirrors_tag_that_leads_to_no_image_is_held_against_the_mirror() {
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let bootless = serde_json::json!({"schemaVersion": 2, "mediaType": manifest, "layers": [],
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2}});
    for nonsense in [r#"{"schemaVersion":2,"mediaType":"x/y"}"#, "<html>", &bootless.to_string()] {
        let mut f = mirrored();
        let mirror = https_mirror(&f, "resolve_tags = true\n");
        mirror.put_manifest(REPO, Some("v1"), manifest, nonsense.to_owned());
        f.arrives();
        assert_eq!(f.origin.count(&On::manifests().reference("v1")), 1, "{nonsense}");
    }
}

#[test]
fn a_mirror_without_tls_cannot_be_trusted_with_tags() {
    let workstation = crate::common::workstation::Workstation::with_config(
        "[registry.\"r.example\"]\nmirrors = [\"http://m.example\"]\n[registry.\"m.example\"]\nresolve_tags = true\n",
    );
    let said = workstation.fails(78, &["inspect", "r.example/a:1"]);
    assert!(said.contains("resolve_tags") && said.contains("https"), "{said}");
}
