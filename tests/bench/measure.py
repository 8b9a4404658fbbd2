"""The measurements: each gives rows for the table."""

import contextlib
import itertools
import os
import shutil
import tempfile
import time
from dataclasses import dataclass

import peers
import process
from image import MIB, write_image
from node import Node
from report import Row

# The bounds that the agent is held to.
SIZE_BOUND = 8_000_000
READY_BOUND_S = 0.050
SWITCH_BOUND_S = 0.050
PEAK_BOUND = 20 * MIB
IDLE_BOUND = 0

# The root disk where its size does not matter.
SMALL_ROOT = 64 * MIB
# After its start and its last transfer, the agent's idle threads end within 10 s of their last work.
SETTLE_S = 12
IDLE_S = 10


@dataclass
class Rounds:
    """How often each thing is measured."""

    ready: int = 20
    switch: int = 40
    pull: int = 5
    idle: int = 3


QUICK = Rounds(ready=5, switch=10, pull=2, idle=1)


@dataclass
class Bench:
    """Program and places: `places` has a directory on disk and one in memory; `store` is where registries store."""

    binary: str
    places: dict
    store: str
    sockets: str
    rounds: Rounds

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
    def registry(self, *roots):
        """A registry, and in it an image with a root disk of each size."""
        with self.fresh(self.store) as store, peers.Registry(store) as registry:
            yield registry, [self._publish(registry, root) for root in roots]

    def _publish(self, registry, root):
        with self.fresh(self.store) as directory:
            image = write_image(os.path.join(directory, "layout"), root)
            registry.push(image)
            return image

    @contextlib.contextmanager
    def node(self, place):
        """A node whose agent is not started."""
        with self.fresh(place) as root, Node(self.binary, root, self.sockets) as node:
            yield node


def size(bench):
    """The release binary."""
    with open(bench.binary, "rb") as file:
        content = file.read()
    name = "Release binary, not stripped" if b"\0.symtab\0" in content else "Release binary, stripped"
    mib = f"{len(content) / MIB:.2f} MiB"
    return [Row(f"{name} ({mib})", "MB", [len(content)], SIZE_BOUND)]


def ready(bench):
    """From the start to READY=1, beside a start of the same program that does nothing."""
    empty, deployed, version = [], [], []
    disk = bench.places["disk"]
    with bench.node(disk) as node:
        _deploy_and_lose_network(bench, node)
        for _ in range(bench.rounds.ready):
            version.append(process.run([bench.binary, "--version"], process.environment(disk)).seconds)
            deployed.append(_start_and_stop(node))
            with bench.node(disk) as fresh:
                empty.append(_start_and_stop(fresh))
    beside = ("`eci --version`", version)
    return [
        Row("Ready, empty state directory, disk", "ms", empty, READY_BOUND_S, *beside),
        Row("Ready, deployed workload, registry gone, disk", "ms", deployed, READY_BOUND_S, *beside),
    ]


def _deploy_and_lose_network(bench, node):
    """Deploys an image by tag, so that a restart wants to ask the registry, which is gone."""
    with bench.registry(SMALL_ROOT) as (registry, [image]):
        node.start()
        with node.follow() as events:
            node.desire(registry.tagged(image))
            events.until_activated()
        node.stop()


def _start_and_stop(node):
    seconds = node.start()
    node.stop()
    return seconds


def switch(bench, place):
    """From the rename of desired.toml to a `current` that is swapped, beside one durable write."""
    durable, written, seen = [], [], []
    with bench.node(bench.places[place]) as node, _two_images(bench, node) as references:
        with node.follow() as events:
            for _ in range(bench.rounds.switch):
                written.append(peers.durable_write(node.root))
                began = node.desire(next(references))
                durable.append(events.until_activated() - began)
            for _ in range(bench.rounds.switch // 2):
                seen.append(_see_switch(node, next(references)))
                events.until_activated()
        syncs = _count_syncs(node, references)
    rows = [
        Row(f"Switch, swapped and durable, {place}", "ms", durable, SWITCH_BOUND_S, "one durable write", written),
        Row(f"Switch, `current` reads as new, {place}", "ms", seen),
    ]
    if syncs is not None:
        rows.append(Row(f"Calls of fsync in a switch, {place}", "", [syncs]))
    return rows


@contextlib.contextmanager
def _two_images(bench, node):
    """Deploys two images on a node; then the registry is gone, and their references by digest take turns."""
    with bench.registry(SMALL_ROOT, SMALL_ROOT) as (registry, images):
        references = [registry.reference(image) for image in images]
        node.start()
        with node.follow() as events:
            for reference in references:
                node.desire(reference)
                events.until_activated()
    yield itertools.cycle(references)


def _see_switch(node, reference):
    before = os.readlink(node.current)
    began = node.desire(reference)
    while os.readlink(node.current) == before and time.monotonic() < began + 60:
        pass
    return time.monotonic() - began


def _count_syncs(node, references):
    """How many calls make one switch durable; none where there is no strace."""
    if shutil.which("strace") is None:
        return None
    trace = os.path.join(node.root, "trace")
    node.stop()
    node.start(tracer=["strace", "-f", "-o", trace, "-e", "trace=fsync,fdatasync"])
    with node.follow() as events:
        counts = []
        for _ in range(2):
            # What the start itself has to do is over after the first.
            node.desire(next(references))
            events.until_activated()
            with open(trace, encoding="utf-8") as file:
                counts.append(sum("sync(" in line for line in file))
    node.stop()
    return counts[1] - counts[0]


def pull(bench, place, root):
    """From the rename of desired.toml to a running image, beside the peers' pull of the same image."""
    used = {"agent": [], "skopeo": [], "curl": []}
    copies = {"skopeo": peers.skopeo_copy, "curl": peers.curl}
    with bench.registry(root) as (registry, [image]):
        for _ in range(bench.rounds.pull):
            used["agent"].append(_agent_pull(bench, bench.places[place], registry.reference(image)))
            for name, copy in copies.items():
                with bench.fresh(bench.places[place]) as directory:
                    target = os.path.join(directory, "copy")
                    used[name].append(copy(registry, image, target))
                    used[name][-1].sync_s = peers.sync_tree(target)
    return used


def _agent_pull(bench, place, reference):
    with bench.node(place) as node:
        node.start()
        with node.follow() as events:
            cpu = process.cpu_seconds(node.pid())
            began = node.desire(reference)
            seconds = events.until_activated() - began
        pid = node.pid()
        return process.Used(seconds, process.cpu_seconds(pid) - cpu, process.peak_bytes(pid))


def peak_rows(used, place, root):
    """How much memory a pull takes."""
    ours = [run.peak_bytes for run in used["agent"]]
    theirs = [run.peak_bytes for run in used["skopeo"]]
    return [Row(f"Peak memory, {_gib(root)}, {place}", "MiB", ours, PEAK_BOUND, "`skopeo copy`", theirs)]


def time_rows(used, place, root):
    """How long a pull takes, and how much CPU."""
    figure = f"{_gib(root)}, {place}"
    seconds, cpu = ([getattr(run, name) for run in used["agent"]] for name in ("seconds", "cpu_s"))
    skopeo, curl = used["skopeo"], used["curl"]
    beside = {"`skopeo copy`": [run.seconds for run in skopeo], "`curl -o`": [run.seconds for run in curl]}
    if place == "disk":
        beside["`curl -o`, then fsync"] = [run.seconds + run.sync_s for run in curl]
    burden = {"`skopeo copy`": [run.cpu_s for run in skopeo], "`curl -o`": [run.cpu_s for run in curl]}
    return [
        *(Row(f"Pull to activated, {figure}", "s", seconds, None, *peer) for peer in beside.items()),
        *(Row(f"CPU seconds, {figure}", "s", cpu, None, *peer) for peer in burden.items()),
    ]


def _gib(root):
    return f"{root // (1024 * MIB)} GiB" if root % (1024 * MIB) == 0 else f"{root // MIB} MiB"


def idle(bench):
    """What an agent does that has nothing to do: a deployed workload named by digest, no poll."""
    counts = []
    with bench.node(bench.places["disk"]) as node, _two_images(bench, node):
        time.sleep(SETTLE_S)
        for _ in range(bench.rounds.idle):
            before = process.context_switches(node.pid())
            time.sleep(IDLE_S)
            after = process.context_switches(node.pid())
            counts.append(sum(count - before.get(thread, 0) for thread, count in after.items()))
    return [Row(f"Idle: context switches of all threads in {IDLE_S} s", "", counts, IDLE_BOUND)]
