"""The agent on a node of its own: started as systemd would, fed by its desired-state file, followed by its events."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time

from build import ROOT
from process import environment

# Far longer than anything here takes; only a failure waits for it.
PATIENCE_S = 300
# How often it is looked at whether an agent that is not ready has ended.
LOOK_EVERY_S = 0.1


UNIT = os.path.join(ROOT, "systemd/eci-agent.service")


def _of_the_unit():
    """What the service's unit puts into the agent's environment."""
    with open(UNIT, encoding="utf-8") as unit:
        lines = [line.strip().removeprefix("Environment=") for line in unit if line.startswith("Environment=")]
    return dict(line.split("=", 1) for line in lines)


class Ended(RuntimeError):
    """The agent has ended instead of being ready."""

    def __init__(self, code, log):
        super().__init__(f"the agent ended with {code}: {log}")
        self.code = code


class Node:
    """An agent with a state directory and a desired-state file on the file system of `root`.

    Sockets are in `sockets`, whose path is short enough for them. `settings` are lines for its configuration. The state
    directory may be elsewhere.
    """

    def __init__(self, binary, root, sockets, settings="", poll="off", state=None):
        self.binary = binary
        self.root = root
        self.state = state or os.path.join(root, "state")
        # What the agent finds in its environment besides.
        self.environment = _of_the_unit()
        self.current = os.path.join(self.state, "current")
        self.process = None
        self.etc = os.path.join(root, "etc")
        self._desired = os.path.join(self.etc, "desired.toml")
        self.log_path = os.path.join(root, "log")
        self._socket = os.path.join(sockets, "agent")
        self._notify = os.path.join(sockets, "notify")
        self._ready = None
        os.makedirs(self.state)
        os.makedirs(self.etc)
        with open(os.path.join(self.etc, "agent.toml"), "w", encoding="utf-8") as config:
            config.write(f'[desired]\npoll = "{poll}"\nretire = "0s"\n{settings}')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self, tracer=()):
        """Starts the agent; the seconds from there until it said that it is ready."""
        began = self.spawn(tracer)
        self.until_ready()
        return time.monotonic() - began

    def spawn(self, tracer=()):
        """Starts the agent and waits for nothing; the time just before that."""
        self._end_notify()
        self._ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        _unlink(self._notify)
        self._ready.bind(self._notify)
        self._ready.settimeout(LOOK_EVERY_S)
        command = [*tracer, self.binary, "agent", "--desired", self._desired, *self._where()]
        env = dict(environment(self.root), NOTIFY_SOCKET=self._notify, **self.environment)
        with open(self.log_path, "ab") as log:
            began = time.monotonic()
            self.process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return began

    def until_ready(self):
        """Waits until an agent that was started is ready."""
        deadline, message = time.monotonic() + PATIENCE_S, b""
        while b"READY=1" not in message:
            try:
                message = self._ready.recv(4096)
            except TimeoutError:
                if (code := self.process.poll()) is not None:
                    self.kill()
                    raise Ended(code, self.log()) from None
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the agent is not ready: {self.log()}") from None
        self._end_notify()

    def _end_notify(self):
        if self._ready is not None:
            self._ready.close()
            self._ready = None

    def _where(self):
        """What every command takes."""
        config = os.path.join(self.etc, "agent.toml")
        return ["--config", config, "--state-dir", self.state, "--socket", self._socket]

    def command(self, *arguments):
        """The command line of a command beside the agent."""
        return [self.binary, *arguments, *self._where()]

    def eci(self, *arguments):
        """Runs a command beside the agent, whatever becomes of it."""
        command, env = self.command(*arguments), environment(self.root)
        return subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def connect(self, timeout_s=PATIENCE_S):
        """A connection to the agent's socket."""
        return _UnixConnection(self._socket, timeout_s)

    def ask(self, path, timeout_s=PATIENCE_S):
        """A document of the agent's."""
        with contextlib.closing(self.connect(timeout_s)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status}: {text.decode(errors='replace')}")
        return json.loads(text)

    def stop(self):
        """Ends the agent as systemd does, if it runs."""
        if self.process is None:
            return
        process, self.process = self.process, None
        self._end_notify()
        if process.poll() is None:
            os.kill(self.pid(process), signal.SIGTERM)
        try:
            process.wait(timeout=30)
        finally:
            process.kill()

    def kill(self):
        """Ends the agent as a crash would."""
        self._end_notify()
        self.process.kill()
        self.process.wait()
        self.process = None

    def pid(self, process=None):
        """The agent's process id: that of the child, except where the child is a tracer."""
        child = (process or self.process).pid
        return next(iter(_children(child)), child)

    def desire(self, *references):
        """Renames a desired state into place, of one workload or of several; the time just before that."""
        if len(references) == 1:
            return self.install(f'image = "{references[0]}"\n')
        return self.install("".join(f'[workload.w{n}]\nimage = "{image}"\n' for n, image in enumerate(references)))

    def install(self, text):
        """Renames a file with this text into place as the desired state; the time just before that."""
        return self.install_bytes(text.encode())

    def install_bytes(self, content):
        """The same with what need not be text."""
        new = os.path.join(self.etc, "new")
        with open(new, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        began = time.monotonic()
        os.rename(new, self._desired)
        return began

    def scribble(self, content):
        """Writes bytes into the desired state in place, as an editor may."""
        with open(self._desired, "wb") as file:
            file.write(content)

    def undesire(self):
        """Removes the desired state."""
        _unlink(self._desired)

    def follow(self):
        """Follows what happens from now on."""
        return Events(self._socket, self.log, {})

    def follow_from_start(self):
        """Follows what happens, and has happened since the agent started."""
        return Events(self._socket, self.log, {"Last-Event-ID": "0-0"})

    def log(self):
        """The end of the agent's log."""
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-20:])


class Events:
    """The stream of `GET /v1/events`."""

    def __init__(self, path, log, headers):
        self._log = log
        self._connection = _UnixConnection(path, PATIENCE_S)
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
    def __init__(self, path, timeout_s):
        super().__init__("localhost", timeout=timeout_s)
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
