//! Registries by host, each with one HTTP client, made when it is first needed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use oci_distribution::RegistryOperation;

use super::auth::Authorizer;
use super::client::{Host, Repository};
use super::host::{http_client, is_plain_http};
use super::{LayoutSource, RegistryError, Source};
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
    pub fn source(&self, reference: &Reference) -> Result<Source, RegistryError> {
        match reference {
            Reference::Registry(reference) => {
                Ok(Source::Registry(Repository { host: self.host(reference)?, reference: reference.clone() }))
            }
            Reference::Layout(reference) => Ok(Source::Layout(LayoutSource::new(reference.clone()))),
        }
    }

    /// What is special about a registry.
    pub fn settings(&self, registry: &str) -> RegistrySettings {
        self.settings.get(registry).cloned().unwrap_or_default()
    }

    fn host(&self, reference: &RegistryReference) -> Result<Arc<Host>, RegistryError> {
        let registry = &reference.host;
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get(registry) {
            return Ok(Arc::clone(host));
        }
        let host = Arc::new(host(reference, &self.settings(registry), &self.transfer, RegistryOperation::Pull)?);
        hosts.insert(registry.clone(), Arc::clone(&host));
        Ok(host)
    }
}

/// The way to the registry of `reference`, for what is to be done there.
pub(super) fn host(
    reference: &RegistryReference,
    settings: &RegistrySettings,
    transfer: &TransferSettings,
    operation: RegistryOperation,
) -> Result<Host, RegistryError> {
    let registry = &reference.host;
    let plain_http = is_plain_http(reference.host_name(), settings);
    Ok(Host {
        http: http_client(registry, reference.host_name(), settings, transfer, Some(transfer.idle_timeout))?,
        base: format!("{}://{registry}", if plain_http { "http" } else { "https" }),
        auth: Authorizer::new(registry, plain_http, settings, transfer, operation),
    })
}
