"""`pyfwctl set restore`: a file of any size, in requests that each fit the control socket's limit."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

PIECE_BYTES = 8 * 1024          # as JSON it may be six times as long, and a request has at most 64 KiB


def is_restore(request: dict[str, Any]) -> bool:
    if request["command"] != "set":
        return False
    from pyfw.edge.set_commands import SetError, SetRequest
    try:
        return SetRequest.read(request.get("words", ())).command == "restore"
    except SetError:            # the daemon says what is wrong
        return False


def restore_requests(request: dict[str, Any], lines: BinaryIO) -> Iterator[dict[str, Any]]:
    """The request, once for each piece of whole lines; an empty file makes none."""
    line = 1
    while piece := b"".join(lines.readlines(PIECE_BYTES)):
        yield request | {"text": piece.decode("utf-8", "surrogateescape"), "line": line}
        line += piece.count(b"\n")
