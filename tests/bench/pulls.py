"""Pulls from a registry on the loopback, beside what others take for the same image."""

import os

import peers
import process
from image import KIB, MIB, disk, many
from report import Row, Transfer, size_text

# The bounds that the agent is held to; those of time and CPU are ratios to a peer.
PEAK_BOUND = 20 * MIB
SKOPEO_TIME_BOUND = 0.35
CURL_TIME_BOUND = 1.25
HASHING_CPU_BOUND = 1.25

AGENT, SKOPEO, CURL = "agent", "`skopeo copy`", "`curl -o`"
CURL_SYNCED, CURL_HASHED = "`curl -o`, then fsync", "`curl -o`, then `openssl sha256`"


def agent(bench, place, references, settings=""):
    """From the rename of desired.toml until all of these run on a new node."""
    with bench.node(place, settings) as node:
        node.start()
        with node.follow() as events:
            cpu = process.cpu_seconds(node.pid())
            began = node.desire(*references)
            seconds = events.until_activated(len(references)) - began
        pid = node.pid()
        return process.Used(seconds, process.cpu_seconds(pid) - cpu, process.peak_bytes(pid))


def skopeo(bench, place, origin, image):
    """The copy of an image to a new directory."""
    with bench.fresh(place) as directory:
        return peers.skopeo_copy(origin, image, directory)


def curl(bench, place, origin, image):
    """The bare transfer of a disk, alone and with what the agent does beyond it."""
    with bench.fresh(place) as directory:
        fetched = peers.curl(origin, image, directory)
        return {
            CURL: fetched,
            CURL_SYNCED: fetched.then(peers.fsync(directory)),
            CURL_HASHED: fetched.then(peers.openssl(directory)),
        }


def note(used, run):
    """Adds what a round took to what the earlier ones did, program by program."""
    for name, took in run.items():
        used.setdefault(name, []).append(took)


def of_size(bench, size):
    """A disk of a size. Where it is the one at which all are compared, beside all of them, on disk as well.

    Gives the transfers, and what each program used in memory, which is where sizes are compared.
    """
    is_compared = size == bench.scale.compared
    rounds = bench.scale.pull if size <= bench.scale.compared else bench.scale.slow
    transfers = []
    with bench.registry(disk(size)) as (registry, [image]):
        for place in ["disk", "tmpfs"] if is_compared else ["tmpfs"]:
            used, directory = {}, bench.places[place]
            for _ in range(rounds):
                note(used, {AGENT: agent(bench, directory, [registry.reference(image)])})
                note(used, {SKOPEO: skopeo(bench, directory, registry, image)})
                note(used, curl(bench, directory, registry, image) if is_compared else {})
            if place == "tmpfs":
                # There is nothing to sync.
                used.pop(CURL_SYNCED, None)
            bound = bench.scale.bound if is_compared else lambda _: None
            transfers += _rows(f"{size_text(size)}, {place}", used, _bounds(place, bound))
    return transfers, used


def _bounds(place, bound):
    """What is bound beside which peer."""
    return {
        SKOPEO: {"most_time": bound(SKOPEO_TIME_BOUND), "most_peak": PEAK_BOUND},
        # On disk the agent waits for a sync, and curl does not.
        CURL: {"most_time": bound(CURL_TIME_BOUND) if place == "tmpfs" else None},
        CURL_HASHED: {"most_cpu": bound(HASHING_CPU_BOUND)},
    }


def _rows(name, used, bounds):
    """A row for each peer."""
    return [
        Transfer(name, used[AGENT], peer, theirs, **bounds.get(peer, {}))
        for peer, theirs in used.items()
        if peer != AGENT
    ]


def growth(bench, series):
    """What the largest disk takes, beside one of the size at which all are compared."""
    largest, compared = max(series), bench.scale.compared
    peer = size_text(compared)
    times, peaks = [], []
    for size in (largest, compared):
        times.append([run.seconds / size * 1024 * MIB for run in series[size][AGENT]])
        peaks.append([run.peak_bytes for run in series[size][AGENT]])
    return [
        Row(f"Seconds a GiB, {size_text(largest)}, tmpfs", "s", times[0], None, peer, times[1]),
        Row(f"Peak memory, {size_text(largest)}, tmpfs", "MiB", peaks[0], PEAK_BOUND, peer, peaks[1]),
    ]


def small_files(bench):
    """An image of many small files."""
    count, place, used = bench.scale.small_files, bench.places["tmpfs"], {}
    with bench.registry(many(count, 64 * KIB)) as (registry, [image]):
        for _ in range(bench.scale.pull):
            note(used, {AGENT: agent(bench, place, [registry.reference(image)])})
            note(used, {SKOPEO: skopeo(bench, place, registry, image)})
    return [Transfer(f"One image of {count} files of 64 KiB, tmpfs", used[AGENT], SKOPEO, used[SKOPEO])]


def workloads(bench, count=10):
    """Several workloads at once, beside as many copies one after another and at once."""
    place, used = bench.places["tmpfs"], {}
    in_turn, at_once = f"{count} × {SKOPEO}, one after another", f"{count} × {SKOPEO}, at once"
    with bench.registry(*[disk(bench.scale.one_of_many)] * count) as (registry, images):
        for _ in range(bench.scale.pull):
            note(used, {AGENT: agent(bench, place, [registry.reference(image) for image in images])})
            note(used, {in_turn: _copies_in_turn(bench, place, registry, images)})
            note(used, {at_once: _copies_at_once(bench, place, registry, images)})
    name = f"{count} workloads of {size_text(bench.scale.one_of_many)} at once, tmpfs"
    return [Transfer(name, used[AGENT], peer, used[peer]) for peer in (in_turn, at_once)]


def _copies_in_turn(bench, place, registry, images):
    used = process.Used(0, 0, 0)
    for image in images:
        used = used.then(skopeo(bench, place, registry, image))
    return used


def _copies_at_once(bench, place, registry, images):
    with bench.fresh(place) as directory:
        homes = [os.path.join(directory, str(number)) for number in range(len(images))]
        for home in homes:
            os.mkdir(home)
        pairs = zip(images, homes)
        return process.together([lambda pair=pair: peers.skopeo_copy(registry, *pair) for pair in pairs])
