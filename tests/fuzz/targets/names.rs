//! Platforms, paths in images, and file names that come from outside.

use std::path::{Component, Path};

use eci_agent::eci::{FileName, ImagePath};
use eci_agent::oci::Platform;

pub fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.to_string(), text);
    }
    if let Ok(path) = text.parse::<ImagePath>() {
        assert_eq!(path.to_string().parse(), Ok(path.clone()), "its normal form is its own");
        assert!(is_plain(path.as_str()), "{text:?}");
    }
    if let Ok(name) = FileName::new(text) {
        assert!(is_plain(name.as_str()) && Path::new(name.as_str()).components().count() == 1, "{text:?}");
    }
}

fn is_plain(path: &str) -> bool {
    Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}
