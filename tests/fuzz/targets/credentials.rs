//! Credentials in the form of docker's `config.json`, and the paths that its keys may have.

use eci_agent::registry::Found;

pub fn fuzz(data: &[u8]) {
    for registry in ["registry.example.com", "docker.io"] {
        for repository in ["edge/nginx", "library/app"] {
            let _ = Found::find(data, registry, repository);
        }
    }
    let Ok(path) = std::str::from_utf8(data) else { return };
    let key = format!("registry.example.com/{path}");
    let config = serde_json::json!({"auths": {key: {"auth": "dTpw"}}}).to_string();
    let is_ours = ["", "edge", "edge/nginx", "v1", "v2"].contains(&path.trim().trim_matches('/'));
    let found = Found::find(config.as_bytes(), "registry.example.com", "edge/nginx").unwrap();
    assert!(is_ours || found.is_none(), "the login of another path is sent: {path:?}");
    assert!(Found::find(config.as_bytes(), "other.example.com", "edge/nginx").unwrap().is_none(), "{path:?}");
}
