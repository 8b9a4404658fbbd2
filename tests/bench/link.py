"""A link with a round-trip time, made of a proxy: TCP connections to a host nearby as if it were far away."""

import asyncio
import socket
import threading
import time

# How much is read at once: small pieces would keep this process busy.
PIECE = 64 << 10
# Far longer than anything here takes; only a failure waits for it.
PATIENCE_S = 300


class Link:
    """A link to `target`: `host` is its near end.

    What is sent comes out half a round trip later, in each direction. Of what was sent on a connection, a window's
    worth at most is not known to have arrived, and so a connection brings a window a round trip and no more, as TCP
    does. A connection takes one round trip to be made. There is no slow start and no loss.
    """

    def __init__(self, target, round_trip_s, window):
        self.host = None
        # How many bytes the target has sent, over all connections. What was under way when one broke counts as well.
        self.carried = 0
        self._target = target
        self._half_s = round_trip_s / 2
        self._window = window
        self._connections = set()
        self._loop = None
        self._end = None
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self):
        self._thread.start()
        self._is_up.wait()
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def drop(self):
        """Breaks all connections. New ones can be made at once."""
        self._loop.call_soon_threadsafe(self._break)

    def until_carried(self, count):
        """Waits until the target has sent so many bytes."""
        deadline = time.monotonic() + PATIENCE_S
        while self.carried < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"only {self.carried} of {count} bytes came over the link")
            time.sleep(0.001)

    def _break(self):
        for connection in self._connections:
            connection.cancel()

    async def _serve(self):
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
            listener.setblocking(False)
            self.host = "127.0.0.1:{1}".format(*listener.getsockname())
            self._is_up.set()
            accepting = asyncio.create_task(self._accept(listener))
            await self._end.wait()
            tasks = [accepting, *self._connections]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, listener):
        while True:
            near, _ = await self._loop.sock_accept(listener)
            task = asyncio.create_task(self._connect(near))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _connect(self, near):
        """Carries a connection until both sides have closed it, or one has broken it."""
        with near, socket.socket() as far:
            for end in (near, far):
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            host, _, port = self._target.rpartition(":")
            try:
                await self._loop.sock_connect(far, (host, int(port)))
                await asyncio.sleep(2 * self._half_s)
                await _all_or_none(self._carry(near, far, _forget), self._carry(far, near, self._count))
            except OSError:
                pass

    def _count(self, length):
        self.carried += length

    async def _carry(self, source, sink, tell):
        """Carries one direction of a connection to its end."""
        window, under_way = _Window(self._window), asyncio.Queue()
        await _all_or_none(self._take(source, window, under_way, tell), self._deliver(sink, window, under_way))

    async def _take(self, source, window, under_way, tell):
        piece = b"begin"
        while piece:
            piece = await self._loop.sock_recv(source, await window.room())
            tell(len(piece))
            window.free -= len(piece)
            under_way.put_nowait((self._loop.time() + self._half_s, piece))

    async def _deliver(self, sink, window, under_way):
        while True:
            due, piece = await under_way.get()
            if (early := due - self._loop.time()) > 0:
                await asyncio.sleep(early)
            if not piece:
                sink.shutdown(socket.SHUT_WR)
                return
            await self._loop.sock_sendall(sink, piece)
            # The acknowledgement takes its time as well.
            self._loop.call_later(self._half_s, window.acknowledge, len(piece))


class _Window:
    """How much more may be sent before something is acknowledged."""

    def __init__(self, size):
        self.free = size
        self._grown = asyncio.Event()

    async def room(self):
        """Waits until a piece has room; how much there is for it, to be read at once."""
        while self.free < PIECE:
            self._grown.clear()
            await self._grown.wait()
        return self.free

    def acknowledge(self, count):
        self.free += count
        self._grown.set()


def _forget(_):
    pass


async def _all_or_none(*coroutines):
    """Runs all to their end; where one fails, the others are given up."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
