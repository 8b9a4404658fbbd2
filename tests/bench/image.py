"""Edge container images made on the spot, as OCI image layouts on disk."""

import gzip
import hashlib
import io
import json
import os
import tarfile
from dataclasses import dataclass, field

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.lfedge.eci.config.v1+json"
KERNEL = "application/vnd.lfedge.eci.kernel.layer.v1+kernel"
INITRD = "application/vnd.lfedge.eci.initrd.layer.v1+cpio"
DISK = "application/vnd.lfedge.disk.layer.v1+raw"
OTHER = "application/vnd.lfedge.eci.layer.v1"
PACKED = "application/vnd.oci.image.layer.v1.tar+gzip"

KIB = 1 << 10
MIB = 1 << 20


@dataclass
class File:
    """A file of an image that is still to be written."""

    title: str
    media_type: str
    size: int
    role: str = None
    # Noise where nothing is said.
    content: bytes = None
    # Whether it is put into a gzipped tar of its own, as in the legacy format.
    is_packed: bool = False


def disk(size):
    """The files of an image that is one disk and nothing else."""
    return [File("disk-root-root.raw", DISK, size, "disk-root")]


def machine(root_bytes):
    """The files of an image as a node would boot it."""
    return [File("kernel", KERNEL, 8 * MIB, "kernel"), File("initrd", INITRD, 16 * MIB, "initrd"), *disk(root_bytes)]


def many(count, size):
    """The files of an image of many small ones; one has to be bootable."""
    others = [File(f"other-{number}", OTHER, size) for number in range(count)]
    return [File("kernel", KERNEL, size, "kernel"), *others]


@dataclass
class Image:
    """An image in a layout: where it is, the digest of its manifest, that of its last file, and its length."""

    layout: str
    manifest: str
    last: str
    size: int
    config: str
    # Role, digest and length of each file as a node lays it out.
    files: list
    # The digests of layers that are packed.
    packed: list = field(default_factory=list)


def write_image(layout, files, tag="bench"):
    """Writes an image of `files`. Noise does not compress and is shared with no other image."""
    os.makedirs(os.path.join(layout, "blobs/sha256"))
    layers = [_layer(layout, file) for file in files]
    contents = [_content(file, layer) for file, layer in zip(files, layers)]
    packed = [layer["digest"] for file, layer in zip(files, layers) if file.is_packed]
    config = _document(layout, CONFIG, {"os": "linux", "architecture": "amd64"})
    content = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
    manifest = _document(layout, MANIFEST, content)
    _write_json(layout, "oci-layout", {"imageLayoutVersion": "1.0.0"})
    named = dict(manifest, annotations={"org.opencontainers.image.ref.name": tag})
    _write_json(layout, "index.json", {"schemaVersion": 2, "mediaType": INDEX, "manifests": [named]})
    size, last = sum(file.size for file in files), layers[-1]["digest"]
    return Image(f"{layout}:{tag}", manifest["digest"], last, size, config["digest"], contents, packed)


def _layer(layout, file):
    annotations = {"org.lfedge.eci.mediaType": file.media_type, "org.opencontainers.image.title": file.title}
    if file.role is not None:
        annotations["org.lfedge.eci.role"] = file.role
    if file.is_packed:
        return dict(_blob(layout, PACKED, [_archive(file)]), annotations=annotations)
    pieces = _noise(file.size) if file.content is None else [file.content]
    return dict(_blob(layout, file.media_type, pieces), annotations=annotations)


def _content(file, layer):
    digest = f"sha256:{hashlib.sha256(file.content).hexdigest()}" if file.is_packed else layer["digest"]
    return (file.role, digest, file.size)


def _archive(file):
    """A gzipped tar of one file."""
    archive = io.BytesIO()
    with gzip.GzipFile(fileobj=archive, mode="wb", compresslevel=1, mtime=0) as packed:
        with tarfile.open(fileobj=packed, mode="w") as tar:
            entry = tarfile.TarInfo(file.title)
            entry.size = file.size
            tar.addfile(entry, io.BytesIO(file.content))
    return archive.getvalue()


def _noise(size):
    """Random bytes in pieces small enough to leave this process small."""
    while size > 0:
        piece = os.urandom(min(size, MIB))
        size -= len(piece)
        yield piece


def _document(layout, media_type, content):
    return _blob(layout, media_type, [json.dumps(content).encode()])


def _blob(layout, media_type, pieces):
    unnamed = os.path.join(layout, "blob")
    digest, size = hashlib.sha256(), 0
    with open(unnamed, "wb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
    os.rename(unnamed, os.path.join(layout, "blobs/sha256", digest.hexdigest()))
    return {"mediaType": media_type, "digest": f"sha256:{digest.hexdigest()}", "size": size}


def _write_json(layout, name, content):
    with open(os.path.join(layout, name), "w", encoding="utf-8") as file:
        json.dump(content, file)
