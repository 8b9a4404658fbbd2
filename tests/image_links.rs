//! Labels that name links: followed within the image, through all its layers, and never out of it.

use serde_json::{Value, json};

use crate::common::agent::Node;
use crate::common::archive::{entry, gzip, zstd};
use crate::common::disk_bytes::disk;
use crate::common::registry::{On, Registry, digest};
use crate::common::workstation::Workstation;
use crate::legacy::{GZIP_LAYER, LAYER, deploy, labels, layer, publish};

/// The entries of each layer, the lowest layer first.
type Layers = Vec<Vec<Vec<u8>>>;

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    entry(name, b'0', "", content)
}

fn symlink(name: &str, target: &str) -> Vec<u8> {
    entry(name, b'2', target, b"")
}

fn hard_link(name: &str, target: &str) -> Vec<u8> {
    entry(name, b'1', target, b"")
}

fn directory(name: &str) -> Vec<u8> {
    entry(name, b'5', "", b"")
}

/// Puts an image of these layers, the lowest first, whose label names the kernel `/boot/vmlinuz`.
fn put(registry: &Registry, tag: &str, layers: &[Vec<Vec<u8>>]) -> String {
    let layers: Vec<_> =
        layers.iter().map(|entries| layer(registry, GZIP_LAYER, &gzip(&entries.concat()), &json!({}))).collect();
    publish(registry, tag, &labels(&[("kernel", "/boot/vmlinuz")]), &layers)
}

fn gets(layer: &[Vec<u8>]) -> On {
    On::blobs().get().reference(&digest(&gzip(&layer.concat())))
}

#[tokio::test(flavor = "multi_thread")]
async fn links_are_followed_without_a_second_fetch() {
    let registry = Registry::http();
    let kernel = || file("usr/lib/boot/vmlinuz-6.1", b"kernel");
    let other = || file("other", b"other");
    let chain = |length: usize| {
        let link = |n: usize| symlink(&format!("l{n}"), &if n == 0 { "k".to_owned() } else { format!("l{}", n - 1) });
        let mut entries: Vec<_> = (0..length - 1).map(link).collect();
        entries.extend([symlink("boot/vmlinuz", &format!("/l{}", length - 2)), file("k", b"kernel")]);
        entries
    };
    let cases: Vec<(&str, Layers)> = vec![
        ("relative", vec![vec![symlink("boot/vmlinuz", "../usr/lib/boot/vmlinuz-6.1"), kernel()]]),
        ("absolute", vec![vec![kernel(), symlink("boot/vmlinuz", "/usr/lib/boot/vmlinuz-6.1")]]),
        ("hard", vec![vec![kernel(), hard_link("boot/vmlinuz", "usr/lib/boot/vmlinuz-6.1")]]),
        ("hard-absolute", vec![vec![kernel(), hard_link("/boot/vmlinuz", "/usr/lib/boot/vmlinuz-6.1")]]),
        ("directory", vec![vec![symlink("boot", "usr/lib/boot"), file("usr/lib/boot/vmlinuz", b"kernel")]]),
        (
            "link-in-a-linked-directory",
            vec![vec![symlink("boot", "usr/lib/boot/"), symlink("usr/lib/boot/vmlinuz", "vmlinuz-6.1"), kernel()]],
        ),
        ("forty", vec![chain(40)]),
        ("link-below", vec![vec![symlink("boot/vmlinuz", "/k")], vec![other()], vec![file("k", b"kernel")]]),
        ("link-above", vec![vec![file("k", b"kernel")], vec![other()], vec![symlink("boot/vmlinuz", "/k")]]),
        (
            "replaced-target",
            vec![vec![file("k", b"old")], vec![symlink("boot/vmlinuz", "/k")], vec![file("k", b"kernel")]],
        ),
        (
            "a-hard-link-keeps-its-file",
            vec![
                vec![file("k", b"kernel")],
                vec![hard_link("boot/vmlinuz", "k")],
                vec![file("k", b"new"), entry(".wh.l", b'0', "", b"")],
            ],
        ),
        (
            "a-hard-link-to-a-link",
            vec![vec![
                symlink("d/l", "k"),
                hard_link("boot/vmlinuz", "d/l"),
                file("boot/k", b"kernel"),
                file("d/k", b"no"),
            ]],
        ),
        (
            "link-hides-a-directory",
            vec![
                vec![file("boot/vmlinuz", b"old"), file("usr/boot/vmlinuz", b"kernel")],
                vec![symlink("boot", "usr/boot")],
            ],
        ),
        (
            "a-directory-replaces-a-link",
            vec![
                vec![symlink("boot", "usr/boot"), file("usr/boot/vmlinuz", b"old")],
                vec![directory("boot/"), file("boot/vmlinuz", b"kernel")],
            ],
        ),
    ];
    for (tag, layers) in &cases {
        let reference = put(&registry, tag, layers);
        let node = deploy(&reference);
        assert!(node.current("kernel") == b"kernel", "{tag}");
        for layer in layers {
            assert!(registry.count(&gets(layer)) <= 1, "{tag}: a layer was fetched twice");
        }
        let blobs = node.state_dir().join("cache/blobs/sha256");
        let left: Vec<_> =
            layers.iter().filter(|layer| blobs.join(&digest(&gzip(&layer.concat()))[7..]).exists()).collect();
        assert!(left.is_empty(), "{tag}: a layer is left");
        registry.take_log();
        let workstation = Workstation::new();
        workstation.must(&["pullfiles", "--kernel", "k", &reference]);
        assert!(std::fs::read(workstation.path("k")).unwrap() == b"kernel", "{tag}");
        for layer in layers {
            assert!(registry.count(&gets(layer)) <= 1, "{tag}: a layer was pulled twice");
        }
        registry.take_log();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_to_nothing_or_outside_are_refused() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    let mut node = Node::new();
    let good = put(&registry, "good", &[vec![file("boot/vmlinuz", b"good")]]);
    node.desire_image(&good);
    node.start();
    node.until_activated(&good);
    let long: Vec<_> = (0..40)
        .map(|n: usize| symlink(&format!("l{n}"), &format!("l{}", n + 1)))
        .chain([symlink("boot/vmlinuz", "/l0"), file("l40", b"kernel")])
        .collect();
    let k = || file("k", b"kernel");
    let cases: Vec<(&str, Layers, &str)> = vec![
        ("upwards", vec![vec![symlink("boot/vmlinuz", "../../etc/passwd")]], "archive-refused"),
        ("upwards-absolute", vec![vec![symlink("boot/vmlinuz", "/../etc/passwd")]], "archive-refused"),
        ("upwards-directory", vec![vec![symlink("boot", "../etc")]], "archive-refused"),
        ("upwards-hard", vec![vec![hard_link("boot/vmlinuz", "../etc/passwd")]], "archive-refused"),
        ("up-and-down", vec![vec![symlink("boot/vmlinuz", "x/../../k"), k()]], "archive-refused"),
        ("outside", vec![vec![symlink("boot/vmlinuz", "/etc/passwd")]], "file-missing"),
        ("loop", vec![vec![symlink("boot/vmlinuz", "vmlinuz")]], "archive-refused"),
        ("two", vec![vec![symlink("boot/vmlinuz", "k")], vec![symlink("boot/k", "vmlinuz")]], "archive-refused"),
        ("directory-loop", vec![vec![symlink("boot", "boot")]], "archive-refused"),
        ("hard-loop", vec![vec![hard_link("boot/vmlinuz", "boot/vmlinuz")]], "archive-refused"),
        ("forty-one", vec![long], "archive-refused"),
        ("device", vec![vec![symlink("boot/vmlinuz", "k"), entry("boot/k", b'4', "", b"")]], "archive-refused"),
        ("to-directory", vec![vec![symlink("boot/vmlinuz", "/usr"), directory("usr/")]], "archive-refused"),
        ("to-dot", vec![vec![symlink("boot/vmlinuz", ".")]], "archive-refused"),
        ("empty", vec![vec![symlink("boot/vmlinuz", "")]], "archive-refused"),
        ("dangling", vec![vec![symlink("boot/vmlinuz", "k")]], "file-missing"),
        ("target-removed", vec![vec![k(), symlink("boot/vmlinuz", "/k")], vec![file(".wh.k", b"")]], "file-missing"),
        (
            "link-removed",
            vec![vec![k(), symlink("boot/vmlinuz", "/k")], vec![file("boot/.wh.vmlinuz", b"")]],
            "file-missing",
        ),
        (
            "opaque",
            vec![vec![k(), symlink("boot/vmlinuz", "/k")], vec![file("boot/.wh..wh..opq", b"")]],
            "file-missing",
        ),
        (
            "a-directory-in-place-of-the-link",
            vec![vec![symlink("boot", "usr"), file("usr/vmlinuz", b"k")], vec![directory("boot/")]],
            "file-missing",
        ),
        (
            "hard-link-to-a-replaced-file",
            vec![vec![k(), hard_link("boot/vmlinuz", "k"), file("k", b"another")]],
            "archive-refused",
        ),
        ("hard-link-to-a-later-file", vec![vec![hard_link("boot/vmlinuz", "k")], vec![k()]], "file-missing"),
    ];
    for (tag, layers, kind) in &cases {
        let reference = put(&registry, tag, layers);
        node.desire_image(&reference);
        let error = node.until_failed(kind);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("/boot") || message.contains("/usr"), "{tag}: {message}");
        assert_eq!(node.status()["workloads"]["default"]["phase"], "blocked", "{tag}");
        assert!(node.current("kernel") == b"good", "{tag}");
        workstation.fails(65, &["pull", "--dir", tag, &reference]);
        for layer in layers {
            let blob = node.state_dir().join("cache/blobs/sha256").join(&digest(&gzip(&layer.concat()))[7..]);
            assert!(!blob.exists(), "{tag}: a layer is left");
        }
    }
    node.desire_image(&put(&registry, "next", &[vec![symlink("boot/vmlinuz", "/k"), file("k", b"next")]]));
    node.until_activated("next");
    assert!(node.current("kernel") == b"next");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_keeps_the_labels_name_and_takes_its_format() {
    let registry = Registry::http();
    let qcow2 = disk("qcow2", "d");
    let bottom = [file("images/v1.qcow2", &qcow2), file("images/v1.raw", b"raw disk")].concat();
    let top = [
        symlink("root.img", "images/v1.qcow2"),
        symlink("data.qcow2", "images/latest"),
        symlink("images/latest", "v1.qcow2"),
        symlink("more", "images/v1.raw"),
    ]
    .concat();
    let none = json!({});
    let layers = [layer(&registry, LAYER, &bottom, &none), layer(&registry, LAYER, &zstd(&top), &none)];
    let config = labels(&[("root", "/root.img"), ("disk-0", "/data.qcow2"), ("disk-1", "/more")]);
    let node = deploy(&publish(&registry, "v1", &config, &layers));
    assert!(node.current("disk-root-root.img") == qcow2 && node.current("disk-0-data.qcow2") == qcow2);
    assert!(node.current("disk-1-more") == b"raw disk");
    let launch: Value = serde_json::from_slice(&node.current("launch.json")).unwrap();
    let formats: Vec<_> = launch["files"].as_array().unwrap().iter().map(|file| file["format"].clone()).collect();
    assert_eq!(formats, ["qcow2", "qcow2", "raw"], "by the label's ending, else by the target's");
}
