//! From a desired state to what boots.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use serde_json::json;

use crate::common::agent::{Node, files_below};
use crate::common::image::{INDEX, Image, MANIFEST};
use crate::common::registry::{On, Registry};

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_laid_out_under_its_canonical_names() {
    let registry = Registry::http();
    let image = Image { disks: vec![b"data".to_vec()], ..Image::new("one") };
    let digest = image.publish(&registry, "edge/nginx", "v1");
    let reference = registry.reference("edge/nginx", "v1");
    let mut node = Node::new();
    node.desire(&format!("image = \"{reference}\"\ncmdline = \"console=ttyS0\"\n"));
    node.start();
    node.until_activated(&reference);

    assert_eq!(node.current("kernel"), image.kernel);
    assert_eq!(node.current("initrd"), image.initrd);
    assert_eq!(node.current("disk-root-root.raw"), image.root);
    assert_eq!(node.current("disk-root"), image.root);
    assert_eq!(node.current("disk-0"), b"data");
    assert_eq!(node.current("manifest.json"), image.manifest().to_string().as_bytes());
    let state = node.state_dir();
    assert_eq!(fs::read_link(state.join("current")).unwrap(), Path::new("generations/default/1"));
    assert_eq!(
        fs::read_link(state.join("workloads/default/current")).unwrap(),
        Path::new("../../generations/default/1")
    );
    let launch: serde_json::Value = serde_json::from_slice(&node.current("launch.json")).unwrap();
    assert_eq!(
        (&launch["workload"], &launch["generation"], &launch["reference"], &launch["digest"], &launch["cmdline"]),
        (&json!("default"), &json!(1), &json!(reference), &json!(digest), &json!("console=ttyS0"))
    );
    let root = &launch["files"][2];
    assert_eq!(root["path"], json!(state.join("generations/default/1/disk-root-root.raw")));
    assert_eq!(
        (&root["role"], &root["format"], &root["writable"]),
        (&json!("disk-root"), &json!("raw"), &json!(false))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_moves_current_to_previous_and_fetches_only_what_is_new() {
    let registry = Registry::http();
    let (one, two) = (Image::new("one"), Image::new("two"));
    one.publish(&registry, "edge/nginx", "v1");
    let digest = two.publish(&registry, "edge/nginx", "v2");
    let mut node = Node::new();
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.start();
    node.until_activated("nginx:v1");
    registry.take_log();
    node.desire_image(&registry.reference("edge/nginx", "v2"));
    node.until_activated("nginx:v2");

    assert_eq!(node.current("disk-root"), two.root);
    let previous = node.state_dir().join("previous");
    assert_eq!(fs::read(previous.join("disk-root")).unwrap(), one.root);
    assert_eq!(registry.count(&On::blobs().get()), 2, "the initrd and the root disk are new, the kernel is not");
    let workload = &node.status()["workloads"]["default"];
    assert_eq!((&workload["current"]["digest"], &workload["current"]["generation"]), (&json!(digest), &json!(2)));
    assert_eq!(workload["previous"]["generation"], 1);
    assert_eq!(workload["last_transfer"]["wire_bytes"], json!(two.initrd.len() + two.root.len()));
    assert_eq!(workload["last_transfer"]["bytes_done"], json!(two.size()));
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_and_generation_files_share_their_bytes_and_are_readable_by_all() {
    let registry = Registry::http();
    Image::new("one").publish(&registry, "edge/nginx", "v1");
    let mut node = Node::new();
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.start();
    node.until_phase("active");
    let state = node.state_dir();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let root = fs::metadata(state.join("current/disk-root")).unwrap();
    assert_eq!((root.nlink(), root.permissions().mode() & 0o7777), (2, 0o444));
    for dir in ["", "cache", "cache/blobs/sha256", "generations/default/1", "workloads/default"] {
        assert_eq!(mode(&state.join(dir)), 0o755, "{dir}");
    }
    assert_eq!((mode(&state.join("partial")), mode(&state.join("state.json"))), (0o700, 0o600));
    assert_eq!(files_below(&state.join("partial")), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn several_workloads_are_deployed_and_retired_by_name() {
    let registry = Registry::http();
    let shared = Image::new("shared").with_root_of(1 << 20);
    shared.publish(&registry, "edge/router", "v1");
    shared.publish(&registry, "edge/router", "v2");
    Image::new("firewall").publish(&registry, "edge/firewall", "v1");
    let workload = |name: &str, repo: &str, tag: &str| {
        format!("[workload.{name}]\nimage = \"{}\"\n", registry.reference(repo, tag))
    };
    let mut node = Node::new();
    let (a, b) = (workload("router-a", "edge/router", "v1"), workload("router-b", "edge/router", "v2"));
    let c = workload("firewall", "edge/firewall", "v1");
    node.desire(&format!("{a}{b}{c}"));
    node.start();
    for _ in 0..3 {
        node.until("activated", |event| event["event"] == "activated");
    }
    let state = node.state_dir();
    for name in ["router-a", "router-b"] {
        assert_eq!(fs::read(state.join("workloads").join(name).join("current/disk-root")).unwrap(), shared.root);
    }
    assert!(!state.join("current").exists(), "only the workload \"default\" has links at the top");
    let blob = crate::common::registry::digest(&shared.root);
    assert_eq!(registry.count(&On::blobs().get().reference(&blob)), 1, "a blob is fetched once, whoever wants it");

    node.desire(&c);
    for _ in 0..2 {
        node.until("retired", |event| event["event"] == "retired");
    }
    assert!(!state.join("workloads/router-a").exists());
    assert!(state.join("workloads/firewall/current/kernel").exists());
    assert_eq!(node.status()["workloads"].as_object().unwrap().keys().collect::<Vec<_>>(), ["firewall"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_tag_costs_one_head_a_poll() {
    let registry = Registry::http();
    Image::new("one").publish(&registry, "edge/nginx", "v1");
    let mut node = Node::with_config("[desired]\npoll = \"1s\"\n");
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.start();
    node.until_phase("active");
    registry.take_log();
    let polled = registry.inject(On::manifests(), crate::common::registry::Fault::Watch);
    polled.struck(2).await;
    let log = registry.log();
    assert!(log.iter().all(|request| request.method == "HEAD"), "{log:?}");
    assert_eq!(node.status()["workloads"]["default"]["phase"], "active");

    Image::new("two").publish(&registry, "edge/nginx", "v1");
    node.until("activated again", |event| event["event"] == "activated" && event["generation"] == 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_by_digest_is_switched_to_without_any_request_once_it_is_cached() {
    let registry = Registry::http();
    let (one, two) =
        (Image::new("one").publish(&registry, "e/n", "v1"), Image::new("two").publish(&registry, "e/n", "v2"));
    let by_digest = |digest: &str| format!("{}/e/n@{digest}", registry.host());
    let mut node = Node::new();
    node.start();
    for digest in [&one, &two] {
        node.desire_image(&by_digest(digest));
        node.until_activated(digest);
    }
    registry.take_log();
    registry.stop().await;
    node.desire_image(&by_digest(&one));
    node.until_activated(&one);
    assert_eq!(node.current("disk-root"), b"root disk of one");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_resolved_for_the_platform_that_is_asked_for() {
    let registry = Registry::http();
    let (amd, arm) = (Image::new("amd64"), Image::new("arm64"));
    let entry = |image: &Image, tag: &str, arch: &str| {
        let digest = image.publish(&registry, "edge/multi", tag);
        json!({"mediaType": MANIFEST, "digest": digest, "size": image.manifest().to_string().len(), "platform": {"os": "linux", "architecture": arch}})
    };
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry(&amd, "amd", "amd64"), entry(&arm, "arm", "arm64")]});
    let index_digest = registry.put_manifest("edge/multi", Some("all"), INDEX, index.to_string());
    let reference = registry.reference("edge/multi", "all");
    let mut node = Node::new();
    node.desire(&format!("image = \"{reference}\"\nplatform = \"linux/arm64\"\n"));
    node.start();
    node.until_activated(&reference);
    assert_eq!(node.current("disk-root"), arm.root);
    let current = &node.status()["workloads"]["default"]["current"];
    assert_eq!(
        (&current["digest"], &current["index_digest"]),
        (&index["manifests"][1]["digest"], &json!(index_digest))
    );

    node.desire(&format!("image = \"{reference}\"\nplatform = \"linux/riscv64\"\n"));
    let failed = node.until_failed("no-platform-match");
    assert!(failed["message"].as_str().unwrap().contains("linux/amd64 and linux/arm64"), "{failed}");
    assert_eq!(node.status()["workloads"]["default"]["phase"], "blocked");
    assert_eq!(node.current("disk-root"), arm.root);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_layout_on_disk_is_a_source() {
    let mut node = Node::new();
    let layout = node.path("usb");
    let image = Image::new("stick");
    let digest = image.write_layout(&layout, "v1");
    let reference = format!("oci:{}:v1", layout.display());
    node.desire_image(&reference);
    node.start();
    node.until_activated(&reference);
    assert_eq!(node.current("disk-root"), image.root);
    assert_eq!(node.status()["workloads"]["default"]["current"]["digest"], json!(digest));

    node.desire_image(&format!("oci:{}:v2", layout.display()));
    let failed = node.until_failed("not-found");
    assert!(failed["message"].as_str().unwrap().contains("there are v1"), "it says what there is: {failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_any_network_serves_what_was_current() {
    let registry = Registry::http();
    let image = Image::new("one");
    image.publish(&registry, "edge/nginx", "v1");
    let mut node = Node::new();
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.start();
    node.until_phase("active");
    assert!(node.stop().success());
    registry.stop().await;

    node.start();
    assert_eq!(node.current("disk-root"), image.root);
    assert_eq!(node.status()["workloads"]["default"]["current"]["generation"], 1);
    node.until_failed("unreachable");
    let workload = &node.status()["workloads"]["default"];
    assert!(workload["error"]["message"].as_str().unwrap().contains(&registry.host()));
    assert!(workload["error"]["retry_at"].is_string());
    registry.start();
    node.until_phase("active");
    assert_eq!(node.status()["workloads"]["default"]["current"]["generation"], 1, "nothing was made anew");
    assert!(node.status()["workloads"]["default"]["error"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_workloads_than_threads_are_deployed_from_layouts() {
    let mut node = Node::new();
    let images: Vec<_> =
        (0..40).map(|n| (format!("vm-{n}"), Image::new(&n.to_string()).with_root_of(2 << 20))).collect();
    let mut desired = String::new();
    for (name, image) in &images {
        let layout = node.path(name);
        image.write_layout(&layout, "v1");
        desired += &format!("[workload.{name}]\nimage = \"oci:{}:v1\"\n", layout.display());
    }
    node.desire(&desired);
    node.start();
    for _ in &images {
        node.until("activated", |event| event["event"] == "activated");
    }
    for (name, image) in &images {
        let root = node.state_dir().join("workloads").join(name).join("current/disk-root");
        assert!(fs::read(root).unwrap() == image.root, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_lost_between_two_tries_is_fetched_again() {
    let registry = Registry::http();
    let image = Image::new("one");
    let digest = image.publish(&registry, "edge/nginx", "v1");
    // No second try before the manifest is gone.
    let mut node = Node::with_config("[retry]\ninitial = \"10h\"\nmax = \"10h\"\n");
    registry.inject(On::blobs().get().once(), crate::common::registry::Fault::status(503));
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.start();
    node.until_failed("registry-error");
    fs::remove_file(node.state_dir().join("cache/blobs").join(digest.replace(':', "/"))).unwrap();
    assert!(node.eci(&["reconcile"]).status.success());
    node.until_activated("nginx:v1");
    assert_eq!(node.current("manifest.json"), image.manifest().to_string().as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_that_is_lost_is_made_anew_and_does_not_become_the_previous_one() {
    let registry = Registry::http();
    let mut node = Node::new();
    for tag in ["v1", "v2"] {
        Image::new(tag).publish(&registry, "edge/nginx", tag);
        node.desire_image(&registry.reference("edge/nginx", tag));
        if tag == "v1" {
            node.start();
        }
        node.until_activated(tag);
    }
    node.stop();
    fs::remove_dir_all(node.state_dir().join("generations/default/2")).unwrap();
    node.start();
    node.until("activated anew", |event| event["event"] == "activated" && event["generation"] == 3);
    assert_eq!(node.current("disk-root"), b"root disk of v2");
    for previous in ["previous", "workloads/default/previous"] {
        assert_eq!(fs::read(node.state_dir().join(previous).join("disk-root")).unwrap(), b"root disk of v1");
    }
}
