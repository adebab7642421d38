"""Talks to a daemon's control socket: one request, its answers."""
from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

ANSWER_TIMEOUT_S = 60.0         # of silence; a working daemon answers within milliseconds
READ_BUFFER_BYTES = 1 << 20     # holds a whole chunk of a listing


class NoDaemon(Exception):
    """Nobody answers at the socket's path."""


class Refused(Exception):
    """The daemon's answer is an error; `status` is the exit status it asks for."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def ask(path: str, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Send a request and yield the answers, the last of which has `done`.

    Raises NoDaemon when nobody listens at `path`, Refused when the daemon answers with an error or breaks off.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_TIMEOUT_S)
        try:
            connection.connect(path)
        except PermissionError as error:
            raise Refused(f"permission denied on {path}: be root or a member of the control group", 1) from error
        except OSError as error:
            raise NoDaemon(f"no pyfw daemon at {path} ({error.strerror or error})") from error
        try:
            connection.sendall(json.dumps(request).encode() + b"\n")
        except ConnectionError:
            pass                # it has closed already; why stands in what it sent
        yield from _answers(connection, path)


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
