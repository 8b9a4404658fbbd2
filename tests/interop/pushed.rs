//! What the program pushes, read by the tools that other people use.

use std::fs;

use super::bench::{Bench, python_with_oras};
use crate::common::docker_registry::program;
use crate::common::registry::digest;

const PUSH: &str =
    "eci push --kernel vmlinuz --initrd initrd.img --root root.qcow2:qcow2 --disk data.raw --arch arm64 --os linux";

/// Pushes the bench's files; the reference.
fn push(bench: &Bench) -> String {
    let reference = bench.registry.reference("edge/nginx", "v1");
    bench.sh(&format!("{PUSH} {reference}"));
    reference
}

/// The names and bytes of the pushed files.
fn files(bench: &Bench) -> [(&'static str, &Vec<u8>); 4] {
    let image = &bench.image;
    [
        ("kernel", &image.kernel),
        ("initrd", &image.initrd),
        ("disk-root-root.qcow2", &image.root),
        ("disk-0-data.raw", &image.disks[0]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_inspects_and_copies_what_was_pushed() {
    const TEST: &str = "skopeo_inspects_and_copies_what_was_pushed";
    if program(TEST, "skopeo").is_none() {
        return;
    }
    let bench = Bench::new();
    let reference = push(&bench);
    let manifest = bench.registry.manifest("edge/nginx", "v1").unwrap().bytes;
    // Without --raw it speaks of container images only, by what their configs say.
    assert!(bench.sh(&format!("skopeo inspect --raw docker://{reference}")).as_bytes() == manifest);
    bench.sh(&format!("skopeo copy docker://{reference} dir:copy"));
    assert!(fs::read(bench.path("copy/manifest.json")).unwrap() == manifest);
    for (name, bytes) in files(&bench) {
        let hex = digest(bytes).replace("sha256:", "");
        assert!(fs::read(bench.path("copy").join(hex)).unwrap() == *bytes, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn umoci_lists_and_keeps_what_was_pushed_into_a_layout() {
    const TEST: &str = "umoci_lists_and_keeps_what_was_pushed_into_a_layout";
    if program(TEST, "umoci").is_none() {
        return;
    }
    let bench = Bench::new();
    bench.sh(&format!("{PUSH} oci:images:v1"));
    assert_eq!(bench.sh("umoci list --layout images").trim(), "v1");
    // A collection that did not understand the layout would take blobs away.
    bench.sh("umoci tag --image images:v1 v2; umoci remove --image images:v1; umoci gc --layout images");
    for (name, bytes) in files(&bench) {
        let hex = digest(bytes).replace("sha256:", "");
        assert!(fs::read(bench.path("images/blobs/sha256").join(hex)).unwrap() == *bytes, "{name}");
    }
    bench.sh("eci pull --dir out oci:images:v2");
}

#[tokio::test(flavor = "multi_thread")]
async fn oras_pulls_what_was_pushed() {
    const TEST: &str = "oras_pulls_what_was_pushed";
    let Some(python) = python_with_oras(TEST) else { return };
    let bench = Bench::new();
    let reference = push(&bench);
    let script =
        format!("import oras.client\noras.client.OrasClient(insecure=True).pull(target={reference:?}, outdir=\"out\")");
    bench.python(&python, &script);
    for (name, bytes) in files(&bench) {
        assert!(fs::read(bench.path("out").join(name)).unwrap() == *bytes, "{name}");
    }
}
