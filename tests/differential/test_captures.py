"""Capture files become packets that can be injected as they were on the wire; the odd ones here are judged as the kernel does."""
from __future__ import annotations

from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

from differential import captures
from differential.examine import examine
from differential.generate_mix import Scenario
from kit.captures import LINK
from kit.witness import Settings
from pyfw.edge.capture.pcap import Capture
from pyfw.engine.engine import Engine
from pyfw.offline.replay import Replay

REQUEST = IP(src="10.0.0.2", dst="10.0.1.2") / TCP(sport=40000, dport=80, flags="S", seq=1)
ANSWER = IP(src="10.0.1.2", dst="10.0.0.2") / TCP(sport=80, dport=40000, flags="SA", seq=9, ack=2)
QUESTION = IP(src="10.0.1.2", dst="10.0.9.9") / UDP(sport=5, dport=53) / b"?"


IPV6 = {                    # what the kernel says of each packet; raw IP, no Ethernet
    "first-fragment-without-all-headers": ["NEW"],              # the next header would be behind its end: nothing to wait for
    "icmpv6-quote-ends-in-extension-header": ["NEW", "RELATED"],        # of a protocol without ports
    "ipv6-first-fragment-that-stays-one": ["NEW"],              # its length is no multiple of 8
    "ipv6-fragment-in-a-fragment": ["NEW"],                     # an atomic fragment that holds a first one
    "ipv6-length-0-with-hop-by-hop": ["NEW"],                   # all that is there
}


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return tmp_path / "some.pcap"


def test_sides_are_told_by_who_is_heard_first(capture: Path) -> None:
    wrpcap(str(capture), [LINK / packet for packet in (REQUEST, ANSWER, QUESTION)])
    packets, cut = captures.read(capture)
    assert [(packet.side, packet.data) for packet in packets] == [(0, bytes(REQUEST)), (1, bytes(ANSWER)), (0, bytes(QUESTION))]
    assert cut == 0


def test_cut_packets_are_counted_and_left_out(capture: Path) -> None:
    cut = Ether(bytes(LINK / REQUEST)[:50])
    cut.wirelen = 54
    wrpcap(str(capture), [cut, LINK / ANSWER])
    packets, left_out = captures.read(capture)
    assert [packet.data for packet in packets] == [bytes(ANSWER)]
    assert left_out == 1


def test_what_is_left_to_the_network_card_is_filled_in(capture: Path) -> None:
    left = REQUEST.copy()
    left.len = left.chksum = left[TCP].chksum = 0
    wrpcap(str(capture), [LINK / left])
    assert captures.read(capture)[0][0].data == bytes(REQUEST)


def test_a_capture_is_judged_alike(capture: Path) -> None:
    wrpcap(str(capture), [LINK / packet for packet in (REQUEST, ANSWER, QUESTION)])
    examination = examine(Scenario(Settings(), captures.read(capture)[0]))
    examination.must_agree()
    assert [seen.state for seen in examination.kernel.opinions] == ["NEW", "ESTABLISHED", "NEW"]


@pytest.mark.parametrize("name", IPV6)
def test_ipv6_that_is_seldom_seen(name: str) -> None:
    path = Path(__file__).parent / "ipv6" / f"{name}.pcap"
    examination = examine(Scenario(Settings(), captures.read(path)[0]))
    examination.must_agree()
    assert [seen.state for seen in examination.kernel.opinions] == IPV6[name]
    with Capture(path) as records:
        assert [judged.state for judged in Replay(Engine()).run(records)] == IPV6[name]
