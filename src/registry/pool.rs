//! Registries by host, each with one HTTP client, made when it is first needed.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::auth::Authorizer;
use super::client::{Host, Repository};
use super::host::{api_host, http_client, is_plain_http};
use super::scope::Scope;
use super::{CredentialFiles, LayoutSource, RegistryError, Source};
use crate::blocking;
use crate::config::{RegistrySettings, Settings, TransferSettings};
use crate::oci::{Reference, RegistryReference};

/// The way to every source. Making one costs nothing: certificates are read with the first connection.
#[derive(Debug)]
pub struct Registries {
    transfer: TransferSettings,
    settings: BTreeMap<String, RegistrySettings>,
    hosts: Mutex<HashMap<String, Arc<Host>>>,
}

impl Registries {
    /// Reaches registries as `settings` say.
    pub fn new(settings: &Settings) -> Self {
        Self { transfer: settings.transfer.clone(), settings: settings.registries.clone(), hosts: Mutex::default() }
    }

    /// The source of an image.
    pub async fn source(&self, reference: &Reference) -> Result<Source, RegistryError> {
        match reference {
            Reference::Registry(reference) => {
                let (host, scope) = (self.host(reference).await?, Scope::pull(&reference.repository));
                Ok(Source::Registry(Repository { host, reference: reference.clone(), scope }))
            }
            Reference::Layout(reference) => Ok(Source::Layout(LayoutSource::new(reference.clone()))),
        }
    }

    async fn host(&self, reference: &RegistryReference) -> Result<Arc<Host>, RegistryError> {
        let registry = &reference.host;
        if let Some(host) = self.hosts().get(registry) {
            return Ok(Arc::clone(host));
        }
        let settings = self.settings.get(registry).cloned().unwrap_or_default();
        let (reference, transfer) = (reference.clone(), self.transfer.clone());
        let host = blocking::run(move || Host::new(&reference, &settings, &transfer)).await?;
        // Where two were made at a time, the first counts: its connections and tokens are shared.
        Ok(Arc::clone(self.hosts().entry(registry.clone()).or_insert_with(|| Arc::new(host))))
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<String, Arc<Host>>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    /// The way to the registry of `reference`. Reads certificates, so it blocks.
    pub(super) fn new(
        reference: &RegistryReference,
        settings: &RegistrySettings,
        transfer: &TransferSettings,
    ) -> Result<Self, RegistryError> {
        let registry = &reference.host;
        let scheme = if is_plain_http(reference.host_name(), settings) { "http" } else { "https" };
        let base = format!("{scheme}://{}", api_host(registry));
        let http = http_client(registry, reference.host_name(), settings, transfer, Some(transfer.idle_timeout))?;
        let auth = Authorizer::new(registry, &base, &http, CredentialFiles::new(settings.credentials.clone()));
        Ok(Self { http, base, auth, does_ranges: AtomicBool::new(true) })
    }
}
