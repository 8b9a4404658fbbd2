"""A small file system of its own for a state directory, which can be filled."""

import os
import subprocess
import sys

import process

SIZE = 512 << 20
# Says to this program that the namespace is its own already.
_MARK = "ECI_BENCH_NAMESPACE"


def enter_namespace():
    """Begins this program anew in a mount namespace of its own, so that no mount of it outlives it, however it ends."""
    if os.geteuid() == 0 and _MARK not in os.environ:
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
        os.execvpe(command[0], command, dict(os.environ, **{_MARK: "1"}))


class Volume:
    """An ext4 file system in a file in `directory`: `root` is where it is mounted.

    Without root it is a plain directory there, which cannot be filled.
    """

    def __init__(self, directory):
        self.root = os.path.join(directory, "volume")
        self.can_be_filled = os.geteuid() == 0
        self._image = os.path.join(directory, "image")
        self._filler = os.path.join(self.root, "filler")

    def __enter__(self):
        os.mkdir(self.root)
        if self.can_be_filled:
            with open(self._image, "wb") as image:
                image.truncate(SIZE)
            _run("mkfs.ext4", "-q", "-m", "0", self._image)
            _run("mount", "-o", "loop", self._image, self.root)
            # The kernel has it for as long as it is mounted.
            os.unlink(self._image)
        return self

    def __exit__(self, *_):
        if os.path.ismount(self.root):
            _run("umount", "--lazy", self.root)

    def free_bytes(self):
        """What can still be written."""
        found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize

    def fill(self, leave):
        """Takes all but so many bytes."""
        with open(self._filler, "ab") as filler:
            length, more = os.fstat(filler.fileno()).st_size, self.free_bytes() - leave
            try:
                if more > 0:
                    os.posix_fallocate(filler.fileno(), length, more)
            except OSError:
                # Somebody else was faster: it is as full as it gets.
                pass

    def empty(self):
        """Gives back what was taken."""
        if os.path.exists(self._filler):
            os.unlink(self._filler)


def _run(*command):
    process.run(list(command), dict(process.environment("/"), PATH=os.environ["PATH"] + ":/usr/sbin:/sbin"))
