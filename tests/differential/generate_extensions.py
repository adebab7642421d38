"""Random chains of IPv6 extension headers: in every order, repeated, nested, cut; whole and in fragments; replies to such
packets, and errors about them."""
from __future__ import annotations

import struct
from random import Random

from differential.generate_icmp import error_about
from differential.generate_layers import transport
from kit.packed_packets import (
    AUTHENTICATION,
    DESTINATION,
    FRAGMENT_HEADER,
    GRE,
    HOP_BY_HOP,
    NO_NEXT,
    ROUTING,
    SCTP,
    UDPLITE,
    extension,
    ipv6,
)
from kit.witness import Sent

End = tuple[bytes, int]
Chain = tuple[int, bytes]           # the number of the first header, and all that there is from there

KINDS = (HOP_BY_HOP, ROUTING, FRAGMENT_HEADER, AUTHENTICATION, DESTINATION)
UNCUT_KINDS = (HOP_BY_HOP, ROUTING, AUTHENTICATION, DESTINATION)
GOOD_OPTIONS = (b"", b"\x05\x02\x00\x00", b"\x1e\x02\x00\x00", b"\x1e\x20" + bytes(32))     # the stack reads the first header's
OTHER_OPTIONS = (*GOOD_OPTIONS, bytes(14), b"\xc2\x04\x00\x00\x00\x10", b"\x1e\xff" + bytes(255), bytes(1000))


def chains(random: Random, ends: tuple[End, End]) -> list[Sent]:
    """Packets of both sides behind all sorts of headers, and what routers say about them."""
    sent: list[Sent] = []
    for _ in range(random.choice((1, 2, 4, 8))):
        side = random.choice((0, 0, 1))
        src, dst = ends[side], ends[1 - side]
        chain = _payload(random, src, dst)
        if random.random() < 0.35:
            sent += [Sent(side, packet) for packet in _fragments(random, src[0], dst[0], chain)]
        else:
            chain = _wrapped(random, chain, KINDS, random.choice((0, 1, 1, 2, 3, 6)))
            sent.append(Sent(side, _packet(random, src[0], dst[0], chain)))
        if sent and random.random() < 0.4:
            quoted = random.choice(sent)
            sent.append(error_about(random, Sent(quoted.side, quoted.data[:random.randrange(40, len(quoted.data) + 1)])))
    return sent


def _payload(random: Random, src: End, dst: End) -> Chain:
    kind = random.random()
    if kind < 0.06:
        return NO_NEXT, random.randbytes(random.choice((0, 8)))
    if kind < 0.25:
        return random.choice((89, 41, 253, GRE, SCTP, UDPLITE)), random.randbytes(random.choice((0, 1, 3, 4, 7, 8, 40)))
    return transport(random, src, dst, random.choice((0, 20, 200)))


def _wrapped(random: Random, chain: Chain, kinds: tuple[int, ...], depth: int) -> Chain:
    for _ in range(depth):
        kind = random.choice(kinds)
        chain = kind, _header(random, kind, chain[0]) + chain[1]
    return chain


def _header(random: Random, kind: int, following: int) -> bytes:
    if kind == FRAGMENT_HEADER:
        place = random.choice((0, 0, 0, 0, 8, 64, 0xFFF8)) | random.choice((0, 0, 1, 1, 2, 7))     # more follows, reserved bits
        return struct.pack("!BBHI", following, random.getrandbits(8), place, random.getrandbits(32))
    if kind == AUTHENTICATION:
        units = random.choice((0, 1, 2, 4, 4, 90))
        return bytes([following, units]) + random.randbytes(4 * units + 6)
    if kind == ROUTING:
        return extension(following, bytes([random.choice((0, 2, 4)), random.choice((0, 0, 1))]) + bytes(random.choice((4, 20))))
    return extension(following, random.choice(OTHER_OPTIONS))


def _fragments(random: Random, src: bytes, dst: bytes, chain: Chain) -> list[bytes]:
    """The chain, some of its headers in each fragment, the others cut up with what they precede."""
    kind, body = _wrapped(random, chain, KINDS, random.choice((0, 0, 1, 2)))
    before = _wrapped(random, (FRAGMENT_HEADER, b""), UNCUT_KINDS, random.choice((0, 0, 1, 2)))
    step = random.choice((8, 16, 24, 64, 64, 512))
    if len(body) > 20 * step:
        step = 512
    starts = list(range(0, len(body), step)) or [0]
    if random.random() < 0.3:
        random.shuffle(starts)
    if random.random() < 0.2:
        starts.insert(random.randrange(len(starts) + 1), random.choice(starts))
    if random.random() < 0.2:
        starts.pop(random.randrange(len(starts)))
    ident = random.getrandbits(32)
    packets = []
    for start in starts:
        end = start + step - (random.randrange(1, 8) if random.random() < 0.1 else 0)
        more = end < len(body) or random.random() < 0.03
        header = struct.pack("!BBHI", kind if random.random() < 0.95 else DESTINATION, 0, start | more, ident)
        packets.append(_packet(random, src, dst, (before[0], before[1] + header + body[start:end])))
    return packets


def _packet(random: Random, src: bytes, dst: bytes, chain: Chain) -> bytes:
    """The chain behind an IPv6 header; now and then cut off somewhere, or of a length that is not said or not true."""
    kind, body = chain
    if random.random() < 0.12:
        kind, body = HOP_BY_HOP, extension(kind, random.choice(GOOD_OPTIONS)) + body
    elif kind == HOP_BY_HOP:
        body = extension(body[0], random.choice(GOOD_OPTIONS)) + body[8 * (body[1] + 1):]
    if random.random() < 0.12:
        body = body[:random.randrange(len(body) + 1)]
    length = len(body)
    if kind == HOP_BY_HOP and random.random() < 0.15:
        length = 0
    elif kind != HOP_BY_HOP and random.random() < 0.05:
        length = random.choice((0, 1, length // 2, max(length - 8, 0), length + 1))
    return ipv6(src, dst, kind, body, hop_limit=random.choice((2, 64, 255)), traffic_class=random.getrandbits(8),
                flow_label=random.getrandbits(20), length=length)
