//! One repository of a registry: resolve, documents, blobs.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, HeaderMap, RANGE};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};

use super::answer::{read_up_to, refusal, retry_after};
use super::auth::Authorizer;
use super::host::{FileStates, is_same_origin};
use super::redirect::{RedirectTargets, scope_of};
use super::scope::Scope;
use super::{BlobStream, RegistryError, Standing};
use crate::oci::{Descriptor, Digest, DocumentError, MAX_DOCUMENT_BYTES, RegistryReference, media_type};

/// The header in which a registry names a manifest's digest.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// One registry, shared by all of its repositories.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) http: Client,
    /// `http://HOST[:PORT]` or `https://…`
    pub(super) base: String,
    /// What is remembered of it.
    pub(super) standing: Arc<Standing>,
    pub(super) auth: Authorizer,
    /// The hosts that it has redirected to.
    pub(super) redirects: RedirectTargets,
    /// The certificate files as they were when `http` was made of them.
    pub(super) files: FileStates,
    /// How long it may send next to nothing.
    pub(super) idle_timeout: Duration,
}

/// A repository, and the tag or digest that a reference names in it.
#[derive(Clone, Debug)]
pub(super) struct Repository {
    pub(super) host: Arc<Host>,
    pub(super) reference: RegistryReference,
    /// What is to be done there.
    pub(super) scope: Scope,
    /// Of a mirror: the registry that it mirrors, which it is told as containerd tells it (its documentation, "Registry
    /// Host Namespace").
    pub(super) mirrored: Option<String>,
    /// Of a mirror: true if it may say which manifest a tag leads to.
    pub(super) resolves_tags: bool,
}

impl Repository {
    /// The digest that the reference names, or that its tag has now.
    pub(super) async fn resolve(&self) -> Result<Digest, RegistryError> {
        if let Some(digest) = self.reference.digest {
            return Ok(digest);
        }
        let url = self.url("manifests", &self.reference.target());
        let head = self.send(&url, || accept_documents(self.host.http.request(Method::HEAD, &url))).await?;
        if head.status() == StatusCode::OK
            && let Some(digest) = content_digest(head.headers())
        {
            return Ok(digest);
        }
        // A registry that asks for fewer requests gets no second one.
        if head.status() == StatusCode::TOO_MANY_REQUESTS || self.host.standing.wait().is_some() {
            return Err(self.refusal(&url, head).await);
        }
        // Some registries answer GET only, and only the answer to GET has a body that says why.
        self.get_document(&url).await.map(|bytes| Digest::of(&bytes))
    }

    /// The manifest or index with `digest`.
    pub(super) async fn document(&self, digest: &Digest) -> Result<Bytes, RegistryError> {
        let url = self.url("manifests", &digest.to_string());
        let bytes = self.get_document(&url).await?;
        let actual = Digest::of(&bytes);
        if actual == *digest { Ok(bytes) } else { Err(RegistryError::Digest { url, expected: *digest, actual }) }
    }

    pub(super) async fn get_document(&self, url: &str) -> Result<Bytes, RegistryError> {
        let response = self.send(url, || accept_documents(self.host.http.get(url))).await?;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(url, response).await);
        }
        let too_large = |size| RegistryError::Document { url: url.to_owned(), source: DocumentError::TooLarge(size) };
        if let Some(size) = response
            .content_length()
            .and_then(|size| usize::try_from(size).ok())
            .filter(|size| *size > MAX_DOCUMENT_BYTES)
        {
            return Err(too_large(size));
        }
        let bytes = read_up_to(url, response, MAX_DOCUMENT_BYTES + 1, self.host.idle_timeout).await?;
        if bytes.len() > MAX_DOCUMENT_BYTES { Err(too_large(bytes.len())) } else { Ok(bytes) }
    }

    /// A part of a blob, or all of it where the registry does not do ranges right. One that does not is not asked for
    /// parts again.
    pub(super) async fn blob(&self, blob: &Descriptor, part: Range<u64>) -> Result<BlobStream, RegistryError> {
        let url = self.url("blobs", &blob.digest.to_string());
        if part != (0..blob.size) && self.does_ranges() {
            let range = format!("bytes={}-{}", part.start, part.end - 1);
            let response = self.send(&url, || self.host.http.get(&url).header(RANGE, &range)).await?;
            match response.status() {
                StatusCode::PARTIAL_CONTENT => match content_range(response.headers()) {
                    Some((sent, size))
                        if sent == part
                            && size.is_none_or(|size| size == blob.size)
                            && response.content_length().is_none_or(|length| length == part.end - part.start) =>
                    {
                        return Ok(self.stream(part, url, response));
                    }
                    Some((_, Some(actual))) if actual != blob.size => {
                        return Err(RegistryError::Size { url, expected: blob.size, actual });
                    }
                    _ => self.note_no_ranges(&url),
                },
                StatusCode::OK => {
                    self.note_no_ranges(&url);
                    return self.whole(url, response, blob.size);
                }
                StatusCode::RANGE_NOT_SATISFIABLE => self.note_no_ranges(&url),
                _ => return Err(self.refusal(&url, response).await),
            }
        }
        let response = self.send(&url, || self.host.http.get(&url)).await?;
        match response.status() {
            StatusCode::OK => self.whole(url, response, blob.size),
            _ => Err(self.refusal(&url, response).await),
        }
    }

    fn whole(&self, url: String, response: Response, size: u64) -> Result<BlobStream, RegistryError> {
        match response.content_length() {
            Some(actual) if actual != size => Err(RegistryError::Size { url, expected: size, actual }),
            _ => Ok(self.stream(0..size, url, response)),
        }
    }

    fn stream(&self, part: Range<u64>, url: String, response: Response) -> BlobStream {
        let mirror = self.mirrored.is_some().then(|| Arc::clone(&self.host.standing));
        BlobStream { part, mirror, bytes: body(url, response) }
    }

    /// Whether it has lately sent the parts of blobs that it was asked for.
    pub(super) fn does_ranges(&self) -> bool {
        self.host.standing.does_ranges()
    }

    fn note_no_ranges(&self, url: &str) {
        if self.host.standing.gets_ranges_wrong() {
            tracing::warn!(url, "the registry gets ranges wrong; what breaks off there begins anew");
        }
    }

    pub(super) fn url(&self, kind: &str, target: &str) -> String {
        let namespace = self.mirrored.as_ref().map(|registry| format!("?ns={registry}")).unwrap_or_default();
        format!("{}/v2/{}/{kind}/{target}{namespace}", self.host.base, self.reference.repository)
    }

    /// Sends a request; on a challenge, once more with the authorization that it asks for.
    pub(super) async fn send(
        &self,
        url: &str,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Response, RegistryError> {
        self.send_for(&self.scope, url, request).await
    }

    /// As [`Self::send`], with authorization for `scope`.
    pub(super) async fn send_for(
        &self,
        scope: &Scope,
        url: &str,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Response, RegistryError> {
        if let Some(wait) = self.host.standing.wait() {
            return Err(RegistryError::Resting { url: url.to_owned(), wait });
        }
        let auth = &self.host.auth;
        let (mut header, mut is_retry) = (auth.header(scope).await?, false);
        loop {
            let request_with = header.iter().fold(request(), |request, header| request.header(AUTHORIZATION, header));
            let response = auth.reach.send_following(url, request_with).await?;
            if !is_same_origin(response.url(), url) {
                return self.redirected(url, request, response).await;
            }
            // Everybody who wants something of it waits as long as it asks one to.
            if matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
                && let Some(wait) = retry_after(response.headers())
            {
                self.host.standing.rest(wait);
            }
            if is_retry {
                return Ok(response);
            }
            match auth.learn(scope, header.as_ref(), &response).await? {
                Some(learned) => (header, is_retry) = (Some(learned), true),
                None => return Ok(response),
            }
        }
    }

    /// Repeats the request at a redirect target that asks for authorization. A redirect target does not speak for the registry; never
    /// send it the registry's credentials. A token that was refused is replaced once.
    async fn redirected(
        &self,
        url: &str,
        request: impl Fn() -> RequestBuilder,
        answer: Response,
    ) -> Result<Response, RegistryError> {
        let target = answer.url().clone();
        let auth = self.host.redirects.at(&target, &self.host.auth.reach);
        let scope = scope_of(&target);
        let (mut answer, mut sent) = (answer, None);
        for _ in 0..2 {
            if answer.status() != StatusCode::UNAUTHORIZED || !is_same_origin(answer.url(), target.as_str()) {
                break;
            }
            let Some(header) = auth.learn(&scope, sent.as_ref(), &answer).await? else { break };
            let (client, request) = request().build_split();
            let mut request = request.map_err(|error| RegistryError::transport(url, &error))?;
            if !matches!(*request.method(), Method::GET | Method::HEAD) {
                break;
            }
            *request.url_mut() = target.clone();
            let again = RequestBuilder::from_parts(client, request).header(AUTHORIZATION, &header);
            answer = self.host.auth.reach.send_following(url, again).await?;
            sent = Some(header);
        }
        Ok(answer)
    }

    /// The error that a refusing answer stands for. It names the credentials that were tried, and the host that answered if
    /// that is a redirect target.
    pub(super) async fn refusal(&self, url: &str, answer: Response) -> RegistryError {
        let (status, answered) = (answer.status().as_u16(), answer.url().clone());
        let auth = &self.host.auth;
        let error = refusal(url, answer).await.without(&auth.secrets(&self.scope));
        let account = if is_same_origin(&answered, url) {
            auth.account(&self.scope, status)
        } else {
            let origin = answered.origin().ascii_serialization();
            let account = self.host.redirects.at(&answered, &auth.reach).account(&scope_of(&answered), status);
            let account = account.map(|account| format!("; {account}")).unwrap_or_default();
            Some(format!("this is the answer of {origin}, which the registry redirects to{account}"))
        };
        account.iter().fold(error, |error, account| error.with_account(account))
    }
}

fn accept_documents(request: RequestBuilder) -> RequestBuilder {
    media_type::ACCEPTED.iter().fold(request, |request, name| request.header(ACCEPT, *name))
}

fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(CONTENT_DIGEST)?.to_str().ok()?.parse().ok()
}

fn body(
    url: String,
    response: Response,
) -> std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<Bytes, RegistryError>> + Send>> {
    response.bytes_stream().map_err(move |error| RegistryError::transport(&url, &error)).boxed()
}

/// What a partial answer says that it is: `bytes START-END/SIZE`, where the size may be `*`.
fn content_range(headers: &HeaderMap) -> Option<(Range<u64>, Option<u64>)> {
    let (range, size) = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let size = if size == "*" { None } else { Some(size.parse().ok()?) };
    Some((first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_is_read_as_it_is_meant() {
        let read =
            |value: &'static str| content_range(&[(CONTENT_RANGE, value.parse().unwrap())].into_iter().collect());
        assert_eq!(read("bytes 5-9/10"), Some((5..10, Some(10))));
        assert_eq!(read("bytes 0-0/*"), Some((0..1, None)));
        for nonsense in
            ["", "bytes", "bytes */10", "bytes 5-/10", "5-9/10", "bytes 0-18446744073709551615/1", "bytes 1-2/x"]
        {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
        assert_eq!(content_range(&HeaderMap::new()), None);
    }
}
