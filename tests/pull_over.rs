//! What a pull may replace in its directory: files that an earlier pull wrote, and nothing else without `--force`.

use std::fs;

use serde_json::json;

use crate::common::image::{Image, MANIFEST};
use crate::common::registry::{On, Registry};
use crate::common::workstation::{Workstation, names_in};

const REPO: &str = "edge/nginx";
const PULL: [&str; 3] = ["pull", "--dir", "out"];

/// A workstation with two versions of an image in a layout; they differ in all files but the config.
fn workstation() -> (Workstation, [Image; 2]) {
    let workstation = Workstation::new();
    let images = ["v1", "v2"].map(Image::new);
    workstation.push(&images[0], "oci:layout:v1");
    workstation.push(&images[1], "oci:layout:v2");
    (workstation, images)
}

/// Pulls a version over what is there, which is refused before anything is placed; the message.
fn is_refused(workstation: &Workstation, version: &str, file: &str) {
    let names = names_in(&workstation.path("out"));
    let before = fs::read(workstation.path("out").join(file)).unwrap();
    let said = workstation.fails(73, &[&PULL[..], &[version]].concat());
    assert!(said.contains(&format!("out/{file} is in the way")) && said.contains("--force"), "{said}");
    let mut left = names_in(&workstation.path("out"));
    left.retain(|name| name != ".eci-pull");
    assert_eq!(left, names, "nothing is placed");
    assert_eq!(fs::read(workstation.path("out").join(file)).unwrap(), before);
}

#[test]
fn a_pull_over_an_earlier_pull_replaces_its_files() {
    let (workstation, [v1, v2]) = workstation();
    for (version, image) in [("oci:layout:v1", &v1), ("oci:layout:v1", &v1), ("oci:layout:v2", &v2)] {
        workstation.must(&[&PULL[..], &[version]].concat());
        workstation.has_pulled("out", image);
    }
    // Of an earlier pull, files may be gone.
    for name in ["kernel", "config.json", "manifest.json"] {
        fs::remove_file(workstation.path("out").join(name)).unwrap();
        workstation.must(&[&PULL[..], &["oci:layout:v2"]].concat());
        workstation.has_pulled("out", &v2);
    }
    fs::remove_file(workstation.path("out/disk-root-root.raw")).unwrap();
    workstation.must(&[&PULL[..], &["oci:layout:v1"]].concat());
    workstation.has_pulled("out", &v1);
}

#[test]
fn files_that_no_pull_wrote_stay() {
    for file in ["kernel", "disk-root-root.raw", "config.json", "manifest.json"] {
        let (workstation, [v1, _]) = workstation();
        workstation.write(&format!("out/{file}"), r#"{"auths": {}}"#);
        is_refused(&workstation, "oci:layout:v1", file);
        workstation.must(&[&PULL[..], &["--force", "oci:layout:v1"]].concat());
        workstation.has_pulled("out", &v1);
    }
}

#[test]
fn files_that_have_changed_since_a_pull_stay() {
    for file in ["kernel", "disk-root-root.raw", "config.json"] {
        let (workstation, [_, v2]) = workstation();
        workstation.must(&[&PULL[..], &["oci:layout:v1"]].concat());
        // Of the length that the manifest names.
        let length = fs::metadata(workstation.path("out").join(file)).unwrap().len();
        workstation.write(&format!("out/{file}"), vec![b'x'; usize::try_from(length).unwrap()]);
        is_refused(&workstation, "oci:layout:v2", file);
        workstation.must(&[&PULL[..], &["--force", "oci:layout:v2"]].concat());
        workstation.has_pulled("out", &v2);
    }
}

#[test]
fn a_manifest_without_files_of_a_pull_beside_it_stays() {
    let (workstation, [v1, _]) = workstation();
    workstation.must(&["pull", "--dir", "elsewhere", "oci:layout:v2"]);
    // It is the manifest of an image, and nothing there is of that image.
    workstation.write("out/manifest.json", fs::read(workstation.path("elsewhere/manifest.json")).unwrap());
    is_refused(&workstation, "oci:layout:v1", "manifest.json");
    workstation.must(&[&PULL[..], &["--force", "oci:layout:v1"]].concat());
    workstation.has_pulled("out", &v1);
}

#[test]
fn links_stay_whatever_they_lead_to() {
    for target in ["../precious", "nowhere"] {
        let (workstation, [v1, _]) = workstation();
        workstation.write("precious", &v1.kernel);
        fs::create_dir(workstation.path("out")).unwrap();
        std::os::unix::fs::symlink(target, workstation.path("out/kernel")).unwrap();
        let said = workstation.fails(73, &[&PULL[..], &["oci:layout:v1"]].concat());
        assert!(said.contains("out/kernel is in the way: it is a link"), "{said}");
        assert_eq!(fs::read_link(workstation.path("out/kernel")).unwrap().to_str(), Some(target));
    }
}

#[test]
fn a_pull_that_stopped_between_two_files_goes_on() {
    let (workstation, [_, v2]) = workstation();
    workstation.must(&["pull", "--dir", "new", "oci:layout:v2"]);
    let names = ["kernel", "initrd", "disk-root-root.raw", "config.json"];
    for placed in 0..=names.len() {
        workstation.must(&[&PULL[..], &["--force", "oci:layout:v1"]].concat());
        // The state after a kill: some files are those of the new image, and the manifest is the old one.
        for name in &names[..placed] {
            fs::copy(workstation.path("new").join(name), workstation.path("out").join(name)).unwrap();
        }
        workstation.must(&[&PULL[..], &["oci:layout:v2"]].concat());
        workstation.has_pulled("out", &v2);
    }
}

#[test]
fn files_out_of_layers_are_replaced_by_the_same_bytes() {
    let (workstation, image) = (Workstation::new(), Image::new("v1"));
    for (version, image) in [("v1", &image), ("v2", &Image::new("v2"))] {
        let mut arguments = workstation.push_arguments(image, &format!("oci:layout:{version}"));
        arguments.splice(1..1, ["--format".to_owned(), "legacy".to_owned()]);
        workstation.must(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }
    for _ in 0..2 {
        workstation.must(&[&PULL[..], &["oci:layout:v1"]].concat());
        workstation.has_pulled("out", &image);
    }
    is_refused(&workstation, "oci:layout:v2", "initrd");
    workstation.must(&[&PULL[..], &["--force", "oci:layout:v2"]].concat());
    workstation.has_pulled("out", &Image::new("v2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_file_is_refused_by_push_and_pull() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    let image = Image::new("v1");
    image.publish(&registry, REPO, "good");
    let with_title = |title: &str| {
        let mut manifest = image.manifest();
        let digest = registry.put_blob(REPO, b"echo owned".to_vec());
        let layer = json!({
            "mediaType": "application/vnd.lfedge.eci.layer.v1", "digest": digest, "size": 10,
            "annotations": {"org.opencontainers.image.title": title},
        });
        manifest["layers"].as_array_mut().unwrap().push(layer);
        registry.put_manifest(REPO, Some("other"), MANIFEST, manifest.to_string());
        registry.reference(REPO, "other")
    };
    workstation.write("out/.bashrc", "mine");
    let reference = with_title(".bashrc");
    registry.take_log();
    for force in [&[][..], &["--force"]] {
        let said = workstation.fails(65, &[&PULL[..], force, &[&reference]].concat());
        assert!(said.contains(".bashrc") && said.contains("starts with a dot"), "{said}");
    }
    assert_eq!(registry.count(&On::blobs()), 0);
    assert_eq!(fs::read(workstation.path("out/.bashrc")).unwrap(), b"mine");
    workstation.must(&[&PULL[..], &[&with_title("bashrc")]].concat());
    assert_eq!(fs::read(workstation.path("out/bashrc")).unwrap(), b"echo owned");

    workstation.write(".hidden", "x");
    let target = registry.reference(REPO, "pushed");
    let said = workstation.fails(64, &["push", "--kernel", "out/kernel", "--other", ".hidden", &target]);
    assert!(said.contains("starts with a dot"), "{said}");
}
