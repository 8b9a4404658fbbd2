"""How long it takes to remove blobs that nothing leads to."""

import hashlib
import os

import peers
import process
from report import Row

# The bound that the agent is held to.
BOUND_S = 1.0
COUNT = 10_000
BLOB_BYTES = 64


def blobs(bench, place):
    """`eci gc` without an agent, beside `umoci gc` of the same blobs in a layout of its own."""
    directory, ours, theirs = bench.places[place], [], []
    with bench.node(directory) as node:
        # The first start makes the directories.
        node.start()
        node.stop()
        cache = os.path.join(node.state, "cache/blobs/sha256")
        for _ in range(bench.scale.collect):
            _fill(cache)
            ours.append(process.run(node.command("gc"), process.environment(node.root)).seconds)
            _is_empty(cache)
            with bench.fresh(directory) as home:
                layout = os.path.join(home, "layout")
                peers.umoci(home, "init", "--layout", layout)
                _fill(os.path.join(layout, "blobs/sha256"))
                theirs.append(peers.umoci(home, "gc", "--layout", layout).seconds)
                _is_empty(os.path.join(layout, "blobs/sha256"))
    return [Row(f"{COUNT:,} blobs collected, {place}", "s", ours, BOUND_S, "`umoci gc`", theirs)]


def _fill(directory):
    """Blobs as small as they come, on disk as after a while."""
    for number in range(COUNT):
        content = f"{number:{BLOB_BYTES}}".encode()
        with open(os.path.join(directory, hashlib.sha256(content).hexdigest()), "wb") as file:
            file.write(content)
    os.sync()


def _is_empty(directory):
    if left := os.listdir(directory):
        raise RuntimeError(f"{len(left)} blobs were not collected: {directory}")
