"""Capture files as lists of packets that can be injected."""
from __future__ import annotations

from pathlib import Path

from kit.packed_packets import checksums_filled
from kit.witness import Sent
from pyfw.edge.capture.pcap import Capture
from pyfw.wire.ip_packet import IpPacket


def read(path: Path) -> tuple[list[Sent], int]:
    """(the packets in the file's order, how many IP packets were left out because the capture cut
    them).  The capture's clock is left out: all come at once.

    Which side a packet comes from is told by its addresses: of each pair of hosts, the one that is
    heard first is on side 0.
    """
    sides: dict[frozenset[bytes], bytes] = {}
    packets: list[Sent] = []
    cut = 0
    with Capture(path) as capture:
        for record in capture:
            if record.packet is None:
                continue
            if len(record.packet.data) < record.packet.length:
                cut += 1
                continue
            source, target = _addresses(record.packet.data)
            first = sides.setdefault(frozenset((source, target)), source)
            packets.append(Sent(int(source != first), _as_on_the_wire(record.packet)))
    return packets, cut


def _addresses(data: bytes) -> tuple[bytes, bytes]:
    return (data[12:16], data[16:20]) if data[0] >> 4 == 4 else (data[8:24], data[24:40])


def _as_on_the_wire(packet: IpPacket) -> bytes:
    return checksums_filled(packet.data) if packet.offloaded else packet.data
