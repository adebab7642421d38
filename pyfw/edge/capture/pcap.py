"""Capture files: pcap and pcapng, plain or gzipped, in; IP packets with their times out.

The file formats are scapy's, see readers.py, which is loaded when a capture is opened.  The link layer is stripped by
hand: dissecting it takes scapy a hundred times longer.
"""
from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from pyfw.wire.checksum import internet_checksum
from pyfw.wire.ip_packet import IpPacket

if TYPE_CHECKING:
    from pyfw.edge.capture.readers import PcapNgReader, PcapReader

MAX_RECORD = 16 << 20           # bytes; the longest pcapng block that is read (Wireshark's limit)
MAX_TIME_NS = 1 << 62           # the year 2116; later times are a damaged clock and would outgrow the engine's
MAX_FRAME = 262144              # bytes; libpcap's MAXIMUM_SNAPLEN

_GZIP_MAGIC = b"\x1f\x8b"
_PCAPNG_MAGIC = b"\x0a\x0d\x0d\x0a"
_PCAP_MAGICS = {b"\xa1\xb2\xc3\xd4", b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\x4d\x3c\xb2\xa1"}


class CaptureError(ValueError):
    """A capture file that cannot be read (further): one line, saying what would be right."""


class Record(NamedTuple):
    """One record of a capture file."""
    number: int                 # from 1, as Wireshark counts
    time_ns: int                # since the epoch
    packet: IpPacket | None     # None: the frame carries no IP
    frame: bytes                # as captured, with its link layer
    link_type: int              # LINKTYPE_*
    length: int                 # of the frame on the wire


class Capture:
    """The records of the capture file at `path`, in the file's order; iterate over it once.

    Raises CaptureError: when opened, if it is no capture file; while iterated, after the last whole record,
    if the file is cut or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        self._opened = _open(self._path)
        self._file = _plain(self._opened)
        try:
            self._stream = _Stream(self._file, self._path)
            self._reader = self._open_reader()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._opened.close()

    def __iter__(self) -> Iterator[Record]:
        number = 0
        for time_ns, frame, length, link_type in self._reader.frames():
            number += 1
            strip = _STRIP.get(link_type)
            if strip is None:
                raise CaptureError(f"{self._path}: frame {number} has link type {link_type}; pyfw reads Ethernet (1), "
                                   "raw IP (101, 228, 229), Linux cooked (113, 276) and BSD loopback (0, 108)")
            packet = _ip_packet(frame, strip(frame), max(length, len(frame)))
            yield Record(number, min(max(time_ns, 0), MAX_TIME_NS), packet, frame, link_type, max(length, len(frame)))
        if self._stream.inside_record:
            raise CaptureError(f"{self._path}: {self._stream.complaint()}; the {number} records before it were read")

    def _open_reader(self) -> PcapReader | PcapNgReader:
        magic = self._stream.peek(4)
        if not magic:
            raise CaptureError(f"{self._path}: the file is empty; a pcap or pcapng capture was expected")
        if magic != _PCAPNG_MAGIC and magic not in _PCAP_MAGICS:
            raise CaptureError(f"{self._path}: not a capture file; a pcap or pcapng file (also .gz) was expected, "
                               "as tcpdump -w writes it")
        from pyfw.edge.capture import readers
        kind = readers.PcapNgReader if magic == _PCAPNG_MAGIC else readers.PcapReader
        try:
            return kind(self._stream)      # type: ignore[arg-type]  # it reads from it, and opens nothing
        except readers.Scapy_Exception:
            raise CaptureError(f"{self._path}: {self._stream.complaint()}; no record could be read") from None


class _Stream:
    """The capture's bytes as scapy's readers take them, and a note of what those do not tell: where the
    present record began, and whether the file ended inside it."""

    def __init__(self, file: BufferedReader | gzip.GzipFile, path: str) -> None:
        self.name = path
        self._file = file
        self._offset = 0
        self._record_offset = 0
        self._ended = False

    def peek(self, size: int) -> bytes:
        try:
            return self._file.peek(size)[:size]
        except (OSError, EOFError, zlib.error) as error:
            raise CaptureError(f"{self.name}: cannot be read: {error}") from None

    def read(self, size: int) -> bytes:
        if size > MAX_RECORD:
            raise self.damaged(f"it claims to be {size} bytes long")
        try:
            data = self._file.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise self.damaged(str(error)) from None
        self._offset += len(data)
        self._ended = len(data) < size
        return data

    def begin_record(self) -> None:
        self._record_offset = self._offset

    @property
    def inside_record(self) -> bool:
        return self._offset > self._record_offset

    def complaint(self) -> str:
        return f"the file is cut off in {self._where()}" if self._ended else f"{self._where()} is damaged"

    def damaged(self, why: str) -> CaptureError:
        return CaptureError(f"{self.name}: {self._where()} is damaged: {why}")

    def _where(self) -> str:
        return f"the record at byte {self._record_offset}" if self._record_offset else "its header"


def _open(path: str) -> BufferedReader:
    try:
        file = open(path, "rb")
    except OSError as error:
        raise CaptureError(f"{path}: {error.strerror}") from None
    try:
        file.peek(1)
    except OSError as error:
        file.close()
        raise CaptureError(f"{path}: {error.strerror}") from None
    return file


def _plain(file: BufferedReader) -> BufferedReader | gzip.GzipFile:
    return gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == _GZIP_MAGIC else file


# -- the link layer: bytes of a frame -> where its IP header begins, and which version it must be (0: either) --

_Place = tuple[int, int] | None
_IPV4 = b"\x08\x00"
_IPV6 = b"\x86\xdd"
_VLAN_TAGS = {b"\x81\x00", b"\x88\xa8", b"\x91\x00", b"\x92\x00"}   # 802.1Q, 802.1ad, and two from before it
_AF_INET = 2
_AF_INET6 = {10, 24, 28, 30}    # Linux; NetBSD and OpenBSD; FreeBSD; Darwin


def _after_ethertype(frame: bytes, place: int) -> _Place:
    ethertype = frame[place:place + 2]
    while ethertype in _VLAN_TAGS:
        place += 4
        ethertype = frame[place:place + 2]
    if ethertype == _IPV4:
        return place + 2, 4
    return (place + 2, 6) if ethertype == _IPV6 else None


def _ethernet(frame: bytes) -> _Place:
    return _after_ethertype(frame, 12)


def _cooked(frame: bytes) -> _Place:
    return _after_ethertype(frame, 14)


def _cooked_v2(frame: bytes) -> _Place:
    if frame[:2] == _IPV4:
        return 20, 4
    if frame[:2] == _IPV6:
        return 20, 6
    return _after_ethertype(frame, 22) if frame[:2] in _VLAN_TAGS else None


def _raw(frame: bytes) -> _Place:
    return 0, 0


def _raw_ipv4(frame: bytes) -> _Place:
    return 0, 4


def _raw_ipv6(frame: bytes) -> _Place:
    return 0, 6


def _loopback(frame: bytes) -> _Place:
    """The address family in the byte order of the machine that captured, or (LINKTYPE_LOOP) of the network."""
    family = min(int.from_bytes(frame[:4], "little"), int.from_bytes(frame[:4], "big"))
    if family == _AF_INET:
        return 4, 4
    return (4, 6) if family in _AF_INET6 else None


_STRIP: dict[int, Callable[[bytes], _Place]] = {
    0: _loopback, 108: _loopback,
    1: _ethernet,
    12: _raw, 14: _raw, 101: _raw, 228: _raw_ipv4, 229: _raw_ipv6,
    113: _cooked, 276: _cooked_v2,
}


def _ip_packet(frame: bytes, place: _Place, frame_length: int) -> IpPacket | None:
    if place is None:
        return None
    start, version = place
    data = frame[start:]
    if not data or (version and data[0] >> 4 != version) or data[0] >> 4 not in (4, 6):
        return None
    wire_length = frame_length - start
    length = _ip_length(data)
    if length == 0:
        return _before_segmentation(data, wire_length)
    length = min(length, wire_length)
    return IpPacket(data[:length], length)


def _ip_length(data: bytes) -> int:
    """How long the packet is by its header; 0: the header leaves it open; unreadable: all there is."""
    if data[0] >> 4 == 4:
        return data[2] << 8 | data[3] if len(data) >= 4 else MAX_RECORD
    if len(data) < 7:
        return MAX_RECORD
    payload = data[4] << 8 | data[5]
    no_next_header = data[6] == 59
    return 40 + payload if payload or no_next_header else 0


def _before_segmentation(data: bytes, wire_length: int) -> IpPacket:
    """A packet captured before its sender's network card cut it up and wrote its length: the frame's length counts.

    One longer than the length field can say (Linux's BIG TCP) keeps its 0.
    """
    header = bytearray(data)
    if data[0] >> 4 == 4 and wire_length <= 0xFFFF:
        header_length = (data[0] & 15) * 4
        if 20 <= header_length <= len(data):
            header[2:4] = wire_length.to_bytes(2, "big")
            header[10:12] = bytes(2)
            header[10:12] = internet_checksum(header[:header_length]).to_bytes(2, "big")
    elif data[0] >> 4 == 6 and 40 <= wire_length <= 40 + 0xFFFF:
        if data[6] == 0:            # hop-by-hop options may tell another length: with them, 0 is what the sender wrote
            return IpPacket(data, wire_length)
        header[4:6] = (wire_length - 40).to_bytes(2, "big")
    return IpPacket(bytes(header), wire_length, offloaded=True)
