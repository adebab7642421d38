"""The metrics over HTTP, on a Unix socket or a loopback address: GET /metrics.

Here are the transport and its limits; what the metrics are stands in `formats.metrics`.  All is done by one thread, so
that a client costs whoever asks at the same time, and nobody else.  A connection carries one request:

  a request      at most REQUEST_BYTES, whole within REQUEST_S
  an answer      taken within READ_S, or the connection is dropped
  connections    MAX_CONNECTIONS; one more, and the oldest makes room

Every refusal is counted under its name.
"""
from __future__ import annotations

import asyncio
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from pyfw.config_values import LoopbackAddress
from pyfw.edge.unix_socket import bind_unix_socket

PATH = "/metrics"
REQUEST_BYTES = 8192
MAX_CONNECTIONS = 16
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


class MetricsServer:
    """Serves until stopped.  `prepare_thread` is called in the thread that serves, before it does."""

    def __init__(self, listen: LoopbackAddress | Path, group_id: int | None, exposition: Exposition, *,
                 prepare_thread: Callable[[], None] = lambda: None, request_s: float = REQUEST_S, read_s: float = READ_S) -> None:
        self._listen = listen
        self._group_id = group_id
        self._exposition = exposition
        self._prepare_thread = prepare_thread
        self._request_s = request_s
        self._read_s = read_s
        self._listener: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop       # this and the next: made by start()
        self._stop: asyncio.Event
        self._thread = threading.Thread(target=self._run, name="pyfw-metrics", daemon=True)
        self._open: dict[asyncio.Task[None], None] = {}       # oldest first
        self._answers = 0
        self._refusals = dict.fromkeys(REFUSALS, 0)

    def bind(self) -> None:
        """Take the address, in the calling thread's network namespace.  Raises OSError that names it."""
        try:
            self._listener = self._bound()
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"metrics.listen {error.filename or self._listen}") from error
        self._listener.listen(BACKLOG)

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
                connection, _ = await self._loop.sock_accept(self._listener)
            except OSError:                     # no descriptor is left, or the peer is gone already
                self._refusals["not_accepted"] += 1
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            connection.setblocking(False)
            if len(self._open) >= MAX_CONNECTIONS:
                oldest = next(iter(self._open))
                del self._open[oldest]
                oldest.cancel()
                self._refusals["too_many"] += 1
            task = asyncio.create_task(self._converse(connection))
            self._open[task] = None
            task.add_done_callback(lambda done: self._open.pop(done, None))
            await asyncio.sleep(0)              # whoever had to go closes before the next one comes

    async def _converse(self, connection: socket.socket) -> None:
        with connection:
            try:
                answer = await self._answer(connection)
                async with asyncio.timeout(self._read_s):
                    await self._loop.sock_sendall(connection, answer)
            except TimeoutError:
                self._refusals["slow_reader"] += 1
            except OSError:
                pass                            # the peer has left

    async def _answer(self, connection: socket.socket) -> bytes:
        try:
            method, accept = _parsed(await self._request(connection))
            body, content_type = self._exposition(accept)
        except _Refused as error:
            return self._refusal(error)
        except ConnectionError:
            raise
        except Exception as error:              # a defect; it must not end the thread
            traceback.print_exc(file=sys.stderr)
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
