//! `agent.toml`.

use eci_agent::config::{ConfigSource, load};

pub fn fuzz(data: &[u8]) {
    let Ok(dir) = tempfile::tempdir() else { return };
    let file = dir.path().join("agent.toml");
    if std::fs::write(&file, data).is_ok()
        && let Err(error) = load(&ConfigSource::file(&file))
    {
        assert!(error.to_string().contains("agent.toml"), "it names the file: {error}");
    }
}
