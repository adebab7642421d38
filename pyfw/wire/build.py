"""Packets by their fields, for questions: lengths and checksums are right.

Knows the headers' layouts; reads nothing.  RFC 791, 8200, 9293, 768, 3828, 792, 4443, 9260.
"""
from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from pyfw.wire.checksum import internet_checksum

ICMP, TCP, UDP, ICMPV6, SCTP, UDPLITE = 1, 6, 17, 58, 132, 136
Address = IPv4Address | IPv6Address
LONGEST = 0xFFFF


@dataclass(frozen=True, slots=True)
class IpHeader:
    """Who to whom; the rest of an IP header."""

    src: Address
    dst: Address
    ttl: int = 64
    tos: int = 0

    @property
    def size(self) -> int:
        return 20 if self.src.version == 4 else 40

    def packet(self, protocol: int, transport: bytes) -> bytes:
        """The whole packet.  ValueError if it would be longer than IP can say."""
        length = len(transport) + (20 if self.src.version == 4 else 0)
        if length > LONGEST:
            raise ValueError(f"{length} bytes are more than the {LONGEST} of an IP packet")
        if self.src.version == 6:
            return struct.pack("!IHBB", 6 << 28 | self.tos << 20, length, protocol, self.ttl) + self.addresses + transport
        header = struct.pack("!BBHHHBBH", 0x45, self.tos, length, 0, 0, self.ttl, protocol, 0) + self.addresses
        return header[:10] + struct.pack("!H", internet_checksum(header)) + header[12:] + transport

    @property
    def addresses(self) -> bytes:
        return self.src.packed + self.dst.packed

    def checksum(self, protocol: int, transport: bytes) -> bytes:
        """Of a transport header whose own checksum is zero, with the pseudo header before it."""
        return struct.pack("!H", internet_checksum(
            self.addresses + struct.pack("!IxxxB", len(transport), protocol) + transport))

    def tcp(self, sport: int, dport: int, flags: int, *, seq: int, ack: int, window: int = 0xFFFF, payload: bytes = b"") -> bytes:
        segment = struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 5 << 4, flags, window, 0, 0) + payload
        return self.packet(TCP, segment[:16] + self.checksum(TCP, segment) + segment[18:])

    def udp(self, sport: int, dport: int, payload: bytes = b"", *, protocol: int = UDP) -> bytes:
        """UDP, or UDP-Lite whose checksum covers everything: with UDP's number, as Linux' tracking wants it (udplite_error())."""
        datagram = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
        checksum = self.checksum(UDP, datagram)
        return self.packet(protocol, datagram[:6] + (checksum if any(checksum) else b"\xff\xff") + datagram[8:])

    def icmp(self, kind: int, code: int, identifier: int = 0, sequence: int = 0, payload: bytes = b"") -> bytes:
        """ICMP or ICMPv6, by the family."""
        message = struct.pack("!BBHHH", kind, code, 0, identifier, sequence) + payload
        if self.src.version == 6:
            return self.packet(ICMPV6, message[:2] + self.checksum(ICMPV6, message) + message[4:])
        return self.packet(ICMP, message[:2] + struct.pack("!H", internet_checksum(message)) + message[4:])

    def sctp(self, sport: int, dport: int, tag: int, chunk: bytes) -> bytes:
        message = struct.pack("!HHII", sport, dport, tag, 0) + chunk
        return self.packet(SCTP, message[:8] + struct.pack("<I", crc32c(message)) + message[12:])


def sctp_chunk(kind: int, *, tag: int = 1) -> bytes:
    """A chunk that is whole: INIT and INIT ACK carry `tag`, DATA four bytes."""
    if kind in (1, 2):
        value = struct.pack("!IIHHI", tag, 0xFFFF, 1, 1, 0)
    else:
        value = {0: struct.pack("!IHHI4s", 1, 0, 0, 0, b"data"), 3: struct.pack("!IIHH", 0, 0xFFFF, 0, 0),
                 7: struct.pack("!I", 0)}.get(kind, b"")
    return struct.pack("!BBH", kind, 3 if kind == 0 else 0, 4 + len(value)) + value


def crc32c(data: bytes) -> int:
    """RFC 9260, appendix A."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
