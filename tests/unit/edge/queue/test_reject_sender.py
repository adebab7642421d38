"""What REJECT answers, compared with what scapy builds from the same rules, and when it stays silent."""
from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoRequest, ICMPv6PacketTooBig, IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.packet import Packet, Raw

from pyfw.edge.queue.reject_sender import build_reject
from pyfw.enums import Reject

IP4 = IP(src="192.0.2.2", dst="198.51.100.2", id=7, ttl=63)
IP6 = IPv6(src="2001:db8:1::2", dst="2001:db8:2::2", hlim=63)
BACK4 = IP(src="198.51.100.2", dst="192.0.2.2", id=0, ttl=64)
BACK6 = IPv6(src="2001:db8:2::2", dst="2001:db8:1::2", hlim=64)
SYN = TCP(sport=40000, dport=80, seq=1000, flags="S", options=[("MSS", 1460)])
UDP_X = UDP(sport=40000, dport=53) / b"x"


def answer(packet: Packet, kind: Reject, **options: bool) -> bytes | None:
    return build_reject(bytes(packet), kind, **options)


@pytest.mark.parametrize(("segment", "reset"), [
    pytest.param(SYN, dict(seq=0, ack=1001, flags="RA"), id="SYN"),
    pytest.param(SYN / b"early data", dict(seq=0, ack=1011, flags="RA"), id="SYN with data"),
    pytest.param(TCP(seq=0xFFFFFFFF, flags="S"), dict(seq=0, ack=0, flags="RA"), id="SYN at the end of the numbers"),
    pytest.param(TCP(seq=5, flags="F"), dict(seq=0, ack=6, flags="RA"), id="FIN"),
    pytest.param(TCP(seq=5, flags=""), dict(seq=0, ack=5, flags="RA"), id="nothing"),
    pytest.param(TCP(seq=5, ack=99, flags="A") / b"data", dict(seq=99, ack=0, flags="R"), id="ACK with data"),
    pytest.param(TCP(seq=5, ack=99, flags="SA"), dict(seq=99, ack=0, flags="R"), id="SYN ACK"),
])
@pytest.mark.parametrize(("there", "back"), [(IP4, BACK4 / TCP()), (IP6, BACK6 / TCP())], ids=["IPv4", "IPv6"])
def test_a_reset(there: Packet, back: Packet, segment: Packet, reset: dict):
    expected = back.copy()
    sent = there / segment
    expected[TCP].sport, expected[TCP].dport, expected[TCP].window = sent[TCP].dport, sent[TCP].sport, 0
    for field, value in reset.items():
        setattr(expected[TCP], field, value)
    if IP in expected:
        expected[IP].flags = "DF"
    assert answer(sent, Reject.TCP_RESET) == bytes(expected)


@pytest.mark.parametrize(("kind", "code"), [
    (Reject.ICMP_NET_UNREACHABLE, 0), (Reject.ICMP_HOST_UNREACHABLE, 1), (Reject.ICMP_PROTO_UNREACHABLE, 2),
    (Reject.ICMP_PORT_UNREACHABLE, 3), (Reject.ICMP_NET_PROHIBITED, 9), (Reject.ICMP_HOST_PROHIBITED, 10),
    (Reject.ICMP_ADMIN_PROHIBITED, 13)])
def test_an_icmp_error(kind: Reject, code: int):
    sent = IP4 / UDP_X
    expected = IP(src="198.51.100.2", dst="192.0.2.2", id=0, ttl=64, tos=0xC0) / ICMP(type=3, code=code) / bytes(sent)
    assert answer(sent, kind) == bytes(expected)


@pytest.mark.parametrize(("kind", "code"), [
    (Reject.ICMP6_NO_ROUTE, 0), (Reject.ICMP6_ADM_PROHIBITED, 1), (Reject.ICMP6_ADDR_UNREACHABLE, 3),
    (Reject.ICMP6_PORT_UNREACHABLE, 4), (Reject.ICMP6_POLICY_FAIL, 5), (Reject.ICMP6_REJECT_ROUTE, 6)])
def test_an_icmpv6_error(kind: Reject, code: int):
    sent = IP6 / UDP_X
    assert answer(sent, kind) == bytes(BACK6 / ICMPv6DestUnreach(code=code) / bytes(sent))


@pytest.mark.parametrize(("sent", "kind", "longest"), [
    (IP4 / UDP() / bytes(3000), Reject.ICMP_PORT_UNREACHABLE, 576),
    (IP6 / UDP() / bytes(3000), Reject.ICMP6_PORT_UNREACHABLE, 1280)], ids=["IPv4", "IPv6"])
def test_an_error_quotes_as_much_as_fits(sent: Packet, kind: Reject, longest: int):
    built = answer(sent, kind)
    assert len(built) == longest
    whole = (IP if sent.version == 4 else IPv6)(built)
    rebuilt = whole.copy()
    if sent.version == 4:
        assert built[28:] == bytes(sent)[:548]
        del rebuilt[IP].chksum, rebuilt[ICMP].chksum
    else:
        assert built[48:] == bytes(sent)[:1232]
        del rebuilt[ICMPv6DestUnreach].cksum
    assert bytes(rebuilt) == built


def test_a_reset_through_extension_headers():
    assert answer(IP6 / IPv6ExtHdrHopByHop() / SYN, Reject.TCP_RESET) == answer(IP6 / SYN, Reject.TCP_RESET)


def checksum_off(packet: Packet) -> Packet:
    packet = packet.copy()
    packet[packet.lastlayer().__class__ if packet.lastlayer().__class__ is not Raw else UDP].chksum = 0x1234
    return packet


@pytest.mark.parametrize(("sent", "kind"), [
    pytest.param(IP4 / TCP(flags="R"), Reject.TCP_RESET, id="an RST"),
    pytest.param(IP4 / TCP(flags="RA"), Reject.TCP_RESET, id="an RST with ACK"),
    pytest.param(IP6 / TCP(flags="R"), Reject.TCP_RESET, id="an RST over IPv6"),
    pytest.param(IP4 / UDP_X, Reject.TCP_RESET, id="a reset for UDP"),
    pytest.param(IP4 / UDP_X, Reject.ICMP6_NO_ROUTE, id="ICMPv6 for IPv4"),
    pytest.param(IP6 / UDP_X, Reject.ICMP_NET_UNREACHABLE, id="ICMP for IPv6"),
    pytest.param(IP4 / UDP_X, Reject.NONE, id="no answer wanted"),
    pytest.param(IP4 / ICMP(type=3, code=1) / bytes(IP4 / UDP_X), Reject.ICMP_HOST_UNREACHABLE, id="an ICMP error"),
    pytest.param(IP4 / ICMP(type=11) / bytes(IP4 / UDP_X), Reject.ICMP_HOST_UNREACHABLE, id="time exceeded"),
    pytest.param(IP4 / ICMP(type=5) / bytes(IP4 / UDP_X), Reject.ICMP_HOST_UNREACHABLE, id="a redirect"),
    pytest.param(IP4 / ICMP(type=42), Reject.ICMP_HOST_UNREACHABLE, id="an unknown ICMP type"),
    pytest.param(IP(bytes(IP4 / ICMP())[:24])[IP], Reject.ICMP_HOST_UNREACHABLE, id="half an ICMP header"),
    pytest.param(IP6 / ICMPv6PacketTooBig() / bytes(IP6 / UDP_X), Reject.ICMP6_NO_ROUTE, id="an ICMPv6 error"),
    pytest.param(IP(src="192.0.2.2", dst="198.51.100.2", flags="MF") / UDP_X, Reject.ICMP_HOST_UNREACHABLE,
                 id="a first fragment"),
    pytest.param(IP(src="192.0.2.2", dst="198.51.100.2", frag=5) / UDP_X, Reject.ICMP_HOST_UNREACHABLE,
                 id="a later fragment"),
    pytest.param(IP6 / IPv6ExtHdrFragment(offset=5, nh=17) / UDP_X, Reject.ICMP6_NO_ROUTE, id="an IPv6 fragment"),
    pytest.param(IP(src="192.0.2.2", dst="224.0.0.1") / UDP_X, Reject.ICMP_HOST_UNREACHABLE, id="to a group"),
    pytest.param(IP(src="192.0.2.2", dst="255.255.255.255") / UDP_X, Reject.ICMP_HOST_UNREACHABLE, id="to everybody"),
    pytest.param(IP(src="0.0.0.0", dst="192.0.2.1") / UDP_X, Reject.ICMP_HOST_UNREACHABLE, id="from nobody"),
    pytest.param(IP(src="239.1.1.1", dst="192.0.2.1") / UDP_X, Reject.ICMP_HOST_UNREACHABLE, id="from a group"),
    pytest.param(IPv6(src="2001:db8::1", dst="ff02::1") / UDP_X, Reject.ICMP6_NO_ROUTE, id="to an IPv6 group"),
    pytest.param(IPv6(src="::", dst="2001:db8::1") / UDP_X, Reject.ICMP6_NO_ROUTE, id="from IPv6's nobody"),
    pytest.param(checksum_off(IP4 / UDP_X), Reject.ICMP_HOST_UNREACHABLE, id="bad UDP checksum"),
    pytest.param(checksum_off(IP4 / SYN), Reject.TCP_RESET, id="bad TCP checksum"),
    pytest.param(checksum_off(IP6 / SYN), Reject.TCP_RESET, id="bad TCP checksum over IPv6"),
    pytest.param(Raw(b"not IP"), Reject.ICMP_HOST_UNREACHABLE, id="no IP packet"),
])
def test_silence(sent: Packet, kind: Reject):
    assert answer(sent, kind) is None


@pytest.mark.parametrize(("sent", "kind"), [
    pytest.param(IP4 / ICMP(type=8), Reject.ICMP_HOST_UNREACHABLE, id="a ping"),
    pytest.param(IP6 / ICMPv6EchoRequest(), Reject.ICMP6_NO_ROUTE, id="a ping over IPv6"),
    pytest.param(IP(src="192.0.2.2", dst="198.51.100.2", proto=89) / b"x", Reject.ICMP_PROTO_UNREACHABLE, id="OSPF"),
    pytest.param(IP4 / UDP(chksum=0) / b"x", Reject.ICMP_PORT_UNREACHABLE, id="UDP without a checksum"),
])
def test_others_are_answered(sent: Packet, kind: Reject):
    assert answer(sent, kind) is not None


def test_a_checksum_that_is_left_to_the_hardware_is_taken_for_right():
    assert answer(checksum_off(IP4 / SYN), Reject.TCP_RESET, trusted=True) is not None
