"""Random ICMP and ICMPv6: requests and replies of every type, and errors with quotes of every quality."""
from __future__ import annotations

import struct
from random import Random

from kit.packed_packets import ACK, ICMP, ICMPV6, SYN, TCP, UDP, address, icmp, icmpv6, ip, ipv6, tcp, udp
from kit.witness import Sent

End = tuple[bytes, int]
ROUTERS = {4: address("192.0.2.254"), 16: address("2001:db8:fe::1")}
LINK_ROUTER = address("fe80::1")
STRANGERS = {4: address("203.0.113.9"), 16: address("2001:db8:bad::9")}
PAIRS = {4: ((8, 0), (13, 14), (15, 16), (17, 18)), 16: ((128, 129), (139, 140))}
ERRORS = {4: (3, 3, 3, 4, 5, 11, 12), 16: (1, 1, 2, 3, 4)}


def message(src: bytes, dst: bytes, kind: int, code: int, rest: bytes, payload: bytes = b"", *, sum_: int | None = None) -> bytes:
    """A whole packet with an ICMP message of the addresses' family."""
    if len(src) == 4:
        return ip(src, dst, ICMP, icmp(kind, code, rest, payload, sum_=sum_))
    return ip(src, dst, ICMPV6, icmpv6(src, dst, kind, code, rest, payload, sum_=sum_))


def queries(random: Random, ends: tuple[End, End]) -> list[Sent]:
    """Requests and replies: matching, late, unasked, with another id or code; types nobody tracks."""
    hosts = ends[0][0], ends[1][0]
    family = len(hosts[0])
    request, reply = random.choice(PAIRS[family])
    identity = random.getrandbits(16)
    sent = []
    for number in range(random.choice((1, 2, 4, 8))):
        side = random.choice((0, 0, 1, 1, 1))
        kind = request if side == 0 else reply
        if random.random() < 0.1:
            kind = random.choice((request, reply))
        code = 0 if random.random() < 0.92 else random.randrange(256)
        told = identity if random.random() < 0.92 else random.getrandbits(16)
        sum_ = random.getrandbits(16) if random.random() < 0.04 else None
        data = message(hosts[side], hosts[1 - side], kind, code, struct.pack("!HH", told, number),
                       random.randbytes(random.choice((0, 1, 56))), sum_=sum_)
        sent.append(Sent(side, data))
    return sent


def odd_types(random: Random, ends: tuple[End, End]) -> list[Sent]:
    """Any type at all: advertisements, discovery, experiments; and headers cut short."""
    hosts = ends[0][0], ends[1][0]
    sent = []
    for _ in range(random.choice((1, 2, 3))):
        side = random.getrandbits(1)
        kind = random.choice((random.randrange(256), random.choice((9, 10, 19, 30, 40, 42, 100, 127, 130, 133, 135, 137, 141, 143, 144, 255))))
        body = message(hosts[side], hosts[1 - side], kind, random.choice((0, 0, 1, 255)), random.randbytes(4), random.randbytes(random.choice((0, 20, 48))))
        sent.append(Sent(side, body))
        if random.random() < 0.2:
            protocol = ICMP if len(hosts[0]) == 4 else ICMPV6
            sent.append(Sent(side, ip(hosts[side], hosts[1 - side], protocol, random.randbytes(random.randrange(9)))))
    return sent


def errors(random: Random, ends: tuple[End, End]) -> list[Sent]:
    """A conversation, then errors about it: honest, about nothing, for somebody else, cut, forged, twice wrapped."""
    talk = _conversation(random, ends)
    sent = talk[:random.choice((0, 1, 1, 2, 3, len(talk)))]
    for _ in range(random.choice((1, 2, 4))):
        sent.append(error_about(random, random.choice(talk)))
        if random.random() < 0.3 and talk:
            sent.append(random.choice(talk))
    return sent


def redirects(random: Random, ends: tuple[End, End]) -> list[Sent]:
    """IPv6: a conversation, and a router of the link that knows a better way for it (RFC 4861, 4.5); or says so
    from afar, or quotes too little, or nothing."""
    talk = _conversation(random, ends)
    sent = talk[:random.choice((0, 1, 2))]
    for _ in range(random.choice((1, 2))):
        quoted = random.choice(talk).data
        quote = quoted[:random.choice((len(quoted), 48, 40))]
        quote += bytes(-len(quote) % 8)
        kind, length = random.choice((4, 4, 4, 4, 1)), 1 + len(quote) // 8
        options = random.choice((b"", b"\x02\x01" + bytes(6))) + bytes([kind, random.choice((length, length, length, 0, 200))]) + bytes(6) + quote
        body = bytes(4) + quoted[24:40] + quoted[24:40] + options
        if random.random() < 0.2:
            body = body[:random.randrange(4, len(body))]
        speaker = random.choice((LINK_ROUTER, LINK_ROUTER, LINK_ROUTER, ROUTERS[16]))
        listener = quoted[8:24] if random.random() < 0.85 else STRANGERS[16]
        redirect = icmpv6(speaker, listener, 137, 0, body[:4], body[4:])
        sent.append(Sent(1, ipv6(speaker, listener, ICMPV6, redirect, hop_limit=random.choice((255, 255, 255, 64)))))
    return sent


def _conversation(random: Random, ends: tuple[End, End]) -> list[Sent]:
    (client, sport), (server, dport) = ends
    family = len(client)
    kind = random.choice(("udp", "tcp", "echo", "generic"))
    if kind == "udp":
        return [Sent(0, ip(client, server, UDP, udp(client, server, sport, dport, b"question" * 3))),
                Sent(1, ip(server, client, UDP, udp(server, client, dport, sport, b"answer")))]
    if kind == "tcp":
        return [Sent(0, ip(client, server, TCP, tcp(client, server, sport, dport, SYN, 100))),
                Sent(1, ip(server, client, TCP, tcp(server, client, dport, sport, SYN | ACK, 900, 101))),
                Sent(0, ip(client, server, TCP, tcp(client, server, sport, dport, ACK, 101, 901, payload=b"hello")))]
    if kind == "echo":
        request, reply = PAIRS[family][0]
        rest = struct.pack("!HH", sport, 1)
        return [Sent(0, message(client, server, request, 0, rest, b"ping")), Sent(1, message(server, client, reply, 0, rest, b"ping"))]
    return [Sent(0, ip(client, server, 89, b"hello hello hello"))]


def error_about(random: Random, sent: Sent) -> Sent:
    """An ICMP error that quotes `sent`, most often as its receiver or a router on the way would."""
    quoted = sent.data
    family = 4 if quoted[0] >> 4 == 4 else 16
    src, dst = (quoted[12:16], quoted[16:20]) if family == 4 else (quoted[8:24], quoted[24:40])
    header = 20 if family == 4 else 40
    speaker, listener = random.choice((dst, dst, ROUTERS[family])), src
    quote = quoted[:header + random.choice((8, 8, 8, 20, 500))]
    trick = random.random()
    if trick < 0.08:                    # too little of it: no ports, half a header, nothing
        quote = quote[:random.choice((0, 1, 8, header - 1, header, header + 1, header + 2, header + 4, header + 7))]
    elif trick < 0.16:                  # about a packet that never was
        quote = quote[:header] + random.randbytes(8)
    elif trick < 0.24:                  # sent to somebody else than the quoted packet's source
        listener = random.choice((STRANGERS[family], dst))
    elif trick < 0.32:                  # quotes something that claims another source
        quote = (quote[:12] + STRANGERS[family] + quote[16:]) if family == 4 else (quote[:8] + STRANGERS[family] + quote[24:])
    elif trick < 0.36:                  # the quoted header lies about itself
        quote = bytes([random.getrandbits(8)]) + quote[1:]
    elif trick < 0.42:                  # a quote in the direction nobody sent
        quote = _reversed(quote, family)
    kind = random.choice(ERRORS[family])
    code = random.choice((0, 1, 3, 4, 13, 255))
    sum_ = random.getrandbits(16) if random.random() < 0.04 else None
    error = message(speaker, listener, kind, code, random.choice((bytes(4), random.randbytes(4))), quote, sum_=sum_)
    if random.random() < 0.05:
        return error_about(random, Sent(1 - sent.side, error))
    return Sent(1 - sent.side if random.random() < 0.9 else sent.side, error)


def _reversed(quote: bytes, family: int) -> bytes:
    src = 12 if family == 4 else 8
    dst, ports = src + family, 20 if family == 4 else 40
    return quote[:src] + quote[dst:dst + family] + quote[src:dst] + quote[ports + 2:ports + 4] + quote[ports:ports + 2] + quote[ports + 4:]
