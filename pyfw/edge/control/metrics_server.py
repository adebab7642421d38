"""The metrics over HTTP, on a Unix socket or a loopback address: GET /metrics.

Here are the transport and its limits; `report.metrics` has the metrics themselves.  One thread does
all, so that a client delays only those that ask at the same time.  A connection carries one request:

  a request      at most REQUEST_BYTES, whole within REQUEST_S
  an answer      taken within READ_S, or the connection is dropped
  connections    ROOM, as `peers` has it: a client that asks too often, or never, takes connections from its own user
  answers        made one at a time, those of others than root in half of the time

Every refusal is counted under its name.
"""
from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from pyfw.edge.control.loopback_address import LoopbackAddress
from pyfw.edge.control.peers import Peer, Room, Turns, who_makes_room
from pyfw.edge.control.socket_owner import SocketOwners
from pyfw.edge.control.unix_socket import bind_unix_socket
from pyfw.edge.defects import Defects

PATH = "/metrics"
REQUEST_BYTES = 8192
ROOM = Room(root=16, others=32, user=8)
BACKLOG = 1024                  # that wait in the kernel: a Unix socket's client is refused when it is full
ACCEPT_PAUSE_S = 0.1
REQUEST_S = 5.0
READ_S = 10.0
STOP_S = 1.0                    # how long a stop waits for an answer that is being made
END_OF_HEADER = b"\r\n\r\n"
TEXT = "text/plain; charset=utf-8"
REFUSALS = ("bad_request", "idle", "internal_error", "method", "not_accepted", "path", "request_too_long", "slow_reader",
            "too_many")

Exposition = Callable[[str], tuple[bytes, str]]
"""The value of an Accept header -> the metrics in a format that it allows, and that format's content type."""


class _Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: HTTPStatus, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class _Connection:
    """One that is open."""

    task: asyncio.Task[None]

    def __init__(self, connection: socket.socket, peer: Peer, since: float) -> None:
        self.socket = connection
        self.peer = peer
        self.waiting_since = since


class MetricsServer:
    """Serves until stopped.  `prepare_thread` is called in the thread that serves, before it does."""

    def __init__(self, listen: LoopbackAddress | Path, group_id: int | None, exposition: Exposition, *,
                 prepare_thread: Callable[[], None] = lambda: None, request_s: float = REQUEST_S, read_s: float = READ_S,
                 defects: Defects | None = None) -> None:
        self._listen = listen
        self._group_id = group_id
        self._exposition = exposition
        self._prepare_thread = prepare_thread
        self._request_s = request_s
        self._read_s = read_s
        self._defects = defects or Defects()
        self._listener: socket.socket | None = None
        self._owners: SocketOwners | None = None            # of TCP connections; of Unix sockets the kernel says it at once
        self._loop: asyncio.AbstractEventLoop       # this and the next two: made by start()
        self._stop: asyncio.Event
        self._turns: Turns
        self._thread = threading.Thread(target=self._run, name="pyfw-metrics", daemon=True)
        self._open: dict[_Connection, None] = {}
        self._answers = 0
        self._refusals = dict.fromkeys(REFUSALS, 0)

    def bind(self) -> None:
        """Take the address, in the calling thread's network namespace.  Raises OSError that names it."""
        try:
            self._listener = self._bound()
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"metrics.listen {error.filename or self._listen}") from error
        self._listener.listen(BACKLOG)
        if not isinstance(self._listen, Path):
            with suppress(OSError):                 # then all are one user's
                self._owners = SocketOwners()

    def _bound(self) -> socket.socket:
        if isinstance(self._listen, Path):
            return bind_unix_socket(self._listen, self._group_id)
        family = socket.AF_INET6 if ":" in self._listen.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)      # of a predecessor only TIME_WAITs may be left
            listener.bind(self._listen)
        except OSError:
            listener.close()
            raise
        return listener

    def start(self) -> None:
        """Serve the bound address.  Raises OSError where the event loop gets no descriptors."""
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._turns = Turns()
        self._thread.start()

    def stop(self) -> None:
        """Close all connections, and the address."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(STOP_S)
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            if isinstance(self._listen, Path):
                self._listen.unlink(missing_ok=True)
        if self._owners is not None:
            self._owners.close()
            self._owners = None

    def counters(self) -> dict[str, Any]:
        """{"connections": open now, "answers": n, "refusals": {reason: n}}.  Any thread."""
        return {"connections": len(self._open), "answers": self._answers, "refusals": dict(self._refusals)}

    # -- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._prepare_thread()
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:     # its end cancels what is still under way
            runner.run(self._serve())

    async def _serve(self) -> None:
        accepting = asyncio.create_task(self._accept())
        await self._stop.wait()
        accepting.cancel()

    async def _accept(self) -> None:
        while True:
            try:
                connection, _ = await self._loop.sock_accept(self._listener)     # type: ignore[arg-type]  # None after stop() alone
            except OSError:                     # no descriptor is left, or the peer is gone already
                self._refusals["not_accepted"] += 1
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            self._receive(connection)
            await asyncio.sleep(0)              # a session that makes room closes before the next one comes

    def _receive(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        received = _Connection(connection, self._peer(connection), self._loop.time())
        if (oldest := who_makes_room(self._open, received.peer, ROOM)) is not None:
            del self._open[oldest]
            oldest.task.cancel()
            self._refusals["too_many"] += 1
        self._open[received] = None
        received.task = asyncio.create_task(self._converse(received))
        received.task.add_done_callback(lambda _: self._forget(received))

    def _forget(self, gone: _Connection) -> None:
        self._open.pop(gone, None)
        if not any(connection.peer.uid == gone.peer.uid for connection in self._open):
            self._turns.forget(gone.peer.uid)

    def _peer(self, connection: socket.socket) -> Peer:
        try:
            if connection.family == socket.AF_UNIX:
                return Peer.of(connection)
            uid = self._owners.owner(connection) if self._owners is not None else None
        except OSError:                         # it has left
            uid = None
        return Peer(-1 if uid is None else uid)

    async def _converse(self, received: _Connection) -> None:
        with received.socket as connection:
            try:
                answer = await self._answer(received)
                async with asyncio.timeout(self._read_s):
                    await self._loop.sock_sendall(connection, answer)
            except TimeoutError:
                self._refusals["slow_reader"] += 1
            except OSError:
                pass                            # the peer has left

    async def _answer(self, received: _Connection) -> bytes:
        try:
            method, accept = _parsed(await self._request(received.socket))
            async with self._turns.step(received.peer):
                body, content_type = self._exposition(accept)
        except _Refused as error:
            return self._refusal(error)
        except ConnectionError:
            raise
        except Exception as error:              # a defect; it must not end the thread
            self._defects.report("the metrics cannot be told", error)
            return self._refusal(_Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", f"internal error: {error!r}"))
        self._answers += 1
        return _head(HTTPStatus.OK, body, content_type) + (body if method == "GET" else b"")

    async def _request(self, connection: socket.socket) -> bytes:
        """The request up to the end of its header.  Raises _Refused, ConnectionError."""
        request = b""
        try:
            async with asyncio.timeout(self._request_s):
                while END_OF_HEADER not in request and len(request) <= REQUEST_BYTES:
                    piece = await self._loop.sock_recv(connection, REQUEST_BYTES)
                    if not piece:
                        raise ConnectionAbortedError("the client has left")
                    request += piece
        except TimeoutError:
            raise _Refused(HTTPStatus.REQUEST_TIMEOUT, "idle", f"no whole request within {self._request_s:g} s") from None
        header = request.partition(END_OF_HEADER)[0]
        if len(header) > REQUEST_BYTES:
            raise _Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "request_too_long",
                           f"a request may have {REQUEST_BYTES} bytes")
        return header

    def _refusal(self, error: _Refused) -> bytes:
        self._refusals[error.reason] += 1
        body = f"{error}\n".encode()
        return _head(error.status, body, TEXT) + body


def _parsed(request: bytes) -> tuple[str, str]:
    """The method, and what the Accept header says."""
    first, *headers = request.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise _Refused(HTTPStatus.BAD_REQUEST, "bad_request", "this is no request of HTTP/1.1")
    method, target, _ = words
    if method not in ("GET", "HEAD"):
        raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED, "method", "only GET and HEAD")
    if target.partition("?")[0] != PATH:
        raise _Refused(HTTPStatus.NOT_FOUND, "path", f"the metrics are at {PATH}")
    fields = (line.partition(":") for line in headers)
    return method, ",".join(value.strip() for name, _, value in fields if name.lower() == "accept")


def _head(status: HTTPStatus, body: bytes, content_type: str) -> bytes:
    return (f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n").encode("ascii")
