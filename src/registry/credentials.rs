//! Credentials: the files and the helpers that may have a login.

use std::fmt::Write;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::auth::{config_json::Found, places};
use super::helper;
use super::login::Login;
use super::warn_once::WarnOnce;
use crate::blocking;
use crate::durable::{DurableError, read_capped};
use crate::failure::full_text;

/// Largest credentials file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// A credentials file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// This user may not read the file.
    #[error(transparent)]
    Forbidden(DurableError),
    /// The text names the file, and says what is wrong with it.
    #[error("{0}")]
    Unusable(String),
}

/// The kind of process that asks for credentials; it decides which files are searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The agent, which searches what its configuration and its environment name.
    Agent,
    /// A command that a person runs, which searches that person's own files as well.
    User,
}

/// The credentials files in the order of the search; the first that has a login for the repository counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CredentialFiles {
    /// Files that somebody has named.
    named: Vec<PathBuf>,
    /// Default files of a user, searched after those. One that cannot be used is a warning.
    default: Vec<PathBuf>,
    /// The file that `eci login` writes; none for the agent.
    writable: Option<PathBuf>,
}

/// The result of a search for a login.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// The login, if there is one.
    pub(super) login: Option<Login>,
    /// The file that has the login, or that names the helper that has it.
    pub(super) file: Option<PathBuf>,
    /// The login and its file for the message of a refusal, and what to do; never a secret.
    pub(super) account: String,
    /// True if a helper failed, so that there may be a login after all.
    pub(super) has_failed: bool,
}

impl CredentialFiles {
    /// The registry's own file, then those of the environment: `$REGISTRY_AUTH_FILE`, `$DOCKER_CONFIG/config.json`, the one
    /// that systemd hands over; for a user also the default files of podman, skopeo and docker.
    pub(super) fn new(own: Option<PathBuf>, caller: Caller) -> Self {
        let in_dir = |name: &str, rest: &str| places::variable(name).map(|dir| dir.join(rest));
        let mut named: Vec<_> = own.into_iter().collect();
        named.extend(places::variable("REGISTRY_AUTH_FILE"));
        named.extend(in_dir("DOCKER_CONFIG", "config.json"));
        named.extend(in_dir("CREDENTIALS_DIRECTORY", "config.json"));
        match caller {
            Caller::Agent => Self { named, default: Vec::new(), writable: None },
            Caller::User => {
                let default = [places::runtime_file()].into_iter().chain(places::home_file()).collect();
                Self { named, default, writable: places::writable() }
            }
        }
    }

    /// Searches for the login for `repository` in `registry` (`HOST[:PORT]`). Files are read each time, because they are
    /// replaced while we run. A file that cannot be used is an error that names it; one that is not there has no login. A
    /// helper or a default file that fails is not an error: the image may be public.
    pub(super) async fn search(&self, registry: &str, repository: &str) -> Result<Search, FileError> {
        let (mut without, mut absent, mut failures) = (Vec::new(), Vec::new(), Vec::new());
        let default = self.default.iter().map(|file| (file, true));
        for (file, is_default) in self.named.iter().map(|file| (file, false)).chain(default) {
            let name = file.display();
            let found = match find(file, registry, repository).await {
                Ok(Some(found)) => found,
                Ok(None) => {
                    absent.push(name.to_string());
                    continue;
                }
                Err(error) if is_default => {
                    let reason = full_text(&error);
                    tracing::warn!(registry, "{reason}; going on without it");
                    failures.push(reason);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let with = |login: Login, place: String| {
                tracing::debug!("credentials for {registry}: {} of {place}", login.shown());
                let account = format!("tried {} of {place}; {}", login.shown(), self.advice(Some(file), registry));
                Search { login: Some(login), file: Some(file.clone()), account, has_failed: false }
            };
            match found {
                Some(Found::Login(login)) => return Ok(with(login, name.to_string())),
                Some(Found::Helper(helper)) => match helper::get(&helper, helper::server(registry)).await {
                    Ok(Some(login)) => return Ok(with(login, format!("docker-credential-{helper} ({name})"))),
                    Ok(None) => without.push(format!("docker-credential-{helper} ({name})")),
                    Err(reason) => {
                        tracing::warn!(registry, file = %name, "{reason}; going on without it");
                        failures.push(format!("{reason} ({name} names it)"));
                    }
                },
                None => without.push(name.to_string()),
            }
        }
        if !failures.is_empty() {
            let account = format!("asked without credentials, because {}", failures.join("; "));
            return Ok(Search { account, has_failed: true, ..Search::default() });
        }
        let repository = if repository.is_empty() { String::new() } else { format!("/{repository}") };
        let (empty, missing) = (without.join(", "), absent.join(", "));
        tracing::debug!(
            without = empty,
            absent = missing,
            "credentials for {registry}{repository}: none, asking without"
        );
        let mut account = format!("there are no credentials for {registry}{repository}");
        if !without.is_empty() {
            let _ = write!(account, " in {}", without.join(", "));
        }
        if !absent.is_empty() {
            let _ = write!(account, " (not there: {})", absent.join(", "));
        }
        let _ = write!(account, "; {}", self.advice(None, registry));
        Ok(Search { account, ..Search::default() })
    }

    /// The advice after a refusal of the login that `file` has, or of a request without any.
    fn advice(&self, file: Option<&Path>, registry: &str) -> String {
        match (file, &self.writable) {
            (file, Some(writable)) if file.is_none_or(|file| file == writable) => {
                format!("to log in, run: eci login {registry}")
            }
            (Some(_), _) => "check the login there".to_owned(),
            (None, _) => format!("name a file that has some in [registry.{registry:?}] credentials of agent.toml"),
        }
    }
}

/// The entry of a file for a repository; the outer none if the file is not there.
async fn find(file: &Path, registry: &str, repository: &str) -> Result<Option<Option<Found>>, FileError> {
    let path = file.to_owned();
    let Some(bytes) = blocking::run(move || read_file(&path)).await? else { return Ok(None) };
    let found = Found::find(&bytes, registry, repository);
    found.map(Some).map_err(|reason| FileError::Unusable(format!("the credentials {}: {reason}", file.display())))
}

/// The bytes of a credentials file; none if it is not there.
pub(super) fn read_file(file: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let unusable = |reason: String| Err(FileError::Unusable(reason));
    match read_capped(file, MAX_FILE) {
        Ok(bytes) => {
            warn_of_readers(file);
            Ok(Some(bytes))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        // Part of the path is a file: a home directory that is `/dev/null`.
        Err(error) if error.kind() == ErrorKind::NotADirectory => Ok(None),
        Err(error) if error.kind() == ErrorKind::FileTooLarge => {
            unusable(format!("the credentials {} are larger than 1 MiB", file.display()))
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err(FileError::Forbidden(DurableError::new("read the credentials", file, error)))
        }
        Err(error) => unusable(format!("cannot read the credentials {}: {error}", file.display())),
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

        async fn search(&self, names: &[&str]) -> Result<Search, FileError> {
            let files = names.iter().map(|name| self.path(name)).collect();
            CredentialFiles { named: files, default: Vec::new(), writable: None }
                .search("a.example", "edge/nginx")
                .await
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
        assert!(found.account.starts_with(&format!("tried user \"u\" of {};", dir.path("right.json").display())));
        let found = dir.search(&["absent.json", "empty.json", "other.json"]).await.unwrap();
        assert!(found.login.is_none() && found.account.contains("empty.json") && found.account.contains("other.json"));
        let absent = format!("(not there: {})", dir.path("absent.json").display());
        assert!(found.account.contains("a.example/edge/nginx") && found.account.contains(&absent), "{}", found.account);
        assert!(found.account.contains("[registry.\"a.example\"]"), "{}", found.account);
    }

    #[tokio::test]
    async fn unreadable_credentials_files_are_named() {
        let dir = Dir::new();
        nix::unistd::mkfifo(&dir.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::write(dir.path("large"), vec![b' '; (1 << 20) + 1]).unwrap();
        fs::write(dir.path("broken"), r#"{"auths": {"a.example": {"auth": "s3cret!"}}}"#).unwrap();
        fs::create_dir(dir.path("dir")).unwrap();
        for name in ["fifo", "large", "broken", "dir"] {
            let error = dir.search(&[name]).await.unwrap_err().to_string();
            assert!(error.contains(&*dir.path(name).to_string_lossy()) && !error.contains("s3cret"), "{error}");
        }
        // As large as may be.
        fs::write(dir.path("large"), vec![b' '; 1 << 20]).unwrap();
        assert!(dir.search(&["large"]).await.unwrap().login.is_none());
    }

    #[tokio::test]
    async fn unusable_default_file_is_a_warning() {
        let dir = Dir::new();
        fs::write(dir.path("broken"), "s3cret").unwrap();
        fs::write(dir.path("right"), r#"{"auths": {"a.example": {"auth": "dTpw"}}}"#).unwrap();
        let files = |named: &[&str], default: &[&str]| {
            let paths = |names: &[&str]| names.iter().map(|name| dir.path(name)).collect();
            CredentialFiles { named: paths(named), default: paths(default), writable: Some(dir.path("right")) }
        };
        let found = files(&[], &["broken"]).search("a.example", "edge/nginx").await.unwrap();
        assert!(found.login.is_none() && found.has_failed && found.account.contains("broken"), "{}", found.account);
        assert!(!found.account.contains("s3cret"), "{}", found.account);
        let found = files(&[], &["broken", "right"]).search("a.example", "edge/nginx").await.unwrap();
        assert!(found.login.is_some() && found.account.ends_with("run: eci login a.example"), "{}", found.account);
        let found = files(&["absent"], &[]).search("a.example", "edge/nginx").await.unwrap();
        assert!(found.account.ends_with("run: eci login a.example"), "{}", found.account);
        assert!(files(&["broken"], &["right"]).search("a.example", "edge/nginx").await.is_err());
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
