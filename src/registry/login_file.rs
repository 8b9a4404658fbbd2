//! The credentials file that `eci login` and `eci logout` change, and the helper that it names.

use std::path::{Path, PathBuf};

use super::auth::config_edit::ConfigEdit;
use super::auth::places;
use super::credentials::{Caller, CredentialFiles, FileError, read_file};
use super::{Login, helper};
use crate::blocking;
use crate::config::RegistrySettings;
use crate::durable::{DurableError, create_dir, followed, lock_dir, replace_secret};
use crate::failure::{Classify, Kind, Retry};

/// The error of a login that is not saved or not removed.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The environment names no file.
    #[error("there is no file for logins: set $HOME, or name one by $REGISTRY_AUTH_FILE")]
    NoFile,
    /// The file cannot be used as it is. The text names it.
    #[error("{0}; nothing was changed")]
    File(String),
    /// The helper has failed.
    #[error("{0}; nothing was changed")]
    Helper(String),
    /// The file cannot be read or written.
    #[error(transparent)]
    Disk(#[from] DurableError),
}

impl Classify for LoginError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoFile | Self::File(_) => Kind::ConfigInvalid,
            Self::Helper(_) => Kind::Io,
            Self::Disk(error) => error.kind(),
        }
    }

    fn retry(&self) -> Retry {
        Retry::Never
    }
}

impl From<FileError> for LoginError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Forbidden(error) => Self::Disk(error),
            FileError::Unusable(reason) => Self::File(reason),
        }
    }
}

/// The credentials file of a user.
#[derive(Clone, Debug)]
pub struct LoginFile(PathBuf);

/// The place of a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginPlace {
    /// The file.
    File(PathBuf),
    /// A helper program, by its name.
    Helper(String),
}

impl std::fmt::Display for LoginPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Helper(name) => write!(f, "docker-credential-{name}"),
        }
    }
}

impl LoginFile {
    /// The file of the environment: `$REGISTRY_AUTH_FILE`, else docker's `config.json`.
    pub fn of_user() -> Result<Self, LoginError> {
        places::writable().map(Self).ok_or(LoginError::NoFile)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Saves the login of `registry` (`HOST[:PORT]`), by the helper that the file names for it, else in the file.
    pub async fn save(&self, registry: &str, username: &str, password: &str) -> Result<LoginPlace, LoginError> {
        let helper = self.helper(registry).await?;
        let place = if let Some(name) = helper {
            let stored = helper::store(&name, helper::server(registry), username, password).await;
            stored.map_err(LoginError::Helper)?;
            LoginPlace::Helper(name)
        } else {
            LoginPlace::File(self.0.clone())
        };
        let (key, is_own) = (helper::server(registry).to_owned(), matches!(place, LoginPlace::File(_)));
        let (registry, username, password) = (registry.to_owned(), username.to_owned(), password.to_owned());
        self.change(move |edit| {
            edit.set(&registry, &key, is_own.then_some((username.as_str(), password.as_str()))).map(|()| true)
        })
        .await?;
        Ok(place)
    }

    /// Removes the login of `registry`, from the helper and from the file. None if neither had one.
    pub async fn remove(&self, registry: &str) -> Result<Option<LoginPlace>, LoginError> {
        let helper = self.helper(registry).await?;
        let mut place = None;
        if let Some(name) = helper
            && helper::erase(&name, helper::server(registry)).await.map_err(LoginError::Helper)?
        {
            place = Some(LoginPlace::Helper(name));
        }
        let registry = registry.to_owned();
        let was_in_file = self.change(move |edit| edit.remove(&registry)).await?;
        Ok(place.or(was_in_file.then(|| LoginPlace::File(self.0.clone()))))
    }

    async fn helper(&self, registry: &str) -> Result<Option<String>, LoginError> {
        let path = self.0.clone();
        let bytes = blocking::run(move || read_file(&path)).await?.unwrap_or_default();
        ConfigEdit::parse(&bytes).and_then(|edit| edit.helper(registry)).map_err(|reason| self.wrong(&reason))
    }

    /// Changes the file as a whole, one process at a time. It is not written if its text stays the same.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut ConfigEdit) -> Result<T, String> + Send + 'static,
    ) -> Result<T, LoginError> {
        let this = self.clone();
        blocking::run(move || {
            // A link, as dotfiles are managed by, stays.
            let path = followed(&this.0);
            let dir = match path.parent() {
                Some(dir) if !dir.as_os_str().is_empty() => dir,
                _ => Path::new("."),
            };
            if !dir.exists() {
                create_dir(dir, 0o700)?;
            }
            let _lock = lock_dir(dir)?;
            let bytes = read_file(&path)?.unwrap_or_default();
            let mut edit = ConfigEdit::parse(&bytes).map_err(|reason| this.wrong(&reason))?;
            let before = edit.to_bytes().map_err(|reason| this.wrong(&reason))?;
            let done = change(&mut edit).map_err(|reason| this.wrong(&reason))?;
            let after = edit.to_bytes().map_err(|reason| this.wrong(&reason))?;
            if before != after {
                replace_secret(&path, &after)?;
            }
            Ok(done)
        })
        .await
    }

    fn wrong(&self, reason: &str) -> LoginError {
        LoginError::File(format!("the credentials {}: {reason}", self.0.display()))
    }
}

/// The place of the login that commands of this user find for `registry`, and the login.
pub async fn login_in_use(registry: &str, settings: Option<&RegistrySettings>) -> Option<(PathBuf, Login)> {
    let files = CredentialFiles::new(settings.and_then(|settings| settings.credentials.clone()), Caller::User);
    let found = files.search(registry, "").await.ok()?;
    Some((found.file?, found.login?))
}
