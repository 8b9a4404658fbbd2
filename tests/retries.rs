//! Commands that a person waits for, and registries that fail for a moment.

use crate::common::image::Image;
use crate::common::registry::{Fault, On, Registry, digest};
use crate::common::workstation::Workstation;

const MIB: usize = 1 << 20;
const REPO: &str = "edge/nginx";

struct Fixture {
    registry: Registry,
    workstation: Workstation,
    image: Image,
    reference: String,
}

impl Fixture {
    fn new() -> Self {
        let (registry, workstation) = (Registry::http(), Workstation::new());
        let image = Image::new("v1").with_root_of(3 * MIB);
        image.publish(&registry, REPO, "v1");
        let reference = registry.reference(REPO, "v1");
        Self { registry, workstation, image, reference }
    }

    /// The commands that fetch; the last one only the root disk.
    fn commands(&self) -> [Vec<&str>; 3] {
        let reference = self.reference.as_str();
        [
            vec!["pull", "--dir", "out", reference],
            vec!["inspect", reference],
            vec!["pullfiles", "--root", "root", reference],
        ]
    }

    fn root(&self) -> On {
        On::blobs().get().reference(&digest(&self.image.root))
    }
}

/// The stderr of a command that succeeds.
fn said(workstation: &Workstation, arguments: &[&str]) -> String {
    let output = workstation.eci(arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_errors_are_retried_and_reported() {
    for (on, fault) in [
        (On::manifests().get(), Fault::status(502)),
        (On::manifests().get(), Fault::status(522)),
        (On::manifests().head(), Fault::Disconnect),
        (On::manifests().get(), Fault::status(503)),
        (On::manifests(), Fault::too_many_requests(0)),
        (On::manifests(), Fault::too_many_requests("1746136938")),
        (On::manifests().get(), Fault::DropAfter(10)),
    ] {
        let f = Fixture::new();
        for arguments in f.commands() {
            let fault = f.registry.inject(on.clone().times(3), fault.clone());
            let said = said(&f.workstation, &arguments);
            assert_eq!(said.matches("trying again in").count(), 3, "{arguments:?} {fault:?}: {said}");
            assert!(said.contains("(try 2 of 5)") && said.contains(&f.registry.host()), "{said}");
            fault.remove();
        }
        f.workstation.has_pulled("out", &f.image);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_tried_again_and_resumed() {
    let f = Fixture::new();
    for (on, fault) in
        [(On::blobs().get(), Fault::status(502)), (f.root(), Fault::status(500)), (f.root(), Fault::DropAfter(100))]
    {
        f.registry.inject(on.times(3), fault);
        let said = said(&f.workstation, &["pull", "--dir", "out", &f.reference]);
        assert!(said.contains("trying again in"), "{said}");
        f.workstation.has_pulled("out", &f.image);
    }
    // Each try gets further, more often than one that does not would be made.
    f.registry.take_log();
    for n in 0..10 {
        f.registry.inject(f.root().skip(n).times(1), Fault::DropAfter(40_000));
    }
    said(&f.workstation, &["pull", "--dir", "out", &f.reference]);
    f.workstation.has_pulled("out", &f.image);
    assert_eq!(f.registry.body_bytes(&f.root()), f.image.root.len() as u64, "no byte is paid for twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn permanent_errors_are_not_retried() {
    for (on, fault, code) in [
        (On::manifests(), Fault::status(401), 77),
        (On::manifests(), Fault::status(403), 77),
        (On::manifests(), Fault::status(404), 69),
        (On::manifests(), Fault::too_many_requests(3600), 75),
        (On::blobs().get(), Fault::status(404), 69),
        (On::blobs().get(), Fault::FlipByte(0), 65),
    ] {
        let f = Fixture::new();
        f.registry.inject(on.clone(), fault.clone());
        let said = f.workstation.fails(code, &["pull", "--dir", "out", &f.reference]);
        assert!(!said.contains("trying again"), "{fault:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tries_are_counted() {
    // A HEAD that fails is followed by a GET, which counts as the same try.
    for on in [On::manifests(), On::manifests().get()] {
        let f = Fixture::new();
        f.registry.inject(on, Fault::status(502));
        let said = f.workstation.fails(69, &["pull", "--dir", "out", &f.reference]);
        assert_eq!(f.registry.count(&On::manifests().get()), 5, "{said}");
        assert!(!f.workstation.path("out").exists(), "nothing is left of it");
    }
    let f = Fixture::new();
    f.registry.inject(f.root(), Fault::status(502));
    f.workstation.fails(69, &["pull", "--dir", "out", &f.reference]);
    assert_eq!(f.registry.count(&f.root()), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_registry_is_not_retried() {
    let f = Fixture::new();
    f.registry.stop().await;
    for arguments in f.commands() {
        let said = f.workstation.fails(69, &arguments);
        assert!(said.contains("cannot be reached") && !said.contains("trying again"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_tries_again_what_it_reads() {
    let f = Fixture::new();
    let arguments = |tag: &str| {
        let mut arguments = f.workstation.push_arguments(&f.image, &f.registry.reference(REPO, tag));
        arguments.splice(1..1, ["--platform".to_owned(), "linux/arm64".to_owned()]);
        arguments
    };
    let arguments = arguments("v1");
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    f.registry.inject(On::manifests().get().times(2), Fault::status(502));
    assert_eq!(said(&f.workstation, &arguments).matches("trying again in").count(), 2);
}
