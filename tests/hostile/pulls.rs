//! Pulls into directories that others prepared, and over files that matter; and a layout that is served.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::process::{Command, Stdio};

use serde_json::json;

use super::{Bounds, mib, secs};
use crate::common::image::{Image, MANIFEST};
use crate::common::registry::{On, Registry, digest};
use crate::common::workstation::{Workstation, names_in};

const REPO: &str = "edge/nginx";
const BOUNDS: Bounds = Bounds { memory: mib(128), wire: mib(1), requests: 60, within: secs(40) };
const OTHER: u32 = 54321;

#[tokio::test(flavor = "multi_thread")]
async fn dotfiles_and_foreign_files_are_not_replaced() {
    let case = BOUNDS.start();
    let registry = Registry::http();
    let image = Image::new("v1");
    image.publish(&registry, REPO, "v1");
    let mut manifest = image.manifest();
    let layer = json!({"mediaType": "application/vnd.lfedge.eci.layer.v1", "digest": registry.put_blob(REPO, b"echo owned".to_vec()),
        "size": 10, "annotations": {"org.opencontainers.image.title": ".bashrc"}});
    manifest["layers"].as_array_mut().unwrap().push(layer);
    registry.put_manifest(REPO, Some("evil"), MANIFEST, manifest.to_string());
    let workstation = Workstation::new();
    // The home directory and the one of docker's login.
    let home = [(".bashrc", "mine"), ("config.json", "{\"auths\": {}}"), ("manifest.json", "mine")];
    for (name, text) in home {
        workstation.write(&format!("home/{name}"), text);
    }
    let pull = |tag: &str, force: &[&str]| {
        let reference = registry.reference(REPO, tag);
        let mut command = workstation.command(&[&["pull", &reference, "--dir", "."], force].concat());
        command.current_dir(workstation.path("home"));
        case.run(&command)
    };
    for (tag, force, code) in [("evil", &[][..], 65), ("evil", &["--force"], 65), ("v1", &[], 73)] {
        let output = pull(tag, force);
        assert_eq!(output.status.code(), Some(code), "{tag}: {output:?}");
        for (name, text) in home {
            assert_eq!(fs::read_to_string(workstation.path("home").join(name)).unwrap(), text, "{tag} {name}");
        }
    }
    assert!(pull("v1", &["--force"]).status.success(), "unless that is wanted");
    case.registry(&registry);
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_directories_are_refused() {
    let case = BOUNDS.start();
    let registry = Registry::http();
    Image::new("v1").publish(&registry, REPO, "v1");
    let reference = registry.reference(REPO, "v1");
    // As in a shared directory with the sticky bit, in which another user was first.
    for trap in ["link", "foreign", "file", "planted", "pipe"] {
        let workstation = Workstation::new();
        let (shared, elsewhere) = (workstation.path("shared"), workstation.path("elsewhere"));
        for dir in [&shared, &elsewhere] {
            fs::create_dir(dir).unwrap();
        }
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
        fs::write(elsewhere.join("precious"), "mine").unwrap();
        match trap {
            "link" => symlink(&elsewhere, shared.join(".eci-pull")).unwrap(),
            "foreign" => {
                fs::create_dir(shared.join(".eci-pull")).unwrap();
                if chown(shared.join(".eci-pull"), Some(OTHER), Some(OTHER)).is_err() {
                    println!("SKIP prepared_directories_are_refused: foreign: only root gives files away");
                    continue;
                }
            }
            "file" => fs::write(shared.join(".eci-pull"), "").unwrap(),
            "planted" => symlink(elsewhere.join("precious"), shared.join("kernel")).unwrap(),
            _ => nix::unistd::mkfifo(&shared.join("kernel"), nix::sys::stat::Mode::S_IRWXU).unwrap(),
        }
        let before = names_in(&shared);
        let output = case.run(&workstation.command(&["pull", "--dir", "shared", &reference]));
        assert!(matches!(output.status.code(), Some(73 | 77)), "{trap}: {output:?}");
        assert_eq!(names_in(&elsewhere), ["precious"], "{trap}");
        assert_eq!(fs::read_to_string(elsewhere.join("precious")).unwrap(), "mine", "{trap}");
        assert!(before.iter().all(|name| names_in(&shared).contains(name)), "{trap}");
    }
    let workstation = Workstation::new();
    case.must(&workstation.command(&["pull", "--dir", "own", &reference]));
    case.registry(&registry);
}

#[test]
fn served_layouts_give_only_blobs() {
    let case = BOUNDS.start();
    let workstation = Workstation::new();
    let image = Image::new("v1").with_root_of(1 << 16);
    workstation.push(&image, "oci:layout:v1");
    let secret = workstation.write("secret", "of this machine");
    let blobs = workstation.path("layout/blobs/sha256");
    let linked = digest(b"linked").replace("sha256:", "");
    symlink(&secret, blobs.join(&linked)).unwrap();
    symlink(workstation.path(""), blobs.join(digest(b"dir").replace("sha256:", ""))).unwrap();
    let pipe = digest(b"pipe").replace("sha256:", "");
    nix::unistd::mkfifo(&blobs.join(&pipe), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut command = workstation.command(&["serve", "--listen", "127.0.0.1:0", "oci:layout"]);
    let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut host = String::new();
    BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut host).unwrap();
    let host = host.trim().to_owned();
    let ask = |request: &str| {
        let mut stream = TcpStream::connect(&host).unwrap();
        stream.set_read_timeout(Some(secs(20))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let get = |line: &str, more: &str| ask(&format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n"));
    // Idle clients do not keep others out.
    let idle: Vec<_> = (0..200).map(|_| TcpStream::connect(&host).unwrap()).collect();
    let blob = |digest: &str| format!("GET /v2/a/b/blobs/sha256:{digest}");
    for line in [
        "GET /v2/a/b/blobs/sha256:..%2f..%2findex.json".to_owned(),
        "GET /v2/a/b/blobs/../../../../secret".to_owned(),
        "GET /v2/../../etc/blobs/passwd".to_owned(),
        "GET /%2e%2e/secret".to_owned(),
        "POST /v2/a/b/blobs/uploads/".to_owned(),
        "DELETE /v2/a/b/manifests/v1".to_owned(),
        "GET /v2/a/b/manifests/v1%0d%0aX-Injected:%20y".to_owned(),
        blob(&linked),
        blob(&pipe),
        blob(&digest(b"dir").replace("sha256:", "")),
    ] {
        let answer = get(&line, "");
        let status: u16 =
            answer.split(' ').nth(1).unwrap_or_default().parse().unwrap_or_else(|_| panic!("{line}: {answer}"));
        assert!((400..500).contains(&status), "{line}: {answer}");
        assert!(
            !answer.contains("of this machine") && !answer.to_lowercase().contains("\nx-injected"),
            "{line}: {answer}"
        );
    }
    let root = blob(&digest(&image.root).replace("sha256:", ""));
    for range in
        ["0-18446744073709551615", "18446744073709551615-", "-18446744073709551616", "5-1", &"0-1,".repeat(5000)]
    {
        let answer = get(&root, &format!("Range: bytes={range}\r\n"));
        assert!(answer.starts_with("HTTP/1.1 "), "{range:.40}: {answer:.100}");
        assert!(answer.len() <= (1 << 16) * 4, "{range:.40}: {} bytes", answer.len());
    }
    assert!(get(&root, "").starts_with("HTTP/1.1 200"));
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let peak: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    assert!(peak << 10 <= BOUNDS.memory, "{peak} KiB");
    drop(idle);
    process.kill().unwrap();
    process.wait().unwrap();
    drop(case);
}

#[test]
fn files_of_the_demo_are_its_users() {
    let case = Bounds { memory: mib(512), within: secs(60), ..BOUNDS }.start();
    let temporary = tempfile::tempdir().unwrap();
    // What stands in the way is neither used nor followed: the name is not known before.
    let seen = temporary.path().join("seen");
    let mut demo = Command::new(crate::common::agent::ECI);
    demo.arg("demo").env("TMPDIR", temporary.path()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = demo.spawn().unwrap();
    let mut modes = Vec::new();
    for _line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        for entry in fs::read_dir(temporary.path()).unwrap().flatten() {
            if let Ok(found) = entry.metadata() {
                modes.push((entry.file_name(), found.permissions().mode() & 0o777));
            }
        }
    }
    assert!(child.wait().unwrap().success());
    assert!(!modes.is_empty() && modes.iter().all(|(_, mode)| *mode == 0o700), "{modes:?}");
    assert!(!seen.exists() && names_in(temporary.path()).is_empty());
    drop(case);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_asks_for_nothing_that_it_refuses() {
    let case = BOUNDS.start();
    let registry = Registry::http();
    let image = Image::new("v1");
    image.publish(&registry, REPO, "v1");
    let manifest = image.manifest().to_string().replace("disk-root-root.raw", "../x.raw");
    registry.put_manifest(REPO, Some("evil"), MANIFEST, manifest);
    let workstation = Workstation::new();
    case.fails(&workstation.command(&["pull", "--dir", "out", &registry.reference(REPO, "evil")]), 65);
    assert_eq!(registry.count(&On::blobs()), 0);
    case.registry(&registry);
}
