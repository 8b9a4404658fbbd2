//! Authorization: what a registry wants to see in a request, learned from its challenge and kept until it expires.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use reqwest::{Client, Response};
use tokio::sync::{Mutex as AsyncMutex, OnceCell};

use super::challenge::{Challenge, Realm};
use super::host::Reach;
use super::scope::Scope;
use super::token;
use super::{CredentialFiles, Login, RegistryError};
use crate::blocking;

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
    /// Held by whoever learns: where many requests are refused at a time, one asks for a token.
    learning: AsyncMutex<()>,
}

/// What to send.
#[derive(Clone, Debug)]
struct Known {
    header: HeaderValue,
    /// Of a token: where it came from, and when another one is needed.
    renewal: Option<(Realm, Instant)>,
}

impl Known {
    fn is_good(&self) -> bool {
        self.renewal.as_ref().is_none_or(|(_, good_until)| Instant::now() < *good_until)
    }
}

impl Authorizer {
    pub(super) fn new(base: &str, reach: Reach) -> Self {
        let credentials = CredentialFiles::new(reach.settings.credentials.clone());
        Self {
            registry: reach.registry.clone(),
            base: base.to_owned(),
            reach,
            http: OnceCell::new(),
            credentials,
            known: Mutex::default(),
            learning: AsyncMutex::default(),
        }
    }

    /// The header to send with a request that `scope` allows; none where nothing was learned yet. A token that is about to
    /// expire is replaced first.
    pub(super) async fn header(&self, scope: &Scope) -> Result<Option<HeaderValue>, RegistryError> {
        let Some(known) = self.known(scope) else { return Ok(None) };
        if known.is_good() {
            return Ok(Some(known.header));
        }
        let Some((realm, _)) = known.renewal else { return Ok(None) };
        self.replace(scope, Some(&known.header), Challenge::Bearer(realm)).await
    }

    /// Learns from a 401 to a request that had the header `sent` what to send in its place; none where there is nothing
    /// new to try.
    pub(super) async fn learn(
        &self,
        scope: &Scope,
        sent: Option<&HeaderValue>,
        refusal: &Response,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        match Challenge::of(refusal.headers()) {
            Some(challenge) => self.replace(scope, sent, challenge).await,
            None => Ok(None),
        }
    }

    async fn replace(
        &self,
        scope: &Scope,
        sent: Option<&HeaderValue>,
        challenge: Challenge,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let _only_us = self.learning.lock().await;
        if let Some(known) = self.known(scope).filter(|known| known.is_good() && Some(&known.header) != sent) {
            return Ok(Some(known.header));
        }
        // Read anew each time, because the files change while we run.
        let login = self.credentials.login(&self.registry).await.map_err(|reason| self.setup(reason))?;
        let known = match challenge {
            Challenge::Basic => match login {
                Some(Login::Password { username, password }) => {
                    let pair = STANDARD.encode(format!("{username}:{password}"));
                    Known { header: self.secret(&format!("Basic {pair}"))?, renewal: None }
                }
                _ => return Ok(None),
            },
            Challenge::Bearer(realm) => {
                let wanted = realm.scope.iter().fold(scope.clone(), |wanted, named| wanted.and(named.clone()));
                let http = self.http().await?;
                let token = token::fetch(http, &self.reach, &self.base, &realm, &wanted, login.as_ref()).await?;
                let header = self.secret(&format!("Bearer {}", token.secret))?;
                Known { header, renewal: Some((realm, token.good_until)) }
            }
        };
        let header = known.header.clone();
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(scope.clone(), known);
        Ok((Some(&header) != sent).then_some(header))
    }

    async fn http(&self) -> Result<&Client, RegistryError> {
        let reach = self.reach.clone();
        self.http
            .get_or_try_init(|| blocking::run(move || reach.client(Some(reach.transfer.idle_timeout), false)))
            .await
    }

    fn known(&self, scope: &Scope) -> Option<Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(scope).cloned()
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
