//! Uploads over bad links, and those that are not needed.

use hyper::Method;

use crate::common::cutter::Cutter;
use crate::common::docker_registry::DockerRegistry;
use crate::common::image::Image;
use crate::common::registry::{Auth, Fault, On, Registry, digest};
use crate::common::workstation::Workstation;

const MIB: usize = 1 << 20;
const REPO: &str = "edge/nginx";
/// Tries are made at once.
const IMPATIENT: &str = "[retry]\ninitial = \"10ms\"\n";

fn image() -> Image {
    Image::new("v1").with_root_of(3 * MIB + 1)
}

/// A registry, and a workstation whose tries are made at once.
struct Fixture {
    registry: Registry,
    workstation: Workstation,
    reference: String,
}

impl Fixture {
    fn new() -> Self {
        let (registry, workstation) = (Registry::http(), Workstation::with_config(IMPATIENT));
        let reference = registry.reference(REPO, "v1");
        Self { registry, workstation, reference }
    }

    /// The image is pushed, and is there.
    fn push(&self) {
        self.workstation.push(&image(), &self.reference);
        arrived(&self.workstation, &self.reference, &image());
    }
}

fn arrived(workstation: &Workstation, reference: &str, image: &Image) {
    workstation.must(&["pull", "--dir", "out", reference]);
    workstation.has_pulled("out", image);
}

/// Pushes with blobs from other repositories of the registry.
fn push_from(workstation: &Workstation, image: &Image, reference: &str, others: &[&str]) {
    let mut arguments = workstation.push_arguments(image, reference);
    arguments.extend(others.iter().flat_map(|from| ["--mount-from".to_owned(), (*from).to_owned()]));
    workstation.must(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
}

fn uploads(method: Method) -> On {
    On::uploads().method(method)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_goes_on_where_it_stopped() {
    let f = Fixture::new();
    // Kernel and initrd go first. The root disk's link breaks six times, more often than a try that gets no further.
    for n in 0..6 {
        f.registry.inject(uploads(Method::PATCH).skip(2 + n).times(1), Fault::CutUpload(500_000));
    }
    f.push();
    for held in (1..=6).map(|n| n * 500_000) {
        let on = uploads(Method::PATCH).uri(&format!("state={held}"));
        assert_eq!(f.registry.count(&on), 1, "{held}: {:?}", f.registry.log());
    }
    assert_eq!(f.registry.count(&uploads(Method::POST)), 4, "one for each blob");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_registry_cannot_tell_the_blob_is_sent_again() {
    let f = Fixture::new();
    f.registry.inject(uploads(Method::PATCH).skip(2).times(1), Fault::CutUpload(500_000));
    f.registry.inject(uploads(Method::GET), Fault::status(404));
    f.push();
    assert_eq!(f.registry.count(&uploads(Method::POST)), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_the_registry_has_lost_is_begun_anew() {
    for (method, status) in [(Method::PATCH, 404), (Method::PATCH, 416), (Method::PUT, 404), (Method::PUT, 416)] {
        let f = Fixture::new();
        // The kernel is so short that all of it is out before the answer is there.
        f.registry.inject(uploads(method.clone()).times(2), Fault::status(status));
        f.push();
        assert_eq!(f.registry.count(&uploads(Method::POST)), 4 + 2, "{method} {status}");
        assert_eq!(f.registry.count(&uploads(Method::GET)), 0, "what is lost is not asked for");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_without_an_answer_costs_no_bytes() {
    let f = Fixture::new();
    f.registry.inject(uploads(Method::PATCH).skip(2).times(1), Fault::CutUpload(500_000));
    f.registry.inject(uploads(Method::GET).times(1), Fault::status(503));
    f.push();
    assert_eq!(f.registry.count(&uploads(Method::PATCH).uri("state=500000")), 1, "{:?}", f.registry.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn debians_registry_gets_the_blob_again_after_a_cut() {
    const TEST: &str = "debians_registry_gets_the_blob_again_after_a_cut";
    let Some(registry) = DockerRegistry::http(TEST) else { return };
    let (workstation, image) = (Workstation::with_config(IMPATIENT), image());
    let wire = Cutter::new(registry.host(), 2 * MIB as u64).await;
    workstation.push(&image, &format!("{}/{REPO}:v1", wire.host()));
    let sent = wire.sent();
    assert!(sent >= (2 * MIB + image.root.len()) as u64 - 100_000, "it went on, with {sent} bytes in all");
    arrived(&workstation, &registry.reference(REPO, "v1"), &image);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_tried_again_at_every_step() {
    for (on, fault) in [
        (On::uploads().method(Method::POST), Fault::status(500)),
        (On::uploads().method(Method::PATCH), Fault::status(502)),
        (On::uploads().method(Method::PUT), Fault::status(503)),
        (On::uploads().method(Method::PUT), Fault::Disconnect),
        (On::blobs().head(), Fault::too_many_requests(0)),
        (On::manifests().method(Method::PUT), Fault::too_many_requests(0)),
    ] {
        let f = Fixture::new();
        let injected = f.registry.inject(on.skip(0).times(1), fault);
        f.push();
        assert_eq!(injected.strikes(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_pass_and_who_asks_for_long_patience_ends_it() {
    for (code, on, fault) in [
        (69, uploads(Method::PATCH), Fault::status(500)),
        (69, uploads(Method::PATCH), Fault::CutUpload(0)),
        (77, uploads(Method::POST), Fault::status(403)),
        (75, uploads(Method::POST), Fault::too_many_requests(3600)),
    ] {
        let (registry, workstation) = (Registry::http(), Workstation::with_config(IMPATIENT));
        let arguments = workstation.push_arguments(&image(), &registry.reference(REPO, "v1"));
        let injected = registry.inject(on, fault.clone());
        workstation.fails(code, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(injected.strikes() <= 5, "{fault:?}: {}", injected.strikes());
        assert!(registry.manifest(REPO, "v1").is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_mounted_where_the_registry_has_them() {
    for auth in [Auth::Open, Auth::bearer().into()] {
        let (registry, image) = (Registry::builder().auth(auth).serve(), image());
        for bytes in [&image.kernel, &image.root] {
            registry.put_blob("edge/base", bytes.clone());
        }
        let workstation = Workstation::new();
        let reference = registry.reference(REPO, "v1");
        push_from(&workstation, &image, &reference, &["edge/absent", "edge/base"]);
        let mounted = uploads(Method::POST).uri(&format!("mount={}&from=edge/base", digest(&image.root)));
        assert_eq!(registry.count(&mounted), 1);
        assert!(
            !registry.log().iter().any(|request| request.uri.contains("from=edge/base")
                && request.status().is_none_or(|status| status.is_client_error())
                && request.authorization.is_some()),
            "a token is good for both repositories"
        );
        // The first repository has none of them, so that it opens an upload each time; so does the second for initrd and
        // config, which are in no other repository, and theirs is used.
        assert_eq!(registry.count(&uploads(Method::DELETE)), 4, "{:?}", registry.log());
        assert_eq!(registry.count(&uploads(Method::PATCH)), 2, "{:?}", registry.log());
        arrived(&workstation, &reference, &image);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_mounting_is_refused_the_bytes_are_sent() {
    let (registry, workstation, image) = (Registry::http(), Workstation::new(), image());
    registry.inject(uploads(Method::POST).uri("mount="), Fault::status(405));
    let reference = registry.reference(REPO, "v1");
    push_from(&workstation, &image, &reference, &["edge/base"]);
    arrived(&workstation, &reference, &image);
}

#[tokio::test(flavor = "multi_thread")]
async fn debians_registry_mounts() {
    const TEST: &str = "debians_registry_mounts";
    let Some(registry) = DockerRegistry::http(TEST) else { return };
    let (workstation, image) = (Workstation::new(), image());
    workstation.push(&image, &registry.reference("edge/base", "v1"));
    let reference = registry.reference(REPO, "v1");
    push_from(&workstation, &image, &reference, &["edge/base"]);
    arrived(&workstation, &reference, &image);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_location_is_followed_in_every_form() {
    for location in ["{path}", "http://{host}{path}", "//{host}{path}"] {
        let f = Fixture::new();
        f.registry.inject(On::uploads(), Fault::Location(location.replace("{host}", &f.registry.host())));
        f.push();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_location_that_leads_nowhere_is_named() {
    let f = Fixture::new();
    // A port of loopback at which nobody listens, as a location without a port leads to one.
    let reserved = tokio::net::TcpSocket::new_v4().unwrap();
    reserved.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let elsewhere = reserved.local_addr().unwrap();
    f.registry.inject(On::uploads(), Fault::Location(format!("http://{elsewhere}{{path}}&secret=s3cret")));
    let arguments = f.workstation.push_arguments(&image(), &f.reference);
    let said = f.workstation.fails(69, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let last = said.lines().last().unwrap();
    assert!(last.contains(&format!("http://{elsewhere}/v2/{REPO}/blobs/uploads/")), "{last}");
    assert!(last.contains(&format!("http://{}/v2/{REPO}/blobs/uploads/ names", f.registry.host())), "{last}");
    assert!(last.contains("refused") && !said.contains("s3cret"), "{said}");
}
