//! The configs of pushed images, checked by the rules that container tools check them by.

use std::collections::BTreeSet;
use std::io::Read;

use serde_json::{Value, json};

use crate::common::image::Image;
use crate::common::registry::{Registry, digest};
use crate::common::workstation::Workstation;

const REPO: &str = "edge/config";
const FLAGS: [&[&str]; 3] =
    [&[], &["--platform", "linux/amd64", "--platform", "linux/arm/v7"], &["--arch", "arm64", "--author", "A"]];

/// Two of the layers have the same bytes.
fn image() -> Image {
    Image {
        disks: vec![b"data".to_vec(), b"data".to_vec(), b"other".to_vec()],
        ..Image::new("v1").with_root_of((1 << 20) + 1)
    }
}

/// Pushes an image and another file with these flags.
fn push(workstation: &Workstation, format: &str, flags: &[&str], reference: &str) {
    workstation.write("notes.txt", "notes");
    let mut arguments = workstation.push_arguments(&image(), reference);
    let more = ["--other", "notes.txt", "--format", format].into_iter().chain(flags.iter().copied());
    arguments.splice(1..1, more.map(ToOwned::to_owned));
    workstation.must(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
}

/// The manifests that a tag leads to.
fn manifests(registry: &Registry, tag: &str) -> Vec<Value> {
    let read = |reference: &str| -> Value {
        serde_json::from_slice(&registry.manifest(REPO, reference).unwrap().bytes).unwrap()
    };
    let top = read(tag);
    match top["manifests"].as_array() {
        Some(entries) => entries.iter().map(|entry| read(entry["digest"].as_str().unwrap())).collect(),
        None => vec![top],
    }
}

fn blob(registry: &Registry, descriptor: &Value) -> Vec<u8> {
    registry.blob(REPO, descriptor["digest"].as_str().unwrap()).unwrap().to_vec()
}

/// The layers' contents without their compression.
fn contents(registry: &Registry, manifest: &Value) -> Vec<Vec<u8>> {
    let layers = manifest["layers"].as_array().unwrap();
    let content = |layer: &Value| {
        let bytes = blob(registry, layer);
        if !layer["mediaType"].as_str().unwrap().ends_with("+gzip") {
            return bytes;
        }
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut tar).unwrap();
        tar
    };
    layers.iter().map(content).collect()
}

/// The rules of `crane validate` and the image specification; what breaks one.
fn validate(config: &Value, contents: &[Vec<u8>]) -> Result<(), String> {
    let rule = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what}: {config}")) };
    rule(config["os"].as_str().is_some_and(|os| !os.is_empty()), "os")?;
    rule(config["architecture"].as_str().is_some_and(|architecture| !architecture.is_empty()), "architecture")?;
    rule(config["rootfs"]["type"] == "layers", "rootfs.type")?;
    let diff_ids: Vec<String> = contents.iter().map(|content| digest(content)).collect();
    rule(config["rootfs"]["diff_ids"] == json!(diff_ids), "rootfs.diff_ids")?;
    rule(config.get("created").is_none(), "created")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_config_has_a_diff_id_for_each_layer() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    for (n, flags) in FLAGS.iter().enumerate() {
        for format in ["artifacts", "legacy"] {
            let tag = format!("{format}{n}");
            push(&workstation, format, flags, &registry.reference(REPO, &tag));
            let manifests = manifests(&registry, &tag);
            assert_eq!(manifests.len(), flags.iter().filter(|flag| **flag == "--platform").count().max(1));
            for manifest in manifests {
                let contents = contents(&registry, &manifest);
                assert_eq!(contents.len(), 3 + 3 + 1);
                let config: Value = serde_json::from_slice(&blob(&registry, &manifest["config"])).unwrap();
                assert_eq!(validate(&config, &contents), Ok(()), "{format} {flags:?}");
                let labels = if format == "legacy" { 3 + 3 } else { 0 };
                assert_eq!(config["config"]["Labels"].as_object().map_or(0, serde_json::Map::len), labels);
                // The rules are rules: each break of one is noticed.
                for (pointer, wrong) in [
                    ("/os", json!("")),
                    ("/architecture", Value::Null),
                    ("/rootfs/type", json!("tar")),
                    ("/rootfs/diff_ids", json!([])),
                    ("/rootfs", Value::Null),
                ] {
                    let mut broken = config.clone();
                    *broken.pointer_mut(pointer).unwrap() = wrong;
                    assert!(validate(&broken, &contents).is_err(), "{pointer}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_config_depends_on_nothing_but_the_files() {
    let registry = Registry::http();
    for format in ["artifacts", "legacy"] {
        let mut configs = BTreeSet::new();
        for tag in ["a", "b"] {
            push(&Workstation::new(), format, &[], &registry.reference(REPO, tag));
            configs.insert(manifests(&registry, tag)[0]["config"]["digest"].to_string());
        }
        assert_eq!(configs.len(), 1, "{format}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_is_given_is_pushed_as_it_is() {
    const CONFIG: &str = "{\n  \"architecture\": \"arm64\", \"rootfs\": null }\n";
    let (registry, workstation) = (Registry::http(), Workstation::new());
    workstation.write("my.json", CONFIG);
    for format in ["artifacts", "legacy"] {
        push(&workstation, format, &["--config", "my.json"], &registry.reference(REPO, format));
        assert_eq!(blob(&registry, &manifests(&registry, format)[0]["config"]), CONFIG.as_bytes(), "{format}");
    }
}
