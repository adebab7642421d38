"""Random troubles of the network layer: fragments, IPv4 options, lying lengths."""
from __future__ import annotations

import struct
from random import Random

from kit.packed_packets import ACK, ICMP, ICMPV6, SYN, TCP, UDP, fragment_ipv4, fragment_ipv6, icmp, icmpv6, ip, ipv4, ipv6, tcp, udp
from kit.witness import Sent

End = tuple[bytes, int]
IPV4_OPTIONS = (b"\x01\x01\x01\x00", b"\x94\x04\x00\x00", b"\x07\x07\x04\x00\x00\x00\x00", b"\x44\x08\x05\x00\x00\x00\x00\x00",
                b"\x88\x04\x00\x01", b"\x07\x03\x04", b"\x82\x0b" + bytes(9))


def transport(random: Random, src: End, dst: End, size: int) -> tuple[int, bytes]:
    """Some transport packet of about `size` bytes: (protocol, bytes)."""
    payload = random.randbytes(size)
    kind = random.choice(("udp", "udp", "tcp", "echo"))
    if kind == "udp":
        sum_ = random.choice((None, None, None, 0, 1))
        return UDP, udp(src[0], dst[0], src[1], dst[1], payload, sum_=sum_)
    if kind == "tcp":
        return TCP, tcp(src[0], dst[0], src[1], dst[1], random.choice((SYN, ACK, SYN | ACK)), random.getrandbits(32), random.getrandbits(32),
                        payload=payload)
    rest = struct.pack("!HH", src[1], 1)
    if len(src[0]) == 4:
        return ICMP, icmp(8, 0, rest, payload)
    return ICMPV6, icmpv6(src[0], dst[0], 128, 0, rest, payload)


def fragments(random: Random, ends: tuple[End, End]) -> list[Sent]:
    """Datagrams in pieces: in order, out of order, twice, with one missing, overlapping; then one whole."""
    sent: list[Sent] = []
    for _ in range(random.choice((1, 2, 3))):
        side = random.choice((0, 0, 1))
        src, dst = ends[side], ends[1 - side]
        protocol, segment = transport(random, src, dst, random.choice((30, 200, 1473, 4000)))
        pieces = _cut(random, len(segment))
        if len(src[0]) == 4:
            whole = ipv4(src[0], dst[0], protocol, segment, ident=random.getrandbits(16))
            parts = fragment_ipv4(whole, pieces)
        else:
            parts = fragment_ipv6(ipv6(src[0], dst[0], protocol, segment), pieces, random.getrandbits(32))
        sent += [Sent(side, part) for part in parts]
        if random.random() < 0.3:
            sent.append(Sent(side, ip(src[0], dst[0], protocol, segment)))
    return sent


def _cut(random: Random, length: int) -> list[tuple[int, int]]:
    """Where the pieces of a payload of `length` bytes start and end, in order of arrival."""
    step = 8 * random.randrange(1 if length < 300 else 40, 200)
    starts = list(range(0, length, step))
    pieces = [(start, min(start + step, length)) for start in starts]
    fate = random.random()
    if fate < 0.25:
        random.shuffle(pieces)
    elif fate < 0.35:
        pieces.reverse()
    elif fate < 0.45:
        pieces.insert(random.randrange(len(pieces) + 1), random.choice(pieces))
    elif fate < 0.55:
        pieces.pop(random.randrange(len(pieces)))
    elif fate < 0.7:
        start, end = random.choice(pieces)
        pieces.insert(random.randrange(len(pieces) + 1), (max(0, start - 8), min(length, end + 8) if random.random() < 0.5 else end))
    return pieces


def ipv4_options(random: Random, ends: tuple[End, End]) -> list[Sent]:
    """Options that routers fill in, that ask for attention, that lie; TTL, TOS, the evil bit."""
    sent = []
    for _ in range(random.choice((1, 2, 4))):
        side = random.choice((0, 0, 1))
        src, dst = ends[side], ends[1 - side]
        protocol, segment = transport(random, src, dst, 20)
        sent.append(Sent(side, ipv4(src[0], dst[0], protocol, segment, options=random.choice((b"", *IPV4_OPTIONS)),
                                    tos=random.getrandbits(8), ttl=random.choice((2, 64, 255)), ident=random.getrandbits(16),
                                    fragment=random.choice((0, 0x4000, 0x8000)))))
    return sent


def lying_lengths(random: Random, ends: tuple[End, End]) -> list[Sent]:
    """Bytes after the end of the packet, or an end after the bytes; a header sum that is wrong."""
    sent = []
    for _ in range(random.choice((1, 2, 3))):
        side = random.choice((0, 0, 1))
        src, dst = ends[side], ends[1 - side]
        protocol, segment = transport(random, src, dst, 20)
        change = random.choice((-28, -21, -8, -1, 0, 0, 1, 40))
        if len(src[0]) == 4:
            sum_ = random.getrandbits(16) if random.random() < 0.1 else None
            packet = ipv4(src[0], dst[0], protocol, segment, length=max(0, 20 + len(segment) + change), sum_=sum_)
        else:
            packet = ipv6(src[0], dst[0], protocol, segment, length=max(0, len(segment) + change))
        sent.append(Sent(side, packet))
    return sent


def noise(random: Random, ends: tuple[End, End]) -> list[Sent]:
    """A good IP header and random bytes after it, or a good packet with some bits flipped."""
    sent = []
    for _ in range(random.choice((1, 2, 3))):
        side = random.getrandbits(1)
        src, dst = ends[side], ends[1 - side]
        if random.random() < 0.5:
            protocol, body = random.choice((ICMP, TCP, UDP, ICMPV6, 136)), random.randbytes(random.choice((0, 7, 8, 20, 60)))
        else:
            protocol, segment = transport(random, src, dst, 20)
            flipped = bytearray(segment)
            for _ in range(random.choice((1, 3))):
                flipped[random.randrange(len(flipped))] ^= 1 << random.randrange(8)
            body = bytes(flipped)
        sent.append(Sent(side, ip(src[0], dst[0], protocol, body)))
    return sent
