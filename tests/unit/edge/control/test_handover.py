"""What a successor makes of what its predecessor says, and of its silence."""
from __future__ import annotations

import json
import os
import socket
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from pyfw.edge.control.handover import Handover, HandoverError

DONE = {"done": True}
GOES_ON = {"error": "no whole request within 120 s"}


def predecessor(listener: socket.socket, before: list[dict], after: list[dict] | None) -> None:
    """Hand over; say `before`, wait for the successor to be done, say `after`, leave.  None: leave before that."""
    connection, _ = listener.accept()
    with connection:
        connection.recv(4096)
        with open(os.devnull) as handed:
            socket.send_fds(connection, [json.dumps({"descriptors": ["queue"]}).encode() + b"\n"], [handed.fileno()])
        connection.sendall(b"".join(json.dumps(answer).encode() + b"\n" for answer in before))
        if after is not None:
            connection.recv(4096)
            connection.sendall(b"".join(json.dumps(answer).encode() + b"\n" for answer in after))


REFUSED = pytest.raises(HandoverError, match="the predecessor goes on: no whole request within 120 s")


@pytest.mark.parametrize(("before", "after", "outcome"), [
    ([DONE], [DONE], nullcontext()),
    ([], [DONE, DONE], nullcontext()),
    ([DONE], [], nullcontext()),
    ([DONE], None, nullcontext()),
    ([], None, nullcontext()),
    ([DONE], [GOES_ON], REFUSED),
    ([DONE, GOES_ON], None, REFUSED),
    ([GOES_ON], None, REFUSED),
], ids=["told", "told at once", "died instead", "died before", "died at once", "goes on", "has gone on", "went on at once"])
def test_who_goes_on(tmp_path: Path, before: list[dict], after: list[dict] | None, outcome: AbstractContextManager) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control.sock"))
        listener.listen()
        thread = threading.Thread(target=predecessor, args=(listener, before, after))
        thread.start()
        with Handover(str(tmp_path / "control.sock")) as handover:
            for descriptor in handover.descriptors.values():
                os.close(descriptor)
            if after is None:
                thread.join()
            with outcome:
                handover.done()
        thread.join()
