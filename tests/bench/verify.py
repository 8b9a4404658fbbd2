"""How long it takes to read and to verify what is on disk."""

import hashlib
import os

import peers
import process
from report import Row, size_text

# So many blobs, for there are as many threads as processors.
COUNT = 4


def disk(bench):
    """`eci fsck` without an agent, beside `openssl dgst` of one blob after another; both read from the disk."""
    size, ours, theirs = bench.scale.compared, [], []
    with bench.node(bench.places["disk"]) as node:
        # The first start makes the directories.
        node.start()
        node.stop()
        blobs = _fill(os.path.join(node.state, "cache/blobs/sha256"), size // COUNT)
        for _ in range(bench.scale.slow):
            _drop(blobs)
            ours.append(process.run(node.command("fsck"), process.environment(node.root)).seconds)
            _drop(blobs)
            theirs.append(peers.openssl_all(node.root, blobs).seconds)
    return [Row(f"{size_text(size)} in {COUNT} blobs verified, disk", "s", ours, None, "`openssl dgst`", theirs)]


def _fill(directory, size):
    """Blobs that do not compress, by their digests."""
    blobs = []
    for _ in range(COUNT):
        content = os.urandom(size)
        blobs.append(os.path.join(directory, hashlib.sha256(content).hexdigest()))
        with open(blobs[-1], "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    return blobs


def _drop(blobs):
    """Has the kernel forget what it holds of them in memory."""
    for blob in blobs:
        with open(blob, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
