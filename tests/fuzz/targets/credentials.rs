//! Credentials in the form of docker's `config.json`.

use eci_agent::registry::CredentialFiles;

pub fn fuzz(data: &[u8]) {
    let Ok(dir) = tempfile::tempdir() else { return };
    let file = dir.path().join("config.json");
    if std::fs::write(&file, data).is_ok() {
        let _ = CredentialFiles::new(Some(file)).login("registry.example.com");
    }
}
