//! Entries of image indexes and of layouts that other tools write: which one a platform gets, and which are ignored.

use serde_json::{Value, json};

use crate::common::agent::Node;
use crate::common::image::{INDEX, Image, MANIFEST};
use crate::common::registry::{Registry, digest};
use crate::common::workstation::Workstation;

const REPO: &str = "edge/index";

/// A registry with an image for each of two platforms, and what their entries are without a platform.
struct Images {
    registry: Registry,
    right: Image,
    right_entry: Value,
    wrong_entry: Value,
}

impl Images {
    fn new() -> Self {
        let (registry, right, wrong) = (Registry::http(), Image::new("right"), Image::new("wrong"));
        let entry = |image: &Image, tag: &str| {
            let digest = image.publish(&registry, REPO, tag);
            json!({"mediaType": MANIFEST, "digest": digest, "size": image.manifest().to_string().len()})
        };
        let (right_entry, wrong_entry) = (entry(&right, "right"), entry(&wrong, "wrong"));
        Self { registry, right, right_entry, wrong_entry }
    }

    fn put(&self, tag: &str, entries: &[Value]) -> String {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
        self.registry.put_manifest(REPO, Some(tag), INDEX, index.to_string());
        self.registry.reference(REPO, tag)
    }
}

fn on(entry: &Value, platform: &Value) -> Value {
    let mut entry = entry.clone();
    entry["platform"] = platform.clone();
    entry
}

fn with(entry: &Value, key: &str, value: Value) -> Value {
    let mut entry = entry.clone();
    entry[key] = value;
    entry
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_entry_is_found_among_odd_ones() {
    let images = Images::new();
    let workstation = Workstation::new();
    let mut node = Node::new();
    node.start();
    let (amd64, arm64) =
        (json!({"os": "linux", "architecture": "amd64"}), json!({"os": "linux", "architecture": "arm64"}));
    let (right, wrong) = (on(&images.right_entry, &amd64), on(&images.wrong_entry, &amd64));
    let unknown = "application/vnd.example.signature+json";
    for (n, entries) in [
        vec![on(&images.right_entry, &json!({"os": "linux", "architecture": "amd64", "variant": ""}))],
        vec![on(&images.right_entry, &json!({"os": "Linux", "architecture": "x86_64"}))],
        vec![on(&images.wrong_entry, &json!({})), right.clone()],
        vec![with(&wrong, "size", json!(-1)), right.clone()],
        vec![with(&wrong, "digest", json!("sha256:1")), right.clone()],
        vec![json!({}), json!(null), right.clone()],
        vec![with(&wrong, "mediaType", unknown.into()), right.clone()],
        vec![with(&images.wrong_entry, "mediaType", unknown.into()), images.right_entry.clone()],
        vec![on(&images.wrong_entry, &arm64), right],
    ]
    .into_iter()
    .enumerate()
    {
        let reference = images.put(&format!("v{n}"), &entries);
        let dir = format!("out-{n}");
        workstation.must(&["pull", "--platform", "linux/amd64", "--dir", &dir, &reference]);
        workstation.has_pulled(&dir, &images.right);
        node.desire(&format!("image = \"{reference}\"\nplatform = \"linux/amd64\"\n"));
        node.until_activated(&reference);
        assert_eq!(node.current("disk-root"), images.right.root, "{entries:?}");
    }
    assert!(node.log().contains("index entry left out"), "{}", node.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_odd_entries_alone_has_no_image() {
    let images = Images::new();
    let workstation = Workstation::new();
    let broken = on(&images.right_entry, &json!({}));
    let unknown = with(&images.right_entry, "mediaType", "application/vnd.example+json".into());
    let reference = images.put("odd", &[broken, unknown]);
    let said = workstation.fails(65, &["pull", "--dir", "out", &reference]);
    assert!(said.contains("1 entry left out as unsupported") && said.contains("of another media type"), "{said}");
}

/// Puts several images into one layout under one name; the entries in the order of their labels.
fn layout(workstation: &Workstation, entries: &[(&str, Value)]) -> String {
    let dir = workstation.path("layout");
    let described = entries.iter().map(|(label, platform)| {
        let image = Image::new(label);
        let digest = image.write_layout(&dir, "v1");
        let entry = json!({
            "mediaType": MANIFEST, "digest": digest, "size": image.manifest().to_string().len(),
            "annotations": {"org.opencontainers.image.ref.name": "v1"},
        });
        if platform.is_null() { entry } else { on(&entry, platform) }
    });
    let index = json!({"schemaVersion": 2, "manifests": described.collect::<Vec<_>>()});
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    format!("oci:{}:v1", dir.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platform_decides_between_layout_entries_of_one_name() {
    let workstation = Workstation::new();
    let platform = |architecture: &str| json!({"os": "linux", "architecture": architecture});
    let reference = layout(&workstation, &[("arm64", platform("arm64")), ("amd64", platform("amd64"))]);
    let mut node = Node::new();
    node.start();
    for wanted in ["amd64", "arm64"] {
        for reference in [&reference, reference.trim_end_matches(":v1")] {
            let dir = format!("{wanted}-{}", reference.ends_with("v1"));
            workstation.must(&["pull", "--platform", &format!("linux/{wanted}"), "--dir", &dir, reference]);
            workstation.has_pulled(&dir, &Image::new(wanted));
        }
        node.desire(&format!("image = \"{reference}\"\nplatform = \"linux/{wanted}\"\n"));
        node.until_activated(&reference);
        assert_eq!(node.current("disk-root"), Image::new(wanted).root);
    }
    node.desire(&format!("image = \"{reference}\"\nplatform = \"linux/riscv64\"\n"));
    node.until_failed("no-platform-match");
}

#[tokio::test(flavor = "multi_thread")]
async fn layout_entries_that_fit_equally_well_are_ambiguous() {
    let workstation = Workstation::new();
    let amd64 = json!({"os": "linux", "architecture": "amd64"});
    // The configs of both images name linux/amd64, which counts where the entries name nothing.
    for platform in [amd64, Value::Null] {
        let reference = layout(&workstation, &[("one", platform.clone()), ("two", platform)]);
        let said = workstation.fails(65, &["pull", "--platform", "linux/amd64", "--dir", "none", &reference]);
        let two = digest(Image::new("two").manifest().to_string().as_bytes());
        assert!(said.contains("several images have this name") && said.contains(&two), "{said}");
        workstation.must(&["pull", "--dir", "two", &format!("oci:layout@{two}")]);
        workstation.has_pulled("two", &Image::new("two"));
        std::fs::remove_dir_all(workstation.path("two")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_hub_has_short_names_in_library() {
    let (registry, image) = (Registry::http(), Image::new("hub"));
    let digest = image.publish(&registry, "library/app", "v1");
    image.publish(&registry, "edge/app", "v1");
    let config = format!("[registry.\"docker.io\"]\nmirrors = [\"http://{}\"]\n", registry.host());
    let workstation = Workstation::with_config(&config);
    for name in ["docker.io/app", "docker.io/library/app", "docker.io/edge/app"] {
        // A mirror without TLS serves what a digest proves.
        let dir = name.replace('/', "-");
        workstation.must(&["pull", "--dir", &dir, &format!("{name}@{digest}")]);
        workstation.has_pulled(&dir, &image);
    }
}
