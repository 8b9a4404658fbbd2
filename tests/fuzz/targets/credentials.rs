//! Credentials in the form of docker's `config.json`.

use eci_agent::registry::Found;

pub fn fuzz(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        for registry in ["registry.example.com", "docker.io"] {
            let _ = Found::find(text, registry);
        }
    }
}
