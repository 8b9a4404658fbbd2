//! The fuzz targets, each once over its corpus.

use std::fs;
use std::path::{Path, PathBuf};

#[path = "fuzz/targets"]
mod targets {
    #[path = "artifact.rs"]
    pub mod artifact;
    #[path = "challenge.rs"]
    pub mod challenge;
    #[path = "credentials.rs"]
    pub mod credentials;
    #[path = "desired.rs"]
    pub mod desired;
    #[path = "digest.rs"]
    pub mod digest;
    #[path = "document.rs"]
    pub mod document;
    #[path = "event_id.rs"]
    pub mod event_id;
    #[path = "labels.rs"]
    pub mod labels;
    #[path = "layer.rs"]
    pub mod layer;
    #[path = "names.rs"]
    pub mod names;
    #[path = "pax.rs"]
    pub mod pax;
    #[path = "range.rs"]
    pub mod range;
    #[path = "reference.rs"]
    pub mod reference;
    #[path = "retry_after.rs"]
    pub mod retry_after;
    #[path = "settings.rs"]
    pub mod settings;
    #[path = "token.rs"]
    pub mod token;
    #[path = "upload.rs"]
    pub mod upload;
}

/// A target's name, and what it does.
type Target = (&'static str, fn(&[u8]));

const TARGETS: &[Target] = &[
    ("artifact", targets::artifact::fuzz),
    ("challenge", targets::challenge::fuzz),
    ("credentials", targets::credentials::fuzz),
    ("desired", targets::desired::fuzz),
    ("digest", targets::digest::fuzz),
    ("document", targets::document::fuzz),
    ("event_id", targets::event_id::fuzz),
    ("labels", targets::labels::fuzz),
    ("layer", targets::layer::fuzz),
    ("names", targets::names::fuzz),
    ("pax", targets::pax::fuzz),
    ("range", targets::range::fuzz),
    ("reference", targets::reference::fuzz),
    ("retry_after", targets::retry_after::fuzz),
    ("settings", targets::settings::fuzz),
    ("token", targets::token::fuzz),
    ("upload", targets::upload::fuzz),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

#[test]
fn every_target_takes_its_corpus() {
    for (name, fuzz) in TARGETS {
        let files: Vec<_> = fs::read_dir(root().join("corpus").join(name)).unwrap().collect();
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            let path = file.unwrap().path();
            println!("{}", path.display());
            fuzz(&fs::read(path).unwrap());
        }
    }
}

#[test]
fn every_target_has_its_program() {
    let cargo = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let mut names: Vec<_> = fs::read_dir(root().join("targets"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for name in names {
        assert!(cargo.contains(&format!("path = \"bins/{name}.rs\"")), "{name} is no [[bin]]");
        assert!(root().join(format!("bins/{name}.rs")).exists(), "{name} has no wrapper");
    }
}
