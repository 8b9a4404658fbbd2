//! What the agent goes through, and the images that it meets.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::common::archive::{gzip, tar};
use crate::common::image::Image;
use crate::common::registry::{Registry, digest};
use crate::legacy;

const REPO: &str = "edge/nginx";
const MIB: usize = 1 << 20;

/// The disk that is packed in the image of the workload "router".
const PACKED: usize = 300_000;

/// An image as it is on the node.
pub struct Known {
    pub reference: String,
    /// The manifest's.
    pub digest: String,
    /// The digests of the files of a generation, by their names.
    pub files: BTreeMap<String, String>,
    pub blobs: Vec<Blob>,
}

/// What has to be fetched of an image.
pub struct Blob {
    pub digest: String,
    pub size: u64,
    /// The digest of what is packed in it, where something is.
    pub packed: Option<String>,
}

/// Something that happens.
#[derive(Clone)]
pub enum End {
    /// An image, by its reference, is booted from now on.
    Activated(String),
    Active(&'static str),
    Rejected,
    Retired(&'static str),
}

/// A desired state, and what comes of it.
pub struct Stage {
    pub desired: String,
    pub ends: Vec<End>,
    /// What runs in the end: an image for each workload.
    pub runs: BTreeMap<&'static str, usize>,
}

pub struct Story {
    images: [Image; 3],
    router: Vec<u8>,
    /// The bytes of what is large enough to come in several pieces, by its digest.
    large: BTreeMap<String, Vec<u8>>,
    pub known: Vec<Known>,
    pub stages: Vec<Stage>,
}

impl Story {
    /// The images are in `registry` from now on.
    pub fn new(registry: &Registry) -> Self {
        let images = [Image::new("v1"), Image::new("v2"), large()];
        let large = [(digest(&images[2].root), images[2].root.clone())].into();
        let mut story = Self { images, router: vec![7; PACKED], large, known: Vec::new(), stages: Vec::new() };
        story.publish(registry);
        for (image, tag) in story.images.iter().zip(["v1", "v2", "v3"]) {
            let manifest = image.manifest();
            let files = [("kernel", &image.kernel), ("initrd", &image.initrd), ("disk-root-root.raw", &image.root)];
            let files = files.map(|(name, bytes)| (name.to_owned(), digest(bytes)));
            story.known.push(Known::new(registry, REPO, tag, &manifest, files.into(), None));
        }
        let manifest = registry.manifest("edge/legacy", "router").unwrap().bytes;
        let disk = digest(&story.router);
        let files = BTreeMap::from([("disk-root-root.raw".to_owned(), disk.clone())]);
        let manifest = serde_json::from_slice(&manifest).unwrap();
        story.known.push(Known::new(registry, "edge/legacy", "router", &manifest, files, Some(disk)));
        story.stages = story.stages();
        story
    }

    /// Puts the images into a registry.
    pub fn publish(&self, registry: &Registry) {
        for (image, tag) in self.images.iter().zip(["v1", "v2", "v3"]) {
            image.publish(registry, REPO, tag);
        }
        let annotations = legacy::annotations("disk-root", "application/vnd.lfedge.disk.layer.v1+raw", "root.raw");
        let packed = gzip(&tar(&[("root.raw", &self.router)]));
        let layer = legacy::layer(registry, legacy::GZIP_LAYER, &packed, &annotations);
        legacy::publish(registry, "router", b"{}", &[layer]);
    }

    /// The bytes of a large blob.
    pub fn large(&self, digest: &str) -> Option<&[u8]> {
        self.large.get(digest).map(Vec::as_slice)
    }

    fn stages(&self) -> Vec<Stage> {
        let image = |n: usize| self.known[n].reference.clone();
        let default = |n: usize| Stage {
            desired: format!("image = \"{}\"\n", image(n)),
            ends: vec![End::Activated(image(n)), End::Active("default")],
            runs: [("default", n)].into(),
        };
        vec![
            default(0),
            default(1),
            default(2),
            Stage { desired: "image = \"".to_owned(), ends: vec![End::Rejected], runs: [("default", 2)].into() },
            Stage {
                desired: format!(
                    "[workload.default]\nimage = \"{}\"\n[workload.router]\nimage = \"{}\"\n",
                    image(2),
                    image(3)
                ),
                ends: vec![End::Activated(image(3)), End::Active("router")],
                runs: [("default", 2), ("router", 3)].into(),
            },
            Stage { ends: vec![End::Retired("router")], ..default(2) },
            default(0),
        ]
    }
}

impl Known {
    fn new(
        registry: &Registry,
        repo: &str,
        tag: &str,
        manifest: &Value,
        mut files: BTreeMap<String, String>,
        packed: Option<String>,
    ) -> Self {
        let digest = digest(&registry.manifest(repo, tag).unwrap().bytes);
        let blob = |blob: &Value, packed| Blob {
            digest: blob["digest"].as_str().unwrap().to_owned(),
            size: blob["size"].as_u64().unwrap(),
            packed,
        };
        let config = blob(&manifest["config"], None);
        files.insert("config.json".to_owned(), config.digest.clone());
        files.insert("manifest.json".to_owned(), digest.clone());
        let mut blobs: Vec<_> =
            manifest["layers"].as_array().unwrap().iter().map(|l| blob(l, packed.clone())).collect();
        blobs.push(config);
        // By digest: a mirror, which is all that is left after a cut, resolves no tags.
        let reference = format!("{}@{digest}", registry.reference(repo, tag));
        Self { reference, digest, files, blobs }
    }
}

/// An image whose root disk comes in segments, and is mostly holes.
fn large() -> Image {
    let mut image = Image::new("v3");
    image.root.resize(17 * MIB, 0);
    for place in [MIB, 7 * MIB + 1000, 12 * MIB, 16 * MIB + 500_000] {
        image.root[place..place + 9000].fill(u8::try_from(place >> 20).unwrap());
    }
    image
}

impl End {
    pub fn is(&self, event: &Value) -> bool {
        let is = |name: &str| event["event"] == name;
        match self {
            Self::Activated(reference) => is("activated") && event["message"].as_str().unwrap().contains(reference),
            Self::Active(workload) => is("phase") && event["phase"] == "active" && event["workload"] == *workload,
            Self::Rejected => is("desired-rejected"),
            Self::Retired(workload) => is("retired") && event["workload"] == *workload,
        }
    }
}
