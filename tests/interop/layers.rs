//! Images of several layers by the tools that build containers: later layers win, whiteouts count, in each compression
//! and by OCI's and docker's media types.

use super::bench::Bench;
use crate::common::docker_registry::program;
use crate::common::registry::Registry;

/// What the labels of the images here name.
const LABELS: [&str; 4] = [
    "org.lfedge.eci.artifact.kernel=/boot/vmlinuz",
    "org.lfedge.eci.artifact.initrd=/boot/initrd.img",
    "org.lfedge.eci.artifact.root=/images/root.qcow2",
    "org.lfedge.eci.artifact.disk-0=/images/data.raw",
];

fn labels(option: &str) -> String {
    LABELS.iter().map(|label| format!("{option} {label} ")).collect()
}

/// The media types of the layers of what was pushed.
fn layer_types(registry: &Registry) -> Vec<String> {
    let manifest = registry.manifest("edge/nginx", "v1").unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest.bytes).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    layers.iter().map(|layer| layer["mediaType"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_by_buildah_in_every_compression_and_by_dockers_media_types() {
    const TEST: &str = "layers_by_buildah_in_every_compression_and_by_dockers_media_types";
    let bench = Bench::new();
    if !bench.has_buildah(TEST) || program(TEST, "skopeo").is_none() {
        return;
    }
    let labels = labels("--label");
    bench.sh(&format!(
        "echo old >old
        base=$(buildah from scratch)
        buildah copy $base old /boot/vmlinuz
        buildah copy $base old /images/data.raw
        buildah copy $base initrd.img /boot/initrd.img
        buildah commit $base base
        middle=$(buildah from localhost/base)
        rm $(buildah mount $middle)/images/data.raw $(buildah mount $middle)/boot/vmlinuz
        buildah copy $middle root.qcow2 /images/root.qcow2
        buildah commit $middle middle
        top=$(buildah from localhost/middle)
        buildah copy $top vmlinuz /boot/vmlinuz
        buildah copy $top data.raw /images/data.raw
        buildah config {labels} $top
        buildah commit $top top
        buildah commit --disable-compression=false $top oci:$PWD/images:gzip
        buildah commit --disable-compression=true $top oci:$PWD/images:plain
        buildah umount --all"
    ));
    bench.is_deployed_and_pulled(&format!("oci:{}:plain", bench.path("images").display()));
    for (options, ending) in [
        ("oci:images:gzip", "oci.image.layer.v1.tar+gzip"),
        ("--dest-compress-format zstd oci:images:plain", "oci.image.layer.v1.tar+zstd"),
        ("--format v2s2 oci:images:gzip", "docker.image.rootfs.diff.tar.gzip"),
    ] {
        // One each: what a registry has in one compression already, skopeo does not send in another.
        let registry = Registry::http();
        let reference = registry.reference("edge/nginx", "v1");
        bench.sh(&format!("skopeo copy --dest-tls-verify=false {options} docker://{reference}"));
        let types = layer_types(&registry);
        assert!(types.len() == 3 && types.iter().all(|found| found.ends_with(ending)), "{options}: {types:?}");
        bench.is_deployed_and_pulled(&reference);
    }
    // What the last layer does not restore is gone.
    bench.sh("gone=$(buildah from localhost/top)
        rm $(buildah mount $gone)/images/data.raw
        buildah commit $gone oci:$PWD/images:gone");
    let workstation = crate::common::workstation::Workstation::new();
    let said = workstation.fails(65, &["pull", &format!("oci:{}:gone", bench.path("images").display())]);
    assert!(said.contains("no layer has the file /images/data.raw"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whiteouts_and_opaque_directories_by_umoci() {
    const TEST: &str = "whiteouts_and_opaque_directories_by_umoci";
    if program(TEST, "umoci").is_none() {
        return;
    }
    let bench = Bench::new();
    let labels = labels("--config.label");
    bench.sh(&format!(
        "echo old >old
        mkdir boot && cp vmlinuz initrd.img boot
        umoci init --layout images
        umoci new --image images:v1
        umoci insert --image images:v1 old /boot/vmlinuz
        umoci insert --image images:v1 old /images/data.raw
        umoci insert --image images:v1 root.qcow2 /images/root.qcow2
        umoci insert --image images:v1 --opaque boot /boot
        umoci insert --image images:v1 --whiteout /images/data.raw
        umoci config --image images:v1 {labels}
        umoci tag --image images:v1 gone
        umoci insert --image images:v1 data.raw /images/data.raw"
    ));
    let reference = |tag: &str| format!("oci:{}:{tag}", bench.path("images").display());
    bench.is_deployed_and_pulled(&reference("v1"));
    let workstation = crate::common::workstation::Workstation::new();
    assert!(workstation.fails(65, &["pull", &reference("gone")]).contains("/images/data.raw"));
}
