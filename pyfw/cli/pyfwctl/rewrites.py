"""What pyfwctl does on its side of a command, by the name that the command table has for it.

Each takes the control socket's path and the request.  It returns the requests to send instead, or the exit status of what it has done
itself.  Raises NoDaemon, Refused.
"""
from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from pyfw.cli.pyfwctl.client import Refused
from pyfw.edge.control.table import NOTHING_MATCHED, USAGE

PIECE_BYTES = 8 * 1024          # and the rest of a line; as JSON it may be six times as long, and a request has at most 64 KiB
MAX_LINE_BYTES = 2 * 1024       # more than any command needs
NEWLINE = b"\n"

Request = dict[str, Any]


def read_capture(path: str, request: Request) -> list[Request]:
    """`explain pcap FILE --frame N`: pyfwctl sends the frame: the daemon reads no files of its users."""
    words = request.get("words", ())
    if "pcap" not in words:
        return [request]
    from pyfw.cli.frames import without_files
    from pyfw.explain.packet_spec import SpecError  # loads the engine, which nothing else here needs
    try:
        return [{**request, "words": without_files(words)}]
    except SpecError as error:
        raise Refused(str(error), USAGE) from error


def show_top(path: str, request: Request) -> list[Request] | int:
    """Live on a terminal; elsewhere one sample is printed."""
    if request.get("once"):
        return [request]
    if not request.get("json") and _has_terminal():
        from pyfw.cli.pyfwctl.screen import run
        from pyfw.cli.pyfwctl.top_screen import TopScreen  # loads rich, which takes longer than most commands
        return run(path, TopScreen(request))
    return [{**request, "once": True}]


def show_stats(path: str, request: Request) -> list[Request] | int:
    """With `--watch`, live on a terminal; elsewhere it prints."""
    if "watch" in request and not request.get("json") and _has_terminal():
        from pyfw.cli.pyfwctl.screen import run
        from pyfw.cli.pyfwctl.stats_screen import StatsScreen
        return run(path, StatsScreen(request))
    return [request]


def _has_terminal() -> bool:
    from pyfw.cli.pyfwctl.screen import has_terminal
    return has_terminal()


def write_rules(path: str, request: Request) -> int:
    """The daemon may not write where its config is."""
    from pyfw.cli.pyfwctl.saved import save
    return save(path, request.get("file"))


def send_in_pieces(path: str, request: Request) -> Iterable[Request]:
    """`set restore`: a file of any size, in requests that each fit the control socket's limit."""
    from pyfw.edge.control.handlers.sets import SetRequest
    from pyfw.rules.sets.text import SetError
    try:
        restores = SetRequest.read(request.get("words", ())).command == "restore"
    except SetError:            # the daemon says what is wrong
        restores = False
    return pieces(request, sys.stdin.buffer) if restores else [request]


def pieces(request: Request, lines: BinaryIO) -> Iterator[Request]:
    """The request, once for each piece of whole lines; an empty file makes none."""
    line, piece = 1, b""
    while read := lines.readline(MAX_LINE_BYTES + 1):
        if len(read) > MAX_LINE_BYTES:
            raise Refused(f"Error in line {line + piece.count(NEWLINE)}: it has more than {MAX_LINE_BYTES} bytes", NOTHING_MATCHED)
        piece += read
        if len(piece) >= PIECE_BYTES:
            yield _piece(request, piece, line)
            line, piece = line + piece.count(NEWLINE), b""
    if piece:
        yield _piece(request, piece, line)


def _piece(request: Request, piece: bytes, line: int) -> Request:
    return request | {"text": piece.decode("utf-8", "surrogateescape"), "line": line}
