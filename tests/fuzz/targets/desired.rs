//! `desired.toml`.

use std::path::Path;

pub fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match eci_agent::desired::parse(Path::new("desired.toml"), text) {
        Ok(state) => assert!(!state.workloads.is_empty()),
        Err(error) => assert!(error.to_string().contains("desired.toml"), "it names the file"),
    }
}
