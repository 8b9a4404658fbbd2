//! Registries by host, each with one HTTP client, made when it is first needed, and made anew when its certificate files
//! have changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::auth::Authorizer;
use super::client::{Host, Repository};
use super::host::{Destination, Reach, api_host, is_plain_http};
use super::redirect::RedirectTargets;
use super::scope::Scope;
use super::{Caller, LayoutSource, RegistryError, Route, Source};
use crate::blocking;
use crate::config::{RegistrySettings, Settings, TransferSettings};
use crate::oci::{Reference, RegistryReference};

/// `HOST[:PORT]`, and whether it was said to be reached without TLS.
type HostKey = (String, Option<bool>);

/// The way to every source. Making one costs nothing: certificates are read with the first connection.
#[derive(Debug)]
pub struct Registries {
    caller: Caller,
    transfer: TransferSettings,
    settings: Arc<BTreeMap<String, RegistrySettings>>,
    hosts: Mutex<HashMap<HostKey, Arc<Host>>>,
}

impl Registries {
    /// Reaches registries as `settings` say, for `caller`.
    pub fn new(settings: &Settings, caller: Caller) -> Self {
        let registries = Arc::new(settings.registries.clone());
        Self { caller, transfer: settings.transfer.clone(), settings: registries, hosts: Mutex::default() }
    }

    /// The source of an image.
    pub async fn source(&self, reference: &Reference) -> Result<Source, RegistryError> {
        match reference {
            Reference::Registry(reference) => Ok(Source::Registry(self.route(reference).await?)),
            Reference::Layout(reference) => Ok(Source::Layout(LayoutSource::new(reference.clone()))),
        }
    }

    async fn route(&self, reference: &RegistryReference) -> Result<Route, RegistryError> {
        let reference = &reference.for_api();
        let settings = self.settings.get(&reference.host).cloned().unwrap_or_default();
        let mut mirrors = Vec::with_capacity(settings.mirrors.len());
        for mirror in &settings.mirrors {
            let there = RegistryReference {
                host: mirror.host.clone(),
                repository: format!("{}{}", mirror.prefix, reference.repository),
                ..reference.clone()
            };
            let settings = self.settings.get(&mirror.host).cloned().unwrap_or_default();
            let resolves_tags = settings.resolve_tags && !mirror.plain_http;
            let settings = RegistrySettings { insecure: Some(mirror.plain_http), ..settings };
            let mirrored = Some(reference.host.clone());
            match self.repository(there, settings).await {
                Ok(repository) => mirrors.push(Repository { mirrored, resolves_tags, ..repository }),
                // The registry itself may well be reached.
                Err(error) => tracing::warn!(mirror = mirror.host, %error, "a mirror is left out"),
            }
        }
        Ok(Route { mirrors, origin: self.repository(reference.clone(), settings).await? })
    }

    async fn repository(
        &self,
        reference: RegistryReference,
        settings: RegistrySettings,
    ) -> Result<Repository, RegistryError> {
        let host = self.host(&reference, settings).await?;
        let scope = Scope::pull(&reference.repository);
        Ok(Repository { host, reference, scope, mirrored: None, resolves_tags: false })
    }

    /// A host is another one where it is reached otherwise: as a mirror without TLS, as a registry with it.
    async fn host(
        &self,
        reference: &RegistryReference,
        settings: RegistrySettings,
    ) -> Result<Arc<Host>, RegistryError> {
        let key = (reference.host.clone(), settings.insecure);
        let known = self.hosts().get(&key).cloned();
        let (reference, transfer, old) = (reference.clone(), self.transfer.clone(), known.clone());
        let caller = self.caller;
        let host = blocking::run(move || match old {
            Some(old) if old.files == old.auth.reach.file_states() => Ok(old),
            Some(old) => Host::new(&reference, &settings, &transfer, caller).map(|new| {
                tracing::info!(registry = reference.host, "its certificate files have changed");
                Arc::new(Host { standing: Arc::clone(&old.standing), ..new })
            }),
            None => Host::new(&reference, &settings, &transfer, caller).map(Arc::new),
        });
        let host = host.await?;
        host.redirects.set_settings(&self.settings);
        let mut hosts = self.hosts();
        match hosts.get(&key) {
            // Where two were made at a time, the first counts: its connections and tokens are shared.
            Some(first) if known.is_none_or(|known| !Arc::ptr_eq(&known, first)) => Ok(Arc::clone(first)),
            _ => {
                hosts.insert(key, Arc::clone(&host));
                Ok(host)
            }
        }
    }

    /// Asks again those that asked to be left alone, or were down: somebody wants to know now.
    pub fn rouse(&self) {
        for host in self.hosts().values() {
            host.standing.rouse();
        }
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<HostKey, Arc<Host>>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    /// The way to the registry of `reference`. Reads certificates, so it blocks.
    pub(super) fn new(
        reference: &RegistryReference,
        settings: &RegistrySettings,
        transfer: &TransferSettings,
        caller: Caller,
    ) -> Result<Self, RegistryError> {
        let scheme = if is_plain_http(reference.host_name(), settings) { "http" } else { "https" };
        let base = format!("{scheme}://{}", api_host(&reference.host));
        let reach = Reach::new(&base, &reference.host, settings.clone(), transfer.clone()).of(caller);
        let files = reach.file_states();
        let http = reach.client(Some(transfer.idle_timeout), Destination::Registry)?;
        let auth = Authorizer::new(reach);
        Ok(Self {
            http,
            base,
            auth,
            redirects: RedirectTargets::default(),
            files,
            standing: Arc::default(),
            idle_timeout: transfer.idle_timeout,
        })
    }
}
