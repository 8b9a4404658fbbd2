//! Authorization towards the hosts that a registry redirects to.
//!
//! Never send the registry's credentials, or a token for it, to another origin. A redirect target that asks for a token gets
//! one of its own token service, with the credentials that are configured for the target's host, or without any.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use reqwest::Url;

use super::auth::Authorizer;
use super::host::Reach;
use super::scope::Scope;
use crate::config::RegistrySettings;

/// Redirect targets whose tokens are kept; one more clears them all.
const MAX_TARGETS: usize = 16;

/// The redirect targets of one registry.
#[derive(Debug, Default)]
pub(super) struct RedirectTargets {
    /// By their origin.
    known: Mutex<HashMap<String, Arc<Authorizer>>>,
    /// The settings of all hosts that have some.
    settings: OnceLock<Arc<BTreeMap<String, RegistrySettings>>>,
}

impl RedirectTargets {
    /// Sets the settings of other hosts.
    pub(super) fn set_settings(&self, settings: &Arc<BTreeMap<String, RegistrySettings>>) {
        let _ = self.settings.set(Arc::clone(settings));
    }

    /// The authorizer for the host of `target`, which is reached as `reach` says.
    pub(super) fn at(&self, target: &Url, reach: &Reach) -> Arc<Authorizer> {
        let origin = target.origin().ascii_serialization();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(authorizer) = known.get(&origin) {
            return Arc::clone(authorizer);
        }
        let registry = origin.split_once("://").map_or(origin.as_str(), |(_, host)| host).to_owned();
        let own = self.settings.get().and_then(|settings| settings.get(&registry).cloned());
        // The registry's client certificate is not for others; its credentials file may name other hosts.
        let settings = own.unwrap_or_else(|| RegistrySettings { client: None, ..reach.settings.clone() });
        let target = Reach::new(&origin, &registry, settings, reach.transfer.clone()).of(reach.caller);
        let authorizer = Arc::new(Authorizer::new(target));
        if known.len() >= MAX_TARGETS {
            known.clear();
        }
        known.insert(origin, Arc::clone(&authorizer));
        authorizer
    }
}

/// The scope to ask for at a redirect target: that of the repository in its path, if it is a registry's.
pub(super) fn scope_of(target: &Url) -> Scope {
    let path = target.path().strip_prefix("/v2/").unwrap_or_default();
    let named = ["/blobs/", "/manifests/"].iter().find_map(|kind| path.rsplit_once(kind));
    named.map_or_else(|| Scope::parse(""), |(repository, _)| Scope::pull(repository))
}
