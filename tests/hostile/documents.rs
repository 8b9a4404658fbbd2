//! Manifests and indexes: too many entries, too deep, in circles, and with two meanings.

use serde_json::{Value, json};

use super::{Bounds, Case, mib, secs};
use crate::common::image::{INDEX, Image, MANIFEST};
use crate::common::registry::{Fault, On, Registry, digest};
use crate::common::workstation::Workstation;

const REPO: &str = "edge/nginx";
const BOUNDS: Bounds = Bounds { memory: mib(192), wire: mib(12), requests: 40, within: secs(40) };

fn inspect(case: &Case, registry: &Registry, bytes: impl Into<Vec<u8>>, media_type: &str) -> (Option<i32>, String) {
    registry.put_manifest(REPO, Some("v1"), media_type, bytes.into());
    let workstation = Workstation::new();
    let output = case.run(&workstation.command(&["pull", "--dir", "out", &registry.reference(REPO, "v1")]));
    let said = super::stderr(&output);
    assert!(said.len() < 4096 && !said.contains("panicked"), "{} bytes: {said:.400}", said.len());
    assert_eq!(registry.count(&On::blobs().get()), 0, "{said}");
    case.registry(registry);
    (output.status.code(), said)
}

fn manifest(layers: &Value) -> String {
    let config = json!({"mediaType": "application/vnd.lfedge.eci.config.v1+json", "digest": digest(b"{}"), "size": 2});
    json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_layers_are_refused() {
    let layer = |n: usize| json!({"mediaType": "a/b", "digest": digest(n.to_string().as_bytes()), "size": 1});
    for count in [4097, 30_000] {
        let case = BOUNDS.start();
        let text = manifest(&(0..count).map(layer).collect());
        let (code, said) = inspect(&case, &Registry::http(), text, MANIFEST);
        assert_eq!(code, Some(65), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_json_is_refused() {
    for text in [
        "[".repeat(4_000_000),
        "{\"a\":".repeat(800_000),
        format!("{{\"schemaVersion\":2,\"annotations\":{}", "[".repeat(3_000_000)),
        format!("{{\"schemaVersion\":2,\"x\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000)),
    ] {
        let case = BOUNDS.start();
        let (code, said) = inspect(&case, &Registry::http(), text, MANIFEST);
        assert_eq!(code, Some(65), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_with_two_meanings_are_refused() {
    let config = json!({"mediaType": "a/b", "digest": digest(b"{}"), "size": 2});
    let both = json!({"schemaVersion": 2, "config": config, "layers": [], "manifests": []}).to_string();
    let whole = manifest(&json!([]));
    let twice = format!("{},\"layers\":[]}}", whole.trim_end_matches('}'));
    for (text, media_type) in [(both.clone(), MANIFEST), (both, INDEX), (whole, INDEX), (twice, MANIFEST)] {
        let case = BOUNDS.start();
        let (code, said) = inspect(&case, &Registry::http(), text, media_type);
        assert_eq!(code, Some(65), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wide_and_circular_indexes_end() {
    let entry = |digest: &str| json!({"mediaType": INDEX, "digest": digest, "size": 100});
    let index = |entries: &Value| json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
    // Each of 210 indexes names the others by a digest at which the registry serves the same index.
    let case = Bounds { requests: 300, ..BOUNDS }.start();
    let registry = Registry::http();
    let names: Vec<_> = (0..210).map(|n| digest(format!("index {n}").as_bytes())).collect();
    let text = index(&names.iter().map(|name| entry(name)).collect());
    let circle = registry.put_manifest(REPO, Some("v1"), INDEX, text.clone());
    let url = registry.url(&format!("/v2/{REPO}/manifests/{circle}"));
    for name in &names {
        registry.inject(On::manifests().reference(name), Fault::Redirect(url.clone()));
    }
    let (code, said) = inspect(&case, &registry, text, INDEX);
    assert_eq!(code, Some(65), "{said}");

    // Indexes below indexes, each of which lists the next one 210 times.
    let case = Bounds { requests: 300, ..BOUNDS }.start();
    let registry = Registry::http();
    let mut below = registry.put_manifest(REPO, None, MANIFEST, manifest(&json!([])));
    for _ in 0..12 {
        below = registry.put_manifest(REPO, None, INDEX, index(&(0..210).map(|_| entry(&below)).collect()));
    }
    let (code, said) = inspect(&case, &registry, index(&json!([entry(&below)])), INDEX);
    assert_eq!(code, Some(65), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn largest_documents_are_taken() {
    let case = BOUNDS.start();
    let registry = Registry::http();
    let image = Image::new("v1");
    let mut padded = image.manifest();
    padded["annotations"] = json!({"padding": "x".repeat((4 << 20) - 4000)});
    image.publish(&registry, REPO, "v1");
    registry.put_manifest(REPO, Some("v1"), MANIFEST, padded.to_string());
    let workstation = Workstation::new();
    case.must(&workstation.command(&["pull", "--dir", "out", &registry.reference(REPO, "v1")]));
    case.registry(&registry);
}
