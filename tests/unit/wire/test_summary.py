"""The line about a packet."""
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NS, IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.packet import Raw

from kit.captures import CLIENT, CLIENT6, SERVER, SERVER6
from pyfw.wire.summary import summarize

V4, V6 = IP(src=CLIENT, dst=SERVER), IPv6(src=CLIENT6, dst=SERVER6)


@pytest.mark.parametrize(("packet", "line"), [
    (V4 / TCP(sport=40000, dport=80, flags="S"), "10.0.0.2:40000 > 10.0.1.2:80 tcp S"),
    (V4 / TCP(sport=40000, dport=80, flags="SA"), "10.0.0.2:40000 > 10.0.1.2:80 tcp S."),
    (V4 / TCP(sport=1, dport=2, flags="PA") / b"GET", "10.0.0.2:1 > 10.0.1.2:2 tcp P. 3 bytes"),
    (V4 / TCP(sport=1, dport=2, flags=""), "10.0.0.2:1 > 10.0.1.2:2 tcp none"),
    (V4 / TCP(sport=1, dport=2, flags="FSRPAUEC"), "10.0.0.2:1 > 10.0.1.2:2 tcp FSRP.UEW"),
    (V4 / UDP(sport=5000, dport=53) / b"query", "10.0.0.2:5000 > 10.0.1.2:53 udp 5 bytes"),
    (V4 / ICMP(type=8, id=5, seq=1), "10.0.0.2 > 10.0.1.2 icmp echo request id 5 seq 1"),
    (V4 / ICMP(type=3, code=1), "10.0.0.2 > 10.0.1.2 icmp unreachable code 1"),
    (V4 / ICMP(type=11, code=0), "10.0.0.2 > 10.0.1.2 icmp time exceeded"),
    (V4 / ICMP(type=99, code=0), "10.0.0.2 > 10.0.1.2 icmp type 99 code 0"),
    (IP(src=CLIENT, dst=SERVER, proto=132) / Raw(bytes.fromhex("138813890000000000000000")),
     "10.0.0.2:5000 > 10.0.1.2:5001 sctp"),
    (IP(src=CLIENT, dst=SERVER, proto=47) / Raw(bytes(8)), "10.0.0.2 > 10.0.1.2 gre"),
    (IP(src=CLIENT, dst=SERVER, proto=103) / Raw(bytes(8)), "10.0.0.2 > 10.0.1.2 protocol 103"),
    (IP(src=CLIENT, dst=SERVER, proto=17, flags="MF", frag=185) / Raw(bytes(1480)),
     "10.0.0.2 > 10.0.1.2 udp fragment 1480+1480"),
    (V6 / TCP(sport=40000, dport=80, flags="S"), "[2001:db8::2]:40000 > [2001:db8:1::2]:80 tcp S"),
    (V6 / IPv6ExtHdrHopByHop() / UDP(sport=5, dport=6), "[2001:db8::2]:5 > [2001:db8:1::2]:6 udp 0 bytes"),
    (V6 / ICMPv6EchoRequest(id=7, seq=2), "2001:db8::2 > 2001:db8:1::2 icmp6 echo request id 7 seq 2"),
    (V6 / ICMPv6ND_NS(), "2001:db8::2 > 2001:db8:1::2 icmp6 neighbor solicitation"),
    (V6 / IPv6ExtHdrFragment(nh=17, offset=1, m=1) / Raw(bytes(16)), "2001:db8::2 > 2001:db8:1::2 udp fragment 8+16"),
])
def test_a_packet_in_one_line(packet, line):
    assert summarize(bytes(packet)) == line


def test_a_cut_packet_is_told_by_its_real_length():
    data = bytes(V4 / TCP(sport=1, dport=2, flags="PA") / bytes(1000))
    assert summarize(data[:60], len(data)) == "10.0.0.2:1 > 10.0.1.2:2 tcp P. 1000 bytes"
    assert summarize(data[:22], len(data)) == "10.0.0.2 > 10.0.1.2 tcp"
    assert summarize(data[:12], len(data)) == "not a whole IP header (12 bytes)"


@given(st.builds(lambda start, rest: start + rest, st.sampled_from([b"", b"\x45", b"\x60"]), st.binary(max_size=120)))
def test_any_bytes_have_a_printable_line(data):
    assert summarize(data).isprintable()
