//! Paths of credentials files: those that the environment names, and the default ones of podman, skopeo and docker.

use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

/// The file of podman and skopeo in a runtime directory.
const RUNTIME_FILE: &str = "containers/auth.json";
/// The file of docker in its own directory.
const DOCKER_FILE: &str = "config.json";

/// The path in an environment variable; none if the variable is empty or not set.
pub(in crate::registry) fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// `$XDG_RUNTIME_DIR/containers/auth.json`. Without the variable, podman and skopeo use `/run/containers/UID`
/// (containers-auth.json(5)).
pub(in crate::registry) fn runtime_file() -> PathBuf {
    match variable("XDG_RUNTIME_DIR") {
        Some(dir) => dir.join(RUNTIME_FILE),
        None => Path::new("/run/containers").join(geteuid().to_string()).join("auth.json"),
    }
}

/// `~/.docker/config.json`; none without `$HOME`.
pub(in crate::registry) fn home_file() -> Option<PathBuf> {
    variable("HOME").map(|home| home.join(".docker").join(DOCKER_FILE))
}

/// The file that `eci login` writes: `$REGISTRY_AUTH_FILE`, else docker's file, whose directory `$DOCKER_CONFIG` can name.
pub(in crate::registry) fn writable() -> Option<PathBuf> {
    variable("REGISTRY_AUTH_FILE")
        .or_else(|| variable("DOCKER_CONFIG").map(|dir| dir.join(DOCKER_FILE)))
        .or_else(home_file)
}
