"""Capture files as bytes, written here field by field: the readers are tested against the formats, not against scapy."""
from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import pairwise

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

LINK = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")     # else scapy asks the network for an address, and waits

CLIENT, SERVER = "10.0.0.2", "10.0.1.2"
CLIENT6, SERVER6 = "2001:db8::2", "2001:db8:1::2"
ETHERNET = bytes.fromhex("020000000002 020000000001".replace(" ", ""))

Frame = tuple[float, bytes] | tuple[float, bytes, int]      # seconds, bytes, length on the wire if it was cut


def syn(**fields: object) -> bytes:
    return bytes(IP(src=CLIENT, dst=SERVER) / TCP(**{"sport": 40000, "dport": 80, "flags": "S", "seq": 1000} | fields))


def syn6() -> bytes:
    return bytes(IPv6(src=CLIENT6, dst=SERVER6) / TCP(sport=40000, dport=80, flags="S", seq=1000))


def datagram(payload: bytes, **ip: object) -> Packet:
    return IP(**{"src": CLIENT, "dst": SERVER, "id": 7} | ip) / UDP(sport=5000, dport=53) / Raw(payload)


def datagram6(payload: bytes) -> Packet:
    return IPv6(src=CLIENT6, dst=SERVER6) / UDP(sport=5000, dport=53) / Raw(payload)


def ethernet(packet: bytes, *tags: int, ethertype: int | None = None) -> bytes:
    kind = ethertype or (0x86DD if packet[0] >> 4 == 6 else 0x0800)
    return ETHERNET + b"".join(struct.pack(">HH", tag, 100) for tag in tags) + struct.pack(">H", kind) + packet


def _record(frame: Frame, units_per_second: int) -> tuple[int, int, bytes, int]:
    seconds, data, length = frame if len(frame) == 3 else (*frame, len(frame[1]))
    units = round(seconds * units_per_second)
    return units // units_per_second, units % units_per_second, data, length


def pcap(frames: Iterable[Frame], link_type: int = 1, *, order: str = "<", nano: bool = False,
         snap_length: int = 262144) -> bytes:
    header = struct.pack(order + "IHHiIII", 0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, snap_length, link_type)
    parts = [header]
    for frame in frames:
        seconds, fraction, data, length = _record(frame, 1_000_000_000 if nano else 1_000_000)
        parts.append(struct.pack(order + "IIII", seconds, fraction, len(data), length) + data)
    return b"".join(parts)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + length + body + length


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def option(code: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def interface(link_type: int = 1, *, tsresol: int | None = None, tsoffset: int | None = None, name: str = "",
              snap_length: int = 0, order: str = "<") -> bytes:
    options = b""
    if name:
        options += option(2, name.encode(), order)
    if tsresol is not None:
        options += option(9, bytes([tsresol]), order)
    if tsoffset is not None:
        options += option(14, struct.pack(order + "q", tsoffset), order)
    return block(1, struct.pack(order + "HHI", link_type, 0, snap_length) + options, order)


def enhanced(units: int, data: bytes, number: int = 0, *, length: int | None = None, order: str = "<") -> bytes:
    fields = number, units >> 32, units & 0xFFFFFFFF, len(data), len(data) if length is None else length
    return block(6, struct.pack(order + "5I", *fields) + data, order)


def simple(data: bytes, order: str = "<") -> bytes:
    return block(3, struct.pack(order + "I", len(data)) + data, order)


def pcapng(*blocks: bytes, order: str = "<") -> bytes:
    return section(order) + b"".join(blocks)


def fragments(packet: Packet, cuts: Sequence[int]) -> list[bytes]:
    """An IPv4 or IPv6 packet cut at the given offsets (multiples of 8) into its fragments, in order."""
    whole = bytes(packet)
    version6 = whole[0] >> 4 == 6
    payload = whole[40:] if version6 else whole[20:]
    edges = [0, *cuts, len(payload)]
    return [fragment(packet, start, payload[start:end], more=end < len(payload))
            for start, end in pairwise(edges)]


def fragment(packet: Packet, offset: int, payload: bytes, *, more: bool, identification: int = 7) -> bytes:
    """One fragment in the name of `packet`, with any offset and bytes."""
    if packet.version == 6:
        head = struct.pack(">BBHI", packet.nh, 0, offset | more, identification)
        return bytes(IPv6(src=packet.src, dst=packet.dst, nh=44, tc=packet.tc) / Raw(head + payload))
    return bytes(IP(src=packet.src, dst=packet.dst, id=identification, proto=17, tos=packet.tos, frag=offset // 8,
                    flags="MF" if more else 0) / Raw(payload))


class Conversation:
    """A TCP connection: each call gives the next segment as an Ethernet frame."""

    def __init__(self, sport: int = 40000, dport: int = 80, *, client: str = CLIENT, server: str = SERVER) -> None:
        self._ends = {"client": (client, server, sport, dport), "server": (server, client, dport, sport)}
        self._next = {"client": 1000, "server": 5000}

    def segment(self, sender: str, flags: str, payload: bytes = b"") -> bytes:
        sequence = self._next[sender]
        self._next[sender] += len(payload) + ("S" in flags) + ("F" in flags)
        return self._frame(sender, flags, sequence, payload)

    def again(self, sender: str, payload: bytes) -> bytes:
        """What the sender said last, repeated in one segment."""
        return self._frame(sender, "PA", self._next[sender] - len(payload), payload)

    def _frame(self, sender: str, flags: str, sequence: int, payload: bytes) -> bytes:
        source, destination, sport, dport = self._ends[sender]
        other = "server" if sender == "client" else "client"
        acknowledged = self._next[other] if "A" in flags else 0
        return ethernet(bytes(IP(src=source, dst=destination)
                              / TCP(sport=sport, dport=dport, flags=flags, seq=sequence, ack=acknowledged, window=8192)
                              / Raw(payload)))

    def handshake(self) -> list[bytes]:
        return [self.segment("client", "S"), self.segment("server", "SA"), self.segment("client", "A")]
