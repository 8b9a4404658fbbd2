//! `eci login` and `eci logout`: the user's own credentials file.

use std::io::{self, IsTerminal, Read};

use super::options::Options;
use super::output::print;
use super::{logging, prompt, warn};
use crate::blocking;
use crate::config::Settings;
use crate::failure::Failure;
use crate::oci::{Reference, is_docker_hub};
use crate::registry::{Login, LoginCheck, LoginFile, LoginPlace, check_login, login_in_use, scheme_of};

/// Largest password, in bytes: some registries take a key file for one.
const MAX_PASSWORD: u64 = 64 * 1024;

/// The arguments of `eci login`.
#[derive(clap::Args)]
#[command(override_usage = "eci login [OPTIONS] <REGISTRY>")]
pub(super) struct Args {
    /// The user's name; asked for on a terminal if it is not given.
    #[arg(long, short, value_name = "USER")]
    username: Option<String>,
    /// Read the password, or an access token, from stdin.
    #[arg(long)]
    password_stdin: bool,
    /// Refused: the command line of a process is visible to every user of the machine.
    #[arg(long, short, hide = true, num_args = 0..=1, default_missing_value = "", value_name = "PASSWORD")]
    password: Option<String>,
    /// The registry: HOST[:PORT].
    #[arg(value_name = "REGISTRY", required_unless_present = "password")]
    registry: Option<String>,
}

/// The arguments of `eci logout`.
#[derive(clap::Args)]
pub(super) struct LogoutArgs {
    /// The registry: HOST[:PORT].
    #[arg(value_name = "REGISTRY")]
    registry: String,
}

impl Args {
    /// Tries the login at the registry, and saves it.
    pub(super) async fn run(self, options: &Options) -> Result<(), Failure> {
        let (None, Some(name)) = (&self.password, &self.registry) else {
            let message = "a password on the command line can be seen by every user of this machine: write it to stdin \
                           (--password-stdin), or leave it out to be asked for it";
            return Err(Failure::usage(message));
        };
        let settings = options.settings()?;
        logging::init(&settings.log);
        let registry = registry(name, &settings)?;
        let (username, password) = self.answers(&registry).await?;
        let login =
            Login::Password { username: username.clone().into_bytes(), password: password.clone().into_bytes() };
        let file = LoginFile::of_user()?;
        let checked = check_login(&settings, &registry, &login).await.map_err(|error| {
            let failure = Failure::from(error);
            Failure { message: format!("{}; nothing was saved", failure.message), ..failure }
        })?;
        let place = file.save(&registry, &username, &password).await?;
        if checked == LoginCheck::NotAsked {
            warn(&format!("{registry} asks for no login at /v2/, so this one is saved without a test"));
        }
        if let LoginPlace::File(path) = &place {
            warn(&format!(
                "the password is in {} as base64, which is not encryption; a credential helper (credsStore) keeps it \
                 elsewhere",
                path.display()
            ));
        }
        if let Some((other, used)) = login_in_use(&registry, settings.registries.get(&registry)).await
            && used != login
        {
            warn(&format!("{} is read before, and has another login for {registry}", other.display()));
        }
        print(&format!("logged in to {registry} as {username}; saved in {place}\n"))
    }

    /// The name and the password, from stdin or from the terminal.
    async fn answers(&self, registry: &str) -> Result<(String, String), Failure> {
        let is_terminal = io::stdin().is_terminal();
        if !self.password_stdin && !is_terminal {
            return Err(Failure::usage("stdin is not a terminal: write the password to it with --password-stdin"));
        }
        let username = match &self.username {
            Some(username) => username.clone(),
            None if self.password_stdin => {
                return Err(Failure::usage("--password-stdin needs the user's name: --username USER"));
            }
            None => prompt::line(&format!("user at {registry}: ")).await?,
        };
        if username.is_empty() || username.contains(':') || username.chars().any(char::is_control) {
            return Err(Failure::usage("a user's name is not empty, and has no colon and no control characters"));
        }
        let password = if self.password_stdin {
            blocking::run(password_of_stdin).await?
        } else {
            prompt::hidden_line("password: ").await?
        };
        if password.is_empty() || password.contains('\0') {
            return Err(Failure::usage("the password is empty, or has a NUL in it"));
        }
        Ok((username, password))
    }
}

impl LogoutArgs {
    /// Removes the login.
    pub(super) async fn run(self, options: &Options) -> Result<(), Failure> {
        let settings = options.settings()?;
        logging::init(&settings.log);
        let registry = registry(&self.registry, &settings)?;
        let file = LoginFile::of_user()?;
        let removed = file.remove(&registry).await?;
        if let Some((other, _)) = login_in_use(&registry, settings.registries.get(&registry)).await {
            warn(&format!("{} still has a login for {registry}", other.display()));
        }
        print(&match removed {
            Some(place) => format!("logged out of {registry}: its login is removed from {place}\n"),
            None => format!("not logged in to {registry}: {} has no login for it\n", file.path().display()),
        })
    }
}

/// The password on stdin, without the line break at its end.
fn password_of_stdin() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let read = io::stdin().lock().take(MAX_PASSWORD + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::usage(format!("cannot read the password from stdin: {error}")))?;
    if bytes.len() as u64 > MAX_PASSWORD {
        return Err(Failure::usage("the password on stdin is longer than 64 KiB"));
    }
    let text = String::from_utf8(bytes).map_err(|_| Failure::usage("the password on stdin is not UTF-8 text"))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

/// The registry's host as references have it, of `HOST[:PORT]` or of a URL as docker knows the registry by.
fn registry(text: &str, settings: &Settings) -> Result<String, Failure> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
        None => (None, text),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    // It is not quoted: it may hold a password.
    if host.contains('@') {
        return Err(Failure::usage("write the registry as HOST[:PORT], without a user's name and password"));
    }
    let named = match format!("{host}/x").parse() {
        Ok(Reference::Registry(named)) if named.host.eq_ignore_ascii_case(host) => named.host,
        _ => return Err(Failure::usage(format!("{text:?} is not a registry: write HOST[:PORT]"))),
    };
    if !matches!(path.trim_matches('/'), "" | "v1" | "v2") {
        return Err(Failure::usage(format!("a login is for a whole registry: write {named}, without a path")));
    }
    let registry = if is_docker_hub(&named) { "docker.io".to_owned() } else { named.to_ascii_lowercase() };
    match (scheme.as_deref(), scheme_of(&registry, settings)) {
        (None, _) | (Some("https"), "https") | (Some("http"), "http") => Ok(registry),
        (Some("http"), _) => Err(Failure::usage(format!(
            "{registry} is reached by https; plain http is for loopback hosts, and for registries that agent.toml marks \
             insecure = true"
        ))),
        (Some("https"), _) => Err(Failure::usage(format!(
            "{registry} is reached by plain http; to reach it by https, set insecure = false in its table of agent.toml"
        ))),
        (Some(_), _) => Err(Failure::usage(format!("{text:?} is not a registry: write HOST[:PORT]"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_named_by_host_or_url() {
        let named = |text: &str| registry(text, &Settings::default());
        for (text, host) in [
            ("registry.example.com", "registry.example.com"),
            ("Registry.Example.com:5000", "registry.example.com:5000"),
            ("https://registry.example.com/v2/", "registry.example.com"),
            ("localhost", "localhost"),
            ("localhost:5000", "localhost:5000"),
            ("http://127.0.0.1:5000", "127.0.0.1:5000"),
            ("[::1]:5000", "[::1]:5000"),
            ("docker.io", "docker.io"),
            ("index.docker.io", "docker.io"),
            ("registry-1.docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
        ] {
            assert_eq!(named(text).unwrap(), host, "{text}");
        }
        for text in [
            "",
            "oci:dir",
            "a b.example",
            "ftp://a.example",
            "http://registry.example.com",
            "https://localhost:5000",
            "registry.example.com/edge",
            "registry.example.com:port",
            "https://",
        ] {
            assert_eq!(named(text).unwrap_err().kind, crate::failure::Kind::Usage, "{text}");
        }
        let said = named("https://user:s3cret@a.example").unwrap_err().message;
        assert!(!said.contains("s3cret"), "{said}");
    }
}
