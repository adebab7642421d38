"""`pyfwctl set restore`: a file of any size, in requests that each fit the control socket's limit."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from pyfw.cli.pyfwctl.client import Refused

PIECE_BYTES = 8 * 1024          # and the rest of a line; as JSON it may be six times as long, and a request has at most 64 KiB
MAX_LINE_BYTES = 2 * 1024       # more than any command needs
NEWLINE = b"\n"


def is_restore(request: dict[str, Any]) -> bool:
    if request["command"] != "set":
        return False
    from pyfw.edge.control.handlers.sets import SetError, SetRequest
    try:
        return SetRequest.read(request.get("words", ())).command == "restore"
    except SetError:            # the daemon says what is wrong
        return False


def restore_requests(request: dict[str, Any], lines: BinaryIO) -> Iterator[dict[str, Any]]:
    """The request, once for each piece of whole lines; an empty file makes none."""
    line, piece = 1, b""
    while read := lines.readline(MAX_LINE_BYTES + 1):
        if len(read) > MAX_LINE_BYTES:
            raise Refused(f"Error in line {line + piece.count(NEWLINE)}: it has more than {MAX_LINE_BYTES} bytes", status=1)
        piece += read
        if len(piece) >= PIECE_BYTES:
            yield _piece(request, piece, line)
            line, piece = line + piece.count(NEWLINE), b""
    if piece:
        yield _piece(request, piece, line)


def _piece(request: dict[str, Any], piece: bytes, line: int) -> dict[str, Any]:
    return request | {"text": piece.decode("utf-8", "surrogateescape"), "line": line}
