//! Answers of a registry: endless, slow, malformed, and with lengths that lie.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::json;

use super::server::Server;
use super::{Bounds, kib, mib, secs};
use crate::common::agent::Node;
use crate::common::image::{Image, MANIFEST};
use crate::common::registry::{Fault, On, Registry, digest};
use crate::common::workstation::{Workstation, names_in};

const REPO: &str = "edge/nginx";
const BOUNDS: Bounds = Bounds { memory: mib(128), wire: mib(24), requests: 40, within: secs(40) };

fn workstation() -> Workstation {
    Workstation::with_config("[transfer]\nidle_timeout = \"1s\"\n[retry]\ninitial = \"10ms\"\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_documents_are_cut() {
    for head in [
        "Content-Type: application/json\r\n",
        "Content-Length: 18446744073709551615\r\n",
        "Transfer-Encoding: chunked\r\n",
    ] {
        // Each try reads 4 MiB; the rest fills buffers of the sockets.
        let case = Bounds { wire: mib(96), ..BOUNDS }.start();
        let server = Server::start(move |_, answer| {
            answer.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n"));
            if head.contains("chunked") {
                answer.send_for_ever(&[b"8000\r\n".as_slice(), &[b' '; 0x8000], b"\r\n"].concat());
            } else {
                answer.send_for_ever(&[b' '; 1 << 16]);
            }
        });
        let output = case.run(&workstation().command(&["inspect", &server.reference()]));
        assert!(matches!(output.status.code(), Some(65 | 69)), "{head}: {output:?}");
        case.server(&server);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dripping_answers_are_cut() {
    let case = Bounds { wire: kib(64), ..BOUNDS }.start();
    // A byte now and then is less than a second's worth of silence, and never a whole head.
    let server = Server::start(|_, answer| {
        answer.send("HTTP/1.1 200 OK\r\nX-A: ");
        answer.until_gone();
    });
    let output = case.run(&workstation().command(&["inspect", &server.reference()]));
    assert!(matches!(output.status.code(), Some(69 | 75)), "{output:?}");
    case.server(&server);
}

#[tokio::test(flavor = "multi_thread")]
async fn header_floods_are_cut() {
    for line in ["X-A: b\r\n".to_owned(), format!("X-A: {}\r\n", "b".repeat(1 << 16))] {
        // What fills the buffers of a socket counts as sent: several MiB for each of the tries.
        let case = Bounds { wire: mib(96), ..BOUNDS }.start();
        let server = Server::start(move |_, answer| {
            answer.send("HTTP/1.1 200 OK\r\n");
            answer.send_for_ever(line.repeat((1 << 16) / line.len() + 1).as_bytes());
        });
        case.fails(&workstation().command(&["inspect", &server.reference()]), 69);
        case.server(&server);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_answers_end() {
    for status in [100, 102, 103] {
        let case = Bounds { wire: mib(300), ..BOUNDS }.start();
        let server = Server::start(move |_, answer| {
            answer.send_for_ever(format!("HTTP/1.1 {status} X\r\n\r\n").repeat(2000).as_bytes());
        });
        let output = case.run(&workstation().command(&["inspect", &server.reference()]));
        assert!(matches!(output.status.code(), Some(69 | 75)), "{status}: {output:?}");
        case.server(&server);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_in_place_of_http_is_a_clean_error() {
    let whole = |head: &str| format!("HTTP/1.1 200 OK\r\nContent-Type: {MANIFEST}\r\n{head}\r\n{{}}");
    for nonsense in [
        whole("Content-Length: 2\r\nContent-Length: 3\r\n"),
        whole("Content-Length: -1\r\n"),
        whole("Content-Length: 99999999999999999999999\r\n"),
        whole("Transfer-Encoding: gzip, chunked\r\n"),
        whole("Transfer-Encoding: gzip\r\n"),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n".to_owned(),
        "HTTP/1.1 999999 X\r\n\r\n".to_owned(),
        "HTTP/9.9 200 OK\r\n\r\n".to_owned(),
        "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
        "\0\0\0\0\0".to_owned(),
        "\n".repeat(1 << 16),
        String::new(),
    ] {
        let case = Bounds { wire: mib(4), ..BOUNDS }.start();
        let bytes = nonsense.clone();
        let server = Server::start(move |_, answer| {
            answer.send(&bytes);
        });
        let output = case.run(&workstation().command(&["inspect", &server.reference()]));
        let said = super::stderr(&output);
        assert!(matches!(output.status.code(), Some(65 | 69 | 75)), "{nonsense:.60}: {:?} {said}", output.status);
        assert!(said.len() < 4096 && !said.contains("panicked"), "{said}");
        case.server(&server);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_of_years_is_capped() {
    let case = BOUNDS.start();
    let registry = Registry::http();
    Image::new("v1").publish(&registry, REPO, "v1");
    let mut node = Node::new();
    for value in ["978307200", "18446744073709551616", "Fri, 31 Dec 9999 23:59:59 GMT"] {
        let fault = registry.inject(On::manifests(), Fault::too_many_requests(value));
        node.desire_image(&registry.reference(REPO, "v1"));
        if value == "978307200" {
            node.start();
        } else {
            assert!(node.eci(&["reconcile"]).status.success(), "an operator does not wait");
        }
        node.until_failed("rate-limited");
        let retry_at = node.status()["workloads"]["default"]["error"]["retry_at"].as_str().unwrap().to_owned();
        let retry_at: jiff::Timestamp = retry_at.parse().unwrap();
        let wait = retry_at.duration_since(jiff::Timestamp::now()).as_secs();
        assert!(wait <= 24 * 3600, "{value}: {wait} s");
        fault.remove();
    }
    assert!(node.eci(&["reconcile"]).status.success());
    node.until_activated("nginx:v1");
    case.agent(&node).registry(&registry);
}

/// A manifest of one kernel whose descriptor says this size, as text.
fn sized(registry: &Registry, size: &str) -> String {
    let kernel = registry.put_blob(REPO, &b"the kernel"[..]);
    let config = registry.put_blob(REPO, &b"{}"[..]);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.lfedge.eci.config.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "application/vnd.lfedge.eci.kernel.layer.v1+kernel", "digest": kernel, "size": 777_777}],
    });
    registry.put_manifest(REPO, Some("v1"), MANIFEST, manifest.to_string().replace("777777", size));
    registry.reference(REPO, "v1")
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_that_lie_cost_nothing() {
    let workstation = workstation();
    for size in ["-1", "0", "9", "11", "9223372036854775808", "18446744073709551616", "1e999", "\"10\"", "10.5", "null"]
    {
        let case = Bounds { wire: kib(16), ..BOUNDS }.start();
        let registry = Registry::http();
        let reference = sized(&registry, size);
        let output = case.run(&workstation.command(&["pull", "--dir", "out", &reference]));
        assert!(matches!(output.status.code(), Some(65 | 73)), "{size}: {output:?}");
        let names = names_in(&workstation.path("out"));
        assert!(names.iter().all(|name| name == ".eci-pull"), "{size}: {names:?}");
        case.registry(&registry);
    }
    let registry = Registry::http();
    let case = BOUNDS.start();
    case.must(&workstation.command(&["pull", "--dir", "out", &sized(&registry, "10")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_that_overflow_together_are_refused() {
    let case = Bounds { wire: mib(1), ..BOUNDS }.start();
    let registry = Registry::http();
    Image::new("good").publish(&registry, REPO, "good");
    let mut node = Node::new();
    node.desire_image(&registry.reference(REPO, "good"));
    node.start();
    node.until_activated("good");
    // 4000 TiB, and more than 64 bits hold.
    for (size, count) in [(1_u64 << 40, 4000_usize), (u64::MAX >> 1, 4)] {
        let layers: Vec<_> = (0..count)
            .map(|n| {
                json!({"mediaType": "application/vnd.lfedge.disk.layer.v1+raw", "digest": digest(n.to_string().as_bytes()),
                       "size": size, "annotations": {"org.lfedge.eci.role": "disk-additional",
                       "org.opencontainers.image.title": format!("{n}.raw")}})
            })
            .collect();
        let config = registry.put_blob(REPO, &b"{}"[..]);
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
            "config": {"mediaType": "application/vnd.lfedge.eci.config.v1+json", "digest": config, "size": 2}});
        registry.put_manifest(REPO, Some("large"), MANIFEST, manifest.to_string());
        registry.take_log();
        node.desire_image(&registry.reference(REPO, "large"));
        node.until("failed", |event| event["event"] == "failed");
        assert_eq!(registry.count(&On::blobs().get()), 0, "no byte of it is fetched");
        node.desire_image(&registry.reference(REPO, "good"));
        node.until_phase("active");
    }
    case.agent(&node);
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_are_not_what_was_asked_for_get_no_name() {
    let case = Bounds { wire: mib(2), ..BOUNDS }.start();
    let image = Image::new("v1");
    for fault in
        [Fault::FlipByte(3), Fault::PromiseMore(10), Fault::PromiseLess(3), Fault::Endless, Fault::PadTo(1 << 20)]
    {
        let registry = Registry::http();
        image.publish(&registry, REPO, "v1");
        registry.inject(On::blobs().get().reference(&digest(&image.root)), fault.clone());
        let workstation = workstation();
        let pull = workstation.command(&["pull", "--dir", "out", &registry.reference(REPO, "v1")]);
        let output = case.run(&pull);
        match fault {
            // The rest is not read.
            Fault::Endless | Fault::PadTo(_) if output.status.success() => workstation.has_pulled("out", &image),
            _ => {
                assert!(matches!(output.status.code(), Some(65 | 69 | 75)), "{fault:?}: {output:?}");
                assert!(!workstation.path("out/disk-root-root.raw").exists(), "{fault:?}");
            }
        }
        case.registry(&registry);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_tls_is_refused() {
    let case = Bounds { wire: kib(16), ..BOUNDS }.start();
    // A ServerHello of TLS 1.1 (version 3.2), which goes on with TLS_RSA_WITH_AES_128_CBC_SHA.
    let mut hello = vec![0x16, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 0x2f, 0]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.write_all(&hello);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    });
    let workstation = Workstation::new();
    let ca = Registry::builder().https().serve();
    let ca = workstation.write("ca.pem", ca.ca_pem().unwrap());
    workstation.write("agent.toml", format!("[registry.\"{host}\"]\nca = {ca:?}\n[retry]\ninitial = \"10ms\"\n"));
    let output = case.run(&workstation.command(&["inspect", &format!("https://{host}/a/b:c").replace("https://", "")]));
    assert_eq!(output.status.code(), Some(69), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_authorities_are_refused() {
    let case = Bounds { wire: kib(16), ..BOUNDS }.start();
    let [registry, other] = [(); 2].map(|()| Registry::builder().https().serve());
    Image::new("v1").publish(&registry, REPO, "v1");
    let inspect = |ca: &Registry| {
        let workstation = Workstation::new();
        let ca = workstation.write("ca.pem", ca.ca_pem().unwrap());
        workstation.write("agent.toml", format!("[registry.\"{}\"]\nca = {ca:?}\n", registry.host()));
        case.run(&workstation.command(&["inspect", &registry.reference(REPO, "v1")])).status.code()
    };
    assert_eq!(inspect(&other), Some(69));
    assert_eq!(registry.log().len(), 0, "not a request goes out");
    assert_eq!(inspect(&registry), Some(0));
    case.registry(&registry);
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_client_certificates_are_named() {
    let case = Bounds { wire: kib(16), ..BOUNDS }.start();
    let registry = Registry::builder().client_certificates().serve();
    let workstation = Workstation::new();
    let ca = workstation.write("ca.pem", registry.ca_pem().unwrap());
    let cert = workstation.write("cert.pem", "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n");
    let key = workstation.write("key.pem", &registry.client_identity().unwrap().key_pem);
    let table =
        format!("[registry.\"{}\"]\nca = {ca:?}\nclient_cert = {cert:?}\nclient_key = {key:?}\n", registry.host());
    workstation.write("agent.toml", table);
    let output = case.run(&workstation.command(&["inspect", &registry.reference(REPO, "v1")]));
    let said = super::stderr(&output);
    assert!(!output.status.success() && said.contains("cert.pem"), "{said}");
    assert!(!said.contains("builder error") && !said.contains("system"), "{said}");
}

/// A slow client is no attack: the bounds above are not for it.
#[tokio::test(flavor = "multi_thread")]
async fn slow_registries_are_waited_for() {
    let case = BOUNDS.start();
    let registry = Registry::http();
    let image = Image::new("v1").with_root_of(1 << 18);
    image.publish(&registry, REPO, "v1");
    registry
        .inject(On::blobs().get().reference(&digest(&image.root)), Fault::Trickle(1 << 14, Duration::from_millis(20)));
    let (workstation, since) = (Workstation::new(), Instant::now());
    case.must(&workstation.command(&["pull", "--dir", "out", &registry.reference(REPO, "v1")]));
    workstation.has_pulled("out", &image);
    assert!(since.elapsed() > Duration::from_millis(100));
    case.registry(&registry);
}
