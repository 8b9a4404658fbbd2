"""The other end of the agent's fault points (`src/durable/fault/`): lets changes of the disk be made, or fail."""

import contextlib
import errno
import os
import random
import socket
import threading
from collections import Counter

VARIABLE = "ECI_FAULT_POINTS"
ERRNOS = (errno.EIO, errno.ENOSPC, errno.EROFS)


class Points:
    """Answers at a socket in `directory`. While it is `ill`, so many of all changes fail with one of these answers."""

    def __init__(self, directory, seed):
        self.path = os.path.join(directory, "points")
        # How often each blob has come into the cache, by its digest.
        self.arrived = Counter()
        # How many changes have failed, by answer.
        self.failed = Counter()
        # What this run of the agent could not remove: where that is not complete, the next start removes it.
        self.kept = set()
        self._illness = None
        self._chance = random.Random(seed)
        self._listener = socket.socket(socket.AF_UNIX)

    def __enter__(self):
        self._listener.bind(self.path)
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.close()

    def fall_ill(self, part, answers):
        """Has this part of all changes fail from now on."""
        self._illness = (part, answers)

    def recover(self):
        """Has all changes made from now on."""
        self._illness = None

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.kept.clear()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        # An agent that was killed hears nothing.
        with contextlib.suppress(OSError), connection, connection.makefile("rwb") as lines:
            for line in lines:
                # It was killed while it wrote.
                if not line.endswith(b"\n"):
                    return
                answer = self._answer(*line.decode(errors="replace").rstrip("\n").split("\t", 2))
                lines.write(f"{answer}\n".encode())
                lines.flush()

    def _answer(self, when, operation, path):
        directory, name = os.path.split(path)
        if when == "after":
            if operation == "rename into place" and directory.endswith("/cache/blobs/sha256"):
                self.arrived[f"sha256:{name}"] += 1
            return "go"
        illness = self._illness
        if illness is None or self._chance.random() >= illness[0]:
            return "go"
        answer = self._chance.choice(illness[1])
        self.failed[answer] += 1
        if operation == "remove" and name.endswith(".new"):
            self.kept.add(path)
        return answer
