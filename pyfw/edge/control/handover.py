"""A daemon hands its work to its successor, over the control socket (`pyfw run --takeover`).

    successor                            predecessor
    {"command": "hand-over"}        ->   judges no more: packets wait in the kernel's queue
                                    <-   {"descriptors": [NAME...]} with the descriptors (SCM_RIGHTS)
    judges what has waited
    {"command": "hand-over-done"}   ->   ends, and leaves everything in its place

When the connection ends before that, the predecessor goes on as if nothing had been.

Laws, so that exactly one of them judges:
  - The predecessor alone decides.  It ends the connection before it goes on, and says so in an error line.
  - The successor goes on if it is told that it may, or if the connection ends without a word: then the other has died.
  - The successor may take HANDOVER_S, more than all that it does can take.  Only one that is stopped takes longer.
"""
from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from pyfw.edge.control.unix_socket import connected

QUEUE, CONTROL, CONTROL_ROOT, DIVERSION = "queue", "control", "control-root", "diversion"
"""With state_file's names: what is handed over."""
ANSWER_TIMEOUT_S = 10.0
HANDOVER_S = 120.0              # twice what an installation that fails, and its undoing, may take (INSTALL_S of divert.py)
MAX_DESCRIPTORS = 16


class HandoverError(Exception):
    """There is nothing to be taken over: one line that says why."""


@dataclass(frozen=True)
class Offer:
    """An answer on the control socket that carries descriptors; `taken_back` is called when its connection ends."""

    descriptors: Mapping[str, int]
    taken_back: Callable[[], None]


class Handover:
    """What a running daemon has handed over; entered, and left without done(), it is given back."""

    def __init__(self, path: str) -> None:
        """Ask the daemon at this control socket.  Raises HandoverError."""
        try:
            self._connection = connected(path, ANSWER_TIMEOUT_S)
        except OSError as error:
            raise HandoverError(f"no daemon at {path} hands over: {error}") from None
        try:
            self._check_peer()
            self._say("hand-over")
            received, descriptors, _, _ = socket.recv_fds(self._connection, 65536, MAX_DESCRIPTORS)
            line, _, self._received = received.partition(b"\n")
            answer = json.loads(line)
            if "error" in answer:
                raise ValueError(answer["error"])
            self.descriptors: dict[str, int] = dict(zip(answer["descriptors"], descriptors, strict=True))
        except (OSError, ValueError) as error:
            self._connection.close()
            raise HandoverError(f"no daemon at {path} hands over: {error}") from None

    def __enter__(self) -> Handover:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.close()

    def done(self) -> None:
        """The predecessor may end; returns when it does.  Raises HandoverError if it goes on."""
        self._connection.settimeout(None)       # without the answer, both daemons could end, or both go on
        with suppress(ConnectionError):         # what it has said before it left can still be read
            self._say("hand-over-done")
        for _ in ("hand-over", "hand-over-done"):
            answer = self._next_answer()
            if answer is None:
                return
            if "done" not in answer:
                raise HandoverError(f"the predecessor goes on: {answer.get('error')}")

    def _next_answer(self) -> dict[str, Any] | None:
        """None: the connection has ended."""
        try:
            while b"\n" not in self._received:
                received = self._connection.recv(4096)
                if not received:
                    return None
                self._received += received
        except ConnectionError:
            return None
        line, _, self._received = self._received.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _check_peer(self) -> None:
        """What a stranger hands over must not be taken for a queue and a table."""
        from pyfw.edge.control.peers import Peer  # with asyncio, which every start would load with this module
        peer = Peer.of(self._connection)
        if not peer.is_root:
            raise ValueError(f"it is user {peer.uid}'s; only that user may take it over")

    def _say(self, command: str) -> None:
        self._connection.sendall(json.dumps({"command": command}).encode() + b"\n")
