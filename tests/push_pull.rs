//! From files to a registry or a layout, and back byte for byte.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::common::agent::Node;
use crate::common::docker_registry::{DockerRegistry, certificate, program, skopeo, skopeo_has};
use crate::common::image::{Image, MANIFEST};
use crate::common::registry::{Auth, Fault, On, Registry, digest};
use crate::common::workstation::{Workstation, names_in};

const MIB: usize = 1 << 20;
const REPO: &str = "edge/nginx";
/// Tries are made at once.
const IMPATIENT: &str = "[retry]\ninitial = \"10ms\"\n";

/// An image with all parts, one of which is larger than any buffer.
fn image() -> Image {
    Image { disks: vec![b"data".to_vec(), b"more".to_vec()], ..Image::new("v1").with_root_of(3 * MIB + 1) }
}

fn uploads() -> On {
    On::uploads().method(hyper::Method::POST)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_comes_back_byte_for_byte() {
    let (registry, workstation, image) = (Registry::http(), Workstation::new(), image());
    let reference = registry.reference(REPO, "v1");
    let printed = workstation.push(&image, &reference);
    let manifest = registry.manifest(REPO, "v1").unwrap();
    assert_eq!(printed, format!("{reference}@{}\n", digest(&manifest.bytes)));
    assert_eq!(manifest.media_type, "application/vnd.oci.image.manifest.v1+json");

    let printed = workstation.must(&["pull", "--dir", "out", printed.trim()]);
    let names: Vec<_> = printed.lines().map(|line| line.strip_prefix("out/").unwrap()).collect();
    let expected = ["kernel", "initrd", "disk-root-root.raw", "disk-0-data.raw", "disk-1-data.raw"];
    assert_eq!(names, [&expected[..], &["config.json", "manifest.json"]].concat());
    workstation.has_pulled("out", &image);
    assert_eq!(fs::read(workstation.path("out/manifest.json")).unwrap(), manifest.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_files_are_the_same_image_and_are_sent_once() {
    let (registry, image) = (Registry::http(), image());
    let pushed: Vec<_> = ["v1", "v2"]
        .into_iter()
        .map(|tag| {
            registry.take_log();
            let printed = Workstation::new().push(&image, &registry.reference(REPO, tag));
            (printed.trim().split_once('@').unwrap().1.to_owned(), registry.count(&uploads()))
        })
        .collect();
    assert_eq!(pushed[0].0, pushed[1].0);
    // Kernel, initrd, three disks and the config; then nothing but the manifest.
    assert_eq!((pushed[0].1, pushed[1].1), (6, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_takes_images_and_gives_them_back() {
    let (workstation, image) = (Workstation::new(), image());
    fs::create_dir(workstation.path("layout")).unwrap();
    fs::set_permissions(workstation.path("layout"), fs::Permissions::from_mode(0o700)).unwrap();
    let first = workstation.push(&image, "oci:layout:v1");
    let second = workstation.push(&Image::new("v2"), "oci:layout:v2");
    assert!(first.starts_with("oci:layout:v1@sha256:") && second.starts_with("oci:layout:v2@sha256:"));
    assert_eq!(names_in(&workstation.path("layout")), ["blobs", "index.json", "oci-layout"]);
    let mode = fs::metadata(workstation.path("layout")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "its owner's directory stays its owner's");

    workstation.must(&["pull", "--dir", "one", "oci:layout:v1"]);
    workstation.must(&["pull", "--dir", "two", &format!("oci:{}:v2", workstation.path("layout").display())]);
    workstation.has_pulled("one", &image);
    workstation.has_pulled("two", &Image::new("v2"));
    assert!(workstation.fails(69, &["pull", "oci:layout:v3"]).contains("v1"), "it says what there is");
    assert!(workstation.fails(69, &["pull", "oci:absent:v1"]).contains("there is no such directory"));
}

#[test]
fn a_layout_may_be_on_a_stick_with_a_space_in_its_name() {
    let (workstation, image) = (Workstation::new(), image());
    let layout = format!("oci:{}:v1", workstation.path("USB DISK/images").display());
    let pushed = workstation.push(&image, &layout);
    for (reference, dir) in [(layout.as_str(), "one"), (pushed.trim(), "two")] {
        workstation.must(&["pull", "--dir", dir, reference]);
        workstation.has_pulled(dir, &image);
    }
    let mut node = Node::new();
    node.desire_image(&layout);
    node.start();
    node.until_activated(&layout);
    assert!(node.current("disk-root") == image.root);
}

#[test]
fn without_a_tag_it_is_the_only_image_or_the_latest() {
    let workstation = Workstation::new();
    workstation.push(&Image::new("v1"), "oci:layout:v1");
    workstation.must(&["pull", "--dir", "only", "oci:layout"]);
    workstation.push(&Image::new("v2"), "oci:layout:v2");
    assert!(workstation.fails(65, &["pull", "oci:layout"]).contains("choose one by its name; there are v1 and v2"));
    workstation.push(&Image::new("latest"), "oci:layout");
    workstation.must(&["pull", "--dir", "latest", "oci:layout"]);
    workstation.has_pulled("only", &Image::new("v1"));
    workstation.has_pulled("latest", &Image::new("latest"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_of_a_node_is_pulled_from_by_whole_references() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    let references: Vec<_> = ["edge/nginx", "edge/router"].map(|name| registry.reference(name, "v1")).to_vec();
    for reference in &references {
        workstation.push(&Image::new(reference), reference);
    }
    let mut node = Node::new();
    let workload = |(n, reference)| format!("[workload.w{n}]\nimage = \"{reference}\"\n");
    node.desire(&references.iter().enumerate().map(workload).collect::<String>());
    node.start();
    // In whichever order they come.
    let mut open: Vec<&String> = references.iter().collect();
    while !open.is_empty() {
        let event = node.until("activated", |event| event["event"] == "activated");
        open.retain(|reference| !event["message"].as_str().unwrap().contains(*reference));
    }
    let cache = node.state_dir().join("cache");
    for (n, reference) in references.iter().enumerate() {
        workstation.must(&["pull", "--dir", &n.to_string(), "--remote", cache.to_str().unwrap(), reference]);
        workstation.has_pulled(&n.to_string(), &Image::new(reference));
    }
    let absent = registry.reference("edge/other", "v1");
    workstation.fails(69, &["pull", "--remote", cache.to_str().unwrap(), &absent]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_of_a_layout_is_replaced_by_a_push() {
    let (workstation, image) = (Workstation::new(), image());
    workstation.push(&image, "oci:layout:v1");
    let hex = digest(&image.root).replace("sha256:", "");
    let blob = workstation.path("layout/blobs/sha256").join(hex);
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, vec![0; image.root.len()]).unwrap();
    workstation.push(&image, "oci:layout:v1");
    assert!(fs::read(&blob).unwrap() == image.root);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_pull_goes_on_where_it_stopped() {
    let (registry, workstation, image) = (Registry::http(), Workstation::new(), image());
    let reference = registry.reference(REPO, "v1");
    workstation.push(&image, &reference);
    let root = On::blobs().get().reference(&digest(&image.root));
    registry.inject(root.clone().once(), Fault::DropAfter(2 * MIB as u64));
    // What brings next to nothing is not tried again and again.
    let short = registry.inject(root.clone().skip(1), Fault::DropAfter(1000));
    registry.take_log();

    workstation.fails(69, &["pull", "--dir", "out", &reference]);
    short.remove();
    assert_eq!(names_in(&workstation.path("out")), [".eci-pull"], "nothing has a name before all is there");
    let first = registry.body_bytes(&root);
    workstation.must(&["pull", "--dir", "out", &reference]);
    workstation.has_pulled("out", &image);
    assert_eq!(registry.body_bytes(&root), image.root.len() as u64, "each byte came once; {first} before the drop");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_interrupted_pull_has_left_is_not_taken_for_right() {
    let (registry, workstation, image) = (Registry::http(), Workstation::new(), image());
    let reference = registry.reference(REPO, "v1");
    workstation.push(&image, &reference);
    let root = On::blobs().get().reference(&digest(&image.root));
    let fault = registry.inject(root, Fault::status(503));
    workstation.fails(69, &["pull", "--dir", "out", &reference]);
    fault.remove();
    let left = workstation.path("out/.eci-pull/cache/blobs").join(digest(&image.kernel).replace(':', "/"));
    fs::remove_file(&left).unwrap();
    fs::write(&left, vec![0; image.kernel.len()]).unwrap();
    registry.take_log();
    workstation.must(&["pull", "--dir", "out", &reference]);
    workstation.has_pulled("out", &image);
    assert_eq!(registry.count(&On::blobs().get().reference(&digest(&image.kernel))), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_get_no_name() {
    let (registry, workstation, image) = (Registry::http(), Workstation::new(), image());
    let reference = registry.reference(REPO, "v1");
    workstation.push(&image, &reference);
    workstation.write("out/kernel", "of before");
    let root = On::blobs().get().reference(&digest(&image.root));
    let fault = registry.inject(root, Fault::FlipByte(1000));
    let said = workstation.fails(65, &["pull", "--force", "--dir", "out", &reference]);
    assert!(said.contains(&digest(&image.root)), "{said}");
    assert_eq!(names_in(&workstation.path("out")), [".eci-pull", "kernel"]);
    assert_eq!(fs::read(workstation.path("out/kernel")).unwrap(), b"of before");
    fault.remove();
    workstation.must(&["pull", "--force", "--dir", "out", &reference]);
    workstation.has_pulled("out", &image);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_replaced_and_never_written_into() {
    let (workstation, image) = (Workstation::new(), Image::new("v1"));
    workstation.push(&image, "oci:layout:v1");
    workstation.write("out/kernel", vec![b'x'; 100_000]);
    workstation.write("precious", "bytes");
    std::os::unix::fs::symlink("../precious", workstation.path("out/initrd")).unwrap();
    workstation.must(&["pull", "--force", "--dir", "out", "oci:layout:v1"]);
    workstation.has_pulled("out", &image);
    assert_eq!(fs::read(workstation.path("precious")).unwrap(), b"bytes", "a link is not followed");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_one_content_do_not_share_their_bytes() {
    let workstation = Workstation::new();
    let image = Image { disks: vec![b"same".to_vec(), b"same".to_vec()], ..Image::new("v1") };
    workstation.push(&image, "oci:layout:v1");
    workstation.must(&["pull", "--dir", "out", "oci:layout:v1"]);
    workstation.has_pulled("out", &image);
    fs::write(workstation.path("out/disk-0-data.raw"), "else").unwrap();
    assert_eq!(fs::read(workstation.path("out/disk-1-data.raw")).unwrap(), b"same");
}

#[test]
fn a_disk_of_holes_takes_little_room_under_each_of_its_names() {
    let workstation = Workstation::new();
    let mut disk = vec![0; 64 * MIB];
    disk[40 * MIB] = 1;
    workstation.write("a.raw", &disk);
    workstation.must(&["push", "--legacy", "--root", "a.raw:raw", "--disk", "a.raw:raw", "oci:layout:v1"]);
    workstation.must(&["pull", "--dir", "out", "oci:layout:v1"]);
    for name in ["out/disk-root-a.raw", "out/disk-0-a.raw"] {
        assert!(fs::read(workstation.path(name)).unwrap() == disk);
        let taken = fs::metadata(workstation.path(name)).unwrap().blocks() * 512;
        assert!(taken < MIB as u64, "{name} takes {taken} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_push_or_pull_changes_nothing() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    let reference = registry.reference(REPO, "v1");
    let kernel = workstation.write("vmlinuz", "kernel");
    let kernel = kernel.to_str().unwrap();
    let pinned = format!("{}@{}", registry.reference(REPO, "v1"), digest(b""));
    workstation.write("home/letter", "dear");
    workstation.write(".eci-pull", "a file");
    workstation.write("broken/oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    workstation.write("broken/index.json", "{");
    for (code, arguments) in [
        (64, &["push", "--kernel", "absent", &reference][..]),
        (64, &["push", "--kernel", ".", &reference]),
        (64, &["push", "--root", "vmlinuz", &reference]),
        (64, &["push", "--root", "vmlinuz:ext4", &reference]),
        (64, &["push", "--initrd", kernel, &reference]),
        (64, &["push", &reference]),
        (64, &["push", "--kernel", kernel, &pinned]),
        (64, &["push", "--kernel", kernel, "no-host"]),
        (64, &["push", "--kernel", kernel, "--arch", "a b", &reference]),
        (64, &["push", "--legacy", "--format", "legacy", "--kernel", kernel, &reference]),
        (64, &["push", "--kernel", kernel, "oci:layout:v1@sha256:12"]),
        (64, &["push", "--kernel", kernel, "--annotation", "a=b", "--annotation", "a=c", &reference]),
        (64, &["push", "--kernel", kernel, "--annotation", "org.lfedge.eci.artifact.root=/x", &reference]),
        (64, &["push", "--kernel", kernel, "--other", ".eci-pull", &reference]),
        (64, &["push", "--kernel", kernel, &format!("https://{reference}")]),
        (65, &["push", "--kernel", kernel, "oci:home:v1"]),
        (65, &["push", "--kernel", kernel, "oci:broken:v1"]),
    ] {
        workstation.fails(code, arguments);
    }
    assert_eq!(registry.log().len(), 0, "the registry was not even asked");
    assert_eq!(names_in(&workstation.path("home")), ["letter"]);
    assert_eq!(fs::read(workstation.path("broken/index.json")).unwrap(), b"{");

    workstation.fails(69, &["pull", "--dir", "new", &reference]);
    assert!(!workstation.path("new").exists());
    workstation.push(&Image::new("v1"), "oci:layout:v1");
    fs::create_dir_all(workstation.path("out/initrd")).unwrap();
    let said = workstation.fails(73, &["pull", "--dir", "out", "oci:layout:v1"]);
    assert!(said.contains("out/initrd"), "{said}");
    assert_eq!(names_in(&workstation.path("out")), ["initrd"]);
}

#[test]
fn a_work_directory_that_leads_elsewhere_is_refused() {
    let workstation = Workstation::new();
    workstation.push(&Image::new("v1"), "oci:layout:v1");
    workstation.write("elsewhere/letter", "dear");
    for place in ["out", "layout"] {
        fs::create_dir_all(workstation.path(place)).unwrap();
    }
    for link in ["out/.eci-pull", "layout/.eci-push"] {
        std::os::unix::fs::symlink("../elsewhere", workstation.path(link)).unwrap();
    }
    for arguments in [
        &["pull", "--dir", "out", "oci:layout:v1"][..],
        &["pullfiles", "--kernel", "out/kernel", "oci:layout:v1"],
        &["push", "--kernel", "vmlinuz", "oci:layout:v2"],
    ] {
        let said = workstation.fails(77, arguments);
        assert!(said.contains("remove it"), "{said}");
    }
    assert_eq!(names_in(&workstation.path("elsewhere")), ["letter"]);
    assert_eq!(names_in(&workstation.path("out")), [".eci-pull"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_does_not_fit_is_not_begun() {
    let (registry, workstation) =
        (Registry::http(), Workstation::with_config("[transfer]\nmax_file_bytes = \"8PiB\"\n"));
    let mut manifest = Image::new("v1").manifest();
    manifest["layers"][2]["size"] = (4_u64 << 50).into();
    registry.put_manifest(REPO, Some("v1"), MANIFEST, manifest.to_string());
    let arguments = ["pull", "--dir", "out", &registry.reference(REPO, "v1")];
    let said = workstation.fails(73, &arguments);
    assert!(said.contains(" free: make room") && !said.contains(".eci-pull"), "{said}");
    assert_eq!(registry.count(&On::blobs()), 0);
    assert!(!workstation.path("out").exists());
    // What an earlier pull has left takes up some of the room.
    workstation.write("out/.eci-pull/cache/blobs/sha256/left", "over");
    let said = workstation.fails(73, &arguments);
    assert!(said.contains("out/.eci-pull") && said.contains(" free: make room"), "{said}");
}

#[test]
fn an_index_or_a_manifest_of_a_layout_that_is_none_is_told_as_it_is() {
    let workstation = Workstation::new();
    let layout = workstation.path("layout");
    Image::new("v1").write_layout(&layout, "v1");
    let index = fs::read_to_string(layout.join("index.json")).unwrap();
    let huge = vec![b' '; 20 * MIB];
    fs::write(layout.join("blobs/sha256").join(digest(&huge).replace("sha256:", "")), &huge).unwrap();
    let entry = format!(r#"{{"mediaType": "{MANIFEST}", "digest": "{}", "size": {}}}"#, digest(&huge), huge.len());
    let huge = format!(r#"{{"schemaVersion": 2, "manifests": [{entry}]}}"#);
    for (content, told) in [
        (huge.as_str(), "the manifest has 20.0 MiB (20971520 bytes), more than the 4 MiB"),
        (&index[..100], "index.json is damaged: EOF while parsing"),
        (r#"{"schemaVersion": 1}"#, "index.json is damaged: the manifest is in docker's schema 1"),
        ("{}", "index.json is damaged: it has neither a media type, nor layers, nor manifests"),
    ] {
        fs::write(layout.join("index.json"), content).unwrap();
        let said = workstation.fails(65, &["pull", "--dir", "out", "oci:layout"]);
        assert!(said.contains(told), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_upload_moves_no_tag() {
    let (registry, workstation) = (Registry::http(), Workstation::with_config(IMPATIENT));
    let reference = registry.reference(REPO, "v1");
    let fault = registry.inject(On::uploads().method(hyper::Method::PUT).skip(1).times(20), Fault::status(503));
    let arguments = workstation.push_arguments(&image(), &reference);
    let said = workstation.fails(69, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(said.contains("503"), "{said}");
    assert!(registry.manifest(REPO, "v1").is_none());
    fault.remove();
    workstation.push(&image(), &reference);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_used_as_the_registry_wants_them() {
    let image = Image::new("v1");
    let login = Auth::bearer().login("user", "pass");
    // A token that is used up in the midst of a push is renewed.
    for auth in [Auth::basic("user", "pass"), login.clone().into(), login.uses(3).into()] {
        let registry = Registry::builder().auth(auth.clone()).serve();
        let workstation = Workstation::new();
        let reference = registry.reference(REPO, "v1");
        let arguments = workstation.push_arguments(&image, &reference);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        workstation.fails(77, &arguments);
        let host = registry.host();
        workstation
            .write("config.json", format!(r#"{{"auths": {{"{host}": {{"username": "user", "password": "pass"}}}}}}"#));
        let output = workstation.command(&arguments).env("DOCKER_CONFIG", workstation.path(".")).output().unwrap();
        assert!(output.status.success(), "{auth:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(registry.manifest(REPO, "v1").is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn https_wants_a_certificate_of_a_known_authority() {
    let (registry, image) = (Registry::builder().https().serve(), Image::new("v1"));
    let workstation = Workstation::new();
    let ca = workstation.write("ca.pem", registry.ca_pem().unwrap());
    let reference = registry.reference(REPO, "v1");
    let config = |lines: &str| {
        workstation.write("agent.toml", format!("[registry.\"{}\"]\n{lines}\n", registry.host()));
    };
    config("insecure = false");
    let arguments = workstation.push_arguments(&image, &reference);
    workstation.fails(69, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    config(&format!("ca = {ca:?}"));
    workstation.push(&image, &reference);
    workstation.must(&["pull", "--dir", "out", &reference]);
    workstation.has_pulled("out", &image);
}

/// A server that answers each request with the first of `answers` whose text the request's first line holds.
async fn scripted(answers: Vec<(&'static str, String)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let answers: Vec<_> = answers.into_iter().map(|(asked, answer)| (asked, answer.replace("HOST", &host))).collect();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 16 * 1024];
            let count = stream.read(&mut request).await.unwrap_or_default();
            let line = String::from_utf8_lossy(&request[..count]).lines().next().unwrap_or_default().to_owned();
            let answer = answers.iter().find(|(asked, _)| line.contains(asked)).map_or("", |(_, answer)| answer);
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    host
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_answers_nonsense_gets_an_error_and_no_crash() {
    let open = || answer("200 OK", "", "{}");
    let missing = || ("HEAD", answer("404 Not Found", "", ""));
    let challenge = "WWW-Authenticate: Bearer realm=\"http://HOST/token\",service=\"s\"\r\n";
    let located = |location: &str| answer("202 Accepted", &format!("Location: {location}\r\n"), "");
    for answers in [
        vec![
            ("/v2/ ", answer("401 Unauthorized", challenge, "")),
            ("/token", answer("200 OK", "", r#"{"token":"a\nb"}"#)),
        ],
        vec![("/v2/ ", answer("401 Unauthorized", challenge, "")), ("/token", answer("200 OK", "", "{}"))],
        vec![("/v2/ ", answer("401 Unauthorized", "WWW-Authenticate: Bearer\r\n", "")), missing()],
        vec![("/v2/ ", open()), missing(), ("POST", located("http://[::1"))],
        vec![("/v2/ ", open()), missing(), ("POST", located(":::"))],
        vec![("/v2/ ", open()), missing(), ("POST", located("data:text/plain,x"))],
        vec![("/v2/ ", open()), missing(), ("POST", answer("202 Accepted", "", ""))],
        vec![("/v2/ ", open()), missing(), ("POST", "nonsense".to_owned())],
        // All blobs are there, and the manifest is taken without a word on where it is: that is good enough.
        vec![("/v2/ ", open()), ("HEAD", answer("200 OK", "", "")), ("PUT", answer("201 Created", "", ""))],
    ] {
        let takes_all = answers.len() == 3 && answers[2].0 == "PUT";
        // There is no such tag yet.
        let answers = [vec![("GET /v2/edge/nginx/manifests", answer("404 Not Found", "", ""))], answers].concat();
        let host = scripted(answers.clone()).await;
        let workstation = Workstation::new();
        let arguments = workstation.push_arguments(&Image::new("v1"), &format!("{host}/edge/nginx"));
        let output = workstation.eci(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), takes_all, "{answers:?}: {said}");
        // 70 would be a defect of ours.
        assert!(
            takes_all || matches!(output.status.code(), Some(69 | 77 | 78)),
            "{answers:?}: {:?} {said}",
            output.status
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn debians_registry_and_skopeo_take_what_we_push() {
    const TEST: &str = "debians_registry_and_skopeo_take_what_we_push";
    let Some(registry) = DockerRegistry::http(TEST) else { return };
    let (workstation, image) = (Workstation::new(), image());
    let reference = registry.reference(REPO, "v1");
    let printed = workstation.push(&image, &reference);
    let pushed = printed.trim().split_once('@').unwrap().1;
    workstation.must(&["pull", "--dir", "out", &reference]);
    workstation.has_pulled("out", &image);

    if program(TEST, "skopeo").is_none() {
        return;
    }
    let copy = workstation.path("copy");
    let to = format!("dir:{}", copy.display());
    skopeo(TEST, &["copy", "--src-tls-verify=false", &format!("docker://{reference}"), &to]).unwrap();
    skopeo_has(&copy, &image, pushed);

    workstation.push(&image, "oci:layout:v1");
    fs::remove_dir_all(&copy).unwrap();
    skopeo(TEST, &["copy", &format!("oci:{}:v1", workstation.path("layout").display()), &to]).unwrap();
    skopeo_has(&copy, &image, pushed);

    // And back: an image that skopeo has put there.
    let other = registry.reference("edge/other", "v1");
    let to = format!("docker://{other}");
    skopeo(TEST, &["copy", "--dest-tls-verify=false", &format!("dir:{}", copy.display()), &to]).unwrap();
    workstation.must(&["pull", "--dir", "back", &other]);
    workstation.has_pulled("back", &image);
}

#[tokio::test(flavor = "multi_thread")]
async fn debians_registry_is_reached_by_https() {
    const TEST: &str = "debians_registry_is_reached_by_https";
    let (workstation, image) = (Workstation::new(), image());
    let [ca, cert, key] = certificate(&workstation.path(""));
    let Some(registry) = DockerRegistry::https(TEST, &cert, &key) else { return };
    workstation.write("agent.toml", format!("[registry.\"{}\"]\nca = {ca:?}\n", registry.host()));
    let reference = registry.reference(REPO, "v1");
    let printed = workstation.push(&image, &reference);
    workstation.must(&["pull", "--dir", "out", &reference]);
    workstation.has_pulled("out", &image);
    let copy = workstation.path("copy");
    let (from, to) = (format!("docker://{reference}"), format!("dir:{}", copy.display()));
    let ca_dir = ca.parent().unwrap().to_str().unwrap();
    if skopeo(TEST, &["copy", "--src-cert-dir", ca_dir, &from, &to]).is_some() {
        skopeo_has(&copy, &image, printed.trim().split_once('@').unwrap().1);
    }
}

#[test]
fn push_makes_no_directory_in_the_root() {
    let workstation = Workstation::new();
    workstation.write("root.raw", "root");
    let push = |place: &str| workstation.eci(&["push", "--root", "root.raw:raw", place]);
    let absent = format!("/eci-absent-{}", std::process::id());
    let output = push(&format!("oci:{absent}/usb/images:1"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!std::path::Path::new(&absent).exists(), "{said}");
    assert_eq!(output.status.code(), Some(73), "{said}");
    assert!(said.contains(&format!("there is no directory {absent}/usb")), "{said}");
    assert!(push("oci:usb/images:1").status.success(), "elsewhere, parents are made");
}
