"""Packets by struct: every field may be said, what is not said is right (lengths, checksums).

Addresses are text; the family is that of the addresses.
"""
import struct
from ipaddress import ip_address
from itertools import pairwise

HOPOPTS, ICMP, TCP, UDP, ROUTING, FRAGMENT, GRE, AH, ICMPV6, NO_NEXT, DSTOPTS, SCTP, UDPLITE = (
    0, 1, 6, 17, 43, 44, 47, 51, 58, 59, 60, 132, 136)
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))

CLIENT, SERVER = "10.0.0.2", "10.0.1.2"
CLIENT6, SERVER6 = "fd00::2", "fd00:1::2"


def internet_checksum(data: bytes) -> int:
    """RFC 1071, in network byte order."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pseudo_header(src: str, dst: str, protocol: int, length: int) -> bytes:
    return ip_address(src).packed + ip_address(dst).packed + struct.pack("!IxxxB", length, protocol)


def spoil(data: bytes, position: int = -1) -> bytes:
    """The same bytes with one that differs."""
    broken = bytearray(data)
    broken[position] ^= 0xFF
    return bytes(broken)


def ip(src: str, dst: str, protocol: int, payload: bytes, *, ttl: int = 64, options: bytes = b"", fragment: int = 0,
       length: int | None = None) -> bytes:
    """An IPv4 or IPv6 packet; `fragment` is IPv4's offset-and-flags field, `length` the IP length it claims."""
    source, destination = ip_address(src), ip_address(dst)
    if source.version == 6:
        claimed = len(payload) if length is None else length - 40
        return struct.pack("!IHBB", 6 << 28, claimed, protocol, ttl) + source.packed + destination.packed + payload
    words = 5 + len(options) // 4
    claimed = words * 4 + len(payload) if length is None else length
    header = struct.pack("!BBHHHBBH", 4 << 4 | words, 0, claimed, 1, fragment, ttl, protocol, 0)
    header += source.packed + destination.packed + options
    return header[:10] + struct.pack("!H", internet_checksum(header)) + header[12:] + payload


def tcp_segment(src: str, dst: str, sport: int, dport: int, flags: int, *, seq: int = 0, ack: int = 0,
                window: int = 65535, options: bytes = b"", payload: bytes = b"") -> bytes:
    options += b"\1" * (-len(options) % 4)
    header = struct.pack("!HHIIBBHHH", sport, dport, seq % 2**32, ack % 2**32, (20 + len(options)) // 4 << 4, flags,
                         window, 0, 0) + options
    total = header + payload
    checksum = internet_checksum(pseudo_header(src, dst, TCP, len(total)) + total)
    return total[:16] + struct.pack("!H", checksum) + total[18:]


def tcp(src: str, dst: str, sport: int, dport: int, flags: int, **fields) -> bytes:
    return ip(src, dst, TCP, tcp_segment(src, dst, sport, dport, flags, **fields))


def udp_datagram(src: str, dst: str, sport: int, dport: int, payload: bytes = b"", *, length: int | None = None,
                 checksum: int | None = None) -> bytes:
    total = struct.pack("!HHHH", sport, dport, 8 + len(payload) if length is None else length, 0) + payload
    if checksum is None:
        checksum = internet_checksum(pseudo_header(src, dst, UDP, len(total)) + total) or 0xFFFF
    return total[:6] + struct.pack("!H", checksum) + total[8:]


def udp(src: str, dst: str, sport: int, dport: int, payload: bytes = b"", **fields) -> bytes:
    return ip(src, dst, UDP, udp_datagram(src, dst, sport, dport, payload, **fields))


def udplite(src: str, dst: str, sport: int, dport: int, payload: bytes = b"", *, coverage: int = 0,
            checksum: int | None = None) -> bytes:
    """Summed up with UDP's number in the pseudo header, as Linux' tracking wants it (udplite_error())."""
    total = struct.pack("!HHHH", sport, dport, coverage, 0) + payload
    if checksum is None:
        covered = total[:coverage] if coverage >= 8 else total
        checksum = internet_checksum(pseudo_header(src, dst, UDP, len(total)) + covered) or 0xFFFF
    return ip(src, dst, UDPLITE, total[:6] + struct.pack("!H", checksum) + total[8:])


def icmp(src: str, dst: str, type: int, code: int = 0, id: int = 0, payload: bytes = b"", *, seq: int = 1,
         ttl: int = 64) -> bytes:
    """ICMP or ICMPv6, by the family.  For errors `payload` is the quote and id and seq are the unused field."""
    protocol = ICMPV6 if ":" in src else ICMP
    total = struct.pack("!BBHHH", type, code, 0, id, seq) + payload
    pseudo = pseudo_header(src, dst, protocol, len(total)) if protocol == ICMPV6 else b""
    return ip(src, dst, protocol, total[:2] + struct.pack("!H", internet_checksum(pseudo + total)) + total[4:],
              ttl=ttl)


def gre(src: str, dst: str, payload: bytes = b"\0" * 16) -> bytes:
    return ip(src, dst, GRE, struct.pack("!HH", 0, 0x0800) + payload)


def pptp(src: str, dst: str, call_id: int, protocol: int = 0x880B) -> bytes:
    """Enhanced GRE (RFC 2637): it bears the receiver's call only."""
    return ip(src, dst, GRE, struct.pack("!HHHHI", 0x3001, protocol, 4, call_id, 1) + b"\xff\x03\0\x21")


def chunk(type: int, value: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack("!BBH", type, flags, 4 + len(value)) + value + b"\0" * (-len(value) % 4)


def crc32c(data: bytes) -> int:
    """RFC 9260, appendix A, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def sctp(src: str, dst: str, sport: int, dport: int, tag: int, *chunks: bytes) -> bytes:
    total = struct.pack("!HHII", sport, dport, tag, 0) + b"".join(chunks)
    return ip(src, dst, SCTP, total[:8] + struct.pack("<I", crc32c(total)) + total[12:])


def extension(header: int, next_header: int) -> bytes:
    """One IPv6 extension header of 8 bytes (AH: 12)."""
    if header == FRAGMENT:
        return struct.pack("!BBHI", next_header, 0, 0, 7)
    if header == AH:
        return struct.pack("!BBHII", next_header, 1, 0, 1, 1)
    return struct.pack("!BB6x", next_header, 0)


def extended(src: str, dst: str, headers: list[int], protocol: int, transport: bytes) -> bytes:
    """An IPv6 packet whose transport header follows these extension headers."""
    chain = [*headers, protocol]
    body = b"".join(extension(header, following) for header, following in pairwise(chain))
    return ip(src, dst, chain[0], body + transport)
