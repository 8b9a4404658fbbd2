//! Credentials in the form of docker's `config.json`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::helper;
use super::host::api_host;
use crate::blocking;

/// Docker Hub, and the name under which docker keeps its login in helpers.
const HUB: &str = "docker.io";
const HUB_LOGIN: &str = "https://index.docker.io/v1/";

/// Where credentials may be; the first file that names the registry counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CredentialFiles(Vec<PathBuf>);

/// What proves who asks. Its debug form shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A user's name and password.
    Password {
        /// The user's name.
        username: String,
        /// The password, or an access token that stands in for one.
        password: String,
    },
    /// What a token service has given out in place of a password.
    Identity(String),
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login(…)")
    }
}

/// What is known of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its login.
    Login(Login),
    /// The helper that may have it.
    Helper(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl CredentialFiles {
    /// The registry's own file, then `$DOCKER_CONFIG/config.json`, then the one that systemd hands over.
    pub(super) fn new(own: Option<PathBuf>) -> Self {
        let from_environment = ["DOCKER_CONFIG", "CREDENTIALS_DIRECTORY"]
            .into_iter()
            .filter_map(std::env::var_os)
            .map(|dir| PathBuf::from(dir).join("config.json"));
        Self(own.into_iter().chain(from_environment).collect())
    }

    /// The login for `registry` (`HOST[:PORT]`), read anew each time, because files are replaced while we run. A file
    /// that cannot be read is an error that names it; one that is not there has nothing to say.
    pub(super) async fn login(&self, registry: &str) -> Result<Option<Login>, String> {
        let (files, wanted) = (self.clone(), registry.to_owned());
        match blocking::run(move || files.look_up(&wanted)).await? {
            Some(Found::Login(login)) => Ok(Some(login)),
            Some(Found::Helper(name)) => helper::ask(&name, if registry == HUB { HUB_LOGIN } else { registry }).await,
            None => Ok(None),
        }
    }

    fn look_up(&self, registry: &str) -> Result<Option<Found>, String> {
        for file in &self.0 {
            let text = match std::fs::read_to_string(file) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(format!("cannot read the credentials {}: {error}", file.display())),
            };
            let found = Found::find(&text, registry)
                .map_err(|line| format!("{} line {line} is not in the form of docker's config.json", file.display()))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

impl Found {
    /// What the text of a `config.json` says of `registry` (`HOST[:PORT]`). The error is the line that is wrong: the
    /// parser's own message could quote a secret.
    pub fn find(text: &str, registry: &str) -> Result<Option<Self>, usize> {
        let config: DockerConfig = serde_json::from_str(text).map_err(|error| error.line())?;
        let helper = config.cred_helpers.iter().find(|(key, _)| names(key, registry)).map(|(_, name)| name);
        if let Some(name) = helper {
            return Ok(Some(Self::Helper(name.clone())));
        }
        // An entry may be empty, as one is whose login the store has.
        let mut entries = config.auths.iter().filter(|(key, _)| names(key, registry));
        let login = entries.find_map(|(_, entry)| entry.login()).map(Self::Login);
        Ok(login.or_else(|| config.creds_store.filter(|name| !name.is_empty()).map(Self::Helper)))
    }
}

/// Keys are hosts; older tools write URLs.
fn names(key: &str, registry: &str) -> bool {
    let host = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    host.split('/')
        .next()
        .is_some_and(|host| host.eq_ignore_ascii_case(registry) || host.eq_ignore_ascii_case(api_host(registry)))
}

impl Entry {
    fn login(&self) -> Option<Login> {
        // Beside it stands a user's name without a password.
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.is_empty()) {
            return Some(Login::Identity(token.clone()));
        }
        if let (Some(username), Some(password)) = (&self.username, &self.password) {
            return Some(Login::Password { username: username.clone(), password: password.clone() });
        }
        let decoded = STANDARD.decode(self.auth.as_ref()?.trim()).ok()?;
        let (username, password) =
            String::from_utf8(decoded).ok()?.split_once(':').map(|(u, p)| (u.to_owned(), p.to_owned()))?;
        Some(Login::Password { username, password })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(username: &str, password: &str) -> Found {
        Found::Login(Login::Password { username: username.to_owned(), password: password.to_owned() })
    }

    fn lookup(text: &str, registry: &str) -> Result<Option<Found>, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        std::fs::write(&file, text).unwrap();
        CredentialFiles(vec![dir.path().join("absent.json"), file]).look_up(registry)
    }

    #[test]
    fn a_login_is_found_by_host_in_either_form() {
        let text = r#"{"auths": {"https://a.example/v1/": {"auth": "dXNlcjpwYTpzcw=="}, "B.example:5000": {"username": "u", "password": "p"}}}"#;
        assert_eq!(lookup(text, "a.example").unwrap(), Some(password("user", "pa:ss")));
        assert_eq!(lookup(text, "b.example:5000").unwrap(), Some(password("u", "p")));
        assert_eq!(lookup(text, "b.example").unwrap(), None);
    }

    #[test]
    fn docker_hub_is_found_by_either_name_and_past_empty_entries() {
        for text in [
            r#"{"auths": {"docker.io": {}, "https://index.docker.io/v1/": {"username": "u", "password": "p"}}}"#,
            r#"{"auths": {"docker.io": {"username": "u", "password": "p"}, "index.docker.io": {}}}"#,
        ] {
            assert_eq!(lookup(text, "docker.io").unwrap(), Some(password("u", "p")));
        }
    }

    #[test]
    fn an_identity_token_counts_more_than_the_name_beside_it() {
        let text = r#"{"auths": {"a.example": {"auth": "dXNlcjo=", "identitytoken": "s3cret"}}}"#;
        let login = lookup(text, "a.example").unwrap();
        assert_eq!(login, Some(Found::Login(Login::Identity("s3cret".to_owned()))));
        assert!(!format!("{login:?}").contains("s3cret"));
    }

    #[test]
    fn helpers_are_named_for_one_registry_or_for_all_that_have_no_login() {
        let text = r#"{"auths": {"a.example": {}, "b.example": {"username": "u", "password": "p"}},
            "credHelpers": {"c.example": "ecr-login"}, "credsStore": "pass"}"#;
        let helper = |name: &str| Some(Found::Helper(name.to_owned()));
        assert_eq!(lookup(text, "c.example").unwrap(), helper("ecr-login"));
        assert_eq!(lookup(text, "b.example").unwrap(), Some(password("u", "p")));
        assert_eq!(lookup(text, "a.example").unwrap(), helper("pass"));
    }

    #[test]
    fn a_broken_file_is_named_without_its_content() {
        let error = lookup("{\"auths\": {\"a.example\": \"s3cret\"}}", "a.example").unwrap_err();
        assert!(error.contains("config.json") && !error.contains("s3cret"), "{error}");
    }
}
