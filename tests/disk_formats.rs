//! Disks whose bytes contradict their types: refused at push, at pull and on a node.

use serde_json::{Value, json};

use crate::common::agent::Node;
use crate::common::archive::{gzip, tar};
use crate::common::disk_bytes::disk;
use crate::common::registry::Registry;
use crate::common::workstation::Workstation;
use crate::legacy::{GZIP_LAYER, LAYER, annotations, labels, layer, publish};

const TYPES: [&str; 8] = ["raw", "vhd", "vmdk", "iso", "qcow", "qcow2", "ova", "vhdx"];

/// True if bytes of the type `found` may be declared as `declared`.
fn fits(found: &str, declared: &str) -> bool {
    found == declared || declared == "raw" && matches!(found, "iso" | "ova")
}

#[test]
fn push_refuses_a_wrong_type_unless_forced() {
    let workstation = Workstation::new();
    for found in TYPES {
        workstation.write(found, disk(found, "d"));
        for declared in TYPES {
            let file = format!("{found}:{declared}");
            let arguments = ["push", "--root", &file, "oci:images:v1"];
            if fits(found, declared) {
                workstation.must(&arguments);
                continue;
            }
            let said = workstation.fails(65, &arguments);
            assert!([found, declared, "--force"].iter().all(|part| said.contains(part)), "{file}: {said}");
            workstation.must(&["push", "--force", "--root", &file, "oci:images:v1"]);
        }
    }
}

#[test]
fn push_refuses_an_empty_disk_and_a_vhd_as_raw() {
    let workstation = Workstation::new();
    workstation.write("empty.raw", "");
    workstation.write("fixed", disk("fixed-vhd", "d"));
    let said = workstation.fails(65, &["push", "--root", "empty.raw", "oci:images:v1"]);
    assert!(said.contains("empty.raw") && said.contains("it is empty"), "{said}");
    workstation.fails(65, &["push", "--force", "--root", "empty.raw", "oci:images:v1"]);
    let said = workstation.fails(65, &["push", "--root", "fixed:raw", "oci:images:v1"]);
    assert!(said.contains("raw") && said.contains("vhd"), "{said}");
    workstation.must(&["push", "--root", "fixed:vhd", "oci:images:v1"]);
}

/// A root disk of an image in every form that there is; the references.
fn published(registry: &Registry, tag: &str, declared: &str, bytes: &[u8]) -> Vec<String> {
    let media_type = format!("application/vnd.lfedge.disk.layer.v1+{declared}");
    let title = format!("root.{declared}");
    let named = annotations("disk-root", &media_type, &title);
    let packed = gzip(&tar(&[(&title, bytes)]));
    let by_path = labels(&[("root", &format!("/images/{title}"))]);
    let image = gzip(&tar(&[(&format!("images/{title}"), bytes)]));
    vec![
        publish(registry, &format!("{tag}-artifact"), b"{}", &[layer(registry, &media_type, bytes, &named)]),
        publish(registry, &format!("{tag}-legacy"), b"{}", &[layer(registry, GZIP_LAYER, &packed, &named)]),
        publish(registry, &format!("{tag}-label"), &by_path, &[layer(registry, LAYER, &image, &json!({}))]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_and_a_pull_refuse_wrong_bytes() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    let mut node = Node::new();
    let good = published(&registry, "good", "qcow2", &disk("qcow2", "good"));
    node.desire_image(&good[0]);
    node.start();
    node.until_activated(&good[0]);
    let wrong = TYPES.iter().filter(|declared| **declared != "raw").map(|declared| (*declared, "raw"));
    let followed = ["qcow", "qcow2", "vmdk", "vhdx", "vhd"].map(|found| ("raw", found));
    let crossed = [("iso", "qcow2"), ("qcow", "qcow2"), ("vmdk", "vhdx")];
    for (declared, found) in wrong.chain(followed).chain(crossed) {
        let tag = format!("{declared}-{found}");
        for reference in published(&registry, &tag, declared, &disk(found, "bad")) {
            node.desire_image(&reference);
            let error = node.until_failed("media-type-mismatch");
            let message = error["message"].as_str().unwrap();
            assert!(message.contains(&format!("root.{declared}")) && message.contains(declared), "{message}");
            assert_eq!(node.status()["workloads"]["default"]["phase"], "blocked");
            assert!(node.current("disk-root-root.qcow2") == disk("qcow2", "good"));
        }
    }
    let reference = &published(&registry, "pulled", "raw", &disk("qcow2", "bad"))[1];
    let said = workstation.fails(65, &["pull", "--dir", "out", reference]);
    assert!(said.contains("raw") && said.contains("qcow2"), "{said}");
    workstation.fails(65, &["pullfiles", "--root", "root", reference]);
    assert!(!workstation.path("out/disk-root-root.raw").exists() && !workstation.path("root").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_is_deployed_in_every_form() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    let mut node = Node::new();
    let mut is_running = false;
    let hybrid = [("raw", "iso"), ("raw", "fixed-vhd"), ("vhd", "fixed-vhd")];
    for (declared, found) in TYPES.map(|kind| (kind, kind)).into_iter().chain(hybrid) {
        let bytes = disk(found, "good");
        let name = format!("disk-root-root.{declared}");
        for reference in published(&registry, &format!("{declared}-{found}"), declared, &bytes) {
            node.desire_image(&reference);
            if !is_running {
                node.start();
                is_running = true;
            }
            node.until_activated(&reference);
            assert!(node.current(&name) == bytes, "{reference}");
            let launch: Value = serde_json::from_slice(&node.current("launch.json")).unwrap();
            assert_eq!(launch["files"][0]["format"], declared);
            workstation.must(&["pull", "--dir", &format!("out-{declared}-{found}"), &reference]);
        }
    }
}
