"""What has to be so of a node, at any moment and at rest."""

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import time

PHASES = {
    *("idle", "resolving", "planning", "fetching", "verifying", "materializing", "staged", "activating", "probation"),
    *("active", "backoff", "blocked", "retiring"),
}
# An agent that takes longer to answer is stuck.
ANSWER_S = 10
PIECE = 1 << 20


class Violation(Exception):
    """Something is not as it has to be."""


class Invariants:
    """Looks at the state directory and the status of a node that is to run a fleet's workloads."""

    def __init__(self, node, fleet):
        self.checks = 0
        # The generations that a link was seen at, with their images.
        self.seen = set()
        self._node = node
        self._fleet = fleet
        # The newest generation that each workload was seen to run, since it was last not wanted.
        self._newest = {}
        # Workloads that have no links, or may have none.
        self._may_lack = {workload.name for workload in fleet.workloads}
        # The digests of files that have not changed since they were read.
        self._digests = {}

    def unwanted(self, workload):
        """A workload is not wanted from now on: its links may go, and its numbers may begin anew."""
        self._may_lack.add(workload.name)
        self._newest.pop(workload.name, None)

    def at_any_moment(self):
        """What has to be so whatever goes on."""
        for workload in self._fleet.workloads:
            self._links(workload)
        if self._node.process is not None:
            self._status()
        self.checks += 1

    def at_rest(self):
        """What is not yet as it has to be where nothing is wrong; nothing where all is well."""
        status = self._status()
        wanted = {workload.name: workload for workload in self._fleet.workloads if workload.is_wanted}
        if status["desired"]["error"] is not None:
            return f"desired: {status['desired']['error']}"
        if set(status["workloads"]) != set(wanted):
            return f"the workloads are {sorted(status['workloads'])}, not {sorted(wanted)}"
        for name, workload in wanted.items():
            said = status["workloads"][name]
            now = said["current"] and (said["current"]["reference"], said["current"]["digest"])
            if said["phase"] != "active" or now != (workload.reference(self._fleet.host), workload.wanted.manifest):
                return f"{name}: {json.dumps(said)}"
        for workload in self._fleet.workloads:
            lacks = self._runs(workload, status) if workload.is_wanted else self._is_gone(workload)
            if lacks is not None:
                return lacks
        return None

    def _runs(self, workload, status):
        """Whether links and files are those of what is wanted."""
        launch = self._links(workload)
        if launch is None or launch["cmdline"] != workload.cmdline:
            return f"{workload.name}: launch.json says {launch}"
        if launch["generation"] != status["workloads"][workload.name]["current"]["generation"]:
            return f"{workload.name}: the status has another generation than the link"
        self._may_lack.discard(workload.name)
        return None

    def _is_gone(self, workload):
        links = os.path.join(self._node.state, "workloads", workload.name)
        return f"{workload.name}: {links} is still there" if os.path.lexists(links) else None

    def tidy(self, kept, spared):
        """What the state directory has beyond what the generations `kept` need and the paths `spared`, or lacks."""
        state = self._node.state
        unwanted, missing = [], []

        def compare(directory, needed, allowed=()):
            path = os.path.join(state, directory)
            found = set(os.listdir(path)) if os.path.isdir(path) else set()
            unwanted.extend(os.path.join(directory, name) for name in found - set(needed) - set(allowed))
            missing.extend(os.path.join(directory, name) for name in set(needed) - found)

        default = os.path.join(state, "workloads/default")
        links = [link for link in ("current", "previous") if os.path.lexists(os.path.join(default, link))]
        compare("", ["cache", "generations", "leases", "lock", "partial", "state.json", "workloads", *links], ["fsck.json"])
        compare("cache", ["blobs", "index.json", "oci-layout"], ["unpacked"])
        compare("cache/blobs", ["sha256"])
        compare("partial", [])
        blobs, packed, numbers = set(), set(), {}
        for entry in kept:
            workload, number = entry["workload"], str(entry["generation"])
            numbers.setdefault(workload, []).append(number)
            launch = self._launch(os.path.join(state, "generations", workload, number))
            image = self._published(workload, launch)
            blobs |= {image.manifest, image.config, *(digest for _, digest, _ in image.files)}
            packed |= set(image.packed)
        compare("cache/blobs/sha256", [_hex(digest) for digest in blobs])
        compare("cache/unpacked", [], [f"{_hex(digest)}.json" for digest in packed])
        compare("generations", numbers, [".highest-gone"])
        for workload, expected in numbers.items():
            compare(f"generations/{workload}", expected)
        wanted = [workload.name for workload in self._fleet.workloads if workload.is_wanted]
        compare("workloads", wanted)
        for name in wanted:
            compare(f"workloads/{name}", ["current"], ["previous"])
        for entry in _json(os.path.join(state, "cache/index.json"))["manifests"]:
            if entry["digest"] not in blobs:
                unwanted.append(f"cache/index.json: {entry['digest']}")
        unwanted = [name for name in unwanted if not _has_one_of(os.path.join(state, name), spared)]
        if unwanted or missing:
            return f"unwanted: {sorted(unwanted)}; missing: {sorted(missing)}"
        return None

    def _published(self, workload, launch):
        published = next(w.published for w in self._fleet.workloads if w.name == workload)
        if launch["digest"] not in published:
            raise Violation(f"{workload}: {launch['digest']} was never published for it")
        return published[launch["digest"]]

    def _status(self):
        """The status, which has to be there and to make sense."""
        if (code := self._node.process.poll()) is not None:
            raise Violation(f"the agent ended by itself, with {code}: {self._node.log()}")
        try:
            status = self._node.ask("/v1/status", ANSWER_S)
        except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
            raise Violation(f"there is no status: {error!r}: {self._node.log()}") from error
        for name, workload in status["workloads"].items():
            error = workload["error"]
            if workload["phase"] not in PHASES or (error is not None and error["kind"] == "internal"):
                raise Violation(f"{name}: the status says {json.dumps(workload)}")
        return status

    def _links(self, workload):
        """Looks at all that the workload's links lead to; what `launch.json` says of `current`, where it is there."""
        directory, launch = os.path.join(self._node.state, "workloads", workload.name), None
        tops = [self._node.state] if workload.name == "default" else []
        for place in [*tops, directory]:
            self._whole(workload, os.path.join(place, "previous"))
            launch = self._whole(workload, os.path.join(place, "current"))
            if launch is None and workload.name not in self._may_lack:
                raise Violation(f"{place}/current is not there")
        if launch is not None:
            number, newest = launch["generation"], self._newest.get(workload.name, 0)
            if number < newest and workload.name not in self._may_lack:
                raise Violation(f"{workload.name} went back from generation {newest} to {number}")
            self._newest[workload.name] = number
            self.seen.add((workload.name, number, launch["digest"]))
        return launch

    def _whole(self, workload, link):
        """Looks at the generation that a link leads to, with a lock on it as who boots from it has."""
        with _claimed(link) as directory:
            if directory is None:
                return None
            launch = self._launch(directory)
            image = self._published(workload.name, launch)
            files = [(file["role"], self._digest(file["path"]), file["size"]) for file in launch["files"]]
            said = [(file["role"], file["digest"], file["size"]) for file in launch["files"]]
            if not sorted(files) == sorted(said) == sorted(image.files):
                raise Violation(f"{directory} has {files}, launch.json says {said}, published was {image.files}")
            if any(os.path.dirname(file["path"]) != directory for file in launch["files"]):
                raise Violation(f"{directory}: launch.json leads elsewhere")
            for name, digest in {"manifest.json": image.manifest, "config.json": image.config}.items():
                if self._digest(os.path.join(directory, name)) != digest:
                    raise Violation(f"{directory}/{name} is not what was published")
            root = next(file["path"] for file in launch["files"] if file["role"] == "disk-root")
            if os.path.realpath(os.path.join(directory, "disk-root")) != os.path.realpath(root):
                raise Violation(f"{directory}/disk-root does not lead to {root}")
            if (launch["workload"], str(launch["generation"])) != (workload.name, os.path.basename(directory)):
                raise Violation(f"{directory} is named otherwise in launch.json")
            return launch

    def _launch(self, directory):
        try:
            return _json(os.path.join(directory, "launch.json"))
        except (OSError, ValueError) as error:
            raise Violation(f"{directory} is no generation: {error}") from error

    def _digest(self, path):
        try:
            with open(path, "rb") as file:
                found = os.fstat(file.fileno())
                key = (found.st_ino, found.st_size, found.st_mtime_ns)
                if key not in self._digests:
                    digest = hashlib.sha256()
                    while piece := file.read(PIECE):
                        digest.update(piece)
                    self._digests[key] = f"sha256:{digest.hexdigest()}"
                return self._digests[key]
        except OSError as error:
            raise Violation(f"a file of a generation cannot be read: {error}") from error

    def forget_digests(self):
        """Reads every file anew from now on."""
        self._digests.clear()


@contextlib.contextmanager
def _claimed(link):
    """The directory that a link leads to, which is not collected meanwhile; none where there is no link."""
    deadline = time.monotonic() + ANSWER_S
    while True:
        try:
            target = os.readlink(link)
        except FileNotFoundError:
            yield None
            return
        path = os.path.normpath(os.path.join(os.path.dirname(link), target))
        try:
            root, workload, number = path.rsplit(os.sep, 2)
            lease = os.open(os.path.join(os.path.dirname(root), "leases", workload, number), os.O_RDONLY)
        except FileNotFoundError:
            # It may have been collected since the link was read, if the link is another by now.
            if _target(link) == target or time.monotonic() > deadline:
                raise Violation(f"{link} leads to {target}, which is not there") from None
            continue
        try:
            fcntl.flock(lease, fcntl.LOCK_SH)
            if _target(link) != target:
                continue
            yield path
            return
        finally:
            os.close(lease)


def _has_one_of(path, others):
    return any(other == path or other.startswith(f"{path}/") for other in others)


def _target(link):
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return None


def _json(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _hex(digest):
    return digest.rpartition(":")[2]
