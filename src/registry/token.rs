//! Bearer tokens, asked for as docker's token service gives them out: by `GET` with a name and a password or with nothing,
//! by `POST` with an identity token (distribution documentation, "Token Authentication", "Oauth 2").

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::AUTHORIZATION;
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use serde_json::Value;

use super::answer::{read_up_to, refusal};
use super::challenge::Realm;
use super::host::{Reach, is_loopback};
use super::scope::Scope;
use super::warn_once::WarnOnce;
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

/// The answer of a token service.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenAnswer {
    /// The token, which is not empty.
    pub token: String,
    /// The time to use it for.
    pub lifetime: Duration,
}

impl TokenAnswer {
    /// Reads the body of an answer; none if there is no token in it. Either name of the token is in use, and both at once.
    /// `issued_at` is ignored: the service's clock may be wrong.
    pub fn parse(body: &[u8]) -> Option<Self> {
        // The parser's own message could quote the token.
        let answer: Value = serde_json::from_slice(body).ok()?;
        let text = |name: &str| answer.get(name).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
        let token = text("token").or_else(|| text("access_token"))?.to_owned();
        Some(Self { token, lifetime: lifetime(answer.get("expires_in")) })
    }
}

impl std::fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenAnswer").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

/// The time that `expires_in` stands for: seconds, as a number or a text. Anything else, zero or less counts as
/// absent.
fn lifetime(expires_in: Option<&Value>) -> Duration {
    let seconds = match expires_in {
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        _ => None,
    };
    let seconds = seconds.filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0);
    seconds.map_or(DEFAULT_LIFE, |seconds| Duration::from_secs_f64(seconds.min(LONGEST_LIFE.as_secs_f64())))
}

/// A token, and how long to use it.
pub(super) struct Token {
    pub(super) secret: String,
    pub(super) good_until: Instant,
}

/// A token that allows `scope`. `http` follows redirects within an origin
/// alone: others could lead a password or an identity token to somebody else. `reach` is that of the registry that names
/// `realm`, whose own origin is reached by `http`; a token service elsewhere gets no client certificate.
pub(super) async fn fetch(
    http: &Client,
    reach: &Reach,
    realm: &Realm,
    scope: &Scope,
    login: Option<&Login>,
) -> Result<Token, RegistryError> {
    let registry = &reach.base;
    let url = realm
        .address(registry)
        .map_err(|reason| RegistryError::Protocol { url: registry.to_owned(), reason: reason.to_owned() })?;
    // What is said of the service in messages and logs: its address, without a query that could hold a secret.
    let name = format!("{}{}", url.origin().ascii_serialization(), url.path());
    let pinned = reach.settings.token_service.as_deref();
    if let Some(pinned) = pinned.filter(|pinned| !is_at(&url, pinned)) {
        let reason = format!("it names the token service {name}, and its table has token_service = {pinned:?}");
        return Err(RegistryError::Protocol { url: registry.clone(), reason });
    }
    warn_of_plain_text(&url, login);
    let http = if reach.is_own(&url) {
        http.clone()
    } else {
        // The configuration may name a private address.
        let source = if pinned.is_some() { Some(Ipv4Addr::LOCALHOST.into()) } else { reach.address() };
        reach.client_for(&name, source, &url, &Method::GET).await?
    };
    let answer = reach.send(&name, request(&http, url, realm, scope, login)).await?;
    match answer.status() {
        status if status.is_success() => read(&name, answer, reach.transfer.idle_timeout).await,
        _ => Err(refused(refusal(&name, answer).await.without(&secrets(login)))),
    }
}

/// True if `url` is `pinned`, whatever its query is.
fn is_at(url: &Url, pinned: &str) -> bool {
    Url::parse(pinned).is_ok_and(|pinned| pinned.origin() == url.origin() && pinned.path() == url.path())
}

/// Warns if a password is sent where others can read it on the way.
pub(super) fn warn_of_plain_text(url: &Url, login: Option<&Login>) {
    static WARNINGS: WarnOnce = WarnOnce::new();
    let host = url.host_str().unwrap_or_default();
    if login.is_some()
        && url.scheme() == "http"
        && !is_loopback(host.trim_matches(['[', ']']))
        && WARNINGS.is_first(host)
    {
        tracing::warn!(
            host,
            "a password is sent by plain http, and can be read on the way; reach the registry by https"
        );
    }
}

/// What is secret of a login, in each form in which it is sent.
pub(super) fn secrets(login: Option<&Login>) -> Vec<String> {
    match login {
        Some(Login::Password { username, password }) => {
            vec![String::from_utf8_lossy(password).into_owned(), basic(username, password)]
        }
        Some(Login::Identity(secret) | Login::Token(secret)) => vec![secret.clone()],
        None => Vec::new(),
    }
}

/// The error of a token service that refuses. Where it is not found, or takes no such request, that says nothing of the
/// image.
fn refused(error: RegistryError) -> RegistryError {
    match error {
        RegistryError::Status { url, status: status @ (404 | 405), detail, .. } => {
            let reason = format!("the token service answers {status}{detail}; check the registry's address of it");
            RegistryError::Protocol { url, reason }
        }
        error => error,
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
        Some(Login::Password { username, password }) => {
            http.get(url).header(AUTHORIZATION, format!("Basic {}", basic(username, password)))
        }
        _ => http.get(url),
    }
}

async fn read(name: &str, answer: Response, idle: Duration) -> Result<Token, RegistryError> {
    let bytes = read_up_to(name, answer, MAX_ANSWER, idle).await?;
    let Some(answer) = TokenAnswer::parse(&bytes) else {
        let reason = "the token service answers with no token".to_owned();
        return Err(RegistryError::Protocol { url: name.to_owned(), reason });
    };
    Ok(Token { secret: answer.token, good_until: Instant::now() + answer.lifetime.saturating_sub(MARGIN) })
}

/// Name and password as the scheme Basic has them.
pub(super) fn basic(username: &[u8], password: &[u8]) -> String {
    STANDARD.encode([username, b":", password].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_that_has_a_token_counts() {
        let token = |text: &str| TokenAnswer::parse(text.as_bytes()).map(|answer| answer.token);
        for text in [
            r#"{"token": "T"}"#,
            r#"{"access_token": "T"}"#,
            r#"{"token": "", "access_token": "T"}"#,
            r#"{"token": "T", "access_token": ""}"#,
            r#"{"token": null, "access_token": "T", "expires_in": null, "issued_at": null}"#,
            r#"{"token": 7, "access_token": "T", "issued_at": 7, "refresh_token": {}}"#,
            r#"{"token": "T", "access_token": "U"}"#,
            r#"{"token": "T", "token": "T"}"#,
            r#"{"token": "T\n"}"#,
        ] {
            assert_eq!(token(text).as_deref(), Some("T"), "{text}");
        }
        for text in ["", "{}", "null", "[]", "T", r#"{"token": ""}"#, r#"{"token": null}"#, r#"{"token": " "}"#] {
            assert_eq!(token(text), None, "{text}");
        }
        let answer = TokenAnswer::parse(br#"{"token": "s3cret"}"#);
        assert!(!format!("{answer:?}").contains("s3cret"));
    }

    #[test]
    fn an_invalid_lifetime_counts_as_absent() {
        let life = |expires_in: &str| {
            let text = format!(r#"{{"token": "T", "expires_in": {expires_in}}}"#);
            TokenAnswer::parse(text.as_bytes()).unwrap().lifetime
        };
        for (expires_in, seconds) in [("300", 300), ("1", 1), ("\"300\"", 300), ("3e2", 300), ("300.0", 300)] {
            assert_eq!(life(expires_in), Duration::from_secs(seconds), "{expires_in}");
        }
        for nothing in ["0", "-1", "null", "\"\"", "\"soon\"", "\"NaN\"", "\"inf\"", "[]", "true"] {
            assert_eq!(life(nothing), DEFAULT_LIFE, "{nothing}");
        }
        for endless in ["1e300", "18446744073709551615", "99999999999999999999999"] {
            assert_eq!(life(endless), LONGEST_LIFE, "{endless}");
        }
    }

    #[test]
    fn secrets_that_a_service_repeats_are_left_out() {
        let password = Login::Password { username: b"u".to_vec(), password: b"s3cret".to_vec() };
        for (login, repeated) in
            [(&password, "s3cret"), (&password, "dTpzM2NyZXQ="), (&Login::Identity("i7".into()), "i7")]
        {
            let detail = format!(": no {repeated} here");
            let error = RegistryError::Status { url: "u".to_owned(), status: 401, detail, retry_after: None };
            assert!(error.without(&secrets(Some(login))).to_string().contains(": no … here"));
        }
        assert!(secrets(None).is_empty());
    }
}
