//! Authorization: what a registry wants to see in a request, learned from its challenge and kept until it expires.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use oci_distribution::secrets::RegistryAuth;
use oci_distribution::{Reference, RegistryOperation};
use reqwest::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{RequestBuilder, Response};

use super::host::oci_client;
use super::{CredentialFiles, Login, RegistryError};
use crate::config::{RegistrySettings, TransferSettings};

/// Authorization towards one registry.
#[derive(Debug)]
pub(super) struct Authorizer {
    registry: String,
    plain_http: bool,
    settings: RegistrySettings,
    transfer: TransferSettings,
    credentials: CredentialFiles,
    operation: RegistryOperation,
    /// The header that worked last, by repository: tokens are good for one.
    headers: Mutex<HashMap<String, HeaderValue>>,
}

impl Authorizer {
    pub(super) fn new(
        registry: &str,
        plain_http: bool,
        settings: &RegistrySettings,
        transfer: &TransferSettings,
        operation: RegistryOperation,
    ) -> Self {
        Self {
            registry: registry.to_owned(),
            plain_http,
            settings: settings.clone(),
            transfer: transfer.clone(),
            credentials: CredentialFiles::new(settings.credentials.clone()),
            operation,
            headers: Mutex::default(),
        }
    }

    /// Adds what worked last for `repository`.
    pub(super) fn apply(&self, repository: &str, request: RequestBuilder) -> RequestBuilder {
        match self.headers.lock().unwrap_or_else(PoisonError::into_inner).get(repository) {
            Some(header) => request.header(AUTHORIZATION, header.clone()),
            None => request,
        }
    }

    /// Learns from a 401 what to send for `repository`. Says whether there is something new to try.
    pub(super) async fn learn(&self, repository: &str, refusal: &Response) -> Result<bool, RegistryError> {
        let login = self.credentials.login(&self.registry).await.map_err(|reason| self.setup(reason))?;
        let header = if offers_basic(refusal) {
            login.map(|login| basic(&login))
        } else {
            self.token(repository, login).await?.map(|token| format!("Bearer {token}"))
        };
        let Some(header) = header else { return Ok(false) };
        let mut value = HeaderValue::from_str(&header)
            .map_err(|_| self.setup("the token has characters that no header can hold".to_owned()))?;
        value.set_sensitive(true);
        self.headers.lock().unwrap_or_else(PoisonError::into_inner).insert(repository.to_owned(), value);
        Ok(true)
    }

    /// A bearer token for what is to be done with `repository`. The client is new each time: one that exists keeps the credentials
    /// that it saw first.
    async fn token(&self, repository: &str, login: Option<Login>) -> Result<Option<String>, RegistryError> {
        let client = oci_client(&self.registry, self.plain_http, &self.settings, &self.transfer).await?;
        let image = Reference::with_tag(self.registry.clone(), repository.to_owned(), "latest".to_owned());
        let auth = login.map_or(RegistryAuth::Anonymous, |login| RegistryAuth::Basic(login.username, login.password));
        let url = format!("token for {}", self.registry);
        client.auth(&image, &auth, self.operation).await.map_err(|error| RegistryError::from_client(&url, error))
    }

    fn setup(&self, reason: String) -> RegistryError {
        RegistryError::Setup { registry: self.registry.clone(), reason }
    }
}

fn offers_basic(refusal: &Response) -> bool {
    refusal
        .headers()
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|challenge| challenge.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic")))
}

fn basic(login: &Login) -> String {
    use base64::Engine;
    let pair = format!("{}:{}", login.username, login.password);
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}
