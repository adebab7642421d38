"""One connection to the control socket: lines in, lines out, and what a peer that does neither costs."""
from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pyfw.edge.control.handover import HANDOVER_S, Offer
from pyfw.edge.control.peers import Peer
from pyfw.edge.control.table import NOTHING_MATCHED, Command, CommandError

if TYPE_CHECKING:
    from pyfw.edge.control.server import ControlServer

LINE_BYTES = 64 * 1024
SEND_BUFFER_BYTES = 1 << 20         # of the kernel, per connection of root's: the next chunk is made while the client reads
OTHERS_SEND_BUFFER_BYTES = 1 << 17


class Session:
    """Serves the peer of an accepted connection until it leaves or oversteps a limit."""

    task: asyncio.Task[None]

    def __init__(self, server: ControlServer, connection: socket.socket, peer: Peer, read_s: float) -> None:
        size = SEND_BUFFER_BYTES if peer.is_root else OTHERS_SEND_BUFFER_BYTES
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        self._server = server
        self._connection = connection
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._read_s = read_s
        self._loop = asyncio.get_running_loop()
        self.peer = peer
        self.waiting_since = self._loop.time()      # when we last began to wait for the peer
        self.command: Command | None = None         # under way
        self._offer: Offer | None = None            # that is open

    async def open(self) -> None:
        """Before run()."""
        self._reader = asyncio.StreamReader(limit=LINE_BYTES)
        protocol = asyncio.StreamReaderProtocol(self._reader)
        transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, self._connection)
        transport.set_write_buffer_limits(high=0)   # drain() returns once the kernel has all
        self._writer = asyncio.StreamWriter(transport, protocol, self._reader, self._loop)

    async def run(self, request_s: float) -> None:
        """Answer requests.  Raises ConnectionError."""
        while True:
            self.waiting_since = self._loop.time()
            within_s = HANDOVER_S if self._offer else request_s
            try:
                async with asyncio.timeout(within_s):
                    line = await self._reader.readline()
            except TimeoutError:
                self._server.refuse("idle")
                return self.dismiss(f"no whole request within {within_s:g} s")
            except ValueError:
                self._server.refuse("line_too_long")
                return self.dismiss(f"a request line may have {LINE_BYTES} bytes", status=2)
            if not line:
                return
            await self._answer(line)

    async def _answer(self, line: bytes) -> None:
        try:
            await self._server.execute(line, self)
        except CommandError as error:
            self._server.refuse(error.reason)
            await self.send(encoded({"error": str(error), "status": error.status}))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:      # a defect; it must not take the other connections along
            self._server.refuse("internal_error")
            self._server.defects.report("a control command failed", error)
            await self.send(encoded({"error": f"internal error: {error!r:.500}", "status": NOTHING_MATCHED}))
        finally:
            self.command = None

    async def hear(self, seconds: float) -> Any:
        """The next line, parsed; None: none came in that time.  Raises CommandError for a bad one, ConnectionError at the end."""
        try:
            async with asyncio.timeout(seconds):
                line = await self._reader.readline()
        except TimeoutError:
            return None
        except ValueError as error:
            raise CommandError(f"a request line may have {LINE_BYTES} bytes", status=2, reason="line_too_long") from error
        if not line:
            raise ConnectionAbortedError("the client has left")
        return parsed(line)

    async def send(self, line: bytes) -> None:
        """Returns when the kernel has taken it, and lets others run.  Raises ConnectionError."""
        self._writer.write(line)
        self.waiting_since = self._loop.time()
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(self._read_s):
                await self._writer.drain()
        except TimeoutError as error:
            self._server.refuse("slow_reader")
            raise ConnectionAbortedError("the client does not read") from error

    def offer(self, offer: Offer) -> None:
        """Send descriptors.  Raises ConnectionError."""
        with socket.socket(fileno=os.dup(self._connection.fileno())) as connection:
            try:
                socket.send_fds(connection, [encoded({"descriptors": list(offer.descriptors)})], list(offer.descriptors.values()))
            except OSError as error:
                raise ConnectionAbortedError(f"descriptors cannot be sent: {error.strerror}") from error
        self._offer = offer

    def close_offer(self) -> None:
        """What was offered is the peer's.  Raises CommandError if nothing was, ConnectionError if the peer has left."""
        if self._offer is None:
            raise CommandError("nothing is being handed over to this connection", status=2, reason="bad_argument")
        with suppress(BlockingIOError), socket.socket(fileno=os.dup(self._connection.fileno())) as connection:
            if not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                raise ConnectionAbortedError("the successor has left")
        self._offer = None

    def leave(self) -> None:
        """Close.  What was offered is taken back when the peer can know it: never do both judge."""
        if self._offer is None:
            return self.drop()
        self.dismiss("this daemon ends the connection")
        with suppress(OSError):         # the transport closes it later
            self._connection.shutdown(socket.SHUT_RDWR)
        offer, self._offer = self._offer, None
        offer.taken_back()

    def dismiss(self, message: str, status: int = NOTHING_MATCHED) -> None:
        """Say why, as far as the peer's buffer has room, and close."""
        if not self._writer.is_closing():
            self._writer.write(encoded({"error": message, "status": status}))
        self.drop()

    def drop(self) -> None:
        """Close; what the kernel has not taken by now is thrown away."""
        self._writer.close()
        if self._writer.transport.get_write_buffer_size():
            self._writer.transport.abort()


def encoded(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, separators=(",", ":")).encode("ascii") + b"\n"


def parsed(line: bytes) -> Any:
    """Raises CommandError."""
    try:
        return json.loads(line.decode("utf-8").rstrip("\n"))
    except (ValueError, RecursionError) as error:
        detail = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise CommandError(f"not a line of JSON: {detail}", status=2, reason="malformed") from error
