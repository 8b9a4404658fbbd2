//! Who may ask for what: open to all, Basic, or Bearer with a token endpoint on the same server.

use std::collections::HashMap;
use std::sync::Mutex;

use hyper::header::WWW_AUTHENTICATE;
use hyper::{Method, StatusCode};
use serde_json::json;

use super::endpoint::{Kind, Query};
use super::journal::Request;
use super::lock;
use super::reply::{Refusal, Reply};

/// What is said of a token's life, in seconds, where a test does not care: long enough for nobody to renew it.
const TOKEN_LIFE: u64 = 300;

/// What the registry wants of a client.
#[derive(Clone, Debug, Default)]
pub enum Auth {
    #[default]
    Open,
    /// The value of the `Authorization` header that is let in.
    Basic(String),
    Bearer(Bearer),
}

impl Auth {
    pub fn basic(user: &str, password: &str) -> Self {
        Self::Basic(basic(user, password))
    }

    /// Tokens for anyone who asks; see [`Bearer`] for less.
    pub fn bearer() -> Bearer {
        Bearer::default()
    }
}

/// The terms on which the token endpoint gives tokens.
#[derive(Clone, Debug, Default)]
pub struct Bearer {
    login: Option<String>,
    identity: Option<String>,
    uses: Option<u64>,
    expires_in: Option<u64>,
    answer: Option<String>,
}

impl Bearer {
    /// Only for this user.
    pub fn login(self, user: &str, password: &str) -> Self {
        Self { login: Some(basic(user, password)), ..self }
    }

    /// Also for this identity token, by `POST` and `grant_type=refresh_token`.
    pub fn identity_token(self, token: &str) -> Self {
        Self { identity: Some(token.to_owned()), ..self }
    }

    /// A token is good for so many requests.
    pub fn uses(self, uses: u64) -> Self {
        Self { uses: Some(uses), ..self }
    }

    /// What the token endpoint says of a token's life, in seconds. Nothing enforces it: see [`Self::uses`].
    pub fn expires_in(self, seconds: u64) -> Self {
        Self { expires_in: Some(seconds), ..self }
    }

    /// The answer of the token endpoint, with TOKEN in place of the token.
    pub fn answer(self, text: &str) -> Self {
        Self { answer: Some(text.to_owned()), ..self }
    }
}

/// The registry's way to refuse a request.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    /// The lines of the challenge, with `{}` in place of the right one.
    pub challenge: Vec<Vec<u8>>,
    /// True to answer 404 to a request without the right credentials, except at `/v2/`.
    pub hides: bool,
    /// The status in place of that 404.
    pub hides_as: Option<StatusCode>,
    /// The reason of a 403, without a challenge, for wrong credentials.
    pub forbids: Option<String>,
}

impl From<Bearer> for Auth {
    fn from(bearer: Bearer) -> Self {
        Self::Bearer(bearer)
    }
}

struct Token {
    scopes: Vec<String>,
    uses_left: u64,
}

#[derive(Default)]
struct Tokens {
    issued: u64,
    valid: HashMap<String, Token>,
}

/// The door: it holds the terms, which a test may change, and the tokens that are out.
pub struct Guard {
    auth: Mutex<Auth>,
    refusals: Mutex<Refusals>,
    tokens: Mutex<Tokens>,
    realm: String,
    service: String,
}

impl Guard {
    pub fn new(auth: Auth, realm: String, service: String) -> Self {
        Self { auth: Mutex::new(auth), refusals: Mutex::default(), tokens: Mutex::default(), realm, service }
    }

    pub fn set(&self, auth: Auth) {
        *lock(&self.auth) = auth;
    }

    pub fn set_refusals(&self, refusals: Refusals) {
        *lock(&self.refusals) = refusals;
    }

    pub fn revoke(&self) {
        lock(&self.tokens).valid.clear();
    }

    /// Lets a request in, or answers it with a challenge. The token endpoint has a door of its own.
    pub fn turn_away(&self, request: &Request) -> Option<Reply> {
        let sent = request.authorization.as_deref();
        let complaint = match &*lock(&self.auth) {
            _ if request.endpoint.kind == Kind::Token => return None,
            Auth::Open => return None,
            Auth::Basic(wanted) if sent == Some(wanted) => return None,
            Auth::Basic(_) => None,
            Auth::Bearer(_) => match sent.and_then(|sent| sent.strip_prefix("Bearer ")) {
                None => None,
                Some(token) => Some(self.spend(token, request).err()?),
            },
        };
        let refusals = lock(&self.refusals).clone();
        if refusals.hides && request.endpoint.kind != Kind::Ping {
            return Some(
                Refusal::new(refusals.hides_as.unwrap_or(StatusCode::NOT_FOUND), "NAME_UNKNOWN", "hidden").into(),
            );
        }
        if let Some(reason) = refusals.forbids.filter(|_| sent.is_some()) {
            let error = json!({"code": "DENIED", "message": reason});
            return Some(Reply::json(StatusCode::FORBIDDEN, &json!({"errors": [error]})));
        }
        let refusal = Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", complaint.unwrap_or("no credentials"));
        Some(self.with_challenge(refusal.into(), request, complaint))
    }

    /// Adds the challenge to a 401 that has none, as that of a fault.
    pub fn explain(&self, reply: Reply, request: &Request) -> Reply {
        let bare = reply.status == StatusCode::UNAUTHORIZED && !reply.headers.contains_key(WWW_AUTHENTICATE);
        match request.endpoint.kind {
            Kind::Token => reply,
            _ if bare => self.with_challenge(reply, request, None),
            _ => reply,
        }
    }

    /// Says how to do better.
    fn with_challenge(&self, reply: Reply, request: &Request, complaint: Option<&str>) -> Reply {
        let challenge = match &*lock(&self.auth) {
            Auth::Open => return reply,
            Auth::Basic(_) => format!("Basic realm=\"{}\"", self.service),
            Auth::Bearer(_) => {
                let scopes: Vec<_> = needed(request)
                    .iter()
                    .map(|(repo, action)| match *action {
                        "pull" => format!("repository:{repo}:pull"),
                        _ => format!("repository:{repo}:pull,push"),
                    })
                    .collect();
                let scope = if scopes.is_empty() { String::new() } else { format!(",scope=\"{}\"", scopes.join(" ")) };
                let error = complaint.map(|complaint| format!(",error=\"{complaint}\"")).unwrap_or_default();
                format!("Bearer realm=\"{}\",service=\"{}\"{scope}{error}", self.realm, self.service)
            }
        };
        let lines = lock(&self.refusals).challenge.clone();
        if lines.is_empty() {
            return reply.header(WWW_AUTHENTICATE, &challenge);
        }
        lines.iter().fold(reply, |reply, line| {
            let at = line.windows(2).position(|pair| pair == b"{}");
            let whole = at.map(|at| [&line[..at], challenge.as_bytes(), &line[at + 2..]].concat());
            reply.line(WWW_AUTHENTICATE, &whole.unwrap_or_else(|| line.clone()))
        })
    }

    /// Uses a token once, if it is good for this request.
    fn spend(&self, token: &str, request: &Request) -> Result<(), &'static str> {
        let mut tokens = lock(&self.tokens);
        let token = tokens.valid.get_mut(token).ok_or("invalid_token")?;
        if !needed(request).iter().all(|(repo, action)| token.covers(repo, action)) {
            return Err("insufficient_scope");
        }
        token.uses_left = token.uses_left.checked_sub(1).ok_or("invalid_token")?;
        Ok(())
    }

    /// The token endpoint: parameters come in the query of a `GET`, or in the form of a `POST`.
    pub fn issue(&self, request: &Request, parameters: &Query) -> Result<Reply, Refusal> {
        let Auth::Bearer(terms) = lock(&self.auth).clone() else {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "UNSUPPORTED", "no tokens here"));
        };
        let admitted = match request.method {
            Method::POST => terms.identity.is_some() && terms.identity.as_deref() == parameters.get("refresh_token"),
            _ => terms.login.is_none() || terms.login == request.authorization,
        };
        if !admitted {
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "wrong credentials"));
        }
        let scopes = parameters.all("scope").flat_map(|scopes| scopes.split(' ')).map(str::to_owned).collect();
        let mut tokens = lock(&self.tokens);
        tokens.issued += 1;
        let token = format!("token-{}", tokens.issued);
        let uses_left = terms.uses.unwrap_or(u64::MAX);
        tokens.valid.insert(token.clone(), Token { scopes, uses_left });
        if let Some(answer) = terms.answer {
            let text = answer.replace("TOKEN", &token);
            return Ok(Reply::content(StatusCode::OK, "application/json", text.into()));
        }
        let expires_in = terms.expires_in.unwrap_or(TOKEN_LIFE);
        let answer = json!({"token": token, "access_token": token, "expires_in": expires_in});
        Ok(Reply::json(StatusCode::OK, &answer))
    }
}

impl Token {
    fn covers(&self, repo: &str, action: &str) -> bool {
        self.scopes.iter().any(|scope| {
            scope
                .strip_prefix("repository:")
                .and_then(|scope| scope.rsplit_once(':'))
                .is_some_and(|(name, actions)| name == repo && actions.split(',').any(|granted| granted == action))
        })
    }
}

/// The repositories and the actions that a token has to be for; `/v2/` wants any token.
fn needed(request: &Request) -> Vec<(String, &'static str)> {
    let repo = request.endpoint.repo.clone();
    if repo.is_empty() {
        return Vec::new();
    }
    let reading = matches!(request.method, Method::GET | Method::HEAD) && request.endpoint.kind != Kind::Upload;
    let query = Query::parse(request.uri.split_once('?').map_or("", |(_, query)| query));
    let mounted = query.get("mount").and_then(|_| query.get("from")).map(|from| (from.to_owned(), "pull"));
    std::iter::once((repo, if reading { "pull" } else { "push" })).chain(mounted).collect()
}

/// The `Authorization` header of a user and a password.
fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let symbol = |sextet: usize| ALPHABET.get(sextet).map_or('=', |symbol| char::from(*symbol));
    let quartet = |group: &[u8]| {
        let bits = group.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte)) << (8 * (3 - group.len()));
        let padding = ALPHABET.len();
        let filled = group.len();
        (0..4).map(move |at| if at <= filled { bits >> (18 - 6 * at) & 63 } else { padding })
    };
    bytes.chunks(3).flat_map(quartet).map(symbol).collect()
}
