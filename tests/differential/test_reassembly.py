"""Fragments as the kernel puts them together before it tracks them, and as replay does."""
from __future__ import annotations

import pytest
from pyfw.edge.pcap import IpPacket
from pyfw.edge.reassembly import Reassembler

from differential import generate_layers
from differential.generate_mix import scenario
from differential.packets import describe, is_fragment
from differential.witness import Witness


@pytest.mark.parametrize("seed", range(4))
def test_same_datagrams_from_the_same_fragments(seed: int) -> None:
    packets = scenario(seed, 3000, ((generate_layers.fragments, 1),)).packets
    with Witness() as witness:
        seen = witness.testify(packets).opinions
    reassembler = Reassembler()
    completed = 0
    for index, (packet, opinion) in enumerate(zip(packets, seen, strict=True)):
        ours = reassembler.feed(IpPacket(packet.data, len(packet.data)), opinion.time_ns)
        if is_fragment(packet.data):
            datagram = ours.data if isinstance(ours, IpPacket) else None
            assert datagram == opinion.whole, f"packet {index}: {describe(packet.data)}: kernel {opinion}, replay {ours}"
            completed += datagram is not None
    assert completed > 100
