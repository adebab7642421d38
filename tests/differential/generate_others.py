"""Random SCTP and GRE (plain, and version 1 as PPTP uses it)."""
from __future__ import annotations

import struct
from random import Random

from kit.packed_packets import GRE, SCTP, ip
from kit.witness import Sent

End = tuple[bytes, int]
DATA, INIT, INIT_ACK, SACK, HEARTBEAT, HEARTBEAT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK, ERROR, COOKIE_ECHO, COOKIE_ACK = range(12)
SHUTDOWN_COMPLETE = 14

_CRC32C = []
for _value in range(256):
    for _ in range(8):
        _value = _value >> 1 ^ (0x82F63B78 if _value & 1 else 0)
    _CRC32C.append(_value)


def crc32c(data: bytes) -> int:
    """Castagnoli's CRC (RFC 9260, appendix A)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC32C[(value ^ byte) & 255]
    return value ^ 0xFFFFFFFF


def chunk(kind: int, body: bytes = b"", *, flags: int = 0, length: int | None = None) -> bytes:
    return struct.pack("!BBH", kind, flags, 4 + len(body) if length is None else length) + body + b"\0" * (-len(body) % 4)


def sctp(sport: int, dport: int, tag: int, chunks: bytes, *, sum_: int | None = None) -> bytes:
    header = struct.pack("!HHI", sport, dport, tag)
    total = crc32c(header + b"\0\0\0\0" + chunks) if sum_ is None else sum_
    return header + struct.pack("<I", total) + chunks


def sctp_association(random: Random, ends: tuple[End, End]) -> list[Sent]:
    """Handshake, data, heartbeats, shutdown: in order or not, with right and wrong tags."""
    tags = [random.getrandbits(32) or 1, random.getrandbits(32) or 1]
    sent: list[Sent] = []

    def emit(side: int, chunks: bytes, tag: int | None = None) -> None:
        (src, sport), (dst, dport) = ends[side], ends[1 - side]
        chosen = tags[1 - side] if tag is None else tag
        if random.random() < 0.05:
            chosen = random.choice((0, tags[side], random.getrandbits(32)))
        sum_ = random.getrandbits(32) if random.random() < 0.03 else None
        sent.append(Sent(side, ip(src, dst, SCTP, sctp(sport, dport, chosen, chunks, sum_=sum_))))

    def init(kind: int, side: int) -> bytes:
        return chunk(kind, struct.pack("!IIHHI", tags[side], 65_535, 10, 10, 1))

    usual = [(0, init(INIT, 0), 0), (1, init(INIT_ACK, 1)), (0, chunk(COOKIE_ECHO, b"cookie")), (1, chunk(COOKIE_ACK)),
             (0, chunk(DATA, bytes(16))), (1, chunk(SACK, bytes(12))), (1, chunk(HEARTBEAT, b"beat")), (0, chunk(HEARTBEAT_ACK, b"beat")),
             (0, chunk(SHUTDOWN, bytes(4))), (1, chunk(SHUTDOWN_ACK)), (0, chunk(SHUTDOWN_COMPLETE))]
    odd = [(side, chunk(kind, bytes(random.choice((0, 4, 16))), flags=random.choice((0, 1)))) for side in (0, 1)
           for kind in (DATA, SACK, HEARTBEAT, HEARTBEAT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK, ERROR, COOKIE_ECHO, COOKIE_ACK, SHUTDOWN_COMPLETE, 63, 192)]
    odd += [(0, init(INIT, 0), 0), (1, init(INIT, 1), 0), (0, init(INIT_ACK, 0)), (1, chunk(DATA, bytes(16)) + chunk(SHUTDOWN_ACK)),
            (0, chunk(COOKIE_ECHO, b"c") + chunk(DATA, bytes(13))), (0, chunk(DATA, b"", length=random.randrange(4))), (1, b"")]
    wildness = random.choice((0.0, 0.1, 0.5))
    for step in usual[random.choice((0, 0, 0, 2, 6)):random.choice((2, 4, 8, 11))]:
        while random.random() < wildness:
            emit(*random.choice(odd))
        emit(*step)
    return sent


def gre_tunnel(random: Random, ends: tuple[End, End]) -> list[Sent]:
    """Version 0 with and without key, version 1 (PPTP), and headers cut short."""
    sent = []
    version = random.choice((0, 0, 1))
    for _ in range(random.choice((1, 2, 4))):
        side = random.choice((0, 0, 1))
        if version:
            body = struct.pack("!HHHHI", 0x3081, 0x880B, 4, random.choice((1, 2)), 1) + b"ppp!"
        else:
            keyed = random.getrandbits(1)
            body = struct.pack("!HH", 0x2000 * keyed, 0x0800) + (b"\0\0\0\x2a" if keyed else b"") + b"inner"
        if random.random() < 0.1:
            body = body[:random.randrange(len(body))]
        if random.random() < 0.05:
            body = random.randbytes(12)
        sent.append(Sent(side, ip(ends[side][0], ends[1 - side][0], GRE, body)))
    return sent
