//! One upload of a blob: begun, fed, asked how far it is, closed (distribution specification, "Pushing blobs").

use std::io;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, LOCATION, RANGE};
use reqwest::{Body, Client, Method, RequestBuilder, Response, StatusCode, Url};

use super::RegistryError;
use super::answer::refusal;
use super::client::Repository;
use super::pulse::{COMMIT_TIMEOUT, Pulse};
use super::scope::Scope;
use super::upload_answer::{upload_held, upload_location};
use crate::config::TransferSettings;
use crate::failure::Kind;
use crate::oci::Descriptor;

/// A blob's bytes on their way out.
pub type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// The way to where uploads go.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) repository: Repository,
    /// A client that lets a request take as long as bytes flow.
    pub(super) patient: Client,
    pub(super) transfer: TransferSettings,
}

/// An upload under way: where it goes on, which every answer may change.
#[derive(Clone, Debug)]
pub(super) struct Session {
    location: Url,
    /// How many bytes the registry has.
    pub(super) held: u64,
}

/// How an upload begins.
pub(super) enum Start {
    /// With nothing to do: the registry has taken the blob over from its other repository.
    Mounted,
    /// With bytes to send.
    Session(Session),
}

impl Desk {
    /// Begins an upload of `blob`, or has it taken over from the repository `from`.
    pub(super) async fn begin(&self, blob: &Descriptor, from: Option<&str>) -> Result<Start, RegistryError> {
        let url = self.repository.url("blobs", "uploads/");
        let query = from.map(|from| format!("?mount={}&from={from}", blob.digest)).unwrap_or_default();
        let asked = format!("{url}{query}");
        let post = || self.repository.host.http.post(&asked).header(CONTENT_LENGTH, 0);
        // A token for the one repository would let the registry see nothing in the other.
        let scope = from.iter().fold(self.repository.scope.clone(), |scope, from| scope.and(Scope::pull(from)));
        let answer = self.repository.send_for(&scope, &url, post).await?;
        match answer.status() {
            StatusCode::CREATED if from.is_some() => Ok(Start::Mounted),
            StatusCode::ACCEPTED => {
                let base = parse(&url, &url)?;
                let location =
                    next(&url, &base, answer.headers())?.ok_or_else(|| protocol(&url, "it does not say where to"))?;
                Ok(Start::Session(Session { location, held: 0 }))
            }
            _ => Err(self.repository.refusal(&url, answer).await),
        }
    }

    /// Asks how far an upload is; none where the registry knows nothing of it any more, or does not tell.
    pub(super) async fn look(&self, session: &Session) -> Result<Option<Session>, RegistryError> {
        let url = self.name(session);
        let ask = || self.repository.host.http.get(session.location.clone());
        let answer = self.request(&url, session, ask).await?;
        if answer.status() != StatusCode::NO_CONTENT {
            return if answer.status().is_server_error() { Err(refusal(&url, answer).await) } else { Ok(None) };
        }
        // "0-0" is one byte to some and none to others: what is so little is sent again.
        let Some(held) = held(answer.headers()).filter(|held| *held > 1) else { return Ok(None) };
        let location = next(&url, &session.location, answer.headers())?.unwrap_or_else(|| session.location.clone());
        Ok(Some(Session { location, held }))
    }

    /// Sends what is missing of `blob`, in one stream, and closes the upload.
    pub(super) async fn feed(
        &self,
        blob: &Descriptor,
        session: Session,
        bytes: &(impl Fn(u64) -> ByteStream + Sync),
    ) -> Result<(), RegistryError> {
        let session = if session.held < blob.size { self.patch(blob, session, bytes).await? } else { session };
        let url = self.name(&session);
        let mut target = session.location.clone();
        target.query_pairs_mut().append_pair("digest", &blob.digest.to_string());
        let put = || {
            let put = self.patient.put(target.clone()).timeout(self.transfer.idle_timeout.max(COMMIT_TIMEOUT));
            put.header(CONTENT_LENGTH, 0).header(CONTENT_TYPE, "application/octet-stream")
        };
        let answer = self.request(&url, &session, put).await?;
        if answer.status().is_success() { Ok(()) } else { Err(broken(&url, answer).await) }
    }

    /// Gives up an upload that is of no use. That is a favour to the registry, which would forget it some day by itself.
    pub(super) async fn cancel(&self, session: &Session) {
        let url = self.name(session);
        let delete = || self.repository.host.http.delete(session.location.clone());
        if let Err(error) = self.request(&url, session, delete).await {
            tracing::debug!(%error, "an upload that is not used stays open");
        }
    }

    async fn patch(
        &self,
        blob: &Descriptor,
        session: Session,
        bytes: &(impl Fn(u64) -> ByteStream + Sync),
    ) -> Result<Session, RegistryError> {
        let url = self.name(&session);
        let left = blob.size - session.held;
        let pulse = Pulse::new(left, self.transfer.idle_timeout);
        let patch = || {
            let felt = pulse.clone();
            let body = bytes(session.held).inspect(move |piece| felt.beat(piece.as_ref().map_or(0, Bytes::len)));
            let patch = self.patient.request(Method::PATCH, session.location.clone());
            let patch = patch.header(CONTENT_TYPE, "application/octet-stream").header(CONTENT_LENGTH, left);
            // A first chunk that is everything needs no range, and some registries know none.
            let range = (session.held > 0).then(|| format!("{}-{}", session.held, blob.size - 1));
            let patch = if let Some(range) = range { patch.header(CONTENT_RANGE, range) } else { patch };
            patch.body(Body::wrap_stream(body))
        };
        let answer = tokio::select! {
            answer = self.request(&url, &session, patch) => answer?,
            () = pulse.stopped() => return Err(stalled(&url)),
        };
        match answer.status() {
            status if status.is_success() => {
                let location = next(&url, &session.location, answer.headers())?;
                Ok(Session { location: location.unwrap_or(session.location), held: blob.size })
            }
            _ => Err(broken(&url, answer).await),
        }
    }

    /// Sends a request of an upload: with credentials where it stays with the registry, without where it does not. `name`
    /// stands for the URL in messages.
    async fn request(
        &self,
        name: &str,
        session: &Session,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Response, RegistryError> {
        if self.is_at_home(session) {
            self.repository.send(name, request).await
        } else {
            self.repository.host.auth.reach.send_following(name, request()).await
        }
    }

    /// The URL of an upload for messages, without its query, which may hold secrets. For an upload at another host, the
    /// message says who named that host.
    fn name(&self, session: &Session) -> String {
        let url = format!("{}{}", session.location.origin().ascii_serialization(), session.location.path());
        if self.is_at_home(session) {
            url
        } else {
            format!("{url} (the Location that {} names for the upload)", self.repository.url("blobs", "uploads/"))
        }
    }

    /// True if an upload is at the registry itself.
    fn is_at_home(&self, session: &Session) -> bool {
        let registry: Result<Url, _> = self.repository.host.base.parse();
        registry.is_ok_and(|registry| registry.origin() == session.location.origin())
    }
}

/// The error that an answer to bytes stands for. Sessions expire, and some registries keep none over a restart or a
/// connection that broke.
async fn broken(url: &str, answer: Response) -> RegistryError {
    match refusal(url, answer).await {
        RegistryError::Status { url, status: status @ (404 | 416), detail, .. } => {
            RegistryError::UploadLost { url, status, detail }
        }
        error => error,
    }
}

/// Where an answer says that an upload goes on.
fn next(url: &str, base: &Url, headers: &HeaderMap) -> Result<Option<Url>, RegistryError> {
    let Some(location) = headers.get(LOCATION) else { return Ok(None) };
    let text = location.to_str().map_err(|_| protocol(url, "it sends the upload to an address that is no text"))?;
    upload_location(base, text).map(Some).map_err(|reason| protocol(url, &reason))
}

/// How much an answer says that is there.
fn held(headers: &HeaderMap) -> Option<u64> {
    upload_held(headers.get(RANGE)?.to_str().ok()?)
}

fn parse(url: &str, text: &str) -> Result<Url, RegistryError> {
    text.parse().map_err(|error| protocol(url, &format!("this is no URL: {error}")))
}

fn protocol(url: &str, reason: &str) -> RegistryError {
    RegistryError::Protocol { url: url.to_owned(), reason: reason.to_owned() }
}

fn stalled(url: &str) -> RegistryError {
    let (what, cause) = ("the registry stopped taking bytes", String::from("the upload stands still"));
    RegistryError::Transport { url: url.to_owned(), kind: Kind::Timeout, what, cause }
}
