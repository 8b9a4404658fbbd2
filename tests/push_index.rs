//! Indexes: one image for several platforms, pushed at once or one after another.

use std::fs;

use serde_json::{Value, json};

use crate::common::docker_registry::DockerRegistry;
use crate::common::image::{INDEX, Image, MANIFEST};
use crate::common::registry::{Registry, digest};
use crate::common::workstation::Workstation;

const REPO: &str = "edge/nginx";

fn push(workstation: &Workstation, label: &str, flags: &[&str], reference: &str) -> String {
    let mut arguments = workstation.push_arguments(&Image::new(label), reference);
    arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
    workstation.must(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).trim().to_owned()
}

fn platforms(index: &Value) -> Vec<String> {
    let text = |platform: &Value| {
        format!("{}/{}", platform["os"].as_str().unwrap(), platform["architecture"].as_str().unwrap())
    };
    index["manifests"].as_array().unwrap().iter().map(|entry| text(&entry["platform"])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_for_several_platforms_is_an_index() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    let reference = registry.reference(REPO, "v1");
    let flags = ["--platform", "linux/arm64", "--platform", "linux/amd64"];
    let printed = push(&workstation, "v1", &flags, &reference);
    let stored = registry.manifest(REPO, "v1").unwrap();
    assert_eq!((stored.media_type.as_str(), printed), (INDEX, format!("{reference}@{}", digest(&stored.bytes))));
    let index: Value = serde_json::from_slice(&stored.bytes).unwrap();
    assert_eq!(platforms(&index), ["linux/amd64", "linux/arm64"]);
    for (n, architecture) in ["amd64", "arm64"].into_iter().enumerate() {
        let manifest = registry.manifest(REPO, index["manifests"][n]["digest"].as_str().unwrap()).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest.bytes).unwrap();
        let config = registry.blob(REPO, manifest["config"]["digest"].as_str().unwrap()).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        let layers = manifest["layers"].as_array().unwrap();
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer["digest"].clone()).collect();
        let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
        assert_eq!(config, json!({"os": "linux", "architecture": architecture, "rootfs": rootfs}));
        workstation.must(&["pull", "--platform", &format!("linux/{architecture}"), "--dir", architecture, &reference]);
        workstation.has_pulled(architecture, &Image::new("v1"));
    }
    // The same once more, in another order and from elsewhere.
    let again =
        push(&Workstation::new(), "v1", &["--platform", "linux/amd64", "--platform", "linux/arm64"], &reference);
    assert!(again.ends_with(&digest(&stored.bytes)), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_highest_variant_that_runs_there_is_pulled() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    let reference = registry.reference(REPO, "v1");
    for platform in ["linux/amd64/v3", "linux/amd64/v1", "linux/arm/v5", "linux/arm/v6"] {
        push(&workstation, platform, &["--platform", platform], &reference);
    }
    for (wanted, pulled) in [
        ("linux/amd64", "linux/amd64/v1"),
        ("linux/amd64/v2", "linux/amd64/v1"),
        ("linux/amd64/v4", "linux/amd64/v3"),
        ("linux/arm/v7", "linux/arm/v6"),
    ] {
        workstation.must(&["pull", "--platform", wanted, "--dir", wanted, &reference]);
        workstation.has_pulled(wanted, &Image::new(pulled));
    }
    workstation.fails(65, &["pull", "--platform", "linux/arm/v4", "--dir", "none", &reference]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_pushes_build_one_index() {
    let registry = Registry::http();
    let workstation = Workstation::new();
    for target in [registry.reference(REPO, "v1"), "oci:layout:v1".to_owned()] {
        push(&workstation, "plain", &[], &target);
        push(&workstation, "arm64", &["--platform", "linux/arm64/v8"], &target);
        push(&workstation, "old", &["--platform", "linux/amd64"], &target);
        push(&workstation, "amd64", &["--platform", "linux/amd64"], &target);
        let last = push(&workstation, "riscv64", &["--platform", "linux/riscv64", "--legacy"], &target);
        for architecture in ["arm64", "amd64", "riscv64"] {
            let platform = format!("linux/{architecture}");
            workstation.must(&["pull", "--platform", &platform, "--dir", architecture, &last]);
            workstation.has_pulled(architecture, &Image::new(architecture));
            fs::remove_dir_all(workstation.path(architecture)).unwrap();
        }
        let found: Value = serde_json::from_str(&workstation.must(&["inspect", "--json", &target])).unwrap();
        let listed: Vec<_> =
            found["index"]["entries"].as_array().unwrap().iter().map(|entry| entry["platform"].clone()).collect();
        assert_eq!(listed, ["linux/amd64", "linux/arm64/v8", "linux/riscv64"], "{target}");
        // Without a platform and by force, it is a plain image again.
        push(&workstation, "plain", &["--force"], &target);
        workstation.must(&["pull", "--dir", "plain", &target]);
        workstation.has_pulled("plain", &Image::new("plain"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_by_itself_stays_for_its_platform() {
    let registry = Registry::http();
    let workstation = Workstation::new();
    workstation.write("silent.json", "{}");
    for (n, target) in [registry.reference(REPO, "v1"), "oci:layout:v1".to_owned()].iter().enumerate() {
        push(&workstation, "arm64", &["--arch", "aarch64"], target);
        push(&workstation, "amd64", &["--platform", "linux/x86_64"], target);
        for architecture in ["arm64", "amd64"] {
            let dir = format!("{n}-{architecture}");
            workstation.must(&["pull", "--platform", &format!("linux/{architecture}"), "--dir", &dir, target]);
            workstation.has_pulled(&dir, &Image::new(architecture));
        }
        // The same image is no other one; what cannot be kept is not dropped without a word.
        let same = format!("{target}-same");
        push(&workstation, "same", &["--arch", "arm64"], &same);
        let mut arguments = workstation.push_arguments(&Image::new("same"), &same);
        arguments.extend(["--platform", "linux/arm64"].map(ToOwned::to_owned));
        let output = workstation.eci(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.lines().count() == 1 && said.starts_with("pushed "), "{said}");
        for (flags, word) in [(&["--arch", "arm64"][..], "linux/arm64"), (&["--config", "silent.json"], "no platform")]
        {
            push(&workstation, "plain", &[flags, &["--force"]].concat(), target);
            let mut arguments = workstation.push_arguments(&Image::new("new"), target);
            arguments.extend(["--platform", "linux/arm64"].map(ToOwned::to_owned));
            let output = workstation.eci(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success() && said.contains("is replaced") && said.contains(word), "{said}");
            let listed: Value = serde_json::from_str(&workstation.must(&["inspect", "--json", target])).unwrap();
            assert_eq!(listed["index"]["entries"].as_array().unwrap().len(), 1, "{listed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_without_a_platform_are_counted_where_nothing_fits() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    workstation.write("silent.json", "{}");
    let mut below = Vec::new();
    for label in ["one", "two"] {
        let reference = registry.reference(REPO, label);
        push(&workstation, label, &["--config", "silent.json"], &reference);
        below.push((MANIFEST, digest(&registry.manifest(REPO, label).unwrap().bytes)));
    }
    put_unnamed(&registry, "silent", &below);
    let said = workstation.fails(65, &["pull", "--dir", "none", &registry.reference(REPO, "silent")]);
    assert!(said.contains("the index has 2 entries without a platform"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_stands_in_for_a_registry() {
    let workstation = Workstation::new();
    let stick = workstation.path("stick");
    let stick = stick.to_str().unwrap();
    let remote = format!("oci:{stick}");
    let printed = push(&workstation, "v1", &["--remote", &remote], "registry.example.com/edge/nginx:1.4");
    assert!(printed.starts_with(&format!("oci:{stick}:1.4@sha256:")), "{printed}");
    push(&workstation, "v2", &["--remote", stick], "nginx:1.5");
    for (n, (arguments, label)) in [
        (&["--remote", stick, "registry.example.com/edge/nginx:1.4"][..], "v1"),
        (&["--remote", &remote, "nginx:1.5"], "v2"),
        (&[&format!("oci:{stick}:1.5")], "v2"),
        (&[&printed], "v1"),
        (&["--remote", "stick", "nginx:1.5"], "v2"),
    ]
    .into_iter()
    .enumerate()
    {
        let dir = format!("out{n}");
        workstation.must(&[&["pull", "--dir", &dir][..], arguments].concat());
        workstation.has_pulled(&dir, &Image::new(label));
    }
    let pinned = format!("oci:{stick}@{}", digest(b"absent"));
    workstation.fails(65, &["pull", &pinned]);
    workstation.fails(64, &["pull", "--remote", stick, &format!("oci:{stick}:1.5")]);
    workstation.fails(64, &["pull", "--remote", "stick.example.com", "nginx:1.5"]);
    let colon = workstation.fails(64, &["push", "--kernel", "vmlinuz", "--remote", "oci:other:tag", "nginx:1.5"]);
    assert!(colon.contains("taken for a tag") && !workstation.path("other:tag").exists(), "{colon}");
    workstation.fails(64, &["push", "--kernel", "vmlinuz", "--remote", stick, &format!("nginx@{}", digest(b""))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn debians_registry_takes_an_index() {
    const TEST: &str = "debians_registry_takes_an_index";
    let Some(registry) = DockerRegistry::http(TEST) else { return };
    let workstation = Workstation::new();
    let reference = registry.reference(REPO, "v1");
    for architecture in ["arm64", "amd64"] {
        push(&workstation, architecture, &["--platform", &format!("linux/{architecture}")], &reference);
    }
    for architecture in ["arm64", "amd64"] {
        let platform = format!("linux/{architecture}");
        workstation.must(&["pull", "--platform", &platform, "--dir", architecture, &reference]);
        workstation.has_pulled(architecture, &Image::new(architecture));
    }
}

/// An index whose entries name no platform, as tools for artifacts write it.
fn put_unnamed(registry: &Registry, tag: &str, below: &[(&str, String)]) -> String {
    let entry = |(media_type, digest): &(&str, String)| {
        let size = registry.manifest(REPO, digest).unwrap().bytes.len();
        json!({"mediaType": media_type, "digest": digest, "size": size})
    };
    let entries: Vec<_> = below.iter().map(entry).collect();
    registry.put_manifest(REPO, Some(tag), INDEX, json!({"schemaVersion": 2, "manifests": entries}).to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_name_no_platform_are_followed() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    for label in ["amd64", "arm64", "riscv64"] {
        let reference = registry.reference(REPO, label);
        push(&workstation, label, &["--platform", &format!("linux/{label}")], &reference);
    }
    let index = |label: &str| digest(&registry.manifest(REPO, label).unwrap().bytes);
    let manifest = |label: &str| {
        let index: Value = serde_json::from_slice(&registry.manifest(REPO, label).unwrap().bytes).unwrap();
        index["manifests"][0]["digest"].as_str().unwrap().to_owned()
    };
    // Indexes for what is in them, manifests for what their configs say.
    put_unnamed(&registry, "indexes", &[(INDEX, index("riscv64")), (INDEX, index("amd64")), (INDEX, index("arm64"))]);
    put_unnamed(&registry, "manifests", &[(MANIFEST, manifest("amd64")), (MANIFEST, manifest("arm64"))]);
    let deep = put_unnamed(&registry, "deep", &[(MANIFEST, manifest("riscv64")), (INDEX, index("arm64"))]);
    put_unnamed(&registry, "deeper", &[(INDEX, index("amd64")), (INDEX, deep)]);
    for tag in ["indexes", "manifests", "deeper"] {
        let reference = registry.reference(REPO, tag);
        workstation.must(&["pull", "--platform", "linux/arm64", "--dir", tag, &reference]);
        workstation.has_pulled(tag, &Image::new("arm64"));
        let said = workstation.must(&["inspect", "--platform", "linux/arm64", &reference]);
        assert!(said.contains(&manifest("arm64")), "{said}");
        let said = workstation.fails(65, &["pull", "--platform", "linux/s390x", "--dir", "none", &reference]);
        assert!(said.contains("linux/amd64") && said.contains("linux/arm64"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_push_keeps_an_index_unless_forced() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    let kernel = workstation.write("vmlinuz", "kernel");
    let kernel = kernel.to_str().unwrap();
    for target in [registry.reference(REPO, "v1"), "oci:layout:v1".to_owned()] {
        let flags = ["--platform", "linux/arm64", "--platform", "linux/amd64"];
        let index = push(&workstation, "v1", &flags, &target);
        registry.take_log();
        let raw = workstation.must(&["inspect", "--raw", &target]);
        let said = workstation.fails(64, &["push", "--kernel", kernel, "--arch", "riscv64", &target]);
        let wanted = [target.as_str(), "linux/arm64", "linux/amd64", "--platform linux/riscv64", "--force"];
        assert!(wanted.iter().all(|part| said.contains(part)), "{said}");
        assert_eq!(workstation.must(&["inspect", "--raw", &target]), raw, "{index}");
        // With --platform it is added; by force it takes the index's place.
        let added = workstation.must(&["push", "--kernel", kernel, "--platform", "linux/riscv64", &target]);
        let listed: Value = serde_json::from_str(&workstation.must(&["inspect", "--raw", &target])).unwrap();
        assert_eq!(platforms(&listed), ["linux/amd64", "linux/arm64", "linux/riscv64"], "{added}");
        workstation.must(&["push", "--kernel", kernel, "--force", &target]);
        let alone: Value = serde_json::from_str(&workstation.must(&["inspect", "--raw", &target])).unwrap();
        assert!(alone["layers"].is_array(), "{alone}");
        // An image may replace an image.
        workstation.must(&["push", "--kernel", kernel, "--arch", "arm64", &target]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_pushes_send_nothing() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    for (name, bytes) in [("k", "kernel"), ("empty", ""), ("text.json", "x"), ("list.json", "[]"), ("ok.json", "{}")] {
        workstation.write(name, bytes);
    }
    let reference = registry.reference("edge/refused", "v1");
    for (code, flags) in [
        (64, "--kernel k --platform foo/bar"),
        (64, "--kernel k --platform linux/amd64 --platform linux/bar"),
        (64, "--kernel k --os foo"),
        (64, "--kernel k --arch arm/v9"),
        (65, "--kernel empty"),
        (65, "--kernel k --initrd empty"),
        (65, "--root empty:raw"),
        (65, "--kernel k --disk empty:raw --force"),
        (65, "--kernel k --config text.json"),
        (65, "--kernel k --config list.json"),
        (65, "--kernel k --config empty"),
    ] {
        let arguments: Vec<_> = ["push"].into_iter().chain(flags.split(' ')).chain([reference.as_str()]).collect();
        workstation.fails(code, &arguments);
        assert!(registry.log().is_empty(), "{flags}");
    }
    workstation.must(&["push", "--kernel", "k", "--arch", "arm/v7", &reference]);
    workstation.must(&["push", "--kernel", "k", "--config", "ok.json", &reference]);
}
