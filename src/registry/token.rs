//! Bearer tokens, asked for as docker's token service gives them out: by `GET` with a name and a password or with nothing,
//! by `POST` with an identity token (distribution documentation, "Token Authentication", "Oauth 2").

use std::time::{Duration, Instant};

use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use super::answer::{read_up_to, refusal};
use super::challenge::Realm;
use super::host::Reach;
use super::scope::Scope;
use super::{Login, RegistryError};

/// As much of an answer as is read, in bytes: tokens have a few thousand.
const MAX_ANSWER: usize = 1 << 20;
/// How long a token lives of which nothing is said.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// No token lives longer; it keeps nonsense out of arithmetic.
const LONGEST_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// What is taken off a token's life: a request with it has to arrive.
const MARGIN: Duration = Duration::from_secs(5);
/// What we call ourselves where an identity token is used.
const CLIENT_ID: &str = "eci-agent";

/// A token, and how long to use it.
pub(super) struct Token {
    pub(super) secret: String,
    pub(super) good_until: Instant,
}

/// Either name is in use, and both at once.
#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// A token that allows `scope`. `http` follows no redirects: they could lead an identity token to somebody else. `registry`
/// is the URL of the registry that sent us to `realm`.
pub(super) async fn fetch(
    http: &Client,
    reach: &Reach,
    registry: &str,
    realm: &Realm,
    scope: &Scope,
    login: Option<&Login>,
) -> Result<Token, RegistryError> {
    let url = realm
        .address(registry)
        .map_err(|reason| RegistryError::Protocol { url: registry.to_owned(), reason: reason.to_owned() })?;
    // What is said of the service in messages and logs: its address, without a query that could hold a secret.
    let name = format!("{}{}", url.origin().ascii_serialization(), url.path());
    let answer = reach.send(&name, request(http, url, realm, scope, login)).await?;
    match answer.status() {
        StatusCode::OK => read(&name, answer, reach.transfer.idle_timeout).await,
        _ => Err(refusal(&name, answer).await),
    }
}

fn request(http: &Client, mut url: Url, realm: &Realm, scope: &Scope, login: Option<&Login>) -> RequestBuilder {
    let service = realm.service.iter().map(|service| ("service", service.as_str()));
    if let Some(Login::Identity(secret)) = login {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs([
            ("grant_type", "refresh_token"),
            ("refresh_token", secret.as_str()),
            ("client_id", CLIENT_ID),
        ]);
        form.extend_pairs(service).append_pair("scope", &scope.to_string());
        return http.post(url).header("content-type", "application/x-www-form-urlencoded").body(form.finish());
    }
    url.query_pairs_mut().extend_pairs(service).extend_pairs(scope.permissions().map(|one| ("scope", one)));
    match login {
        Some(Login::Password { username, password }) => http.get(url).basic_auth(username, Some(password)),
        _ => http.get(url),
    }
}

async fn read(name: &str, answer: Response, idle: Duration) -> Result<Token, RegistryError> {
    let bytes = read_up_to(name, answer, MAX_ANSWER, idle).await?;
    // The parser's own message could quote the token.
    let answer: Option<Answer> = serde_json::from_slice(&bytes).ok();
    let Some((secret, expires_in)) =
        answer.and_then(|answer| Some((answer.token.or(answer.access_token)?, answer.expires_in)))
    else {
        let reason = "the token service answers with no token".to_owned();
        return Err(RegistryError::Protocol { url: name.to_owned(), reason });
    };
    let life = expires_in.map_or(DEFAULT_LIFE, Duration::from_secs).min(LONGEST_LIFE);
    Ok(Token { secret, good_until: Instant::now() + life.saturating_sub(MARGIN) })
}
