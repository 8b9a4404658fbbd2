"""What the agent does on its own: how large it is, how fast it is ready and switches, and that it can be idle."""

import contextlib
import itertools
import os
import shutil
import time

import peers
import process
from image import MIB, machine
from report import Row

# The bounds that the agent is held to.
SIZE_BOUND = 8_000_000
READY_BOUND_S = 0.050
SWITCH_BOUND_S = 0.050
IDLE_BOUND = 0

# The size of its root disk does not matter.
IMAGE = machine(64 * MIB)
# After its start and its last transfer, the agent's idle threads end within 10 s of their last work.
SETTLE_S = 12
IDLE_S = 10


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
        for _ in range(bench.scale.ready):
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
    with bench.registry(IMAGE) as (registry, [image]):
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
            for _ in range(bench.scale.switch):
                written.append(peers.durable_write(node.root))
                began = node.desire(next(references))
                durable.append(events.until_activated() - began)
            for _ in range(bench.scale.switch // 2):
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
    with bench.registry(IMAGE, IMAGE) as (registry, images):
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


def idle(bench):
    """What an agent does that has nothing to do: a deployed workload named by digest, no poll."""
    counts = []
    with bench.node(bench.places["disk"]) as node, _two_images(bench, node):
        time.sleep(SETTLE_S)
        for _ in range(bench.scale.idle):
            before = process.context_switches(node.pid())
            time.sleep(IDLE_S)
            after = process.context_switches(node.pid())
            counts.append(sum(count - before.get(thread, 0) for thread, count in after.items()))
    return [Row(f"Idle: context switches of all threads in {IDLE_S} s", "", counts, IDLE_BOUND)]
