"""The agent on a node of its own: started as systemd would, fed by its desired-state file, followed by its events."""

import http.client
import json
import os
import signal
import socket
import subprocess
import time

from process import environment

# Far longer than anything here takes; only a failure waits for it.
PATIENCE_S = 300


class Node:
    """An agent with a state directory and a desired-state file on the file system of `root`.

    Sockets are in `sockets`, whose path is short enough for them. `settings` are lines for its configuration.
    """

    def __init__(self, binary, root, sockets, settings=""):
        self.binary = binary
        self.root = root
        self.state = os.path.join(root, "state")
        self.current = os.path.join(self.state, "current")
        self.process = None
        self._etc = os.path.join(root, "etc")
        self._desired = os.path.join(self._etc, "desired.toml")
        self._log = os.path.join(root, "log")
        self._socket = os.path.join(sockets, "agent")
        self._notify = os.path.join(sockets, "notify")
        os.makedirs(self.state)
        os.makedirs(self._etc)
        with open(os.path.join(self._etc, "agent.toml"), "w", encoding="utf-8") as config:
            config.write(f'[desired]\npoll = "off"\n{settings}')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self, tracer=()):
        """Starts the agent; the seconds from there until it said that it is ready."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, open(self._log, "ab") as log:
            _unlink(self._notify)
            notify.bind(self._notify)
            notify.settimeout(PATIENCE_S)
            command = [*tracer, *self._command()]
            env = dict(environment(self.root), NOTIFY_SOCKET=self._notify)
            began = time.monotonic()
            self.process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            try:
                while b"READY=1" not in notify.recv(4096):
                    pass
            except TimeoutError:
                raise RuntimeError(f"the agent is not ready: {self.log()}") from None
            return time.monotonic() - began

    def _command(self):
        config = os.path.join(self._etc, "agent.toml")
        where = ["--config", config, "--desired", self._desired, "--state-dir", self.state, "--socket", self._socket]
        return [self.binary, "agent", *where]

    def stop(self):
        """Ends the agent as systemd does, if it runs."""
        if self.process is None:
            return
        process, self.process = self.process, None
        if process.poll() is None:
            os.kill(self.pid(process), signal.SIGTERM)
        try:
            process.wait(timeout=30)
        finally:
            process.kill()

    def kill(self):
        """Ends the agent as a crash would."""
        self.process.kill()
        self.process.wait()
        self.process = None

    def pid(self, process=None):
        """The agent's process id: that of the child, except where the child is a tracer."""
        child = (process or self.process).pid
        with open(os.path.join(self.state, "lock"), encoding="utf-8") as lock:
            holder = int(lock.read())
        return holder if holder in _children(child) else child

    def desire(self, *references):
        """Renames a desired state into place, of one workload or of several; the time just before that."""
        new = os.path.join(self._etc, "new")
        with open(new, "w", encoding="utf-8") as file:
            if len(references) == 1:
                file.write(f'image = "{references[0]}"\n')
            else:
                file.writelines(f'[workload.w{n}]\nimage = "{image}"\n' for n, image in enumerate(references))
            file.flush()
            os.fsync(file.fileno())
        began = time.monotonic()
        os.rename(new, self._desired)
        return began

    def follow(self):
        """Follows what happens from now on."""
        return Events(self._socket, self.log, {})

    def follow_from_start(self):
        """Follows what happens, and has happened since the agent started."""
        return Events(self._socket, self.log, {"Last-Event-ID": "0-0"})

    def log(self):
        """The end of the agent's log."""
        with open(self._log, encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-20:])


class Events:
    """The stream of `GET /v1/events`."""

    def __init__(self, path, log, headers):
        self._log = log
        self._connection = _UnixConnection(path)
        self._connection.request("GET", "/v1/events", headers=headers)
        self._response = self._connection.getresponse()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._response.close()
        self._connection.close()

    def until_activated(self, count=1):
        """The time at which the agent said that it has swapped `current`, of so many workloads.

        It says so after the directories of the links and its own state were synced (`Reconciler::apply`: actions
        first, then the journal).
        """
        activated = set()
        while True:
            line = self._response.readline()
            now = time.monotonic()
            if not line:
                raise RuntimeError(f"the agent closed its events: {self._log()}")
            if not line.startswith(b"data: "):
                continue
            event = json.loads(line[len(b"data: ") :])
            if event["event"] == "activated":
                activated.add(event["workload"])
                if len(activated) == count:
                    return now
            # That there is no desired-state file yet is no failure.
            if event["event"] in ("failed", "desired-rejected") and event["kind"] != "desired-absent":
                raise RuntimeError(f"{event['message']}: {self._log()}")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=PATIENCE_S)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as children:
        return [int(child) for child in children.read().split()]


def _unlink(path):
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
