"""What LOG prints is what the kernel's LOG prints, byte for byte."""
from __future__ import annotations

import os

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, IPOption_Router_Alert, TCPerror, UDPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6MLQuery,
    ICMPv6ND_NS,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPerror6,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.ipsec import AH, ESP
from scapy.packet import Packet, Raw

from lab.rules.kernel import DEVICE, Kernel, KernelLog
from pyfw.enums import Hook
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.language.printing import print_ruleset
from pyfw.rules.log.format import format_log
from pyfw.rules.program.program import Program

PREFIX = f"pfr-{os.getpid()} "
V4 = IP(src="10.0.0.2", dst="10.99.0.7", id=7)
V6 = IPv6(src="2001:db8::2", dst="fd00::80", tc=0xB8, fl=0x12345)
QUOTED = IPerror(src="1.1.1.1", dst="2.2.2.2", id=9)
QUOTED6 = IPerror6(src="::1", dst="::2")

TRANSPORTS: list[Packet] = [
    TCP(sport=40000, dport=80, flags="S", window=64240, seq=5, ack=6, options=[("MSS", 1460), ("SAckOK", b"")]),
    TCP(sport=1, dport=2, flags="CEUAPRSF", urgptr=9), TCP(sport=1, dport=2, flags="", reserved=6),
    UDP(sport=1, dport=2) / Raw(b"x" * 9), Raw(b""),
]


def short(protocol: int, size: int) -> Packet:
    return IP(src="10.0.0.2", dst="10.99.0.7", id=7, proto=protocol) / Raw(b"\x02" * size)


def short6(protocol: int, size: int) -> Packet:
    return IPv6(src="2001:db8::2", dst="fd00::80", nh=protocol) / Raw(b"\x02" * size)


PACKETS = {
    4: [*(V4 / transport for transport in TRANSPORTS),
        IP(src="10.0.0.2", dst="10.99.0.7", flags="DF", tos=0xFF, ttl=3) / UDP(),
        IP(src="10.0.0.2", dst="10.99.0.7", flags="evil") / UDP(),
        IP(src="10.0.0.2", dst="10.99.0.7", options=[IPOption_Router_Alert()]) / UDP(sport=1, dport=2),
        IP(src="10.0.0.2", dst="10.99.0.7", proto=17, frag=3, flags="MF") / Raw(b"x" * 8),
        IP(src="10.0.0.2", dst="10.99.0.7", proto=1, frag=3) / Raw(b"x" * 8), IP(src="10.0.0.2", dst="10.99.0.7", proto=50, frag=3) / Raw(b"x" * 8),
        V4 / ICMP(type=8, id=3, seq=4), V4 / ICMP(type=0, id=3, seq=4), V4 / ICMP(type=13), V4 / ICMP(type=77, code=5),
        V4 / ICMP(type=3, code=4, nexthopmtu=1400) / QUOTED / UDPerror(sport=5, dport=6), V4 / ICMP(type=3, code=1) / QUOTED / TCPerror(flags="S"),
        V4 / ICMP(type=3, code=1) / QUOTED / ICMP() , V4 / ICMP(type=3, code=1) / QUOTED / ICMP(type=3) / QUOTED / UDPerror(),
        V4 / ICMP(type=11) / IPerror(src="1.1.1.1", dst="2.2.2.2", len=40, proto=6) / Raw(b"12345678"),
        V4 / ICMP(type=11) / IPerror(src="1.1.1.1", dst="2.2.2.2", len=40, proto=17) / Raw(b"1234"),
        V4 / ICMP(type=5, gw="9.8.7.6") / QUOTED / UDPerror(), V4 / ICMP(type=4) / QUOTED / UDPerror(),
        V4 / ICMP(type=12, ptr=20) / QUOTED / UDPerror(), V4 / ICMP(type=3, code=1) / Raw(b"short"), V4 / ICMP(type=12) / Raw(b"short"),
        V4 / ESP(spi=0xABC, seq=1), V4 / AH(spi=0xABC, seq=1, icv=b"x" * 12) / UDP(),
        *(short(protocol, size) for protocol in (1, 6, 17, 50, 51, 136, 47) for size in (3, 7, 8, 11, 12, 16, 20))],
    6: [*(V6 / transport for transport in TRANSPORTS),
        V6 / ICMPv6EchoRequest(id=3, seq=4), V6 / ICMPv6MLQuery(), V6 / ICMPv6ND_NS(tgt="fd00::80"),
        V6 / ICMPv6DestUnreach(code=4) / QUOTED6 / UDPerror(sport=5, dport=6), V6 / ICMPv6PacketTooBig(mtu=1280) / QUOTED6 / TCPerror(),
        V6 / ICMPv6TimeExceeded() / QUOTED6 / IPv6ExtHdrDestOpt() / UDPerror(), V6 / ICMPv6ParamProblem(ptr=6) / QUOTED6 / ICMPv6EchoRequest(),
        V6 / ICMPv6DestUnreach() / Raw(b"short"), V6 / ICMPv6DestUnreach() / QUOTED6 / ICMPv6DestUnreach() / QUOTED6 / UDPerror(),
        V6 / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2), V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / TCP(),
        V6 / IPv6ExtHdrFragment(offset=2, id=0xABC, nh=17) / Raw(b"x" * 8), V6 / IPv6ExtHdrFragment(offset=2, id=0xABC, nh=6, m=1) / Raw(b"x" * 8),
        V6 / IPv6ExtHdrFragment(offset=2, id=0xABC, nh=58) / Raw(b"x" * 8), V6 / IPv6ExtHdrFragment(offset=2, id=1, nh=60) / Raw(b"\x06\x00" + b"x" * 8),
        V6 / IPv6ExtHdrFragment(offset=0, id=1, nh=17, m=1) / UDP(sport=1, dport=2) / Raw(b"x" * 8),
        V6 / ESP(spi=0xABC, seq=1), V6 / AH(spi=0xABC, seq=1, icv=b"x" * 12) / UDP(), IPv6(src="2001:db8::2", dst="fd00::80", nh=59), short6(60, 1), short6(44, 4),
        *(short6(protocol, size) for protocol in (58, 6, 17, 50, 51, 136, 47) for size in (3, 7, 8, 11, 12, 16, 20))],
}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("options", ["", "--log-tcp-sequence --log-tcp-options --log-ip-options"])
def test_same_lines(kernel: Kernel, family: int, options: str) -> None:
    text = f"*raw\n-A PREROUTING -j LOG --log-prefix '{PREFIX}' {options}\nCOMMIT\n"
    ours = Program(parse_save(text), log_rate=0)
    kernel.restore(family, print_ruleset(ours.ruleset, family=family), "legacy")
    differing = []
    with KernelLog() as log:
        for packet in PACKETS[family]:
            data = bytes(packet)
            kernel.send(data)
            ours.walk("raw", data, Hook.PREROUTING, DEVICE)
            printed = [format_log(record).removeprefix(PREFIX) for record in ours.logs()]
            witnessed = log.lines(PREFIX)
            assert len(witnessed) == 1, packet.summary()
            if printed != witnessed:
                differing.append((packet.summary(), printed, witnessed))
    assert not differing
