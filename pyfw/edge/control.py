"""The control socket: one JSON object per line in, answers streamed as lines of JSON out.

Here are the transport, the permissions and the limits; what the commands mean stands in `commands`.  Nothing that a
client sends, or fails to send or to read, may end the daemon or keep others from being served:

  a request line           at most LINE_BYTES, whole within REQUEST_S
  what a client must read  taken within READ_S, or the connection is dropped
  connections              MAX_CONNECTIONS; one more, and that makes room whose peer has let us wait longest

Every refusal is counted under its name.
"""
from __future__ import annotations

import asyncio
import json
import os
import pwd
import socket
import struct
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pyfw.edge.commands import (FINISH_HANDOVER, HAND_OVER, NOTHING_MATCHED, Command, CommandError, Listen, Pause, Services,
                                find_command)
from pyfw.edge.handover import Offer
from pyfw.edge.unix_socket import bind_unix_socket, group_id_of

LINE_BYTES = 64 * 1024
MAX_CONNECTIONS = 64
BACKLOG = 1024
REQUEST_S = 30.0
READ_S = 60.0
SEND_BUFFER_BYTES = 1 << 20         # of the kernel, per connection: the next chunk is made while the client reads
PEER_CREDENTIALS = struct.Struct("3i")      # struct ucred: pid, uid, gid


class Peer(NamedTuple):
    """Who is at the other end, as the kernel says."""

    uid: int
    gid: int

    @classmethod
    def of(cls, connection: socket.socket) -> Peer:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER_CREDENTIALS.size)
        _, uid, gid = PEER_CREDENTIALS.unpack(credentials)
        return cls(uid, gid)

    @property
    def is_root(self) -> bool:
        return self.uid == 0

    def belongs_to(self, group_id: int | None) -> bool:
        """Whether its user is a member of the group, by its own credentials or by the user database."""
        if group_id is None or self.gid == group_id:
            return group_id is not None
        try:
            user = pwd.getpwuid(self.uid)
        except KeyError:
            return False
        return group_id in os.getgrouplist(user.pw_name, user.pw_gid)


class ControlServer:
    """Serves `path` until closed.  The socket belongs to root and `group` (if that exists), mode 0660."""

    def __init__(self, path: Path, group: str | None, services: Services, *,
                 request_s: float = REQUEST_S, read_s: float = READ_S) -> None:
        self._path = path
        self._group_name = group
        self._group_id = group_id_of(group)
        self._services = services
        self._request_s = request_s
        self._read_s = read_s
        self._sessions: dict[_Session, None] = {}
        self._listener: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._commands: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()

    def bind(self, handed: int | None = None) -> None:
        """Take the path; a socket file that a dead daemon left is replaced.  Raises SocketInUse, OSError.

        handed: a predecessor's listening socket, which has the path already.
        """
        self._listener = bind_unix_socket(self._path, self._group_id, handed)
        self._listener.listen(BACKLOG)

    def fileno(self) -> int:
        """The listening socket."""
        return self._listener.fileno()

    async def start(self) -> None:
        """Serve the bound socket."""
        self._server = await asyncio.start_unix_server(self._serve, sock=self._listener, limit=LINE_BYTES,
                                                       backlog=BACKLOG)

    async def close(self, *, unlink: bool = True) -> None:
        """Stop serving, drop the connections and remove the socket file, unless a successor has it."""
        if self._server is not None:
            self._server.close()
        for session in list(self._sessions):
            session.drop()
        await asyncio.sleep(0)
        self.unbind(unlink=unlink)

    def unbind(self, *, unlink: bool = True) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            if unlink:
                self._path.unlink(missing_ok=True)

    def counters(self) -> dict[str, Any]:
        """{"connections": open now, "commands": {name: n}, "refusals": {reason: n}}"""
        return {"connections": len(self._sessions), "commands": dict(self._commands),
                "refusals": dict(self._refusals)}

    def refuse(self, reason: str) -> None:
        """Count a refusal."""
        self._refusals[reason] += 1

    def permit(self, command: Command, peer: Peer) -> None:
        """Raise CommandError unless the peer may give the command, now."""
        if command.needs_root and not peer.is_root:
            raise CommandError(f"only root may {command.name}; members of group {self._group_name} may read",
                               reason="permission")
        if command.name != FINISH_HANDOVER:
            self._refuse_while_handing_over()

    def _refuse_while_handing_over(self) -> None:
        """The table may be somebody else's by now."""
        if self._services.handing_over:
            raise CommandError("a successor is taking over: ask again", reason="handing_over")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = _Session(self, reader, writer)
        if not session.peer.is_root and not session.peer.belongs_to(self._group_id):
            members = f" or a member of group {self._group_name}" if self._group_id is not None else ""
            self.refuse("permission")
            session.dismiss(f"permission denied: be root{members}")
            return
        if len(self._sessions) >= MAX_CONNECTIONS:
            self._make_room()
        self._sessions[session] = None
        try:
            await session.run(self._request_s, self._read_s)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._sessions.pop(session, None)
            session.drop()
            session.on_leave()

    def _make_room(self) -> None:
        """Let go of the connection whose peer has been silent, or has not read, for longest: root's last."""
        idlest = min(self._sessions, key=lambda session: (session.peer.is_root, session.waiting_since))
        self._sessions.pop(idlest)
        self.refuse("too_many")
        idlest.dismiss(f"more than {MAX_CONNECTIONS} connections, and this one was idle for longest")

    async def execute(self, request: Any, session: _Session) -> None:
        """Do one command, streaming its answers; raises CommandError."""
        command = find_command(request)
        self.permit(command, session.peer)
        self._commands[command.name] += 1
        answers = command.handler(self._services, command.checked_arguments(request))
        heard = None
        try:
            while True:
                if command.name not in (HAND_OVER, FINISH_HANDOVER):
                    self._refuse_while_handing_over()
                answer, heard = answers.send(heard), None
                if isinstance(answer, Pause):
                    await asyncio.sleep(answer.seconds)
                elif isinstance(answer, Offer):
                    session.offer(answer)
                elif isinstance(answer, Listen):
                    heard = await session.hear(answer.seconds)
                else:
                    await session.send(answer)
        except StopIteration as result:
            await session.send({"done": True, **result.value})
        finally:
            answers.close()


class _Session:
    """One connection."""

    def __init__(self, server: ControlServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        writer.transport.set_write_buffer_limits(high=0)    # drain() returns once the kernel has all
        self._server = server
        self._reader = reader
        self._writer = writer
        self._read_s = READ_S
        self._loop = asyncio.get_running_loop()
        self.peer = Peer.of(connection)
        self.waiting_since = self._loop.time()      # when we last began to wait for the peer
        self.on_leave: Callable[[], None] = lambda: None

    async def run(self, request_s: float, read_s: float) -> None:
        """Answer requests until the peer leaves or oversteps a limit."""
        self._read_s = read_s
        while True:
            self.waiting_since = self._loop.time()
            try:
                async with asyncio.timeout(request_s):
                    line = await self._reader.readline()
            except TimeoutError:
                self._server.refuse("idle")
                return self.dismiss(f"no whole request within {request_s:g} s")
            except ValueError:
                self._server.refuse("line_too_long")
                return self.dismiss(f"a request line may have {LINE_BYTES} bytes", status=2)
            if not line:
                return
            await self._answer(line)

    async def _answer(self, line: bytes) -> None:
        try:
            await self._server.execute(_parsed(line), self)
        except CommandError as error:
            self._server.refuse(error.reason)
            await self.send({"error": str(error), "status": error.status})
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:      # a defect; it must not take the other connections along
            self._server.refuse("internal_error")
            traceback.print_exc(file=sys.stderr)
            await self.send({"error": f"internal error: {error!r}", "status": NOTHING_MATCHED})

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
        return _parsed(line)

    async def send(self, answer: dict[str, Any]) -> None:
        """One line; returns when the kernel has taken it, and lets others run.  Raises ConnectionError."""
        self._writer.write(_line(answer))
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
        with socket.socket(fileno=os.dup(self._writer.get_extra_info("socket").fileno())) as connection:
            try:
                socket.send_fds(connection, [_line({"descriptors": list(offer.descriptors)})], list(offer.descriptors.values()))
            except OSError as error:
                raise ConnectionAbortedError(f"descriptors cannot be sent: {error.strerror}") from error
        self.on_leave = offer.taken_back

    def dismiss(self, message: str, status: int = NOTHING_MATCHED) -> None:
        """Say why, as far as the peer's buffer has room, and close."""
        if not self._writer.is_closing():
            self._writer.write(_line({"error": message, "status": status}))
        self.drop()

    def drop(self) -> None:
        """Close; what the kernel has not taken by now is thrown away."""
        self._writer.close()
        if self._writer.transport.get_write_buffer_size():
            self._writer.transport.abort()


def _line(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, separators=(",", ":")).encode("ascii") + b"\n"


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8").rstrip("\n"))
    except (ValueError, RecursionError) as error:
        detail = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise CommandError(f"not a line of JSON: {detail}", status=2, reason="malformed") from error
