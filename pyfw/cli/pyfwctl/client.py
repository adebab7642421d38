"""Talks to a daemon's control socket: one request, its answers; or a stream of them, and more requests meanwhile."""
from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Self

from pyfw.edge.control.unix_socket import connected

ANSWER_TIMEOUT_S = 60.0         # of silence; a working daemon answers within milliseconds
READ_BUFFER_BYTES = 1 << 20     # holds a whole chunk of a listing


class NoDaemon(Exception):
    """No daemon answers at the socket's path."""


class Refused(Exception):
    """The daemon's answer is an error; `status` is the exit status it asks for."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def ask(path: str, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Send a request and yield the answers, the last of which has `done`.

    Raises NoDaemon when no daemon listens at `path`, Refused when the daemon answers with an error or breaks off.
    """
    with _connected(path) as connection:
        _send(connection, request)
        yield from _answers(connection, path)


def ask_in_pieces(path: str, request: dict[str, Any], pieces: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """As ask(), of a request whose rest follows in pieces: each is sent when the daemon asks for it by `next`."""
    with _connected(path) as connection:
        _send(connection, request)
        rest = iter(pieces)
        for answer in _answers(connection, path):
            if "next" in answer:
                _send(connection, next(rest, {}))
            else:
                yield answer


def daemon_uid(path: str) -> int:
    """The user whose daemon listens at `path`, as the kernel says.  Raises NoDaemon, Refused."""
    from pyfw.edge.control.peers import Peer
    with _connected(path) as connection:
        return Peer.of(connection).uid


class Stream:
    """Answers as they come, for a caller that also waits for other things.

    Raises NoDaemon when no daemon listens at `path`, or it has ended; Refused when the daemon answers with an error.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection = _connected(path)
        self._rest = b""            # the beginning of a line whose end has not come yet

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()

    def fileno(self) -> int:
        return self._connection.fileno()

    def send(self, request: dict[str, Any]) -> None:
        _send(self._connection, request)

    def receive(self) -> list[dict[str, Any]]:
        """What has come; waits for the first of it."""
        try:
            data = self._connection.recv(READ_BUFFER_BYTES)
        except (ConnectionError, TimeoutError):
            data = b""
        if not data:
            raise NoDaemon(f"the daemon at {self._path} is gone")
        *lines, self._rest = (self._rest + data).split(b"\n")
        answers = [json.loads(line) for line in lines]
        for answer in answers:
            if "error" in answer:
                raise Refused(answer["error"], answer.get("status", 1))
        return answers


def _connected(path: str) -> socket.socket:
    try:
        return connected(path, ANSWER_TIMEOUT_S)
    except PermissionError as error:
        raise Refused(f"permission denied on {path}: be root or a member of the control group", 1) from error
    except OSError as error:
        raise NoDaemon(f"no pyfw daemon at {path} ({error.strerror or error})") from error


def _send(connection: socket.socket, request: dict[str, Any]) -> None:
    with suppress(ConnectionError):     # it has closed already; why stands in what it sent
        connection.sendall(json.dumps(request).encode() + b"\n")


def _answers(connection: socket.socket, path: str) -> Iterator[dict[str, Any]]:
    with connection.makefile("rb", buffering=READ_BUFFER_BYTES) as lines:
        try:
            for line in lines:
                answer = json.loads(line)
                if "error" in answer:
                    raise Refused(answer["error"], answer.get("status", 1))
                yield answer
                if "done" in answer:
                    return
        except TimeoutError as error:
            raise NoDaemon(f"the daemon at {path} has not answered for {ANSWER_TIMEOUT_S:.0f} s") from error
        except (ConnectionError, ValueError) as error:
            raise Refused(f"the daemon at {path} broke off: {error}", 1) from error
    raise Refused(f"the daemon at {path} broke off before its answer was complete", 1)
