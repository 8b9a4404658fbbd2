//! Credentials: the files and the helpers that may have a login.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::auth::config_json::Found;
use super::helper;
use super::login::Login;
use super::warn_once::WarnOnce;
use crate::blocking;
use crate::durable::read_capped;
use crate::oci::is_docker_hub;

/// The name under which docker keeps the login for Docker Hub in helpers.
const HUB_LOGIN: &str = "https://index.docker.io/v1/";
/// Largest credentials file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The credentials files; the first that has a login for the repository counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CredentialFiles(Vec<PathBuf>);

/// The result of a search for a login.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// The login, if there is one.
    pub(super) login: Option<Login>,
    /// The login and its file for the message of a refusal; never a secret.
    pub(super) account: String,
    /// True if a helper failed, so that there may be a login after all.
    pub(super) has_failed: bool,
}

impl CredentialFiles {
    /// The registry's own file, then `$DOCKER_CONFIG/config.json`, then the one that systemd hands over.
    pub(super) fn new(own: Option<PathBuf>) -> Self {
        let from_environment = ["DOCKER_CONFIG", "CREDENTIALS_DIRECTORY"]
            .into_iter()
            .filter_map(std::env::var_os)
            .filter(|dir| !dir.is_empty())
            .map(|dir| PathBuf::from(dir).join("config.json"));
        Self(own.into_iter().chain(from_environment).collect())
    }

    /// Searches for the login for `repository` in `registry` (`HOST[:PORT]`). Files are read each time, because they are
    /// replaced while we run. A file that cannot be read is an error that names it; one that is not there has no login. A
    /// helper that fails is not an error: the image may be public.
    pub(super) async fn search(&self, registry: &str, repository: &str) -> Result<Search, String> {
        let (mut read, mut failures) = (Vec::new(), Vec::new());
        for file in &self.0 {
            let path = file.clone();
            let Some(bytes) = blocking::run(move || read_file(&path)).await? else { continue };
            let name = file.display();
            let found = Found::find(&bytes, registry, repository)
                .map_err(|reason| format!("the credentials {name}: {reason}"))?;
            read.push(name.to_string());
            match found {
                Some(Found::Login(login)) => {
                    let account = format!("tried {} of {name}", login.shown());
                    return Ok(Search { login: Some(login), account, has_failed: false });
                }
                Some(Found::Helper(helper)) => {
                    let server = if is_docker_hub(registry) { HUB_LOGIN } else { registry };
                    match helper::ask(&helper, server).await {
                        Ok(Some(login)) => {
                            let account = format!("tried {} of docker-credential-{helper} ({name})", login.shown());
                            return Ok(Search { login: Some(login), account, has_failed: false });
                        }
                        Ok(None) => {}
                        Err(reason) => {
                            tracing::warn!(registry, file = %name, "{reason}; going on without it");
                            failures.push(format!("{reason} ({name} names it)"));
                        }
                    }
                }
                None => {}
            }
        }
        let account = if !failures.is_empty() {
            format!("asked without credentials, because {}", failures.join("; "))
        } else if read.is_empty() {
            "there are no credentials".to_owned()
        } else {
            format!("there are no credentials for {registry}/{repository} in {}", read.join(", "))
        };
        Ok(Search { login: None, account, has_failed: !failures.is_empty() })
    }
}

/// The bytes of a credentials file; none if it is not there.
fn read_file(file: &Path) -> Result<Option<Vec<u8>>, String> {
    match read_capped(file, MAX_FILE) {
        Ok(bytes) => {
            warn_of_readers(file);
            Ok(Some(bytes))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == ErrorKind::FileTooLarge => {
            Err(format!("the credentials {} are larger than 1 MiB", file.display()))
        }
        Err(error) => Err(format!("cannot read the credentials {}: {error}", file.display())),
    }
}

/// Warns of a credentials file that everybody on this machine can read.
fn warn_of_readers(file: &Path) {
    static WARNINGS: WarnOnce = WarnOnce::new();
    if file.metadata().is_ok_and(|found| found.mode() & 0o004 != 0) && WARNINGS.is_first(&file.to_string_lossy()) {
        tracing::warn!(file = %file.display(), "other users can read the credentials file; chmod it to 0600 or 0640");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        async fn search(&self, names: &[&str]) -> Result<Search, String> {
            CredentialFiles(names.iter().map(|name| self.path(name)).collect()).search("a.example", "edge/nginx").await
        }
    }

    #[tokio::test]
    async fn the_first_file_with_a_login_counts() {
        let dir = Dir::new();
        fs::write(dir.path("empty.json"), "").unwrap();
        fs::write(dir.path("other.json"), r#"{"auths": {"a.example/aaa": {"auth": "dTpw"}}}"#).unwrap();
        fs::write(dir.path("right.json"), r#"{"auths": {"a.example": {"auth": "dTpw"}}}"#).unwrap();
        let found = dir.search(&["absent.json", "empty.json", "other.json", "right.json"]).await.unwrap();
        let login = Login::Password { username: b"u".to_vec(), password: b"p".to_vec() };
        assert_eq!(found.login, Some(login));
        assert_eq!(found.account, format!("tried user \"u\" of {}", dir.path("right.json").display()));
        let found = dir.search(&["absent.json", "empty.json", "other.json"]).await.unwrap();
        assert!(found.login.is_none() && found.account.contains("empty.json") && found.account.contains("other.json"));
        assert!(found.account.contains("a.example/edge/nginx") && !found.account.contains("absent.json"));
    }

    #[tokio::test]
    async fn unreadable_credentials_files_are_named() {
        let dir = Dir::new();
        nix::unistd::mkfifo(&dir.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::write(dir.path("large"), vec![b' '; (1 << 20) + 1]).unwrap();
        fs::write(dir.path("broken"), r#"{"auths": {"a.example": {"auth": "s3cret!"}}}"#).unwrap();
        fs::create_dir(dir.path("dir")).unwrap();
        for name in ["fifo", "large", "broken", "dir"] {
            let error = dir.search(&[name]).await.unwrap_err();
            assert!(error.contains(&*dir.path(name).to_string_lossy()) && !error.contains("s3cret"), "{error}");
        }
        // As large as may be.
        fs::write(dir.path("large"), vec![b' '; 1 << 20]).unwrap();
        assert!(dir.search(&["large"]).await.unwrap().login.is_none());
    }

    #[tokio::test]
    async fn a_missing_helper_does_not_hide_the_next_file() {
        let dir = Dir::new();
        fs::write(dir.path("helper"), r#"{"credHelpers": {"a.example": "there-is-no-such-thing"}}"#).unwrap();
        fs::write(dir.path("right"), r#"{"auths": {"a.example": {"auth": "dTpw"}}}"#).unwrap();
        let found = dir.search(&["helper"]).await.unwrap();
        assert!(found.login.is_none() && found.has_failed);
        assert!(found.account.contains("docker-credential-there-is-no-such-thing"), "{}", found.account);
        assert!(dir.search(&["helper", "right"]).await.unwrap().login.is_some());
    }
}
