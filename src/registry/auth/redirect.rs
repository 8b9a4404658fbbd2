//! Authorization towards the hosts that a registry redirects to.
//!
//! Never send the registry's credentials, or a token for it, to another origin. A redirect target that asks for a token gets
//! one of its own token service, with the credentials that are configured for the target's host, or without any.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use reqwest::Url;

use super::{Authorizer, lock};
use crate::config::RegistrySettings;
use crate::registry::host::Reach;
use crate::registry::scope::Scope;

/// Redirect targets whose tokens are kept. Those of more are forgotten.
const MAX_TARGETS: usize = 16;

/// The redirect targets of one registry, by their origin.
#[derive(Debug, Default)]
pub(in crate::registry) struct RedirectTargets(Mutex<HashMap<String, Arc<Authorizer>>>);

impl RedirectTargets {
    /// The authorizer for the host of `target`, which is reached as `reach` says.
    pub(in crate::registry) fn at(&self, target: &Url, reach: &Reach) -> Arc<Authorizer> {
        let origin = target.origin().ascii_serialization();
        let mut known = lock(&self.0);
        if let Some(authorizer) = known.get(&origin) {
            return Arc::clone(authorizer);
        }
        let registry = origin.split_once("://").map_or(origin.as_str(), |(_, host)| host).to_owned();
        // What proves who we are to the registry is not for others.
        let settings = RegistrySettings { client: None, ..reach.settings.clone() };
        let authorizer = Arc::new(Authorizer::new(&origin, Reach { registry, settings, ..reach.clone() }));
        if known.len() >= MAX_TARGETS {
            known.clear();
        }
        known.insert(origin, Arc::clone(&authorizer));
        authorizer
    }
}

/// The scope to ask for at a redirect target: that of the repository in its path, if it is a registry's.
pub(in crate::registry) fn scope_of(target: &Url) -> Scope {
    let path = target.path().strip_prefix("/v2/").unwrap_or_default();
    let named = ["/blobs/", "/manifests/"].iter().find_map(|kind| path.rsplit_once(kind));
    named.map_or_else(|| Scope::parse(""), |(repository, _)| Scope::pull(repository))
}
