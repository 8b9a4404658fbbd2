//! The agent against Debian's `docker-registry`, with images that `skopeo` put there, and `skopeo` reading the cache.

use crate::common::agent::Node;
use crate::common::docker_registry::{DockerRegistry, certificate, program, skopeo, skopeo_has};
use crate::common::image::Image;

/// Puts an image into the registry by `skopeo`; its digest.
fn put(test: &str, node: &Node, image: &Image, tag: &str, to: &str, options: &[&str]) -> String {
    let layout = node.path(&format!("layout-{tag}"));
    let digest = image.write_layout(&layout, tag);
    let (from, to) = (format!("oci:{}:{tag}", layout.display()), format!("docker://{to}"));
    skopeo(test, &[&["copy"], options, &[&from, &to]].concat()).unwrap();
    digest
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_deploys_what_skopeo_pushed_and_skopeo_reads_the_cache() {
    const TEST: &str = "the_agent_deploys_what_skopeo_pushed_and_skopeo_reads_the_cache";
    let Some(registry) = DockerRegistry::http(TEST) else { return };
    if program(TEST, "skopeo").is_none() {
        return;
    }
    let mut node = Node::new();
    let mut image = Image::new("one");
    image.disks.push(b"data".to_vec());
    let reference = registry.reference("edge/nginx", "v1");
    let digest = put(TEST, &node, &image, "v1", &reference, &["--dest-tls-verify=false"]);
    node.desire_image(&reference);
    node.start();
    node.until_activated(&reference);
    assert_eq!(node.current("disk-root"), image.root);
    assert_eq!(node.status()["workloads"]["default"]["current"]["digest"], digest);

    let copy = node.path("copy");
    let cache = format!("oci:{}:{reference}", node.state_dir().join("cache").display());
    skopeo(TEST, &["copy", &cache, &format!("dir:{}", copy.display())]).unwrap();
    skopeo_has(&copy, &image, &digest);

    let next = Image::new("two").with_root_of(3 << 20);
    put(TEST, &node, &next, "v2", &registry.reference("edge/nginx", "v2"), &["--dest-tls-verify=false"]);
    node.desire_image(&registry.reference("edge/nginx", "v2"));
    node.until_activated("nginx:v2");
    assert!(node.current("disk-root") == next.root);

    node.desire_image(&registry.reference("edge/nginx", "v3"));
    node.until_failed("not-found");
    assert!(node.current("disk-root") == next.root, "what runs stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_goes_on_with_a_download_that_debians_registry_began() {
    const TEST: &str = "the_agent_goes_on_with_a_download_that_debians_registry_began";
    let Some(registry) = DockerRegistry::http(TEST) else { return };
    if program(TEST, "skopeo").is_none() {
        return;
    }
    let mut node = Node::new();
    let image = Image::new("one").with_root_of(3 << 20);
    let reference = registry.reference("edge/nginx", "v1");
    put(TEST, &node, &image, "v1", &reference, &["--dest-tls-verify=false"]);
    // As a power cut leaves it: some of the bytes are there.
    node.leave_partial(&image.root, 1 << 20);
    node.desire_image(&reference);
    node.start();
    node.until_activated(&reference);
    assert!(node.current("disk-root") == image.root);
    assert_eq!(node.status()["workloads"]["default"]["last_transfer"]["reused_bytes"], 1 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn https_with_a_ca_of_its_own() {
    const TEST: &str = "https_with_a_ca_of_its_own";
    let mut node = Node::new();
    let [ca, cert, key] = certificate(&node.path(""));
    let Some(registry) = DockerRegistry::https(TEST, &cert, &key) else { return };
    if program(TEST, "skopeo").is_none() {
        return;
    }
    let image = Image::new("one");
    let reference = registry.reference("edge/nginx", "v1");
    let ca_dir = ca.parent().unwrap().to_str().unwrap();
    put(TEST, &node, &image, "v1", &reference, &["--dest-cert-dir", ca_dir]);
    node.configure(&format!("[registry.\"{}\"]\nca = {ca:?}\n", registry.host()));
    node.desire_image(&reference);
    node.start();
    node.until_activated(&reference);
    assert_eq!(node.current("disk-root"), image.root);
}
