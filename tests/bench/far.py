"""Pulls over a link: with a round-trip time, with a limit on bandwidth, and with something that goes wrong half way."""

import contextlib
import time

import peers
import process
from image import MIB, disk
from link import Link
from pulls import AGENT, CURL, agent, curl, note
from report import Row, Transfer, size_text

# What a connection may have under way: the window of an ordinary host.
WINDOW = 1 * MIB
CONNECTIONS = 4
# Several connections take at most this part of the time of one, where the way is long.
FAR_TIME_BOUND = 1 / 3
# How far the measured rate may be off the figure.
BANDWIDTH = 16 * MIB
LIMIT = f'`bandwidth = "{BANDWIDTH // MIB}MiB/s"`'
BANDWIDTH_BOUND = (0.95, 1.05)
# What may come twice: this part of a blob, and a segment a connection.
AGAIN_BOUND = 0.05
SEGMENT = 8 * MIB


@contextlib.contextmanager
def far_away(registry, round_trip_s):
    """The registry behind a link: the link, and what images are to be had from."""
    with Link(registry.host, round_trip_s, WINDOW) as link:
        yield link, peers.Origin(link.host)


def near(bench):
    """A link as within a country."""
    return _distance(bench, 20, bench.scale.near)


def far(bench):
    """A link as across an ocean."""
    return _distance(bench, 200, bench.scale.far, FAR_TIME_BOUND)


def _distance(bench, milliseconds, size, most_time=None):
    """One connection and several over a link, beside curl, which has one; and curl beside what the link allows."""
    one, place, used = "`connections = 1`", bench.places["tmpfs"], {}
    with bench.registry(disk(size)) as (registry, [image]), far_away(registry, milliseconds / 1000) as (_, origin):
        references = [origin.reference(image)]
        for _ in range(bench.scale.slow):
            note(used, {AGENT: agent(bench, place, references)})
            note(used, {one: agent(bench, place, references, "[transfer]\nconnections = 1\n")})
            note(used, {CURL: curl(bench, place, origin, image)[CURL]})
    name = f"{size_text(size)}, {milliseconds} ms round trip, tmpfs"
    transfers = [
        Transfer(name, used[AGENT], one, used[one], most_time=bench.scale.bound(most_time)),
        Transfer(name, used[AGENT], CURL, used[CURL]),
        Transfer(f"{name}, {one}", used[one], CURL, used[CURL]),
    ]
    seconds = [run.seconds for run in used[CURL]]
    # A round trip to connect, one from the request to the first byte, and one for each window.
    allowed = milliseconds / 1000 * (2 + size / WINDOW)
    return [Row(f"{CURL}, {name}", "s", seconds, None, "the link", [allowed] * len(seconds))], transfers


def bandwidth(bench, count=3):
    """Several workloads together under a limit."""
    used, rates, size = [], [], bench.scale.one_of_many
    with bench.registry(*[disk(size)] * count) as (registry, images):
        references = [registry.reference(image) for image in images]
        for _ in range(bench.scale.slow):
            used.append(agent(bench, bench.places["tmpfs"], references, f"[transfer]\n{LIMIT.strip('`')}\n"))
            rates.append(sum(image.size for image in images) / used[-1].seconds)
    name = f"{count} workloads of {size_text(size)} at once, {LIMIT}"
    row = Row(f"Rate, {name}", "MiB/s", rates, None, "the limit", [BANDWIDTH] * len(rates))
    row.within = bench.scale.bound(BANDWIDTH_BOUND)
    return [row], [Transfer(f"{name}, tmpfs", used)]


def resumed(bench, milliseconds=20):
    """What comes over a link where the agent is killed, or all connections break, once half of a disk has come."""
    rows, transfers, size = [], [], bench.scale.resumed
    mishaps = {"killed half way": _killed, "all connections dropped half way": _dropped}
    with bench.registry(disk(size)) as (registry, [image]):
        for what, mishap in mishaps.items():
            used, wire = [], []
            for _ in range(bench.scale.slow):
                with far_away(registry, milliseconds / 1000) as (link, origin):
                    used.append(mishap(bench, link, origin.reference(image), size // 2))
                    wire.append(link.carried)
            name = f"{size_text(size)}, {milliseconds} ms round trip, {what}"
            most = size * (1 + AGAIN_BOUND) + SEGMENT * CONNECTIONS
            rows.append(Row(f"Bytes over the link, {name}", "MiB", wire, most, "the disk", [size] * len(wire)))
            transfers.append(Transfer(f"{name}, tmpfs", used))
    return rows, transfers


def _killed(bench, link, reference, after):
    with bench.node(bench.places["tmpfs"]) as node:
        node.start()
        began = node.desire(reference)
        link.until_carried(after)
        before = _so_far(node, began)
        node.kill()
        began = time.monotonic()
        node.start()
        with node.follow_from_start() as events:
            events.until_activated()
        return before.then(_so_far(node, began))


def _dropped(bench, link, reference, after):
    with bench.node(bench.places["tmpfs"]) as node:
        node.start()
        with node.follow() as events:
            began = node.desire(reference)
            link.until_carried(after)
            link.drop()
            events.until_activated()
        return _so_far(node, began)


def _so_far(node, began):
    """What the agent has used since it started, and the time since `began`."""
    pid = node.pid()
    return process.Used(time.monotonic() - began, process.cpu_seconds(pid), process.peak_bytes(pid))
