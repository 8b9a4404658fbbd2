//! Certificates of registries and our own: which are taken, how they are renewed, and what is said of those that are not.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::common::agent::Node;
use crate::common::image::Image;
use crate::common::registry::{Identity, Registry, digest};
use crate::common::workstation::Workstation;

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

/// A certificate and its key by `openssl`, in a directory of their own.
struct Made {
    dir: tempfile::TempDir,
}

impl Made {
    /// A self-signed certificate, as distribution's documentation makes one.
    fn self_signed(key: &[&str], more: &[&str]) -> Self {
        let made = Self { dir: tempfile::tempdir().unwrap() };
        let names = "subjectAltName=DNS:localhost,IP:127.0.0.1";
        let recipe =
            ["req", "-x509", "-nodes", "-keyout", "key", "-out", "cert", "-days", "2", "-subj", "/CN=registry"];
        made.openssl(&[&recipe[..], &["-addext", names, "-newkey"], key, more].concat());
        made
    }

    /// A certificate for loopback that `self`, an authority, signs with `digest`.
    fn signs(&self, key: &[&str], digest: &str) -> Self {
        let made = Self { dir: tempfile::tempdir().unwrap() };
        let request = ["req", "-nodes", "-keyout", "key", "-out", "request", "-subj", "/CN=leaf", "-newkey"];
        made.openssl(&[&request[..], key].concat());
        fs::write(made.dir.path().join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
        let [ca, ca_key] = ["cert", "key"].map(|name| self.dir.path().join(name).to_str().unwrap().to_owned());
        let sign = ["x509", "-req", "-in", "request", "-out", "cert", "-CA", &ca, "-CAkey", &ca_key];
        made.openssl(&[&sign[..], &["-extfile", "names", "-days", "2", digest][..]].concat());
        made
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl").args(arguments).current_dir(self.dir.path()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap()
    }

    fn identity(&self) -> Identity {
        Identity { certificate_pem: self.text("cert"), key_pem: self.text("key") }
    }

    /// A registry that shows it.
    fn registry(&self) -> Registry {
        let registry = Registry::builder().certificate(self.identity()).serve();
        Image::new("v1").publish(&registry, REPO, "v1");
        registry
    }
}

const RSA: [&str; 1] = ["rsa:2048"];
const P256: [&str; 3] = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
const P384: [&str; 3] = ["ec", "-pkeyopt", "ec_paramgen_curve:P-384"];
const P521: [&str; 3] = ["ec", "-pkeyopt", "ec_paramgen_curve:P-521"];

/// `eci inspect` of an image, with these certificates as `ca`; its exit code, and what it says.
fn inspect_with(ca: impl AsRef<[u8]>, host: &str, reference: &str) -> (Option<i32>, String) {
    let workstation = Workstation::new();
    let ca = workstation.write("ca.pem", ca);
    workstation.write("agent.toml", format!("[registry.{host:?}]\nca = {ca:?}\n"));
    let output = workstation.eci(&["inspect", reference]);
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn inspects(ca: impl AsRef<[u8]>, registry: &Registry) {
    let (code, said) = inspect_with(ca, &registry.host(), &registry.reference(REPO, "v1"));
    assert_eq!(code, Some(0), "{said}");
}

/// Says this, and nothing that only a programmer reads.
fn refuses(code: i32, ca: impl AsRef<[u8]>, registry: &Registry, text: &str) -> String {
    let (actual, said) = inspect_with(ca, &registry.host(), &registry.reference(REPO, "v1"));
    assert_eq!(actual, Some(code), "{said}");
    assert!(said.contains(text), "{text:?}: {said}");
    assert!(!said.contains("Error(") && !said.contains("builder error"), "{said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_certificate_is_its_own_authority() {
    for more in [&["-sha256"][..], &["-sha256", "-addext", "basicConstraints=CA:FALSE"]] {
        let (made, other) = (Made::self_signed(&RSA, more), Made::self_signed(&P256, more));
        let registry = made.registry();
        inspects(made.text("cert"), &registry);
        inspects(format!("{}\n{}", other.text("cert"), made.text("cert")), &registry);
        refuses(69, other.text("cert"), &registry, "no secure connection");
        let by_name = registry.host().replace("127.0.0.1", "localhost");
        let (code, said) = inspect_with(made.text("cert"), &by_name, &format!("{by_name}/{REPO}:v1"));
        assert_eq!(code, Some(0), "{said}");
        let other_name = registry.host().replace("127.0.0.1", "127.0.0.2");
        let (code, said) = inspect_with(made.text("cert"), &other_name, &format!("{other_name}/{REPO}:v1"));
        assert_eq!(code, Some(69), "{said}");
    }
    let mut expired = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    expired.not_after = rcgen::date_time_ymd(2026, 1, 2);
    let key = rcgen::KeyPair::generate().unwrap();
    let identity = Identity { certificate_pem: expired.self_signed(&key).unwrap().pem(), key_pem: key.serialize_pem() };
    let registry = Registry::builder().certificate(identity.clone()).serve();
    refuses(69, identity.certificate_pem, &registry, "has expired: it was valid until 2026-01-02T00:00:00Z");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_takes_a_self_signed_certificate() {
    let made = Made::self_signed(&RSA, &["-sha256"]);
    let registry = made.registry();
    let mut node = Node::new();
    let ca = node.path("ca.pem");
    fs::write(&ca, made.text("cert")).unwrap();
    node.configure(&format!("[registry.\"{}\"]\nca = {ca:?}\n", registry.host()));
    node.desire_image(&registry.reference(REPO, "v1"));
    node.start();
    node.until_activated("nginx:v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_on_all_curves_are_verified() {
    for (ca, digest) in [
        (&P256, "-sha256"),
        (&P256, "-sha384"),
        (&P256, "-sha512"),
        (&P384, "-sha256"),
        (&P384, "-sha512"),
        (&P521, "-sha256"),
        (&P521, "-sha384"),
        (&P521, "-sha512"),
    ] {
        let authority = Made::self_signed(ca, &["-sha256"]);
        let registry = authority.signs(&P256, digest).registry();
        inspects(authority.text("cert"), &registry);
        // Of the same name, and with another key.
        refuses(69, Made::self_signed(ca, &["-sha256"]).text("cert"), &registry, "is not signed by the authority");
    }
    let authority = Made::self_signed(&RSA, &["-sha256"]);
    let registry = authority.signs(&P256, "-sha1").registry();
    refuses(69, authority.text("cert"), &registry, "a certificate is signed by RSA with SHA-1; supported are RSA");
}

/// `openssl s_server`, for keys that the test registry's own TLS does not know. It ends with this.
struct OpensslServer {
    child: Child,
    host: String,
}

impl OpensslServer {
    fn start(made: &Made, more: &[&str]) -> Self {
        let mut command = Command::new("openssl");
        command.args(["s_server", "-HTTP", "-accept", "127.0.0.1:0", "-cert", "cert", "-key", "key"]).args(more);
        command.current_dir(made.dir.path()).stdout(Stdio::piped()).stderr(Stdio::null()).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let accept = lines.map_while(Result::ok).find(|line| line.starts_with("ACCEPT")).unwrap();
        let port = accept.rsplit(':').next().unwrap().trim();
        Self { host: format!("127.0.0.1:{port}"), child }
    }

    /// Asks for a manifest by its digest. The server has none, and answers with a text, whose digest is another: then TLS
    /// went well.
    fn asked_with(&self, ca: &str) -> (bool, String) {
        let reference = format!("{}/{REPO}@{}", self.host, digest(b"a manifest"));
        let (code, said) = inspect_with(ca, &self.host, &reference);
        match code {
            Some(65) => assert!(said.contains("the bytes have the digest"), "{said}"),
            code => assert_eq!(code, Some(69), "{said}"),
        }
        (code == Some(65), said)
    }
}

impl Drop for OpensslServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn keys_are_taken_or_named() {
    for (key, more) in [(&P521[..], &[][..]), (&P384, &[]), (&P384, &["-tls1_2"]), (&["ed25519"], &[])] {
        let made = Made::self_signed(key, &[]);
        let server = OpensslServer::start(&made, more);
        let (is_taken, said) = server.asked_with(&made.text("cert"));
        assert!(is_taken, "{key:?} {more:?}: {said}");
        let (is_taken, said) = server.asked_with(&Made::self_signed(key, &[]).text("cert"));
        assert!(!is_taken && said.contains("no secure connection"), "{said}");
    }
    // In TLS 1.2, a key on P-521 needs a key exchange on it, which ring does not have.
    for (key, more) in [
        (&["ed448"][..], &[][..]),
        (&["ec", "-pkeyopt", "ec_paramgen_curve:brainpoolP256r1"], &[]),
        (&P521, &["-tls1_2"]),
    ] {
        let made = Made::self_signed(key, &[]);
        let (is_taken, said) = OpensslServer::start(&made, more).asked_with(&made.text("cert"));
        let text = "no common cipher suite or signature algorithm";
        assert!(!is_taken && said.contains(text) && said.contains("supported are RSA"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_certificate_authority_is_named() {
    let (good, next) = (Made::self_signed(&P256, &[]), Made::self_signed(&P256, &[]));
    let registry = good.registry();
    let (good, next) = (good.text("cert"), next.text("cert"));
    // What is around certificates does not matter, nor how lines end.
    inspects(format!("# a note: with a colon\nsubject=CN\n{next}\nbetween\n{good}trailing"), &registry);
    inspects(format!("{next}{good}").replace('\n', "\r\n"), &registry);
    inspects(format!("{good}-----BEGIN PRIVATE KEY-----\nQUJD\n-----END PRIVATE KEY-----\n"), &registry);

    let line = good.lines().count() + 1;
    let body = next.lines().nth(3).unwrap();
    let second = format!("certificate 2 (line {line}) is damaged");
    for damaged in [
        next.replacen(body, "", 1),
        next.replacen(body, &body.replace(|c: char| c.is_ascii_uppercase(), "!"), 1),
        next.replacen(body, &"A".repeat(body.len()), 1),
        next.replace("-----END CERTIFICATE-----", ""),
        next.replace("END CERTIFICATE", "END CERT"),
        "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n".to_owned(),
    ] {
        let said = refuses(78, format!("{good}{damaged}"), &registry, &second);
        assert!(said.contains("ca.pem"), "{said}");
    }
    refuses(78, "", &registry, "ca.pem is empty");
    refuses(78, "no certificate", &registry, "has no line -----BEGIN CERTIFICATE-----");
    refuses(78, [0x30, 0x82, 1, 2, 3], &registry, "in DER or PKCS #12 form, not PEM");
    let key = "-----BEGIN PRIVATE KEY-----\nQUJD\n-----END PRIVATE KEY-----\n";
    refuses(78, key, &registry, "holds no certificate, but \"PRIVATE KEY\"");

    let workstation = Workstation::new();
    let dir = workstation.path("");
    workstation.write("agent.toml", format!("[registry.{:?}]\nca = {dir:?}\n", registry.host()));
    assert!(workstation.fails(78, &["inspect", &registry.reference(REPO, "v1")]).contains("is a directory"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_that_cannot_be_used_is_named() {
    let registry = Registry::builder().https().client_certificates().serve();
    Image::new("v1").publish(&registry, REPO, "v1");
    let identity = registry.client_identity().unwrap().clone();
    let (cert, key) = (identity.certificate_pem.as_str(), identity.key_pem.as_str());
    let workstation = Workstation::new();
    let ca = workstation.write("ca.pem", registry.ca_pem().unwrap());
    let [cert_file, key_file] = ["cert.pem", "key.pem"].map(|name| workstation.path(name));
    let settings = format!("[registry.{:?}]\nca = {ca:?}\n", registry.host());
    workstation.write("agent.toml", format!("{settings}client_cert = {cert_file:?}\nclient_key = {key_file:?}\n"));
    let reference = registry.reference(REPO, "v1");
    let write = |cert: &str, key: &str| {
        workstation.write("cert.pem", cert);
        workstation.write("key.pem", key);
    };
    write(cert, key);
    workstation.must(&["inspect", &reference]);
    write(&format!("{key}{cert}"), &format!("{key}{cert}"));
    workstation.must(&["inspect", &reference]);

    let p521 = Made::self_signed(&P521, &[]);
    let encrypted = {
        let made = Made::self_signed(&P256, &[]);
        made.openssl(&["pkey", "-in", "key", "-aes128", "-passout", "pass:x", "-out", "encrypted"]);
        made.text("encrypted")
    };
    let body = cert.lines().nth(2).unwrap();
    for (cert, key, text) in [
        (cert.replacen(body, "", 1), key.to_owned(), "cert.pem: certificate 1 (line 1) is damaged"),
        (String::new(), key.to_owned(), "cert.pem is empty"),
        (key.to_owned(), key.to_owned(), "cert.pem holds no certificate"),
        (cert.to_owned(), String::new(), "key.pem is empty"),
        (cert.to_owned(), cert.to_owned(), "key.pem holds no private key"),
        (cert.to_owned(), encrypted, "key.pem (line 1): the private key is encrypted"),
        (cert.to_owned(), key.replace("END PRIVATE", "END"), "key.pem (line 1): the private key is damaged"),
        (p521.text("cert"), p521.text("key"), "key.pem cannot be used: supported are RSA"),
        (p521.text("cert"), key.to_owned(), "do not belong together"),
    ] {
        write(&cert, &key);
        let said = workstation.fails(78, &["inspect", &reference]);
        assert!(said.contains(text), "{text:?}: {said}");
        assert!(!said.contains("builder error") && !said.contains("certificate authorities"), "{said}");
    }
    workstation.write("agent.toml", settings);
    let said = workstation.fails(69, &["inspect", &reference]);
    assert!(said.contains("the server asks for a client certificate"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_where_tls_is_expected_is_named() {
    let registry = Registry::http();
    refuses(
        69,
        Made::self_signed(&P256, &[]).text("cert"),
        &registry,
        "this port does not speak TLS: if it is that of plain HTTP, set insecure = true",
    );
}
