"""Where and how much is measured: the program, the places, the rounds and the sizes."""

import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass

import peers
from image import MIB, write_image
from node import Node


@dataclass
class Scale:
    """How often each thing is measured, and on images of which size."""

    ready: int = 20
    switch: int = 40
    idle: int = 3
    collect: int = 5
    pull: int = 5
    # For what takes long.
    slow: int = 3
    # The sizes over which time and memory are shown, and the one at which all peers are asked.
    sizes: tuple = (64 * MIB, 256 * MIB, 1024 * MIB, 4096 * MIB)
    compared: int = 1024 * MIB
    # Several workloads at once; the blobs of an image of many files.
    one_of_many: int = 64 * MIB
    small_files: int = 100
    # Over a link.
    far: int = 64 * MIB
    near: int = 128 * MIB
    resumed: int = 256 * MIB
    # A ratio to a peer says nothing of a transfer that is over in no time.
    has_bounds: bool = True

    def bound(self, ratio):
        """A bound on a ratio, where there is one."""
        return ratio if self.has_bounds else None


QUICK = Scale(
    ready=5,
    switch=10,
    idle=1,
    collect=1,
    pull=2,
    slow=1,
    sizes=(1 * MIB, 4 * MIB, 16 * MIB, 64 * MIB),
    compared=16 * MIB,
    one_of_many=8 * MIB,
    small_files=20,
    far=24 * MIB,
    near=24 * MIB,
    resumed=48 * MIB,
    has_bounds=False,
)


@dataclass
class Bench:
    """Program and places: `places` has a directory on disk and one in memory; `store` is where registries store."""

    binary: str
    places: dict
    store: str
    sockets: str
    scale: Scale

    @contextlib.contextmanager
    def fresh(self, directory):
        """A directory of its own, gone afterwards and off the disk's queue, which the next measurement may want."""
        path = tempfile.mkdtemp(dir=directory)
        try:
            yield path
        finally:
            shutil.rmtree(path)
            os.sync()

    @contextlib.contextmanager
    def registry(self, *images):
        """A registry, and in it an image of each of these lists of files."""
        with self.fresh(self.store) as store, peers.Registry(store) as registry:
            yield registry, [self._publish(registry, files) for files in images]

    def _publish(self, registry, files):
        with self.fresh(self.store) as directory:
            image = write_image(os.path.join(directory, "layout"), files)
            registry.push(image)
            return image

    @contextlib.contextmanager
    def node(self, place, settings=""):
        """A node whose agent is not started; `settings` are more lines of its `agent.toml`."""
        with self.fresh(place) as root, Node(self.binary, root, self.sockets, settings) as node:
            yield node
