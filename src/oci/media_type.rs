//! Media types of manifests, indexes and what they name, OCI's and docker's.

use oci_distribution::manifest;

/// An OCI image manifest.
pub const MANIFEST: &str = manifest::OCI_IMAGE_MEDIA_TYPE;
/// An OCI image index.
pub const INDEX: &str = manifest::OCI_IMAGE_INDEX_MEDIA_TYPE;
/// A docker image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = manifest::IMAGE_MANIFEST_MEDIA_TYPE;
/// A docker manifest list.
pub const DOCKER_LIST: &str = manifest::IMAGE_MANIFEST_LIST_MEDIA_TYPE;
/// The config of a container image.
pub const CONFIG: &str = manifest::IMAGE_CONFIG_MEDIA_TYPE;
/// A tar packed with gzip.
pub const LAYER_GZIP: &str = manifest::IMAGE_LAYER_GZIP_MEDIA_TYPE;

/// All that a manifest request accepts. Registries answer 404 to a request that does not name the stored type.
pub const ACCEPTED: [&str; 4] = [MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_LIST];

/// True for the media type of a manifest or an index.
pub fn is_image(media_type: &str) -> bool {
    is_manifest(media_type) || is_index(media_type)
}

/// True for the media types of docker's first schema, plain or signed.
pub fn is_docker_schema_1(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.distribution.manifest.v1+")
}

/// Whether `media_type` is that of an image manifest.
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, MANIFEST | DOCKER_MANIFEST)
}

/// Whether `media_type` is that of an index of manifests.
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, INDEX | DOCKER_LIST)
}
