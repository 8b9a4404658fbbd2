"""A gate before a registry: it counts what passes, and can fail in the ways in which registries and links do."""

import http.client
import http.server
import re
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass

import peers

# How much is passed on at once.
PIECE = 16 << 10
# What is not known to have arrived counts as served: little of it.
SEND_BUFFER = 64 << 10
# Headers that are a registry's or a client's own, and not of one connection.
PASSED = ("accept", "range", "if-range", "user-agent")
ANSWERED = ("content-type", "content-range", "accept-ranges", "docker-content-digest", "etag", "location")
BLOB = re.compile(r"/blobs/(sha256:[0-9a-f]{64})$")


@dataclass(frozen=True)
class Mood:
    """How the gate is: what it does instead of passing something on."""

    name: str
    # Answers so, and passes nothing on.
    status: int = None
    # Stops in a body after so many bytes: `stalls` until the mood is another, `cuts` for good.
    after: int = 0
    # So many bytes a second a connection.
    rate: int = None


WELL = Mood("well")


class Gate(peers.Origin):
    """A gate on a free port of the loopback before `target`, which may be another one later."""

    def __init__(self):
        super().__init__()
        self.target = None
        # The bytes of blobs that were sent, by digest; and of everything else.
        self.sent = Counter()
        # How long each of them is.
        self.lengths = {}
        self.sent_else = 0
        # What the gate did other than passing on, by mood.
        self.troubles = Counter()
        self._mood = WELL
        self._changed = threading.Condition()
        self._connections = set()
        # Holds the port while nobody listens at it: whoever connects is refused then.
        self._holder = socket.socket()
        self._server = None

    def __enter__(self):
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._holder.bind(("127.0.0.1", 0))
        self.host = "127.0.0.1:{1}".format(*self._holder.getsockname())
        self._open()
        return self

    def __exit__(self, *_):
        self.be(Mood("down"))
        self._holder.close()

    @property
    def mood(self):
        return self._mood

    def be(self, mood):
        """Is in this mood from now on."""
        was_down, is_down = self._mood.name == "down", mood.name == "down"
        with self._changed:
            self._mood = mood
            self._changed.notify_all()
        if is_down and not was_down:
            self._server.shutdown()
            self._server.server_close()
            self.drop()
        elif was_down and not is_down:
            self._open()

    def drop(self):
        """Breaks all connections."""
        with self._changed:
            connections = list(self._connections)
        for connection in connections:
            _break(connection)

    def await_another(self, mood):
        """Waits for as long as the gate is in this mood."""
        with self._changed:
            self._changed.wait_for(lambda: self._mood is not mood)

    def count(self, digest, length):
        """Counts what was sent."""
        with self._changed:
            if digest is None:
                self.sent_else += length
            else:
                self.sent[digest] += length

    def take_in(self, connection):
        with self._changed:
            self._connections.add(connection)

    def let_go(self, connection):
        with self._changed:
            self._connections.discard(connection)

    def _open(self):
        self._server = _Server(("127.0.0.1", int(self.host.rpartition(":")[2])), _Handler)
        self._server.gate = self
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()


class _Server(http.server.ThreadingHTTPServer):
    allow_reuse_port = True
    block_on_close = False

    def handle_error(self, request, client_address):
        """Whoever hangs up does so."""


class _Handler(http.server.BaseHTTPRequestHandler):
    """Passes on one connection's requests."""

    protocol_version = "HTTP/1.1"

    def setup(self):
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.server.gate.take_in(self.request)
        super().setup()

    def finish(self):
        self.server.gate.let_go(self.request)
        try:
            super().finish()
        except OSError:
            pass

    def log_message(self, *_):
        pass

    def do_GET(self):
        """Passes a request on, if the mood is so."""
        mood = self.server.gate.mood
        if mood.status is not None:
            self._refuse(mood)
            return
        target = http.client.HTTPConnection(self.server.gate.target, timeout=30)
        try:
            headers = {name: self.headers[name] for name in PASSED if name in self.headers}
            target.request(self.command, self.path, headers=headers)
            self._answer(target.getresponse())
        except (OSError, http.client.HTTPException):
            _break(self.request)
            self.close_connection = True
        finally:
            target.close()

    do_HEAD = do_GET

    def _refuse(self, mood):
        self.server.gate.troubles[mood.name] += 1
        self.send_response_only(mood.status)
        if mood.status == 429:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, answer):
        self.send_response_only(answer.status, answer.reason)
        for name in ANSWERED:
            if (value := answer.getheader(name)) is not None:
                self.send_header(name, value)
        length = answer.getheader("Content-Length")
        body = None if length is not None or self.command == "HEAD" else answer.read()
        self.send_header("Content-Length", length if body is None else str(len(body)))
        self.end_headers()
        if self.command == "GET":
            blob = BLOB.search(self.path)
            pieces = iter(lambda: answer.read(PIECE), b"") if body is None else [body]
            if blob and answer.status in (200, 206):
                self.server.gate.lengths[blob[1]] = int(answer.getheader("Content-Range", length).rpartition("/")[2])
            self._body(pieces, blob and blob[1])

    def _body(self, pieces, digest):
        gate, passed = self.server.gate, 0
        for piece in pieces:
            mood = gate.mood
            if mood.name in ("stalls", "cuts") and passed >= mood.after:
                gate.troubles[mood.name] += 1
                if mood.name == "cuts":
                    raise ConnectionAbortedError
                gate.await_another(mood)
            if mood.name == "lies":
                gate.troubles[mood.name] += 1
                piece = bytes([piece[0] ^ 1]) + piece[1:]
            if mood.rate is not None:
                gate.troubles[mood.name] += 1
                time.sleep(len(piece) / mood.rate)
            self.wfile.write(piece)
            passed += len(piece)
            gate.count(digest, len(piece))


def _break(connection):
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
