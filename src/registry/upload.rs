//! The writing half of the distribution API: blobs in one stream each, then the manifest that names them.
//!
//! The upload client sends credentials only to the registry itself, wherever an upload is sent to. Two of its ways end
//! the process where a registry answers with something odd, and are not taken: it is never left to fetch a token itself
//! (one that fits into no header is fatal to it, so tokens are fetched and checked first), and a manifest is pushed by
//! tag only (by digest, an answer without a `Location` is fatal).

use std::io;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use oci_distribution::errors::OciDistributionError;
use oci_distribution::secrets::RegistryAuth;
use oci_distribution::token_cache::RegistryTokenType;
use oci_distribution::{Client, Reference, RegistryOperation};
use reqwest::header::HeaderValue;
use tokio::sync::RwLock;

use super::host::{is_plain_http, oci_client};
use super::{CredentialFiles, RegistryError};
use crate::config::{RegistrySettings, Settings, TransferSettings};
use crate::oci::{Descriptor, RegistryReference};

/// A blob's bytes on their way out.
pub type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Uploads into one repository of a registry.
pub struct Uploader {
    image: Reference,
    base: String,
    plain_http: bool,
    settings: RegistrySettings,
    transfer: TransferSettings,
    credentials: CredentialFiles,
    /// The client with the authorization that it was made for.
    client: RwLock<Client>,
}

impl Uploader {
    /// Reaches the registry of `reference` as `settings` say, and asks it for leave to push. Its tag is what a manifest
    /// will be pushed to.
    pub async fn connect(settings: &Settings, reference: &RegistryReference) -> Result<Self, RegistryError> {
        let registry = settings.registries.get(&reference.host).cloned().unwrap_or_default();
        let plain_http = is_plain_http(reference.host_name(), &registry);
        let tag = reference.tag.clone().unwrap_or_else(|| "latest".to_owned());
        let scheme = if plain_http { "http" } else { "https" };
        let uploader = Self {
            base: format!("{scheme}://{}/v2/{}", reference.host, reference.repository),
            image: Reference::with_tag(reference.host.clone(), reference.repository.clone(), tag),
            plain_http,
            credentials: CredentialFiles::new(registry.credentials.clone()),
            client: RwLock::new(oci_client(&reference.host, plain_http, &registry, &settings.transfer).await?),
            settings: registry,
            transfer: settings.transfer.clone(),
        };
        uploader.authorize().await?;
        Ok(uploader)
    }

    /// Whether the repository has a blob.
    pub async fn has(&self, blob: &Descriptor) -> Result<bool, RegistryError> {
        let (url, digest) = (self.url("blobs", blob), blob.digest.to_string());
        let ask = |client: Client| {
            let digest = digest.clone();
            async move { client.blob_exists(&self.image, &digest).await }
        };
        self.authorized(&url, ask).await
    }

    /// Sends a blob. `bytes` opens it; a second time where the authorization has expired meanwhile.
    pub async fn blob(&self, blob: &Descriptor, bytes: impl Fn() -> ByteStream) -> Result<(), RegistryError> {
        let (url, digest, size) = (self.url("blobs", blob), blob.digest.to_string(), blob.size);
        let send = |client: Client| {
            let (bytes, digest) = (bytes().map(|piece| piece.map_err(OciDistributionError::from)), digest.clone());
            async move { client.push_blob_stream(&self.image, bytes, &digest, Some(size)).await }
        };
        match self.authorized(&url, send).await {
            // Some registries take a blob and do not say where it is, as the specification wants them to.
            Err(RegistryError::Protocol { .. }) if self.has(blob).await.unwrap_or(false) => Ok(()),
            result => result.map(|_location| ()),
        }
    }

    /// Sends the manifest, under the reference's tag. All of its blobs have been sent before.
    pub async fn manifest(&self, manifest: &Descriptor, bytes: &Bytes) -> Result<(), RegistryError> {
        let url = self.url("manifests", manifest);
        let media_type = HeaderValue::from_str(&manifest.media_type)
            .map_err(|error| RegistryError::Protocol { url: url.clone(), reason: error.to_string() })?;
        let send = |client: Client| {
            let (bytes, media_type) = (bytes.clone(), media_type.clone());
            async move { client.push_manifest_raw(&self.image, bytes, media_type).await }
        };
        self.authorized(&url, send).await.map(|_location| ())
    }

    fn url(&self, kind: &str, content: &Descriptor) -> String {
        format!("{}/{kind}/{}", self.base, content.digest)
    }

    /// Makes a request; on a 401, once more with a new authorization.
    async fn authorized<T, R>(&self, url: &str, request: impl Fn(Client) -> R) -> Result<T, RegistryError>
    where
        R: Future<Output = Result<T, OciDistributionError>>,
    {
        let client = self.client.read().await.clone();
        match request(client).await.map_err(|error| RegistryError::from_client(url, error)) {
            Err(RegistryError::Status { status: 401, .. }) => {
                self.authorize().await?;
                let client = self.client.read().await.clone();
                request(client).await.map_err(|error| RegistryError::from_client(url, error))
            }
            result => result,
        }
    }

    /// Gets a token, or finds that none is wanted, and makes a client that uses it.
    async fn authorize(&self) -> Result<(), RegistryError> {
        let registry = self.image.resolve_registry();
        let setup = |reason: String| RegistryError::Setup { registry: registry.to_owned(), reason };
        let new_client = || oci_client(registry, self.plain_http, &self.settings, &self.transfer);
        let login = self.credentials.login(self.image.registry()).await.map_err(setup)?;
        let basic = login.map(|login| (login.username, login.password));
        let auth = basic.clone().map_or(RegistryAuth::Anonymous, |(name, word)| RegistryAuth::Basic(name, word));
        let token = new_client()
            .await?
            .auth(&self.image, &auth, RegistryOperation::Push)
            .await
            .map_err(|error| RegistryError::from_client(&format!("token for {registry}"), error))?;
        let client = new_client().await?;
        match (token, basic) {
            (Some(token), _) => {
                HeaderValue::from_str(&format!("Bearer {token}"))
                    .map_err(|_| setup("the token has characters that no header can hold".to_owned()))?;
                client.store_auth_if_needed(registry, &RegistryAuth::Bearer(token)).await;
            }
            (None, Some((name, word))) => {
                client.store_auth_if_needed(registry, &auth).await;
                for operation in [RegistryOperation::Push, RegistryOperation::Pull] {
                    let token = RegistryTokenType::Basic(name.clone(), word.clone());
                    client.tokens.insert(&self.image, operation, token).await;
                }
            }
            (None, None) => {}
        }
        *self.client.write().await = client;
        Ok(())
    }
}
