//! `eci serve`: an image layout as a registry, read-only.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::common::docker_registry::skopeo;
use crate::common::image::{Image, MANIFEST};
use crate::common::registry::digest;
use crate::common::workstation::Workstation;

/// `eci serve` on a layout with one image, "v1".
struct Serving {
    workstation: Workstation,
    image: Image,
    manifest: String,
    process: Child,
    host: String,
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Serving {
    fn start() -> Self {
        let workstation = Workstation::new();
        let image = Image::new("v1").with_root_of(1 << 20);
        let printed = workstation.push(&image, "oci:layout:v1");
        let manifest = printed.trim().split_once('@').unwrap().1.to_owned();
        let mut process = workstation
            .command(&["serve", "--listen", "127.0.0.1:0", "oci:layout"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut host = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut host).unwrap();
        Self { workstation, image, manifest, process, host: host.trim().to_owned() }
    }

    /// Sends a request exactly as it is written, and reads the answer to its end.
    fn ask(&self, line: &str, headers: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.host).unwrap();
        write!(stream, "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head, body: answer[end + 4..].to_vec() }
    }

    fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), "")
    }

    fn root(&self) -> String {
        format!("/v2/edge/nginx/blobs/{}", digest(&self.image.root))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn error(&self) -> (u16, String) {
        (self.status, self.json()["errors"][0]["code"].as_str().unwrap().to_owned())
    }
}

#[test]
fn manifests_have_their_type_and_digest_by_tag_and_by_digest() {
    let serving = Serving::start();
    assert_eq!(serving.get("/v2/").status, 200);
    let path = format!("/v2/edge/nginx/manifests/{}", serving.manifest);
    for path in ["/v2/edge/nginx/manifests/v1", path.as_str()] {
        let answer = serving.get(path);
        assert_eq!(answer.status, 200);
        assert_eq!(digest(&answer.body), serving.manifest);
        let head = serving.ask(&format!("HEAD {path}"), "");
        assert_eq!((head.status, head.body.len()), (200, 0));
        for answer in [&answer, &head] {
            assert_eq!(answer.header("content-type"), Some(MANIFEST));
            assert_eq!(answer.header("docker-content-digest"), Some(serving.manifest.as_str()));
        }
        assert_eq!(head.header("content-length"), Some(answer.body.len().to_string().as_str()));
    }
}

#[test]
fn blobs_come_whole_or_in_single_ranges() {
    let serving = Serving::start();
    let (root, size) = (&serving.image.root, serving.image.root.len());
    let path = serving.root();
    let whole = serving.get(&path);
    assert!(whole.status == 200 && whole.body == *root);
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    let head = serving.ask(&format!("HEAD {path}"), "");
    assert_eq!((head.status, head.header("content-length")), (200, Some(size.to_string().as_str())));

    let last = size - 1;
    for (range, from, to) in [("0-0", 0, 0), ("1000-1999", 1000, 1999), ("-5", size - 5, last), ("7-", 7, last)] {
        let part = serving.ask(&format!("GET {path}"), &format!("Range: bytes={range}\r\n"));
        assert_eq!(part.status, 206, "{range}");
        assert_eq!(part.header("content-range"), Some(format!("bytes {from}-{to}/{size}").as_str()));
        assert!(part.body == root[from..=to], "{range}");
    }
    let beyond = serving.ask(&format!("GET {path}"), &format!("Range: bytes={size}-\r\n"));
    assert_eq!((beyond.status, beyond.body.len()), (416, 0));
    assert_eq!(beyond.header("content-range"), Some(format!("bytes */{size}").as_str()));
    for (header, status) in [
        ("Range: bytes=0-1,5-6\r\n".to_owned(), 200),
        ("Range: lines=0-1\r\n".to_owned(), 200),
        ("Range: bytes=0-1\r\nIf-Range: \"other\"\r\n".to_owned(), 200),
        (format!("Range: bytes=0-1\r\nIf-Range: \"{}\"\r\n", digest(root)), 206),
    ] {
        assert_eq!(serving.ask(&format!("GET {path}"), &header).status, status, "{header}");
    }
}

#[test]
fn refusals_are_in_the_specifications_form() {
    let serving = Serving::start();
    let absent = digest(b"absent");
    let config = digest(br#"{"architecture":"amd64"}"#);
    for (line, status, code) in [
        ("GET /".to_owned(), 404, "UNSUPPORTED"),
        ("GET /v2/edge/nginx/manifests/v9".to_owned(), 404, "MANIFEST_UNKNOWN"),
        (format!("GET /v2/edge/nginx/manifests/{absent}"), 404, "MANIFEST_UNKNOWN"),
        (format!("GET /v2/edge/nginx/manifests/{}", digest(&serving.image.root)), 404, "MANIFEST_UNKNOWN"),
        (format!("GET /v2/edge/nginx/blobs/{absent}"), 404, "BLOB_UNKNOWN"),
        (format!("GET /v2/edge/nginx/referrers/{config}"), 404, "UNSUPPORTED"),
        ("GET /v2/edge/nginx/blobs/sha256:../../index.json".to_owned(), 404, "UNSUPPORTED"),
        ("GET /v2/edge/nginx/blobs/sha256:..%2f..%2findex.json".to_owned(), 400, "DIGEST_INVALID"),
        ("GET /v2/../../etc/blobs/passwd".to_owned(), 400, "NAME_INVALID"),
        ("POST /v2/edge/nginx/blobs/uploads/".to_owned(), 405, "UNSUPPORTED"),
        ("PUT /v2/edge/nginx/manifests/v1".to_owned(), 405, "UNSUPPORTED"),
        (format!("DELETE {}", serving.root()), 405, "UNSUPPORTED"),
    ] {
        let answer = serving.ask(&line, "Content-Length: 0\r\n");
        assert_eq!(answer.error(), (status, code.to_owned()), "{line}");
        assert_eq!(answer.header("allow"), (status == 405).then_some("get, head"), "{line}");
    }
    let head = serving.ask(&format!("HEAD /v2/edge/nginx/blobs/{absent}"), "");
    assert_eq!((head.status, head.body.len()), (404, 0));
}

#[test]
fn links_in_blobs_are_not_followed() {
    let serving = Serving::start();
    let path =
        |bytes: &[u8]| serving.workstation.path("layout/blobs/sha256").join(digest(bytes).replace("sha256:", ""));
    let secret = serving.workstation.write("secret", "of this machine");
    std::os::unix::fs::symlink(secret, path(b"linked")).unwrap();
    std::fs::write(path(b"plain"), "plain").unwrap();
    for method in ["GET", "HEAD"] {
        let answer = |bytes: &[u8]| serving.ask(&format!("{method} /v2/edge/nginx/blobs/{}", digest(bytes)), "").status;
        assert_eq!((answer(b"linked"), answer(b"plain")), (404, 200), "{method}");
    }
}

#[test]
fn a_push_is_forbidden() {
    let serving = Serving::start();
    let reference = format!("{}/edge/nginx:v2", serving.host);
    for image in [&serving.image, &Image::new("other")] {
        let arguments = serving.workstation.push_arguments(image, &reference);
        let said = serving.workstation.fails(77, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(said.contains("405") && said.contains("read-only"), "{said}");
    }
}

#[test]
fn a_push_into_the_layout_shows_at_once() {
    let serving = Serving::start();
    let tags = |name: &str| serving.get(&format!("/v2/{name}/tags/list"));
    assert_eq!(tags("edge/nginx").json(), json!({"name": "edge/nginx", "tags": ["v1"]}));
    for tag in ["v2", "edge/router:v3", "a.example:5000/edge/router:v4"] {
        let arguments = ["push", "--kernel", "vmlinuz", &format!("oci:layout:{tag}")].map(ToOwned::to_owned);
        // A colon after a slash would be the tag's: such names are the agent's, and come into the index by it.
        if tag.contains('/') {
            let index = serving.workstation.path("layout/index.json");
            let mut value: Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
            let mut entry = value["manifests"][0].clone();
            entry["annotations"]["org.opencontainers.image.ref.name"] = json!(tag);
            value["manifests"].as_array_mut().unwrap().push(entry);
            std::fs::write(&index, value.to_string()).unwrap();
        } else {
            serving.workstation.must(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
    assert_eq!(tags("edge/nginx").json()["tags"], json!(["v1", "v2"]));
    assert_eq!(tags("edge/router").json()["tags"], json!(["v1", "v2", "v3", "v4"]));
    assert_eq!(serving.get("/v2/edge/router/manifests/v4").status, 200);
    assert_eq!(serving.get("/v2/edge/nginx/manifests/v4").status, 404);
    let page = serving.get("/v2/edge/router/tags/list?n=2&last=v1");
    assert_eq!(page.json()["tags"], json!(["v2", "v3"]));
    assert_eq!(page.header("link"), Some("</v2/edge/router/tags/list?n=2&last=v3>; rel=\"next\""));
}

#[test]
fn clients_pull_from_it() {
    const TEST: &str = "clients_pull_from_it";
    let serving = Serving::start();
    let reference = format!("{}/edge/nginx:v1", serving.host);
    serving.workstation.must(&["pull", "--dir", "out", &reference]);
    serving.workstation.has_pulled("out", &serving.image);
    let copy = serving.workstation.path("copy");
    let (from, to) = (format!("docker://{reference}"), format!("dir:{}", copy.display()));
    if skopeo(TEST, &["copy", "--src-tls-verify=false", &from, &to]).is_some() {
        let root = copy.join(digest(&serving.image.root).replace("sha256:", ""));
        assert!(std::fs::read(root).unwrap() == serving.image.root);
    }
}

#[test]
fn signals_end_it_well_and_what_is_no_layout_is_refused() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut serving = Serving::start();
        // A client that keeps its connection open and says nothing does not hold the server up.
        let _idle = TcpStream::connect(&serving.host).unwrap();
        kill(Pid::from_raw(i32::try_from(serving.process.id()).unwrap()), signal).unwrap();
        assert_eq!(serving.process.wait().unwrap().code(), Some(0), "{signal}");
    }
    let workstation = Workstation::new();
    workstation.fails(65, &["serve", "--listen", "127.0.0.1:0", "."]);
    workstation.fails(69, &["serve", "--listen", "127.0.0.1:0", "absent"]);
    workstation.fails(64, &["serve", "--listen", "nowhere", "."]);
}
