"""The control sockets: one JSON object per line in, answers streamed as lines of JSON out.

One socket is root's alone, the other one's, beside it, the group's as well: whatever its members do there, root is heard.

Here are the permissions and the limits; what the commands mean stands in `commands`, what users take of each other in
`peers`.  Nothing that a client sends, or fails to send or to read, may end the daemon or keep others from being served:

  a request line           at most LINE_BYTES, whole within REQUEST_S; after an offer within HANDOVER_S
  what a client must read  taken within READ_S, or the connection is dropped
  connections              ROOM, as `peers` has it; others than root come in one in ACCEPT_INTERVAL_S
  commands                 some hold memory or slow packets down while they last: `Command.others`
  descriptors              where none is left, one of the others' connections goes

Every refusal is counted under its name.
"""
from __future__ import annotations

import asyncio
import errno
import socket
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyfw.edge.control.handover import CONTROL, CONTROL_ROOT, Offer
from pyfw.edge.control.peers import Peer, Room, Turns, groups_of, who_makes_room, whose_is_least_missed
from pyfw.edge.control.session import Session, encoded, parsed
from pyfw.edge.control.table import (
    FINISH_HANDOVER,
    HAND_OVER,
    NOTHING_MATCHED,
    Command,
    CommandError,
    Listen,
    Pause,
    Services,
    find_command,
)
from pyfw.edge.control.unix_socket import bind_unix_socket, group_id_of, roots_path
from pyfw.edge.defects import Defects

ROOM = Room(root=64, others=48, user=16)
BACKLOG = 1024
REQUEST_S = 30.0
READ_S = 60.0
ACCEPT_PAUSE_S = 0.1
ACCEPT_INTERVAL_S = 0.001


class ControlServer:
    """Serves `path`, which is root's and `group`'s (if that exists), and the path of root's alone, until closed."""

    def __init__(self, path: Path, group: str | None, services: Services, *, request_s: float = REQUEST_S,
                 read_s: float = READ_S, defects: Defects | None = None) -> None:
        self._paths = {CONTROL: path, CONTROL_ROOT: roots_path(path)}
        self._group_name = group
        self._group_id = group_id_of(group)
        self._services = services
        self._request_s = request_s
        self._read_s = read_s
        self._sessions: dict[Session, None] = {}
        self._listeners: dict[str, socket.socket] = {}
        self._accepting: list[asyncio.Task[None]] = []
        self._turns: Turns
        self._commands: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self.defects = defects or Defects()

    def bind(self, handed: dict[str, int] | None = None) -> None:
        """Take the paths; a socket file that a dead daemon left is replaced.  Raises SocketInUse, OSError.

        handed: a predecessor's listening sockets, by name, which have their paths already.
        """
        handed = handed or {}
        try:
            for name, path in self._paths.items():
                group_id = self._group_id if name == CONTROL else None
                self._listeners[name] = bind_unix_socket(path, group_id, handed.get(name))
                self._listeners[name].listen(BACKLOG)
        except OSError:
            self.unbind(unlink=CONTROL not in handed)
            raise

    def descriptors(self) -> dict[str, int]:
        """The listening sockets, by name."""
        return {name: listener.fileno() for name, listener in self._listeners.items()}

    async def start(self) -> None:
        """Serve the bound sockets."""
        self._turns = Turns()
        self._accepting = [asyncio.create_task(self._accept(listener)) for listener in self._listeners.values()]

    def stop_serving(self) -> None:
        """Accept no client, and close all sessions: their descriptors are free again as soon as the event loop has run."""
        for task in self._accepting:
            task.cancel()
        for session in list(self._sessions):
            session.leave()
            session.task.cancel()

    async def close(self, *, unlink: bool = True) -> None:
        """Stop serving, drop the connections and remove the socket files, unless a successor has them."""
        self.stop_serving()
        await asyncio.gather(*self._accepting, *(session.task for session in self._sessions), return_exceptions=True)
        self.unbind(unlink=unlink)

    def unbind(self, *, unlink: bool = True) -> None:
        while self._listeners:
            name, listener = self._listeners.popitem()
            listener.close()
            if unlink:
                self._paths[name].unlink(missing_ok=True)

    def counters(self) -> dict[str, Any]:
        """{"connections": open now, "others": of these, not root's, "commands": {name: n}, "refusals": {reason: n}}"""
        return {"connections": len(self._sessions),
                "others": sum(not session.peer.is_root for session in tuple(self._sessions)),
                "commands": dict(self._commands), "refusals": dict(self._refusals),
                "defects": self.defects.count, "defects_suppressed": self.defects.suppressed}

    def refuse(self, reason: str) -> None:
        """Count a refusal."""
        self._refusals[reason] += 1

    # -- connections -----------------------------------------------------------------------------------------

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            except OSError as error:                # no descriptor is left, or the peer is gone already
                self.refuse("not_accepted")
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._let_go(whose_is_least_missed(self._sessions), "another connection needs this one's descriptor")
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            try:
                peer = Peer.of(connection)
                await self._receive(connection, peer)
            except Exception as error:
                connection.close()
                if not isinstance(error, OSError):  # else it has left already
                    self.defects.report("a connection could not be served", error)
                continue
            await asyncio.sleep(0 if peer.is_root else ACCEPT_INTERVAL_S)

    async def _receive(self, connection: socket.socket, peer: Peer) -> None:
        if not peer.is_root and peer.belongs_to(self._group_id) is False:
            self.refuse("permission")
            with connection, suppress(OSError):
                connection.send(encoded({"error": self._who_may(), "status": NOTHING_MATCHED}))
            return
        if (idlest := who_makes_room(self._sessions, peer, ROOM)) is not None:
            self.refuse("too_many")
            self._let_go(idlest, "there are too many connections, and this one was idle for longest")
        session = Session(self, connection, peer, self._read_s)
        await session.open()
        self._sessions[session] = None
        session.task = asyncio.create_task(self._serve(session))

    def _who_may(self) -> str:
        members = f" or a member of group {self._group_name}" if self._group_id is not None else ""
        return f"permission denied: be root{members}"

    def _let_go(self, session: Session | None, message: str) -> None:
        if session is not None:
            del self._sessions[session]
            session.dismiss(message)
            session.task.cancel()

    async def _serve(self, session: Session) -> None:
        try:
            if await self._is_permitted(session.peer):
                await session.run(self._request_s)
            else:
                self.refuse("permission")
                session.dismiss(self._who_may())
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._sessions.pop(session, None)
            session.leave()
            if not any(other.peer.uid == session.peer.uid for other in self._sessions):
                self._turns.forget(session.peer.uid)

    async def _is_permitted(self, peer: Peer) -> bool:
        """Others are served while the user database is asked.  A connection that goes meanwhile is not asked for any more."""
        if peer.is_root or peer.belongs_to(self._group_id):
            return True
        return self._group_id in await asyncio.wrap_future(self._services.in_background(groups_of, peer.uid))

    # -- commands --------------------------------------------------------------------------------------------

    async def execute(self, line: bytes, session: Session) -> None:
        """Do the one command that a line asks for, streaming its answers; raises CommandError."""
        async with self._turns.step(session.peer):
            request = parsed(line)
            command = find_command(request)
            self._permit(command, session.peer)
            arguments = command.checked_arguments(request)
            self._admit(command, session.peer)
            session.command = command
            self._commands[command.name] += 1
        if command.name == FINISH_HANDOVER:
            session.close_offer()
        answers = command.handler(self._services, arguments)
        heard, over = None, False
        try:
            while not over:
                if command.name not in (HAND_OVER, FINISH_HANDOVER):
                    self._refuse_while_handing_over()
                async with self._turns.step(session.peer):
                    try:
                        answer, heard = answers.send(heard), None
                    except StopIteration as result:
                        answer, over = {"done": True, **result.value}, True
                    answer_line = encoded(answer) if isinstance(answer, dict) else b""
                if isinstance(answer, Pause):
                    await asyncio.sleep(answer.seconds)
                elif isinstance(answer, Offer):
                    session.offer(answer)
                elif isinstance(answer, Listen):
                    heard = await session.hear(answer.seconds)
                else:
                    await session.send(answer_line)
        finally:
            answers.close()

    def _permit(self, command: Command, peer: Peer) -> None:
        """Raise CommandError unless the peer may give the command, now."""
        if command.needs_root and not peer.is_root:
            raise CommandError(f"only root may {command.name}; members of group {self._group_name} may read",
                               reason="permission")
        if command.name != FINISH_HANDOVER:
            self._refuse_while_handing_over()

    def _refuse_while_handing_over(self) -> None:
        """The table may be a successor's by now."""
        if self._services.handing_over:
            raise CommandError("a successor is taking over: ask again", reason="handing_over")

    def _admit(self, command: Command, peer: Peer) -> None:
        """Raise CommandError if others than root have it under way as often as they may; one user gets all but one."""
        if peer.is_root or not command.others:
            return
        at_it = [session.peer.uid for session in self._sessions if session.command is command and not session.peer.is_root]
        if len(at_it) >= command.others or at_it.count(peer.uid) >= max(command.others - 1, 1):
            raise CommandError(f"{len(at_it)} are at {command.name} already, and the rest is kept for others; try again later",
                               reason="busy")
