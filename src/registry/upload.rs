//! The writing half of the distribution API: blobs, then the manifest that names them. What breaks off goes on, a few
//! times; `docs/decisions/0008-blobs-are-uploaded-by-hand.md` says why no client library does this.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, RANGE};
use reqwest::{Method, StatusCode};

use super::client::{Host, Repository};
use super::host::Destination;
use super::scope::Scope;
use super::session::{ByteStream, Desk, Session, Start};
use super::{Attempts, Caller, RegistryError};
use crate::blocking;
use crate::config::{RetrySettings, Settings};
use crate::oci::{Descriptor, RegistryReference};

/// Uploads into one repository of a registry.
#[derive(Debug)]
pub struct Uploader {
    desk: Desk,
    retry: RetrySettings,
    /// Repositories of the same registry that may have a blob already.
    mount_from: Vec<String>,
    /// Whether the registry has answered yet: one that never did is not asked for long.
    reached: AtomicBool,
}

/// How a blob came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It was there.
    Present,
    /// The registry has it from another repository.
    Mounted,
    /// Its bytes were sent.
    Uploaded,
}

impl Uploader {
    /// Reaches the registry of `reference` as `settings` say. Nothing is asked of it yet.
    pub async fn new(
        settings: &Settings,
        reference: &RegistryReference,
        mount_from: Vec<String>,
    ) -> Result<Self, RegistryError> {
        let registry = settings.registries.get(&reference.host).cloned().unwrap_or_default();
        let (reference, transfer) = (reference.for_api(), settings.transfer.clone());
        let desk = blocking::run(move || {
            let host = Arc::new(Host::new(&reference, &registry, &transfer, Caller::User)?);
            let patient = host.auth.reach.client(None, Destination::Registry)?;
            let scope = Scope::push(&reference.repository);
            Ok::<_, RegistryError>(Desk {
                repository: Repository { host, reference, scope, mirrored: None, resolves_tags: false },
                patient,
                transfer,
            })
        })
        .await?;
        Ok(Self { desk, retry: settings.retry, mount_from, reached: AtomicBool::new(false) })
    }

    /// Sends a blob, unless it is there. `bytes` opens it at an offset, anew for each try.
    pub async fn blob(
        &self,
        blob: &Descriptor,
        bytes: impl Fn(u64) -> ByteStream + Sync,
    ) -> Result<Sent, RegistryError> {
        let (mut attempts, mut session, mut furthest) = (Attempts::new(self.retry), None, 0);
        loop {
            match self.attempt(blob, &mut session, &bytes).await {
                Ok(sent) => return Ok(sent),
                Err(error) => {
                    self.wait(&mut attempts, error).await?;
                    let held = session.as_ref().map_or(0, |session: &Session| session.held);
                    if held > furthest {
                        furthest = held;
                        attempts.note_progress();
                    }
                }
            }
        }
    }

    async fn attempt(
        &self,
        blob: &Descriptor,
        session: &mut Option<Session>,
        bytes: &(impl Fn(u64) -> ByteStream + Sync),
    ) -> Result<Sent, RegistryError> {
        if self.has(blob).await? {
            return Ok(Sent::Present);
        }
        let under_way = match session.as_ref() {
            Some(left) => self.desk.look(left).await?.filter(|session| session.held <= blob.size),
            None => None,
        };
        *session = None;
        let begun = match under_way {
            Some(session) => session,
            None => match self.begin(blob).await? {
                Start::Mounted => return Ok(Sent::Mounted),
                Start::Session(session) => session,
            },
        };
        *session = Some(begun.clone());
        let fed = self.desk.feed(blob, begun, bytes).await;
        if matches!(fed, Err(RegistryError::UploadLost { .. })) {
            // It would be lost the next time as well.
            *session = None;
        }
        fed.map(|()| Sent::Uploaded)
    }

    /// Begins an upload; before it, tries the repositories that may have the blob. That is a favour: where a registry
    /// does not do it, the bytes are sent.
    async fn begin(&self, blob: &Descriptor) -> Result<Start, RegistryError> {
        let mut opened: Option<Session> = None;
        for from in &self.mount_from {
            match self.desk.begin(blob, Some(from)).await {
                Ok(Start::Mounted) => {
                    if let Some(unused) = &opened {
                        self.desk.cancel(unused).await;
                    }
                    return Ok(Start::Mounted);
                }
                // It has opened an upload instead; one of them serves as well.
                Ok(Start::Session(session)) => {
                    if let Some(unused) = opened.replace(session) {
                        self.desk.cancel(&unused).await;
                    }
                }
                Err(error) => tracing::debug!(from, %error, "the registry does not mount a blob"),
            }
        }
        match opened {
            Some(session) => Ok(Start::Session(session)),
            None => self.desk.begin(blob, None).await,
        }
    }

    /// Whether the repository has a blob.
    async fn has(&self, blob: &Descriptor) -> Result<bool, RegistryError> {
        let url = self.desk.repository.url("blobs", &blob.digest.to_string());
        let head = || self.desk.repository.host.http.request(Method::HEAD, &url);
        let answer = self.desk.repository.send(&url, head).await?;
        self.reached.store(true, Relaxed);
        let is_last =
            answer.status() == StatusCode::TOO_MANY_REQUESTS || self.desk.repository.host.standing.wait().is_some();
        let answer = match answer.status() {
            status if status.is_success() || status == StatusCode::NOT_FOUND || is_last => answer,
            // Only the answer to GET has a body that says why.
            _ => {
                let get = || self.desk.repository.host.http.get(&url).header(RANGE, "bytes=0-0");
                self.desk.repository.send(&url, get).await?
            }
        };
        match answer.status() {
            status if status.is_success() => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.desk.repository.refusal(&url, answer).await),
        }
    }

    /// Sends a manifest or an index, under `tag` or under its digest alone. All that it names was sent before.
    pub async fn document(&self, document: &Descriptor, bytes: &Bytes, tag: Option<&str>) -> Result<(), RegistryError> {
        let digest = document.digest.to_string();
        let url = self.desk.repository.url("manifests", tag.unwrap_or(&digest));
        let mut attempts = Attempts::new(self.retry);
        loop {
            match self.put(&url, document, bytes).await {
                Ok(()) => return Ok(()),
                Err(error) => self.wait(&mut attempts, error).await?,
            }
        }
    }

    async fn put(&self, url: &str, document: &Descriptor, bytes: &Bytes) -> Result<(), RegistryError> {
        let put = || {
            let put = self.desk.repository.host.http.put(url).header(CONTENT_TYPE, &document.media_type);
            put.body(bytes.clone())
        };
        let answer = self.desk.repository.send(url, put).await?;
        self.reached.store(true, Relaxed);
        if answer.status().is_success() { Ok(()) } else { Err(self.desk.repository.refusal(url, answer).await) }
    }

    /// What the reference's tag leads to now, if it leads to something.
    pub async fn tagged(&self, tag: &str) -> Result<Option<Bytes>, RegistryError> {
        let url = self.desk.repository.url("manifests", tag);
        let mut attempts = Attempts::new(self.retry);
        loop {
            match self.desk.repository.get_document(&url).await {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(RegistryError::Status { status: 404, .. }) => return Ok(None),
                Err(error) => self.wait(&mut attempts, error).await?,
            }
        }
    }

    /// Waits for the next try, or gives the error back where another one is of no use.
    async fn wait(&self, attempts: &mut Attempts, error: RegistryError) -> Result<(), RegistryError> {
        if self.reached.load(Relaxed) {
            attempts.note_reached();
        }
        if attempts.wait(&error).await { Ok(()) } else { Err(error) }
    }
}
