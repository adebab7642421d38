"""Captures with a comment for each packet, as pcapng, which Wireshark shows.

draft-ietf-opsawg-pcapng: a Section Header Block, an Interface Description Block for each link type, Enhanced Packet Blocks
with opt_comment.  Times are in nanoseconds (if_tsresol 9), which scapy's writer cannot do.
"""
from __future__ import annotations

import os
import struct
import tempfile
from pathlib import Path
from types import TracebackType

SECTION_HEADER, INTERFACE, ENHANCED_PACKET = 0x0A0D0D0A, 1, 6
BYTE_ORDER_MAGIC = 0x1A2B3C4D
OPT_COMMENT, IF_TSRESOL = 1, 9
NANOSECONDS = 9                 # digits after the decimal point
MAX_COMMENT_LENGTH = 65535


class AnnotatedCapture:
    """A pcapng file that comes to be when the context is left in peace, in the place of what was there; else nothing changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._interfaces: dict[int, int] = {}       # link type -> number

    def __enter__(self) -> AnnotatedCapture:
        descriptor, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        self._temporary = Path(name)
        self._file = os.fdopen(descriptor, "wb")
        self._block(SECTION_HEADER, struct.pack("<IHHq", BYTE_ORDER_MAGIC, 1, 0, -1))
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            os.fchmod(self._file.fileno(), 0o644)
        self._file.close()
        if kind is None:
            self._temporary.replace(self._path)
        else:
            self._temporary.unlink()

    def write(self, link_type: int, time_ns: int, frame: bytes, length: int, comment: str) -> None:
        """`frame` is what was captured of `length` bytes on the wire; `time_ns` since 1970."""
        number = self._interface(link_type)
        options = _option(OPT_COMMENT, comment.encode()[:MAX_COMMENT_LENGTH]) + _option(0, b"")
        header = struct.pack("<IIIII", number, time_ns >> 32, time_ns & 0xFFFFFFFF, len(frame), length)
        self._block(ENHANCED_PACKET, header + _padded(frame) + options)

    def _interface(self, link_type: int) -> int:
        if link_type not in self._interfaces:
            self._interfaces[link_type] = len(self._interfaces)
            options = _option(IF_TSRESOL, bytes([NANOSECONDS])) + _option(0, b"")
            self._block(INTERFACE, struct.pack("<HHI", link_type, 0, 0) + options)
        return self._interfaces[link_type]

    def _block(self, kind: int, body: bytes) -> None:
        length = struct.pack("<I", 12 + len(body))
        self._file.write(struct.pack("<I", kind) + length + body + length)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)
