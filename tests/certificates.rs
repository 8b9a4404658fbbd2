//! Certificate files that are replaced while the agent runs.

use std::fs;

use crate::common::agent::Node;
use crate::common::image::Image;
use crate::common::registry::Registry;

const REPO: &str = "edge/nginx";

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_renewed_are_used_without_a_signal() {
    let mut registry = Registry::builder().https().client_certificates().serve();
    for tag in ["v1", "v2"] {
        Image::new(tag).publish(&registry, REPO, tag);
    }
    let mut node = Node::new();
    let [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map(|name| node.path(name));
    let identity = registry.client_identity().unwrap();
    fs::write(&ca, registry.ca_pem().unwrap()).unwrap();
    fs::write(&cert, &identity.certificate_pem).unwrap();
    fs::write(&key, &identity.key_pem).unwrap();
    let files = format!("ca = {ca:?}\nclient_cert = {cert:?}\nclient_key = {key:?}\n");
    node.configure(&format!("[registry.\"{}\"]\n{files}", registry.host()));
    node.desire_image(&registry.reference(REPO, "v1"));
    node.start();
    node.until_activated("nginx:v1");

    registry.renew_certificates().await;
    node.desire_image(&registry.reference(REPO, "v2"));
    node.until_failed("tls");
    let identity = registry.client_identity().unwrap();
    fs::write(&ca, registry.ca_pem().unwrap()).unwrap();
    fs::write(&cert, &identity.certificate_pem).unwrap();
    let failed = node.until("half of the pair", |event| {
        event["event"] == "failed" && event["message"].to_string().contains("do not belong together")
    });
    assert_eq!(failed["kind"], "config-invalid");
    let message = failed["message"].as_str().unwrap();
    assert!([&cert, &key].iter().all(|file| message.contains(file.to_str().unwrap())), "{message}");
    fs::write(&key, &identity.key_pem).unwrap();
    node.until_activated("nginx:v2");
    assert!(node.status()["workloads"]["default"]["error"].is_null());
}
