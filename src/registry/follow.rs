//! Requests that leave a registry's origin: redirects, uploads that go elsewhere, token services of other hosts.
//!
//! Only the registry's own origin gets its client certificate. Where the registry is at a public address, other hosts have
//! to be so too, unless its table allows others.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use reqwest::header::{AUTHORIZATION, COOKIE, LOCATION, PROXY_AUTHORIZATION};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};

use super::RegistryError;
use super::host::{Destination, MAX_REDIRECTS, Reach, is_same_origin};
use super::redirect_filter::{self, Check, REFUSED, literal};
use crate::blocking;

/// The clients for hosts other than the registry, made when they are first needed.
#[derive(Debug, Default)]
pub(super) struct OtherHosts {
    /// By whether names may only have public addresses, and whether a request may take as long as bytes flow.
    clients: Mutex<BTreeMap<(bool, bool), Client>>,
    /// The address that the registry was last reached at; none if it is not known, because a proxy is on the way.
    address: Mutex<Option<IpAddr>>,
}

impl Reach {
    /// Sends a request, and follows redirects to other origins.
    pub(super) async fn send_following(&self, url: &str, request: RequestBuilder) -> Result<Response, RegistryError> {
        let (own, request) = request.build_split();
        let mut request = request.map_err(|error| RegistryError::transport(url, &error))?;
        let mut client = if self.is_own(request.url()) {
            own.clone()
        } else {
            self.client_for(url, self.address(), request.url(), request.method()).await?
        };
        for _ in 0..=MAX_REDIRECTS {
            let next = request.try_clone();
            let answer = self.execute(url, &client, request).await?;
            self.note_address(&answer);
            let (Some(target), Some(mut next)) = (target(url, &answer)?, next) else { return Ok(answer) };
            if !keeps_method(answer.status(), next.method()) {
                return Ok(answer);
            }
            for header in [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION] {
                next.headers_mut().remove(header);
            }
            client = if self.is_own(&target) {
                own.clone()
            } else {
                self.client_for(url, self.address_of(&answer), &target, next.method()).await?
            };
            *next.url_mut() = target;
            request = next;
        }
        Err(refused(url, "too many redirects"))
    }

    /// The client for `target`, which a host at the address `source` names. `url` stands for the request in errors.
    pub(super) async fn client_for(
        &self,
        url: &str,
        source: Option<IpAddr>,
        target: &Url,
        method: &Method,
    ) -> Result<Client, RegistryError> {
        let public_only = match redirect_filter::check(source, target, self.settings.redirects) {
            Check::Refused => {
                return Err(refused(url, &format!("{}: {REFUSED}", target.host_str().unwrap_or_default())));
            }
            // The proxy resolves the name, and connects to it.
            Check::PublicOnly => self.proxy(target).is_none(),
            Check::Passed => false,
        };
        let is_patient = *method == Method::PATCH || *method == Method::PUT;
        let key = (public_only, is_patient);
        let known = self.others.clients.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(client) = known {
            return Ok(client);
        }
        let reach = self.clone();
        let timeout = (!is_patient).then_some(self.transfer.idle_timeout);
        let client = blocking::run(move || reach.client(timeout, Destination::Other { public_only })).await?;
        let mut clients = self.others.clients.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(clients.entry(key).or_insert(client).clone())
    }

    /// The address that the registry was last reached at.
    pub(super) fn address(&self) -> Option<IpAddr> {
        *self.others.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the address that the registry was reached at.
    pub(super) fn note_address(&self, answer: &Response) {
        if self.is_own(answer.url()) {
            *self.others.address.lock().unwrap_or_else(PoisonError::into_inner) = self.address_of(answer);
        }
    }

    fn address_of(&self, answer: &Response) -> Option<IpAddr> {
        if self.proxy(answer.url()).is_some() {
            return literal(answer.url());
        }
        answer.remote_addr().map(|address| address.ip())
    }

    /// True if a URL is of the registry's own origin.
    pub(super) fn is_own(&self, url: &Url) -> bool {
        is_same_origin(url, &self.base)
    }
}

/// The URL of another origin that an answer redirects to.
fn target(url: &str, answer: &Response) -> Result<Option<Url>, RegistryError> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = answer.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    let Some(Ok(mut target)) = location.map(|location| answer.url().join(location)) else { return Ok(None) };
    // Redirects within an origin are followed already, so that this one was not to be.
    if target.origin() == answer.url().origin() {
        return Ok(None);
    }
    if answer.url().scheme() == "https" && target.scheme() != "https" {
        return Err(refused(url, "a redirect from https to http is not followed"));
    }
    if !matches!(target.scheme(), "http" | "https") {
        return Err(refused(url, "a redirect to something other than http and https is not followed"));
    }
    // Credentials in an address are not sent.
    let _ = target.set_username("");
    let _ = target.set_password(None);
    Ok(Some(target))
}

/// True if a redirected request has the same method: others would become a GET, which nobody wants of an upload.
fn keeps_method(status: StatusCode, method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD) || matches!(status.as_u16(), 307 | 308)
}

fn refused(url: &str, reason: &str) -> RegistryError {
    RegistryError::Protocol {
        url: url.to_owned(),
        reason: format!("the registry redirects where it must not: {reason}"),
    }
}
