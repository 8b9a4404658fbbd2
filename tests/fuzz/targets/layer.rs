//! Layers: plain files, tars, compressed or not, and what is taken out of them.

use eci_agent::cache::Cache;
use eci_agent::oci::Descriptor;
use eci_agent::unpack::{Finding, Limits, Want, unpack};

/// Little enough for a bomb to be noticed.
const LIMITS: Limits = Limits::new(64 * 1024);

pub fn fuzz(data: &[u8]) {
    let Ok(dir) = tempfile::tempdir() else { return };
    let Ok(cache) = Cache::open(dir.path()) else { return };
    let Ok(path) = "boot/vmlinuz".parse() else { return };
    let Ok(digest) = cache.insert(data) else { return };
    let layer = Descriptor::new("application/vnd.oci.image.layer.v1.tar+gzip", digest, data.len() as u64);
    for want in [Want::Only, Want::OnlyOrArchive, Want::Path(path)] {
        let Ok(record) = unpack(&cache, &layer, std::slice::from_ref(&want), LIMITS) else { continue };
        if let Some(Finding::File(content)) = record.finding(&cache, &want) {
            assert!(content.digest == digest || content.size <= LIMITS.max_file_bytes);
            assert!(cache.verify(&content.blob()), "a file has the digest that names it");
        }
    }
    let left = std::fs::read_dir(dir.path().join("partial")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "half of a file is left");
}
