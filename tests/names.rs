//! A registry whose name leads to another address later.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};

use crate::common::agent::{Node, PATIENCE};
use crate::common::image::Image;
use crate::common::registry::{Fault, On, Registry, digest};

const REPO: &str = "edge/nginx";
const NAME: &str = "registry.example.com";
const MIB: usize = 1 << 20;
/// As much as is lost of a segment that breaks off, at most.
const SEGMENT: u64 = 8 << 20;

/// A registry, and a listener at another address of this machine that has the same port.
async fn registry_and_neighbour() -> (Registry, TcpListener) {
    loop {
        let registry = Registry::http();
        let neighbour = SocketAddr::from(([127, 0, 0, 2], registry.address().port()));
        if let Ok(listener) = TcpListener::bind(neighbour).await {
            return (registry, listener);
        }
    }
}

/// Carries all connections to `registry`.
async fn lead(listener: TcpListener, registry: SocketAddr) {
    while let Ok((mut client, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut server = TcpStream::connect(registry).await.ok()?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await.ok()
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_goes_on_at_the_address_that_the_name_leads_to_later() {
    const TEST: &str = "a_pull_goes_on_at_the_address_that_the_name_leads_to_later";
    let mut node = Node::new();
    let Some(hosts) = node.with_hosts(TEST) else { return };
    let ((first, listener), second) = (registry_and_neighbour().await, Registry::http());
    let image = Image::new("v1").with_root_of(24 * MIB);
    for registry in [&first, &second] {
        image.publish(registry, REPO, "v1");
    }
    tokio::spawn(lead(listener, second.address()));
    fs::write(&hosts, format!("127.0.0.1 {NAME}\n")).unwrap();
    let host = format!("{NAME}:{}", first.address().port());
    node.configure(&format!("[registry.\"{host}\"]\ninsecure = true\n"));
    let root = On::blobs().get().reference(&digest(&image.root));
    let stall = first.inject(root.clone(), Fault::StallAfter(MIB as u64));
    node.desire_image(&format!("{host}/{REPO}:v1"));
    node.start();
    stall.struck(1).await;
    let deadline = Instant::now() + PATIENCE;
    while node.has_written(&image.root) < MIB as u64 {
        assert!(Instant::now() < deadline, "{}", node.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    first.stop().await;
    node.until_failed("unreachable");
    // In place, because the file is mounted, and at once, because it is read at any time.
    assert_eq!(fs::read(&hosts).unwrap().len(), format!("127.0.0.2 {NAME}\n").len());
    let file = fs::OpenOptions::new().write(true).open(&hosts).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"127.0.0.2", 0).unwrap();
    node.until_activated("nginx:v1");
    assert!(node.current("disk-root") == image.root);
    let (before, after) = (first.body_bytes(&root), second.body_bytes(&root));
    assert!(after <= (23 * MIB) as u64, "what had come stays: {after}");
    assert!(before + after <= image.root.len() as u64 + SEGMENT, "{before} {after}");
}
