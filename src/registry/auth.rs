//! Authorization: what a registry wants to see in a request, learned from its challenge and kept until it expires.

pub(super) mod config_edit;
pub(super) mod config_json;
mod entry_key;
pub(super) mod places;
pub(super) mod www_authenticate;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Client, Response, StatusCode};
use tokio::sync::{Mutex as AsyncMutex, OnceCell};

use super::challenge::Challenge;
use super::credentials::{FileError, Search};
use super::host::{Destination, Reach, is_same_origin};
use super::scope::Scope;
use super::token;
use super::{CredentialFiles, Login, RegistryError};
use crate::blocking;
use crate::wording::list;

/// Scopes of one host that are remembered; a node pulls from far fewer repositories.
const MAX_SCOPES: usize = 1000;

/// Time to remember that `/v2/` asks for no credentials.
const PROBE_LIFE: Duration = Duration::from_secs(60);

/// Authorization towards one registry.
#[derive(Debug)]
pub(super) struct Authorizer {
    registry: String,
    /// The URL of its API.
    base: String,
    /// How it, and whoever it leads to, is reached.
    pub(super) reach: Reach,
    /// The client for tokens, made when the first one is wanted.
    http: OnceCell<Client>,
    credentials: CredentialFiles,
    /// What was learned last, by what it allows.
    known: Mutex<HashMap<Scope, Known>>,
    /// The credentials that were tried, by scope, for the message of a refusal.
    tried: Mutex<HashMap<Scope, Tried>>,
    /// When `/v2/` was last seen to ask for no credentials.
    open_since: Mutex<Option<Instant>>,
    /// Held by whoever learns: where many requests are refused at a time, one asks for a token.
    learning: AsyncMutex<()>,
}

/// What to send.
#[derive(Clone, Debug)]
struct Known {
    header: HeaderValue,
    challenge: Challenge,
    /// Of a token: when another one is needed.
    good_until: Option<Instant>,
    /// What is behind it; none if it is anonymous.
    login: Option<Login>,
}

/// The credentials that were tried, for the message of a refusal.
#[derive(Clone, Debug)]
struct Tried {
    account: String,
    /// True if a helper or a file failed: a 404 then names the credentials too.
    has_failed: bool,
}

impl Known {
    fn is_good(&self) -> bool {
        self.good_until.is_none_or(|good_until| Instant::now() < good_until)
    }
}

impl Authorizer {
    pub(super) fn new(reach: Reach) -> Self {
        let credentials = CredentialFiles::new(reach.settings.credentials.clone(), reach.caller);
        Self {
            registry: reach.registry.clone(),
            base: reach.base.clone(),
            reach,
            http: OnceCell::new(),
            credentials,
            known: Mutex::default(),
            tried: Mutex::default(),
            open_since: Mutex::default(),
            learning: AsyncMutex::default(),
        }
    }

    /// The header to send with a request that `scope` allows; none where nothing was learned yet. A token that is about to
    /// expire is replaced first.
    pub(super) async fn header(&self, scope: &Scope) -> Result<Option<HeaderValue>, RegistryError> {
        match self.known(scope) {
            Some(known) if known.is_good() => Ok(Some(known.header)),
            Some(known) => {
                let renewed = self.replace(scope, Some(&known.header), known.challenge, None).await?;
                Ok(renewed.or(Some(known.header)))
            }
            None => Ok(None),
        }
    }

    /// The header to send in place of `sent`, which was refused; none if there is nothing new to try. Credentials are read
    /// again, because the login that was sent may have expired and been renewed.
    pub(super) async fn learn(
        &self,
        scope: &Scope,
        sent: Option<&HeaderValue>,
        refusal: &Response,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let known = self.known(scope).filter(|known| Some(&known.header) == sent);
        self.reach.note_address(refusal);
        match refusal.status() {
            StatusCode::UNAUTHORIZED => {
                let challenge = match Challenge::of(refusal.headers(), &self.base) {
                    Some(challenge) => Some(challenge),
                    None if known.is_some() => known.map(|known| known.challenge),
                    None if refusal.headers().contains_key(WWW_AUTHENTICATE) => None,
                    None => self.probe().await,
                };
                let Some(challenge) = challenge else {
                    self.note_unsupported(scope, refusal);
                    return Ok(None);
                };
                self.replace(scope, sent, challenge, None).await
            }
            StatusCode::FORBIDDEN if known.as_ref().is_some_and(|known| known.login.is_some()) => match known {
                Some(known) => self.replace(scope, sent, known.challenge, None).await,
                None => Ok(None),
            },
            // Without credentials, some registries deny that a private image is there.
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
                if known.as_ref().is_none_or(|known| known.login.is_none()) =>
            {
                self.log_in(scope, sent, known).await
            }
            // Others answer so if the login has expired or has lost its rights. At a push, much is just not there yet.
            status if is_renewable(status) && scope.is_read_only() => match known {
                Some(known) => self.renew_login(scope, sent, known).await,
                None => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// The credentials that were tried, for the message of a refusal with `status`.
    pub(super) fn account(&self, scope: &Scope, status: u16) -> Option<String> {
        let tried = lock(&self.tried).get(scope).cloned()?;
        (matches!(status, 401 | 403) || (status == 404 && tried.has_failed)).then_some(tried.account)
    }

    /// What is secret of the header that is sent for `scope`.
    pub(super) fn secrets(&self, scope: &Scope) -> Vec<String> {
        let header = self.known(scope).and_then(|known| known.header.to_str().map(str::to_owned).ok());
        header.iter().filter_map(|header| header.split_once(' ')).map(|(_, secret)| secret.to_owned()).collect()
    }

    /// Replaces anonymous access by a login, if there is one.
    async fn log_in(
        &self,
        scope: &Scope,
        sent: Option<&HeaderValue>,
        known: Option<Known>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        if known.is_none() && lock(&self.open_since).is_some_and(|since| since.elapsed() < PROBE_LIFE) {
            return Ok(None);
        }
        let search = match self.search(scope).await {
            Ok(search) if search.login.is_some() => search,
            // The registry's answer says more than a file that may have nothing to do with it.
            Ok(_) | Err(_) => return Ok(None),
        };
        let challenge = match known {
            Some(known) => Some(known.challenge),
            None => self.probe().await,
        };
        match challenge {
            Some(challenge) => self.replace(scope, sent, challenge, Some(search)).await,
            None => Ok(None),
        }
    }

    /// Replaces a login by the one that the credentials have now, if that is another one.
    async fn renew_login(
        &self,
        scope: &Scope,
        sent: Option<&HeaderValue>,
        known: Known,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        match self.search(scope).await {
            Ok(search) if search.login.is_some() && search.login != known.login => {
                self.replace(scope, sent, known.challenge, Some(search)).await
            }
            // The registry's answer says more than a file that may have nothing to do with it.
            Ok(_) | Err(_) => Ok(None),
        }
    }

    /// The challenge of the API's root; none if the registry is open to all, or does not answer.
    async fn probe(&self) -> Option<Challenge> {
        let url = format!("{}/v2/", self.base);
        let http = self.http().await.ok()?;
        let answer = self.reach.send(&url, http.get(&url)).await.ok()?;
        let challenge = Challenge::of(answer.headers(), &self.base).filter(|_| is_same_origin(answer.url(), &url));
        if answer.status() == StatusCode::UNAUTHORIZED && challenge.is_some() {
            return challenge;
        }
        *lock(&self.open_since) = Some(Instant::now());
        None
    }

    async fn replace(
        &self,
        scope: &Scope,
        sent: Option<&HeaderValue>,
        challenge: Challenge,
        found: Option<Search>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let _only_us = self.learning.lock().await;
        if let Some(known) = self.known(scope).filter(|known| known.is_good() && Some(&known.header) != sent) {
            return Ok(Some(known.header));
        }
        let search = match found {
            Some(search) => search,
            // Read anew each time, because the files change while we run.
            None => self.search(scope).await?,
        };
        let (header, good_until) = match (&challenge, &search.login) {
            (Challenge::Basic, Some(Login::Password { username, password })) => {
                if let Ok(base) = self.base.parse() {
                    token::warn_of_plain_text(&base, search.login.as_ref());
                }
                (self.secret(&format!("Basic {}", token::basic(username, password)))?, None)
            }
            (Challenge::Basic, _) => return Ok(None),
            (Challenge::Bearer(_), Some(Login::Token(token))) => (self.secret(&format!("Bearer {token}"))?, None),
            (Challenge::Bearer(realm), login) => {
                let wanted = realm.scope.as_ref().map_or_else(|| scope.clone(), |named| scope.as_challenged(named));
                let http = self.http().await?;
                let token = token::fetch(http, &self.reach, realm, &wanted, login.as_ref()).await;
                let token = token.map_err(|error| match error {
                    RegistryError::Status { status: 400..=403, .. } => error.with_account(&search.account),
                    error => error,
                })?;
                (self.secret(&format!("Bearer {}", token.secret))?, Some(token.good_until))
            }
        };
        let known = Known { header: header.clone(), challenge, good_until, login: search.login };
        insert_capped(&self.known, scope, known);
        Ok((Some(&header) != sent).then_some(header))
    }

    async fn search(&self, scope: &Scope) -> Result<Search, RegistryError> {
        match self.credentials.search(&self.registry, scope.repository()).await {
            Ok(search) => {
                self.note(scope, search.account.clone(), search.has_failed);
                Ok(search)
            }
            Err(error) => {
                self.note(scope, error.to_string(), true);
                Err(match error {
                    FileError::Forbidden(error) => error.into(),
                    FileError::Unusable(reason) => self.setup(reason),
                })
            }
        }
    }

    fn note(&self, scope: &Scope, account: String, has_failed: bool) {
        insert_capped(&self.tried, scope, Tried { account, has_failed });
    }

    /// Records, for the message, that no challenge can be met.
    fn note_unsupported(&self, scope: &Scope, refusal: &Response) {
        let offered = Challenge::schemes(refusal.headers());
        let account = if offered.is_empty() {
            "it does not say how to log in (WWW-Authenticate), so that no credentials were sent".to_owned()
        } else {
            format!("it asks for {}, and only Basic and Bearer are supported", list(&offered))
        };
        self.note(scope, account, false);
    }

    async fn http(&self) -> Result<&Client, RegistryError> {
        let reach = self.reach.clone();
        self.http
            .get_or_try_init(|| {
                blocking::run(move || reach.client(Some(reach.transfer.idle_timeout), Destination::Registry))
            })
            .await
    }

    fn known(&self, scope: &Scope) -> Option<Known> {
        lock(&self.known).get(scope).cloned()
    }

    fn secret(&self, header: &str) -> Result<HeaderValue, RegistryError> {
        let mut value = HeaderValue::from_str(header)
            .map_err(|_| self.setup("the token has characters that no header can hold".to_owned()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn setup(&self, reason: String) -> RegistryError {
        RegistryError::Setup { registry: self.registry.clone(), reason }
    }
}

/// Whether another login could change a refusal.
fn is_renewable(status: StatusCode) -> bool {
    status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS
}

/// Inserts an entry, in place of all others if there are too many: a registry's redirects can lead to any number of scopes.
fn insert_capped<T>(entries: &Mutex<HashMap<Scope, T>>, scope: &Scope, entry: T) {
    let mut entries = lock(entries);
    if entries.len() >= MAX_SCOPES {
        entries.clear();
    }
    entries.insert(scope.clone(), entry);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
