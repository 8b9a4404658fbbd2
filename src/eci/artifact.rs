//! An ECI as its manifest describes it: which blob becomes which file.

use std::collections::{BTreeMap, BTreeSet};

use super::media_type::Part;
use super::{
    DiskFormat, FileName, FileNameError, ImagePath, ImagePathError, LABEL_PREFIX, MEDIA_TYPE, ROLE, Role, label,
};
use crate::failure::{Classify, Kind, Retry};
use crate::oci::{Descriptor, Digest, Manifest, TITLE};
use crate::wording::short_list;

/// The files of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// The image's config.
    pub config: Descriptor,
    /// All layers, in order: a file that is named by its path may be in any of them.
    pub layers: Vec<Descriptor>,
    /// Kernel, initrd and disks, in the manifest's order.
    pub files: Vec<File>,
}

/// One file of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// What it is for.
    pub role: Role,
    /// Its place among the additional disks, from 0; 0 for all else.
    pub index: usize,
    /// Its name in the directory of a generation.
    pub name: FileName,
    /// The disk's format; none where it is no disk.
    pub disk_format: Option<DiskFormat>,
    /// Where its bytes are.
    pub source: Source,
}

/// Where a file's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// They are the blob's: the artifacts format.
    Blob(Descriptor),
    /// They are the layer's, or those of the one file that is packed in it; its bytes decide. The legacy format.
    Layer(Descriptor),
    /// They are those of the file at a path in the image's file system: images by ordinary container tools.
    Path(ImagePath),
}

/// Why a manifest describes no image that can be deployed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactError {
    /// A name is refused.
    #[error("layer {digest}: {source}")]
    Name {
        /// The layer's digest.
        digest: String,
        /// What is wrong with the name.
        source: FileNameError,
    },
    /// Two files want one name.
    #[error("two layers have the file name {0}")]
    Duplicate(FileName),
    /// Two files want a role that only one can have.
    #[error("two layers have the role {0}")]
    TwoOf(Role),
    /// Annotation and media type contradict each other, or make no sense.
    #[error("layer {digest} has the role {role:?} and the media type {media_type:?}, which do not go together")]
    Role {
        /// The layer's digest.
        digest: String,
        /// The role it claims.
        role: String,
        /// The media type it claims.
        media_type: String,
    },
    /// One digest is said to have two lengths.
    #[error("the manifest gives {0} two different sizes")]
    TwoSizes(Digest),
    /// A label or annotation leads to no file.
    #[error("the label {key}: {source}")]
    Label {
        /// The label's key.
        key: String,
        /// What is wrong with its value.
        source: ImagePathError,
    },
    /// A label or annotation whose key begins as ours do, and names nothing that there is.
    #[error("the label {0} is not understood; there are kernel, initrd, root, disk-0, disk-1 and so on")]
    UnknownLabel(String),
    /// The config, which would name the files, is none.
    #[error("the image's config cannot be read: {0}")]
    Config(String),
    /// A label names a file that no layer has.
    #[error("no layer has the file {0}")]
    NoSuchFile(ImagePath),
    /// A label names a link to a file that no layer has.
    #[error("no layer has the file {target}, which {path} is a link to")]
    NoSuchTarget {
        /// The label's path.
        path: ImagePath,
        /// The path that the link leads to.
        target: ImagePath,
    },
    /// A label names a link that is not followed.
    #[error("the file {path} is refused: {reason}")]
    Link {
        /// The label's path.
        path: ImagePath,
        /// The reason.
        reason: String,
    },
    /// Nothing in it is part of an ECI.
    #[error("not an edge container image: {0}")]
    NothingToBoot(String),
}

impl Classify for ArtifactError {
    fn kind(&self) -> Kind {
        match self {
            Self::Name { .. } => Kind::FileNameInvalid,
            Self::Duplicate(_) => Kind::FileNameDuplicate,
            Self::TwoOf(_) => Kind::RoleDuplicate,
            Self::Role { .. } => Kind::MediaTypeMismatch,
            Self::Label { .. } | Self::UnknownLabel(_) | Self::TwoSizes(_) => Kind::ManifestInvalid,
            Self::Config(_) => Kind::ConfigDamaged,
            Self::NoSuchFile(_) | Self::NoSuchTarget { .. } => Kind::FileMissing,
            Self::Link { .. } => Kind::ArchiveRefused,
            Self::NothingToBoot(_) => Kind::NotBootable,
        }
    }

    /// The same manifest says the same again.
    fn retry(&self) -> Retry {
        Retry::Never
    }
}

/// Files or layers that a message names.
const MAX_NAMED: usize = 10;
const NEITHER: &str = "it has neither a root disk nor a kernel among";

/// What an image has where nothing of it boots: the files that it names, else its layers, and what may be missing.
fn found(manifest: &Manifest, files: &[File]) -> String {
    let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
    let layers: Vec<_> = manifest.layers.iter().map(|layer| layer.media_type.as_str()).collect();
    match (names.is_empty(), layers.is_empty()) {
        (false, _) => format!("{NEITHER} the files {}", short_list(&names, MAX_NAMED)),
        (true, true) => "it has no layers".to_owned(),
        (true, false) if Artifact::has_container_layers(manifest) => format!(
            "{NEITHER} the layers {}; of a container image, labels say which files they are: \
             {LABEL_PREFIX}kernel=/boot/vmlinuz, or {LABEL_PREFIX}root with the path of a disk",
            short_list(&layers, MAX_NAMED)
        ),
        (true, false) => format!("{NEITHER} the layers {}", short_list(&layers, MAX_NAMED)),
    }
}

impl Artifact {
    /// Reads what `manifest` says, by its layers' media types and annotations, or by annotations of its own that name
    /// paths.
    pub fn from_manifest(manifest: &Manifest) -> Result<Self, ArtifactError> {
        let mut files = Vec::with_capacity(manifest.layers.len());
        let mut additional = 0;
        for layer in &manifest.layers {
            if let Some(file) = File::from_layer(layer, additional)? {
                additional += usize::from(file.role == Role::DiskAdditional);
                files.push(file);
            }
        }
        if files.is_empty() {
            files = label::files(&manifest.annotations)?;
        }
        Self::new(manifest, files)
    }

    /// Reads what the labels in `config`, the image's config, say of `manifest`.
    pub fn from_config(manifest: &Manifest, config: &[u8]) -> Result<Self, ArtifactError> {
        let labels = label::of_config(config).map_err(ArtifactError::Config)?;
        Self::new(manifest, label::files(&labels)?)
    }

    /// Whether an image whose manifest does not say what it is may say so in its config: the layers of those by ordinary
    /// container tools are file systems.
    pub fn has_container_layers(manifest: &Manifest) -> bool {
        let is_one = |layer: &Descriptor| {
            layer.media_type.contains(".image.layer.") || layer.media_type.contains(".image.rootfs.")
        };
        manifest.layers.iter().any(is_one)
    }

    fn new(manifest: &Manifest, files: Vec<File>) -> Result<Self, ArtifactError> {
        check_unique(&files)?;
        check_sizes(manifest)?;
        if !files.iter().any(|file| matches!(file.role, Role::Kernel | Role::DiskRoot)) {
            return Err(ArtifactError::NothingToBoot(found(manifest, &files)));
        }
        Ok(Self { config: manifest.config.clone(), layers: manifest.layers.clone(), files })
    }
}

impl File {
    /// The file that a layer holds; none where the layer has nothing to do with an ECI.
    fn from_layer(layer: &Descriptor, index: usize) -> Result<Option<Self>, ArtifactError> {
        let media_type = layer.annotation(MEDIA_TYPE).unwrap_or(&layer.media_type);
        let role = layer.annotation(ROLE);
        let Some(part) = Part::of(media_type) else {
            return if role.is_some() { Err(mismatch(layer, role, media_type)) } else { Ok(None) };
        };
        let role = match (role.map(Role::from_annotation), part) {
            (Some(Some(role)), part) if part.fits(role) => role,
            (Some(_), _) => return Err(mismatch(layer, role, media_type)),
            (None, Part::Kernel) => Role::Kernel,
            (None, Part::Initrd) => Role::Initrd,
            (None, Part::Other) => Role::Other,
            (None, Part::Disk(_)) => role_of_disk(layer.annotation(TITLE)),
        };
        let disk_format = match part {
            Part::Disk(format) => Some(format),
            _ => None,
        };
        let index = if role == Role::DiskAdditional { index } else { 0 };
        let name = FileName::canonical(role, index, layer.annotation(TITLE), disk_format)
            .map_err(|source| ArtifactError::Name { digest: layer.digest.to_string(), source })?;
        let source = if is_packed(&layer.media_type) { Source::Layer } else { Source::Blob };
        Ok(Some(Self { role, index, name, disk_format, source: source(layer.clone()) }))
    }

    /// The layer that is, or holds, the file, where it is known which one that is.
    pub fn layer(&self) -> Option<&Descriptor> {
        match &self.source {
            Source::Blob(layer) | Source::Layer(layer) => Some(layer),
            Source::Path(_) => None,
        }
    }

    /// The name of the stable symlink to it, where its own name varies.
    pub fn stable_name(&self) -> Option<String> {
        match self.role {
            Role::DiskRoot => Some("disk-root".to_owned()),
            Role::DiskAdditional => Some(format!("disk-{}", self.index)),
            Role::Kernel | Role::Initrd | Role::Other => None,
        }
    }

    /// The format as `launch.json` names it.
    pub fn format(&self) -> &'static str {
        match (self.role, self.disk_format) {
            (_, Some(format)) => format.as_str(),
            (Role::Kernel, None) => "kernel",
            (Role::Initrd, None) => "cpio",
            (_, None) => "other",
        }
    }
}

/// A disk without a role is the root disk where its title says so: older tools write titles only.
fn role_of_disk(title: Option<&str>) -> Role {
    if title.is_some_and(|title| title.starts_with("disk-root-")) { Role::DiskRoot } else { Role::DiskAdditional }
}

/// Layers of container images are archives, or plain files that call themselves so.
fn is_packed(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.")
}

fn mismatch(layer: &Descriptor, role: Option<&str>, media_type: &str) -> ArtifactError {
    ArtifactError::Role {
        digest: layer.digest.to_string(),
        role: role.unwrap_or_default().to_owned(),
        media_type: media_type.to_owned(),
    }
}

fn check_unique(files: &[File]) -> Result<(), ArtifactError> {
    for role in [Role::Kernel, Role::Initrd, Role::DiskRoot] {
        if files.iter().filter(|file| file.role == role).count() > 1 {
            return Err(ArtifactError::TwoOf(role));
        }
    }
    let mut names = BTreeSet::new();
    match files.iter().find(|file| !names.insert(&file.name)) {
        Some(file) => Err(ArtifactError::Duplicate(file.name.clone())),
        None => Ok(()),
    }
}

/// A blob has one length; a manifest that gives it two lies in one of them.
fn check_sizes(manifest: &Manifest) -> Result<(), ArtifactError> {
    let mut sizes = BTreeMap::new();
    match manifest.blobs().find(|blob| *sizes.entry(blob.digest).or_insert(blob.size) != blob.size) {
        Some(blob) => Err(ArtifactError::TwoSizes(blob.digest)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::media_type;
    use super::*;

    fn layer(media_type: &str, role: Option<&str>, title: Option<&str>) -> Descriptor {
        let mut layer = Descriptor::of(media_type, title.unwrap_or(media_type).as_bytes());
        layer.annotations.extend(role.map(|role| (ROLE.to_owned(), role.to_owned())));
        layer.annotations.extend(title.map(|title| (TITLE.to_owned(), title.to_owned())));
        layer
    }

    fn read(layers: Vec<Descriptor>) -> Result<Vec<(Role, String)>, ArtifactError> {
        let artifact = Artifact::from_manifest(&Manifest::new(Descriptor::of(media_type::CONFIG, b"{}"), layers))?;
        Ok(artifact.files.into_iter().map(|file| (file.role, file.name.to_string())).collect())
    }

    fn raw() -> String {
        media_type::disk(DiskFormat::Raw)
    }

    #[test]
    fn roles_come_from_annotations_or_media_types() {
        let files = read(vec![
            layer("application/vnd.lfedge.eci.kernel.layer.v1.tar", None, None),
            layer(media_type::INITRD, Some("initrd"), Some("initrd.img")),
            layer(&raw(), Some("disk-root"), Some("root.raw")),
            layer(&raw(), Some("disk-additional"), Some("a.raw")),
            layer(&raw(), None, Some("b.raw")),
            layer("text/plain", None, Some("unrelated")),
        ])
        .unwrap();
        let names: Vec<_> = files.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["kernel", "initrd", "disk-root-root.raw", "disk-0-a.raw", "disk-1-b.raw"]);
    }

    #[test]
    fn an_image_that_contradicts_itself_is_refused() {
        let root = || layer(&raw(), Some("disk-root"), Some("root.raw"));
        let other = layer(&raw(), Some("disk-root"), Some("other.raw"));
        assert_eq!(read(vec![root(), other]), Err(ArtifactError::TwoOf(Role::DiskRoot)));
        assert!(matches!(read(vec![layer(&raw(), Some("kernel"), None)]), Err(ArtifactError::Role { .. })));
        assert!(matches!(read(vec![layer(&raw(), Some("disk-root"), Some("../x"))]), Err(ArtifactError::Name { .. })));
        let clash = layer(media_type::OTHER, None, Some("disk-root-root.raw"));
        assert!(matches!(read(vec![root(), clash]), Err(ArtifactError::Duplicate(_))));
        assert!(matches!(read(vec![layer("text/plain", None, None)]), Err(ArtifactError::NothingToBoot(_))));
        assert!(matches!(read(vec![layer(media_type::INITRD, None, None)]), Err(ArtifactError::NothingToBoot(_))));
    }

    #[test]
    fn a_digest_has_one_size() {
        let root = layer(&raw(), Some("disk-root"), Some("root.raw"));
        let other = Descriptor { size: 7, ..layer(&raw(), Some("disk-additional"), Some("root.raw")) };
        assert!(matches!(read(vec![root, other]), Err(ArtifactError::TwoSizes(_))));
    }

    #[test]
    fn a_layer_of_the_legacy_format_is_told_by_its_media_type() {
        let mut packed = layer("application/vnd.oci.image.layer.v1.tar+gzip", Some("disk-root"), Some("root.raw"));
        packed.annotations.insert(MEDIA_TYPE.to_owned(), raw());
        let manifest = Manifest::new(Descriptor::of(media_type::CONFIG, b"{}"), vec![packed.clone()]);
        let artifact = Artifact::from_manifest(&manifest).unwrap();
        assert_eq!(artifact.files[0].source, Source::Layer(packed));
    }

    #[test]
    fn labels_and_annotations_name_paths() {
        let mut manifest = Manifest::new(Descriptor::of("x", b"{}"), vec![layer("text/plain", None, None)]);
        let config = br#"{"config": {"Labels": {
            "org.lfedge.eci.artifact.root": "/images/root.qcow2", "org.lfedge.eci.artifact.kernel": "/boot/vmlinuz",
            "org.lfedge.eci.artifact.disk-1": "/images/disk-1-b.iso", "org.lfedge.eci.artifact.disk-0": "a.raw",
            "unrelated": "x"}}}"#;
        let artifact = Artifact::from_config(&manifest, config).unwrap();
        let names: Vec<_> = artifact.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["kernel", "disk-root-root.qcow2", "disk-0-a.raw", "disk-1-b.iso"]);
        assert_eq!(artifact.files[1].disk_format, Some(DiskFormat::Qcow2));
        manifest.annotations.insert("org.lfedge.eci.artifact.kernel".to_owned(), "/boot/vmlinuz".to_owned());
        let artifact = Artifact::from_manifest(&manifest).unwrap();
        assert_eq!(artifact.files[0].source, Source::Path("/boot/vmlinuz".parse().unwrap()));
        assert!(matches!(Artifact::from_config(&manifest, b"no"), Err(ArtifactError::Config(_))));
        let none = Artifact::from_config(&manifest, br#"{"config": {"Labels": null}}"#);
        assert!(matches!(none, Err(ArtifactError::NothingToBoot(_))));
        manifest.annotations.insert("org.lfedge.eci.artifact.root".to_owned(), "/a/../../b".to_owned());
        assert!(matches!(Artifact::from_manifest(&manifest), Err(ArtifactError::Label { .. })));
    }

    #[test]
    fn a_label_of_ours_that_is_not_understood_is_refused() {
        let mut manifest = Manifest::new(Descriptor::of("x", b"{}"), vec![layer("text/plain", None, None)]);
        for key in ["disk-01", "disk-x", "disk-", "kernal", ""] {
            let key = format!("{LABEL_PREFIX}{key}");
            let config = format!(r#"{{"config": {{"Labels": {{"{LABEL_PREFIX}root": "/root.raw", "{key}": "/a"}}}}}}"#);
            let unknown = Err(ArtifactError::UnknownLabel(key.clone()));
            assert_eq!(Artifact::from_config(&manifest, config.as_bytes()), unknown);
            manifest.annotations = [(key, "/a".to_owned())].into();
            assert_eq!(Artifact::from_manifest(&manifest), unknown);
        }
    }

    #[test]
    fn an_error_says_what_is_there_and_what_is_missing() {
        let says = |layers: Vec<Descriptor>, config: &[u8]| {
            Artifact::from_config(&Manifest::new(Descriptor::of("x", b"{}"), layers), config).unwrap_err().to_string()
        };
        let container = || vec![layer("application/vnd.oci.image.layer.v1.tar+gzip", None, None)];
        assert!(says(container(), b"{}").contains("org.lfedge.eci.artifact.kernel=/boot/vmlinuz"));
        assert!(says(vec![], b"{}").ends_with("image: it has no layers"));
        let disk = br#"{"config": {"Labels": {"org.lfedge.eci.artifact.disk-0": "/a.raw"}}}"#;
        assert!(says(container(), disk).ends_with("among the files disk-0-a.raw"), "{}", says(container(), disk));
        for (config, reason) in [
            ("no", "it is no JSON document"),
            ("[]", "it is JSON, and no object"),
            (r#"{"config": []}"#, "its \"config\" is no object"),
            (r#"{"config": {"Labels": 1}}"#, "its \"Labels\" are no object"),
            (r#"{"config": {"Labels": {"a": 1}}}"#, "its label a is 1, and no text"),
        ] {
            let said = says(container(), config.as_bytes());
            assert!(said.starts_with("the image's config cannot be read: ") && said.contains(reason), "{said}");
        }
    }
}
