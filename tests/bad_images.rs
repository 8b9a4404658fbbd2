//! Images that are wrong, each in its own way: the node says which by a stable kind, activates nothing, writes nothing
//! outside its state directory, and goes on to deploy the next good one. At a workstation, a pull of it fails as well.

use std::path::PathBuf;

use eci_agent::oci::Platform;
use serde_json::{Value, json};
use tar::EntryType;

use crate::common::agent::{Node, files_below};
use crate::common::archive::{gzip, tar_as_it_stands};
use crate::common::image::{INDEX, Image, MANIFEST};
use crate::common::registry::{Fault, On, Registry, digest};
use crate::common::workstation::{Workstation, names_in};

const REPO: &str = "edge/bad";
const KERNEL: &str = "application/vnd.lfedge.eci.kernel.layer.v1+kernel";
const RAW: &str = "application/vnd.lfedge.disk.layer.v1+raw";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const GZIP_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ROLE: &str = "org.lfedge.eci.role";
const TITLE: &str = "org.opencontainers.image.title";

/// A registry, and a node that boots a good image from it.
struct Trial {
    registry: Registry,
    node: Node,
    workstation: Workstation,
    image: Image,
    before: Vec<PathBuf>,
}

impl Trial {
    fn new(config: &str) -> Self {
        let (registry, image) = (Registry::http(), Image::new("good"));
        let mut node = Node::with_config(config);
        image.publish(&registry, REPO, "good");
        node.desire_image(&registry.reference(REPO, "good"));
        node.start();
        node.until_activated("good");
        let before = outside(&node);
        Self { registry, node, workstation: Workstation::with_config(config), image, before }
    }

    /// Puts a layer into the registry, and describes it.
    fn layer(&self, media_type: &str, bytes: &[u8], annotations: &Value) -> Value {
        let digest = self.registry.put_blob(REPO, bytes.to_vec());
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len(), "annotations": annotations})
    }

    /// Puts a manifest of `layers` and `config` under `tag`; its digest.
    fn put(&self, tag: &str, config: &[u8], layers: &[Value]) -> String {
        let config_digest = self.registry.put_blob(REPO, config.to_vec());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len()},
        });
        self.registry.put_manifest(REPO, Some(tag), MANIFEST, manifest.to_string())
    }

    /// Puts an index under `tag`; its digest.
    fn put_index(&self, tag: &str, entries: &Value) -> String {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
        self.registry.put_manifest(REPO, Some(tag), INDEX, index.to_string())
    }

    /// Desires what is under `tag`, which fails with `kind`, on the node and at a workstation; what the node says.
    fn fails(&self, tag: &str, kind: &str) -> String {
        let reference = self.registry.reference(REPO, tag);
        self.node.desire_image(&reference);
        let failed = self.node.until_failed(kind);
        self.nothing_happened();
        let message = failed["message"].as_str().unwrap().to_owned();
        self.names(tag, &message);

        let said = self.workstation.fails(65, &["pull", "--dir", tag, &reference]);
        self.names(tag, &said);
        // What came is kept to be taken up, where all that can be told before was right.
        let left = names_in(&self.workstation.path(tag));
        assert!(left.iter().all(|name| name == ".eci-pull"), "{tag}: a file has a name: {left:?}");
        message
    }

    /// A message says which image it is about, or which of its blobs.
    fn names(&self, tag: &str, message: &str) {
        let manifest = self.registry.manifest(REPO, tag).unwrap().bytes;
        let text = String::from_utf8_lossy(&manifest);
        let inside = text.match_indices("sha256:").filter_map(|(at, _)| text.get(at..at + 71));
        let is_named = message.contains(&self.registry.reference(REPO, tag))
            || message.contains(&digest(&manifest))
            || inside.into_iter().any(|digest| message.contains(digest));
        assert!(is_named, "{tag}: it names neither the image nor a part of it: {message}");
    }

    /// The same; waiting does not help, so a person is told.
    fn is_blocked(&self, tag: &str, kind: &str) -> String {
        let message = self.fails(tag, kind);
        let status = self.node.status();
        assert_eq!(status["workloads"]["default"]["phase"], "blocked", "{tag}");
        assert_eq!(status["workloads"]["default"]["error"]["kind"], kind);
        message
    }

    fn nothing_happened(&self) {
        assert_eq!(self.node.current("disk-root"), self.image.root);
        assert_eq!(names_in(&self.node.state_dir().join("generations/default")), ["1"]);
        assert_eq!(outside(&self.node), self.before);
    }

    /// A good image comes through after all that.
    fn goes_on(&self) {
        let next = Image::new("next");
        next.publish(&self.registry, REPO, "next");
        self.node.desire_image(&self.registry.reference(REPO, "next"));
        self.node.until_activated("next");
        assert_eq!(self.node.current("disk-root"), next.root);
        let left = files_below(&self.node.state_dir().join("partial"));
        assert!(left.iter().all(|path| path.extension().is_none()), "half of a file is left: {left:?}");
    }
}

/// What is on the node's disk outside of its state directory.
fn outside(node: &Node) -> Vec<PathBuf> {
    files_below(&node.path("")).into_iter().filter(|path| !path.starts_with("state")).collect()
}

fn label(key: &str, path: &str) -> Vec<u8> {
    json!({"config": {"Labels": {format!("org.lfedge.eci.artifact.{key}"): path}}}).to_string().into_bytes()
}

fn kernel_label(path: &str) -> Vec<u8> {
    label("kernel", path)
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_roles_that_must_not_be() {
    let trial = Trial::new("");
    let root = |title: &str| trial.layer(RAW, title.as_bytes(), &json!({ROLE: "disk-root", TITLE: title}));
    for (n, title) in
        ["../../etc/x", "..", "/etc/x", "a/b", "a\\b", "a\0b", "a\nb", "-rf", "", ".bashrc", ".ssh"].iter().enumerate()
    {
        let tag = format!("name-{n}");
        trial.put(&tag, b"{}", &[root(title)]);
        trial.is_blocked(&tag, "file-name-invalid");
    }
    let other = |title: &str| trial.layer("application/vnd.lfedge.eci.layer.v1", b"x", &json!({TITLE: title}));
    trial.put("reserved", b"{}", &[root("a.raw"), other(".eci-pull")]);
    trial.is_blocked("reserved", "file-name-invalid");
    let kernel = |media_type: &str, role: &str| trial.layer(media_type, b"kernel", &json!({ROLE: role}));
    for (tag, layers, kind) in [
        ("same-name", vec![root("a.raw"), other("note"), other("note")], "file-name-duplicate"),
        ("clash", vec![root("a.raw"), other("disk-root-a.raw")], "file-name-duplicate"),
        ("no-initrd", vec![root("a.raw"), other("initrd")], "file-name-invalid"),
        ("two-roots", vec![root("a.raw"), root("b.raw")], "role-duplicate"),
        ("two-kernels", vec![kernel(KERNEL, "kernel"), kernel(KERNEL, "kernel")], "role-duplicate"),
        ("nothing", vec![other("note")], "not-bootable"),
        ("empty", vec![], "not-bootable"),
        ("role", vec![kernel(RAW, "kernel")], "media-type-mismatch"),
        ("format", vec![kernel("application/vnd.lfedge.disk.layer.v1+floppy", "disk-root")], "media-type-mismatch"),
        ("unknown", vec![kernel("text/plain", "kernel")], "media-type-mismatch"),
    ] {
        trial.put(tag, b"{}", &layers);
        trial.is_blocked(tag, kind);
    }
    trial.goes_on();
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_that_lead_elsewhere_or_are_damaged() {
    let trial = Trial::new("[transfer]\nmax_file_bytes = \"1MiB\"\n");
    let (regular, link, hard) = (EntryType::Regular, EntryType::Symlink, EntryType::Link);
    let whole = gzip(&tar_as_it_stands(&[("boot/vmlinuz", regular, &Image::new("").with_root_of(9000).root)]));
    let mut endless = tar_as_it_stands(&[("boot/vmlinuz", regular, b"kernel")]);
    endless.resize(4 << 20, 0);
    for (tag, layer, kind) in [
        ("empty-link", tar_as_it_stands(&[("boot/vmlinuz", link, b"")]), "archive-refused"),
        ("hard-link", tar_as_it_stands(&[("boot/vmlinuz", hard, b"")]), "archive-refused"),
        ("device", tar_as_it_stands(&[("boot/vmlinuz", EntryType::Block, b"")]), "archive-refused"),
        ("pipe", tar_as_it_stands(&[("boot/vmlinuz", EntryType::Fifo, b"")]), "archive-refused"),
        ("directory", tar_as_it_stands(&[("boot/vmlinuz", EntryType::Directory, b"")]), "archive-refused"),
        ("absolute", tar_as_it_stands(&[("/../vmlinuz", regular, b"x")]), "archive-refused"),
        ("upwards", tar_as_it_stands(&[("boot/../../vmlinuz", regular, b"x")]), "archive-refused"),
        ("cut", whole[..whole.len() - 500].to_vec(), "archive-damaged"),
        ("cut-early", whole[..40].to_vec(), "archive-damaged"),
        ("cut-plain", tar_as_it_stands(&[("boot/vmlinuz", regular, &[7; 5000])])[..2000].to_vec(), "archive-damaged"),
        ("bomb", gzip(&tar_as_it_stands(&[("boot/vmlinuz", regular, &vec![0; 2 << 20])])), "file-too-large"),
        (
            "bomb-beside",
            gzip(&tar_as_it_stands(&[("x", regular, &vec![0; 2 << 20]), ("boot/vmlinuz", regular, b"x")])),
            "file-too-large",
        ),
        ("bomb-after", gzip(&endless), "archive-damaged"),
    ] {
        trial.put(tag, &kernel_label("/boot/vmlinuz"), &[trial.layer(GZIP_LAYER, &layer, &json!({}))]);
        trial.is_blocked(tag, kind);
    }
    // The same of layers that are to be one file.
    let annotations = json!({ROLE: "kernel", TITLE: "kernel", "org.lfedge.eci.mediaType": KERNEL});
    for (tag, layer, kind) in [
        ("one-bomb", gzip(&tar_as_it_stands(&[("k", regular, &vec![0; 2 << 20])])), "file-too-large"),
        ("one-cut", whole[..whole.len() - 500].to_vec(), "archive-damaged"),
        ("one-cut-early", whole[..40].to_vec(), "archive-damaged"),
        ("one-of-two", tar_as_it_stands(&[("a", regular, b"a"), ("b", regular, b"b")]), "archive-refused"),
        ("one-link", tar_as_it_stands(&[("a", link, b"")]), "archive-refused"),
        ("one-xz", b"\xfd7zXZ\0and so on".to_vec(), "archive-refused"),
        ("one-plain", b"a kernel as it is".to_vec(), "archive-refused"),
        ("one-plain-bomb", gzip(&vec![0; 2 << 20]), "file-too-large"),
    ] {
        trial.put(tag, b"{}", &[trial.layer(GZIP_LAYER, &layer, &annotations)]);
        trial.is_blocked(tag, kind);
    }
    // A file that its descriptor already says to be too large is not asked for.
    let large = vec![7; (1 << 20) + 1];
    trial.put("large", b"{}", &[trial.layer(KERNEL, &large, &json!({}))]);
    trial.is_blocked("large", "file-too-large");
    assert_eq!(trial.registry.count(&On::blobs().get().reference(&digest(&large))), 0);
    trial.goes_on();
}

#[tokio::test(flavor = "multi_thread")]
async fn configs_and_labels_that_lead_nowhere() {
    let trial = Trial::new("");
    let layer = trial.layer(LAYER, &tar_as_it_stands(&[("boot/vmlinuz", EntryType::Regular, b"kernel")]), &json!({}));
    for (tag, config, kind) in [
        ("no-json", b"not JSON".to_vec(), "config-damaged"),
        ("no-labels", b"{}".to_vec(), "not-bootable"),
        ("mistyped", label("kernal", "/boot/vmlinuz"), "manifest-invalid"),
        ("odd-number", label("disk-01", "/boot/vmlinuz"), "manifest-invalid"),
        ("odd-labels", br#"{"config": {"Labels": {"a": 1}}}"#.to_vec(), "config-damaged"),
        ("upwards", kernel_label("../../boot/vmlinuz"), "manifest-invalid"),
        ("absent", kernel_label("/boot/other"), "file-missing"),
        ("below-a-file", kernel_label("/boot/vmlinuz/x"), "file-missing"),
    ] {
        trial.put(tag, &config, std::slice::from_ref(&layer));
        trial.is_blocked(tag, kind);
    }
    trial.put("huge", &vec![b' '; 5 << 20], std::slice::from_ref(&layer));
    let message = trial.is_blocked("huge", "file-too-large");
    assert!(message.contains("the config") && message.contains("4 MiB"), "{message}");
    trial.goes_on();
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_are_not_what_the_manifest_says() {
    let trial = Trial::new("");
    let kernel = trial.layer(KERNEL, b"the right kernel", &json!({}));
    trial.put("blob", b"{}", std::slice::from_ref(&kernel));
    let blob = kernel["digest"].as_str().unwrap();
    trial.registry.put_blob_as(REPO, blob, "the wrong kernel");
    let message = trial.fails("blob", "digest-mismatch");
    assert!(message.contains(blob), "{message}");
    for (tag, bytes) in [("longer", "the right kernel and more"), ("shorter", "kernel")] {
        trial.put(tag, b"{}", std::slice::from_ref(&kernel));
        trial.registry.put_blob_as(REPO, blob, bytes);
        trial.fails(tag, "size-mismatch");
    }
    trial.goes_on();
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_are_none() {
    let trial = Trial::new("");
    let huge = format!("{{\"schemaVersion\": 2, \"padding\": \"{}\"}}", "x".repeat(20 << 20));
    let both = json!({"schemaVersion": 2, "config": {}, "layers": [], "manifests": []}).to_string();
    let odd = json!({"schemaVersion": 2, "mediaType": "text/plain", "layers": []}).to_string();
    for (tag, manifest, kind) in [
        ("huge", huge, "manifest-too-large"),
        ("both", both, "manifest-invalid"),
        ("media-type", odd, "manifest-invalid"),
        ("old", json!({"schemaVersion": 1}).to_string(), "manifest-invalid"),
    ] {
        trial.registry.put_manifest(REPO, Some(tag), MANIFEST, manifest);
        trial.is_blocked(tag, kind);
    }
    trial.goes_on();
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_without_a_match_and_through_too_many_others() {
    let trial = Trial::new("");
    let entry = |digest: &str, media_type: &str| json!({"mediaType": media_type, "digest": digest, "size": 1});
    let mut other = entry(&digest(b""), MANIFEST);
    other["platform"] = json!({"os": "linux", "architecture": "mips64"});
    trial.put_index("no-match", &json!([other]));
    assert!(trial.is_blocked("no-match", "no-platform-match").contains("linux/mips64"), "it says what there is");
    trial.put_index("empty", &json!([]));
    trial.is_blocked("empty", "no-platform-match");

    // Nobody says which it is, and no more than so many are looked at.
    let one_of = |n: usize| {
        let config = json!({"os": "linux", "architecture": format!("odd{n}")}).to_string();
        entry(&trial.put(&format!("of-many-{n}"), config.as_bytes(), &[]), MANIFEST)
    };
    trial.put_index("crowd", &(0..65).map(one_of).collect());
    assert!(trial.is_blocked("crowd", "unsupported").contains("more than 64"));

    // A digest that cannot be checked is no reason to try again, and none to pass over the others.
    let mut foreign = entry(&format!("sha512:{}", "0".repeat(128)), MANIFEST);
    trial.put_index("foreign", &json!([foreign]));
    assert!(trial.is_blocked("foreign", "unsupported").contains("sha512"));
    foreign["platform"] = json!({"os": "linux", "architecture": "mips64"});
    let mut named = entry(&trial.put("beside", b"{}", &[trial.layer(KERNEL, b"kernel beside", &json!({}))]), MANIFEST);
    named["platform"] = json!({"os": "linux", "architecture": Platform::host().architecture});
    trial.put_index("beside-foreign", &json!([foreign, named]));

    // As deep as is followed, and one more.
    let mut below = trial.put("deepest", b"{}", &[trial.layer(KERNEL, b"deep kernel", &json!({}))]);
    let mut media_type = MANIFEST;
    for depth in 1..=5 {
        below = trial.put_index(&format!("deep-{depth}"), &json!([entry(&below, media_type)]));
        media_type = INDEX;
    }
    trial.is_blocked("deep-5", "index-nested");

    // No index has its own digest in it; a registry that says so serves other bytes than were asked for.
    let absent = digest(b"never there");
    let circle = trial.put_index("circle", &json!([entry(&absent, INDEX)]));
    let url = trial.registry.url(&format!("/v2/{REPO}/manifests/{circle}"));
    trial.registry.inject(On::manifests().reference(&absent), Fault::Redirect(url));
    trial.fails("circle", "digest-mismatch");

    trial.node.desire_image(&trial.registry.reference(REPO, "beside-foreign"));
    trial.node.until_activated("beside-foreign");
    assert_eq!(trial.node.current("kernel"), b"kernel beside");

    trial.node.desire_image(&trial.registry.reference(REPO, "deep-4"));
    trial.node.until_activated("deep-4");
    assert_eq!(trial.node.current("kernel"), b"deep kernel");
}

#[test]
fn a_layout_that_is_not_whole_is_told_blob_by_blob() {
    let workstation = Workstation::new();
    let mut node = Node::new();
    let layout = workstation.path("usb");
    let mut image = Image::new("v1").with_root_of(100_000);
    image.disks.push(b"data".to_vec());
    image.write_layout(&layout, "v1");
    let reference = format!("oci:{}:v1", layout.display());
    let blob = |bytes: &[u8]| layout.join("blobs/sha256").join(digest(bytes).replace("sha256:", ""));
    let is_all = |said: &str, parts: &[(&str, &[u8], &str)]| {
        let wanted = |(title, bytes, reason): &(&str, &[u8], &str)| format!("{title} ({}) {reason}", digest(bytes));
        parts.iter().all(|part| said.contains(&wanted(part))) && said.matches("sha256:").count() == parts.len()
    };
    let both_say = |node: &Node, dir: &str, parts: &[(&str, &[u8], &str)]| {
        let said = workstation.fails(65, &["pull", "--dir", dir, &reference]);
        assert!(is_all(&said, parts), "that is not all: {said}");
        // The node has taken the kernel by then, and does not miss it any more.
        let needed: Vec<_> = parts.iter().filter(|(title, ..)| *title != "kernel").copied().collect();
        node.until(&format!("told {} blobs", needed.len()), |event| {
            event["kind"] == "layout-invalid" && is_all(event["message"].as_str().unwrap(), &needed)
        });
    };

    // Of the right length, and other bytes: found when they are read, and then all of them are.
    let flip = |bytes: &[u8]| std::fs::write(blob(bytes), vec![0; bytes.len()]).unwrap();
    flip(&image.initrd);
    flip(&image.disks[0]);
    node.desire_image(&reference);
    node.start();
    let damaged = "is damaged: it has another digest";
    both_say(&node, "one", &[("initrd", &image.initrd, damaged), ("disk-0-data.raw", &image.disks[0], damaged)]);

    std::fs::remove_file(blob(&image.kernel)).unwrap();
    std::fs::write(blob(&image.root), b"short").unwrap();
    both_say(
        &node,
        "two",
        &[
            ("kernel", &image.kernel, "is missing"),
            ("initrd", &image.initrd, damaged),
            ("disk-root-root.raw", &image.root, "has 5 bytes instead of 97.7 KiB (100000 bytes)"),
            ("disk-0-data.raw", &image.disks[0], damaged),
        ],
    );

    // The stick is made anew, and the node goes on by itself.
    image.write_layout(&layout, "v1");
    node.until_activated(&reference);
    assert!(node.current("disk-root") == image.root);
}
