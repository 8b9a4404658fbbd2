"""The workloads of a node: the images that are published for them, and what of those the node is to run."""

import os
import shutil
import tempfile
from dataclasses import dataclass, field

import peers
from image import DISK, INITRD, KERNEL, KIB, MIB, File, write_image

# How many images of a workload can be gone back to.
KEPT = 3
# How much a registry is filled before another one takes its place: it stores in memory.
STORE_BYTES = 1024 * MIB
DISK_BYTES = (64 * KIB, 1 * MIB, 4 * MIB, 12 * MIB, 24 * MIB)


@dataclass
class Workload:
    """A workload, and what it is to run. A `tag` moves from image to image; without one, it is named by digest."""

    name: str
    repository: str
    tag: str = None
    is_packed: bool = False
    is_wanted: bool = True
    cmdline: str = ""
    # The images that can be gone back to, the wanted one among them.
    images: list = field(default_factory=list)
    wanted: object = None
    # All that were ever published, by the digests of their manifests.
    published: dict = field(default_factory=dict)

    def reference(self, host):
        """What the desired state says."""
        suffix = f":{self.tag}" if self.tag else f"@{self.wanted.manifest}"
        return f"{host}/{self.repository}{suffix}"

    def section(self, host):
        """The workload's part of the desired state."""
        return f'[workload.{self.name}]\nimage = "{self.reference(host)}"\ncmdline = "{self.cmdline}"\n'


class Fleet:
    """Four workloads, and a registry behind `gate` that has their images."""

    def __init__(self, choice, gate, directory):
        self.workloads = [
            Workload("default", "soak/default", "stable"),
            Workload("sensor", "soak/sensor"),
            Workload("packed", "soak/packed", "latest", is_packed=True),
            Workload("pinned", "soak/pinned"),
        ]
        self._choice = choice
        self._gate = gate
        self._directory = directory
        self._registry = None
        self._stored = 0
        # What several images have in common.
        self._shared = {}

    def __enter__(self):
        for workload in self.workloads:
            self.publish(workload)
        return self

    def __exit__(self, *_):
        if self._registry is not None:
            self._registry.__exit__()

    @property
    def host(self):
        """Where the images are to be had."""
        return self._gate.host

    def desired(self):
        """The text of the desired state."""
        return "".join(w.section(self.host) for w in self.workloads if w.is_wanted)

    def publish(self, workload):
        """Publishes a new image and wants it; its length."""
        layout = tempfile.mkdtemp(dir=self._directory)
        image = write_image(os.path.join(layout, "layout"), self._files(workload))
        workload.images.append(image)
        workload.published[image.manifest] = image
        if len(workload.images) > KEPT:
            oldest = next(old for old in workload.images if old is not workload.wanted)
            workload.images.remove(oldest)
            shutil.rmtree(os.path.dirname(oldest.layout))
        self.want(workload, image)
        return image.size

    def want(self, workload, image):
        """Has the workload run this image: it is in the registry, and its tag leads there."""
        workload.wanted = image
        self._stored += image.size
        if self._registry is None or self._stored > STORE_BYTES:
            self._renew()
        else:
            self._push(workload, image)

    def _push(self, workload, image):
        self._registry.push(image, f"{workload.repository}:{workload.tag or 'image'}")

    def _renew(self):
        """Begins another registry with what can be gone back to, and ends the one before."""
        store, last = tempfile.mkdtemp(dir=self._directory), self._registry
        self._registry = peers.Registry(store).__enter__()
        self._stored = 0
        for workload in self.workloads:
            for image in workload.images:
                self._push(workload, image)
                self._stored += image.size
            # The last push is where the tag leads.
            if workload.wanted is not None:
                self._push(workload, workload.wanted)
        self._gate.target = self._registry.host
        if last is not None:
            last.__exit__()
            shutil.rmtree(last.directory)

    def _files(self, workload):
        size, pick = self._choice.choice(DISK_BYTES), self._choice.random
        if workload.is_packed:
            # A tar of holes is small, and what comes out of it is not.
            noise = os.urandom(size // 2)
            content = noise + bytes(size - len(noise))
            disk = File("root.raw", DISK, size, "disk-root", content, is_packed=True)
            return [disk, self._common("kernel", KERNEL, pick)]
        files = [self._common("kernel", KERNEL, pick), self._common("initrd", INITRD, pick)]
        return [*files, File("disk-root-root.raw", DISK, size, "disk-root", os.urandom(size))]

    def _common(self, role, media_type, pick):
        """A file that others have as well, until there is a new one."""
        if role not in self._shared or pick() < 0.25:
            self._shared[role] = os.urandom(self._choice.randrange(256 * KIB, 2 * MIB))
        content = self._shared[role]
        return File(role, media_type, len(content), role, content)
