"""IP packets built from bytes, fast enough for millions, and described in a line of text.

Addresses are packed (4 or 16 bytes); the family follows from their length.  Every builder takes the
checksum as a keyword: None computes it, a number is written as it is.  Nothing is validated: wrong
packets are the point.  Proved against scapy in test_packets.py.
"""
from __future__ import annotations

import ipaddress
import struct

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
ICMP, TCP, UDP, GRE, ICMPV6, SCTP, UDPLITE = 1, 6, 17, 47, 58, 132, 136
HOP_BY_HOP, ROUTING, FRAGMENT_HEADER, AUTHENTICATION, NO_NEXT, DESTINATION = 0, 43, 44, 51, 59, 60
MORE_FRAGMENTS = 0x2000

_NAMES = {ICMP: "icmp", TCP: "tcp", UDP: "udp", GRE: "gre", ICMPV6: "icmpv6", SCTP: "sctp", UDPLITE: "udplite"}
_WITH_PORTS = (TCP, UDP, SCTP, UDPLITE)
_EXTENSIONS = (HOP_BY_HOP, ROUTING, FRAGMENT_HEADER, AUTHENTICATION, DESTINATION)


def address(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071).  65536 is 1 modulo 65535, so the remainder of the whole as
    one number is the sum of its 16-bit words with the carries wrapped around."""
    if len(data) & 1:
        data += b"\0"
    return -int.from_bytes(data, "big") % 65535


def _transport_checksum(src: bytes, dst: bytes, protocol: int, segment: bytes, covered: int | None = None) -> int:
    length = len(segment) if covered is None else covered
    pseudo = src + dst + (struct.pack("!HH", protocol, length) if len(src) == 4 else struct.pack("!II", length, protocol))
    return checksum(pseudo + segment)


def ipv4(src: bytes, dst: bytes, protocol: int, payload: bytes, *, ttl: int = 64, tos: int = 0, ident: int = 0,
         fragment: int = 0, options: bytes = b"", length: int | None = None, sum_: int | None = None) -> bytes:
    """`fragment`: the flags and the offset in units of 8 bytes, as they stand in the header.
    `options` are padded to a multiple of 4."""
    options += b"\0" * (-len(options) % 4)
    head = 20 + len(options)
    header = struct.pack("!BBHHHBBH4s4s", 0x40 | head // 4, tos, head + len(payload) if length is None else length,
                         ident, fragment, ttl, protocol, 0, src, dst) + options
    total = checksum(header) if sum_ is None else sum_
    return header[:10] + total.to_bytes(2, "big") + header[12:] + payload


def ipv6(src: bytes, dst: bytes, next_header: int, payload: bytes, *, hop_limit: int = 64,
         traffic_class: int = 0, flow_label: int = 0, length: int | None = None) -> bytes:
    return struct.pack("!IHBB16s16s", 6 << 28 | traffic_class << 20 | flow_label,
                       len(payload) if length is None else length, next_header, hop_limit, src, dst) + payload


def ip(src: bytes, dst: bytes, protocol: int, payload: bytes) -> bytes:
    """A plain packet of the addresses' family."""
    return (ipv4 if len(src) == 4 else ipv6)(src, dst, protocol, payload)


def extension(next_header: int, body: bytes) -> bytes:
    """An IPv6 hop-by-hop, routing or destination options header: `body` is padded with PadN."""
    padding = -(len(body) + 2) % 8
    pad = b"" if padding == 0 else b"\0" if padding == 1 else bytes([1, padding - 2]) + b"\0" * (padding - 2)
    return bytes([next_header, (len(body) + padding + 2) // 8 - 1]) + body + pad


def tcp(src: bytes, dst: bytes, sport: int, dport: int, flags: int, seq: int, ack: int = 0, *, window: int = 8192,
        payload: bytes = b"", options: bytes = b"", offset: int | None = None, sum_: int | None = None) -> bytes:
    """A TCP segment (no IP header).  `options` are padded with end-of-options; `offset`: header
    length in units of 4 bytes, if it is to lie."""
    options += b"\0" * (-len(options) % 4)
    header = struct.pack("!HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF,
                         (5 + len(options) // 4 if offset is None else offset) << 4 & 0xFF, flags, window, 0, 0)
    segment = header + options + payload
    total = _transport_checksum(src, dst, TCP, segment) if sum_ is None else sum_
    return segment[:16] + total.to_bytes(2, "big") + segment[18:]


def udp(src: bytes, dst: bytes, sport: int, dport: int, payload: bytes = b"", *,
        length: int | None = None, sum_: int | None = None) -> bytes:
    segment = struct.pack("!HHHH", sport, dport, 8 + len(payload) if length is None else length, 0) + payload
    total = (_transport_checksum(src, dst, UDP, segment) or 0xFFFF) if sum_ is None else sum_
    return segment[:6] + total.to_bytes(2, "big") + payload


def udplite(src: bytes, dst: bytes, sport: int, dport: int, payload: bytes = b"", *,
            coverage: int = 0, sum_: int | None = None, summed_as: int = UDPLITE) -> bytes:
    """UDP-Lite (RFC 3828); coverage 0: all of it.  `summed_as`: the protocol in the pseudo-header."""
    segment = struct.pack("!HHHH", sport, dport, coverage, 0) + payload
    covered = segment[:coverage] if coverage else segment
    total = (_transport_checksum(src, dst, summed_as, covered, len(segment)) or 0xFFFF) if sum_ is None else sum_
    return segment[:6] + total.to_bytes(2, "big") + payload


def icmp(kind: int, code: int, rest: bytes, payload: bytes = b"", *, sum_: int | None = None) -> bytes:
    """An ICMP message; `rest`: the second word of its header."""
    message = bytes([kind, code, 0, 0]) + rest + payload
    total = checksum(message) if sum_ is None else sum_
    return message[:2] + total.to_bytes(2, "big") + message[4:]


def icmpv6(src: bytes, dst: bytes, kind: int, code: int, rest: bytes, payload: bytes = b"", *,
           sum_: int | None = None) -> bytes:
    message = bytes([kind, code, 0, 0]) + rest + payload
    total = _transport_checksum(src, dst, ICMPV6, message) if sum_ is None else sum_
    return message[:2] + total.to_bytes(2, "big") + message[4:]


def fragment_ipv4(packet: bytes, pieces: list[tuple[int, int]]) -> list[bytes]:
    """`packet` (its header without options) in pieces (start, end) of its payload; starts are
    multiples of 8; the piece that reaches the end has no more-fragments flag."""
    payload = packet[20:]
    ident, = struct.unpack_from("!H", packet, 4)
    return [ipv4(packet[12:16], packet[16:20], packet[9], payload[start:end], ttl=packet[8], ident=ident,
                 fragment=start // 8 | (MORE_FRAGMENTS if end < len(payload) else 0))
            for start, end in pieces]


def fragment_ipv6(packet: bytes, pieces: list[tuple[int, int]], ident: int) -> list[bytes]:
    """As fragment_ipv4, for a packet without extension headers."""
    payload = packet[40:]
    return [ipv6(packet[8:24], packet[24:40], FRAGMENT_HEADER,
                 struct.pack("!BBHI", packet[6], 0, start | (end < len(payload)), ident) + payload[start:end],
                 hop_limit=packet[7])
            for start, end in pieces]


def is_fragment(packet: bytes) -> bool:
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        return bool(struct.unpack_from("!H", packet, 6)[0] & 0x3FFF)
    if len(packet) >= 40 and packet[0] >> 4 == 6:
        kind, at = packet[6], 40
        while kind in _EXTENSIONS and at + 8 <= len(packet):
            if kind == FRAGMENT_HEADER:
                return True
            kind, at = packet[at], at + _extension_size(kind, packet[at + 1])
    return False


def whole_length(packet: bytes) -> int:
    """Bytes of the packet without what may follow it, by its header; all there are, where IPv6 options may tell."""
    if packet[0] >> 4 == 4:
        return int.from_bytes(packet[2:4], "big")
    length = int.from_bytes(packet[4:6], "big")
    return len(packet) if length == 0 and packet[6] == HOP_BY_HOP else 40 + length


def _extension_size(kind: int, units: int) -> int:
    return 8 if kind == FRAGMENT_HEADER else 4 * (units + 2) if kind == AUTHENTICATION else 8 * (units + 1)


def checksums_filled(packet: bytes) -> bytes:
    """A TCP or UDP packet that was captured before the network card summed it up, summed up."""
    headers = _headers(packet)
    at = {TCP: 16, UDP: 6}.get(headers[2]) if headers else None
    if headers is None or at is None or len(headers[3]) < at + 2:
        return packet
    src, dst, protocol, segment = headers
    start = packet.rindex(segment)
    total = _transport_checksum(src, dst, protocol, segment[:at] + b"\0\0" + segment[at + 2:])
    return packet[:start + at] + (total or 0xFFFF * (protocol == UDP)).to_bytes(2, "big") + packet[start + at + 2:]


# -- in words --------------------------------------------------------------------------------------

def _headers(packet: bytes) -> tuple[bytes, bytes, int, bytes] | None:
    """(src, dst, protocol, what follows the IP headers)."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        return packet[12:16], packet[16:20], packet[9], packet[4 * (packet[0] & 15):]
    if len(packet) >= 40 and packet[0] >> 4 == 6:
        kind, at = packet[6], 40
        while kind in _EXTENSIONS and at + 8 <= len(packet):
            kind, at = packet[at], at + _extension_size(kind, packet[at + 1])
        return packet[8:24], packet[24:40], kind, packet[at:]
    return None


def flow(packet: bytes) -> tuple:
    """The same for all packets of a conversation, both ways; an ICMP error belongs to what it quotes."""
    headers = _headers(packet)
    if headers is None:
        return ()
    src, dst, protocol, body = headers
    if protocol == ICMPV6 and len(body) > 48 and body[0] == 137:
        return flow(body[48:]) or (protocol, frozenset((src, dst)))
    if len(body) > 8 and ((protocol == ICMP and body[0] in (3, 4, 5, 11, 12)) or (protocol == ICMPV6 and body[0] < 128)):
        return flow(body[8:]) or (protocol, frozenset((src, dst)))
    if protocol in _WITH_PORTS and len(body) >= 4 and not is_fragment(packet):
        return protocol, frozenset(((src, body[:2]), (dst, body[2:4])))
    if protocol in (ICMP, ICMPV6):
        return protocol, frozenset((src, dst)), body[4:6]
    return protocol, frozenset((src, dst))


def describe(packet: bytes) -> str:
    """One line for people: who to whom, and what the transport header says."""
    headers = _headers(packet)
    if headers is None:
        return f"{len(packet)} bytes that are no IP packet: {packet[:24].hex()}"
    src, dst, protocol, body = headers
    name = _NAMES.get(protocol, f"protocol {protocol}")
    hosts = [str(ipaddress.ip_address(host)) for host in (src, dst)]
    notes = " (fragment)" if is_fragment(packet) else ""
    if protocol in _WITH_PORTS and len(body) >= 8 and not notes:
        sport, dport = struct.unpack_from("!HH", body)
        mark = "." if len(src) == 4 else " port "
        hosts = [f"{host}{mark}{port}" for host, port in zip(hosts, (sport, dport), strict=True)]
    said = f"{name} {hosts[0]} > {hosts[1]}{notes}"
    if protocol == TCP and len(body) >= 20 and not notes:
        return f"{said} {_describe_tcp(body)}"
    if protocol in (ICMP, ICMPV6) and len(body) >= 8 and not notes:
        quoted = _headers(body[8:])
        if quoted is not None and (body[0] < 128 if protocol == ICMPV6 else body[0] not in (0, 8)):
            return f"{said} type {body[0]} code {body[1]} quoting {len(body) - 8} bytes of [{describe(body[8:])}]"
        return f"{said} type {body[0]} code {body[1]} id {int.from_bytes(body[4:6], 'big')}"
    return f"{said} {len(body)} bytes"


def _describe_tcp(body: bytes) -> str:
    _, _, seq, ack, offset, flags, window = struct.unpack_from("!HHIIBBH", body)
    letters = "".join(letter for bit, letter in enumerate("FSRPAUEC") if flags >> bit & 1) or "none"
    head = 4 * (offset >> 4)
    words = [letters, f"seq {seq}"]
    if flags & ACK or ack:
        words.append(f"ack {ack}")
    words.append(f"win {window}")
    if head > 20:
        words.append(f"options {body[20:head].hex()}")
    if head < 20:
        words.append(f"offset {head}")
    payload = body[head:]
    if payload:
        words.append(f"{len(payload)} bytes" + (f" {payload[:60]!r}" if payload[:1].isascii() and payload[:1].isalnum() else ""))
    return " ".join(words)
