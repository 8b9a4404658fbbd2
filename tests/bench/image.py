"""Edge container images made on the spot, as OCI image layouts on disk."""

import hashlib
import json
import os

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.lfedge.eci.config.v1+json"
KERNEL = "application/vnd.lfedge.eci.kernel.layer.v1+kernel"
INITRD = "application/vnd.lfedge.eci.initrd.layer.v1+cpio"
DISK = "application/vnd.lfedge.disk.layer.v1+raw"

MIB = 1 << 20
# The small files of an image; the root disk is as large as a measurement wants it.
KERNEL_BYTES = 8 * MIB
INITRD_BYTES = 16 * MIB


class Image:
    """An image in a layout: where it is, and the digests that lead to it."""

    def __init__(self, layout, manifest, root):
        self.layout = layout
        self.manifest = manifest
        self.root = root


def write_image(layout, root_bytes, tag="bench"):
    """Writes an image whose files do not compress and are shared with no other image."""
    os.makedirs(os.path.join(layout, "blobs/sha256"))
    layers = [
        _layer(layout, "kernel", KERNEL, "kernel", KERNEL_BYTES),
        _layer(layout, "initrd", INITRD, "initrd", INITRD_BYTES),
        _layer(layout, "disk-root", DISK, "disk-root-root.raw", root_bytes),
    ]
    config = _document(layout, CONFIG, {"os": "linux", "architecture": "amd64"})
    content = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
    manifest = _document(layout, MANIFEST, content)
    _write_json(layout, "oci-layout", {"imageLayoutVersion": "1.0.0"})
    named = dict(manifest, annotations={"org.opencontainers.image.ref.name": tag})
    _write_json(layout, "index.json", {"schemaVersion": 2, "mediaType": INDEX, "manifests": [named]})
    return Image(f"{layout}:{tag}", manifest["digest"], layers[-1]["digest"])


def _layer(layout, role, media_type, title, size):
    annotations = {
        "org.lfedge.eci.mediaType": media_type,
        "org.lfedge.eci.role": role,
        "org.opencontainers.image.title": title,
    }
    return dict(_blob(layout, media_type, _noise(size)), annotations=annotations)


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
