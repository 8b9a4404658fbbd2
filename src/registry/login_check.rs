//! The test of a login at a registry, before it is saved.

use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Client, StatusCode};

use super::answer::refusal;
use super::challenge::Challenge;
use super::host::{Destination, Reach, api_host, is_plain_http};
use super::scope::Scope;
use super::{Caller, Login, RegistryError, token};
use crate::blocking;
use crate::config::Settings;
use crate::oci::host_name;
use crate::wording::list;

/// The result of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginCheck {
    /// The registry accepts the login.
    Accepted,
    /// The registry asks for no login at `/v2/`, so that it cannot be told.
    NotAsked,
}

/// The scheme by which `registry` (`HOST[:PORT]`) is reached: `http` or `https`.
pub fn scheme_of(registry: &str, settings: &Settings) -> &'static str {
    let own = settings.registries.get(registry).cloned().unwrap_or_default();
    if is_plain_http(host_name(registry), &own) { "http" } else { "https" }
}

/// Tries a login at `registry` (`HOST[:PORT]`): asks for `/v2/`, and again with what its challenge demands.
pub async fn check_login(settings: &Settings, registry: &str, login: &Login) -> Result<LoginCheck, RegistryError> {
    let own = settings.registries.get(registry).cloned().unwrap_or_default();
    let base = format!("{}://{}", scheme_of(registry, settings), api_host(registry));
    let reach = Reach::new(&base, registry, own, settings.transfer.clone()).of(Caller::User);
    let made = reach.clone();
    let http = blocking::run(move || made.client(Some(made.transfer.idle_timeout), Destination::Registry)).await?;
    let url = format!("{base}/v2/");
    let answer = reach.send(&url, http.get(&url)).await?;
    let header = match answer.status() {
        status if status.is_success() => return Ok(LoginCheck::NotAsked),
        StatusCode::UNAUTHORIZED => {
            let Some(challenge) = Challenge::of(answer.headers(), &base) else {
                let offered = list(&Challenge::schemes(answer.headers()));
                let reason = format!("it asks for {offered}, and only Basic and Bearer are supported");
                return Err(RegistryError::Protocol { url, reason });
            };
            let scheme = if matches!(challenge, Challenge::Basic) { "Basic" } else { "Bearer" };
            tracing::debug!("{registry} asks for {scheme}; trying {}", login.shown());
            header(&http, &reach, &challenge, login).await?
        }
        StatusCode::NOT_FOUND => {
            let reason = "there is no registry: /v2/ is not found; check host and port".to_owned();
            return Err(RegistryError::Protocol { url, reason });
        }
        _ => return Err(refusal(&url, answer).await),
    };
    let secrets = [header.to_str().map(str::to_owned).unwrap_or_default()];
    let answer = reach.send(&url, http.get(&url).header(AUTHORIZATION, header)).await?;
    match answer.status() {
        status if status.is_success() => Ok(LoginCheck::Accepted),
        _ => Err(refusal(&url, answer)
            .await
            .without(&secrets)
            .without(&token::secrets(Some(login)))
            .with_account(&tried(login))),
    }
}

async fn header(
    http: &Client,
    reach: &Reach,
    challenge: &Challenge,
    login: &Login,
) -> Result<HeaderValue, RegistryError> {
    let text = match (challenge, login) {
        (Challenge::Basic, Login::Password { username, password }) => {
            if let Ok(base) = reach.base.parse() {
                token::warn_of_plain_text(&base, Some(login));
            }
            format!("Basic {}", token::basic(username, password))
        }
        (Challenge::Bearer(realm), login) => {
            let token = token::fetch(http, reach, realm, &Scope::parse(""), Some(login)).await;
            let token = token.map_err(|error| error.with_account(&tried(login)))?;
            format!("Bearer {}", token.secret)
        }
        (Challenge::Basic, _) => String::new(),
    };
    let invalid = |_| RegistryError::Setup {
        registry: reach.registry.clone(),
        reason: "the token has characters that no header can hold".to_owned(),
    };
    let mut value = HeaderValue::from_str(&text).map_err(invalid)?;
    value.set_sensitive(true);
    Ok(value)
}

fn tried(login: &Login) -> String {
    format!("tried {}", login.shown())
}
