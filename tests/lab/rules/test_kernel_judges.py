"""What the kernel's rules count is what pyfw's count: the same packets through the same rules, packet by packet."""
from __future__ import annotations

import random

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from lab.rules.kernel import DEVICE, Kernel
from pyfw.enums import Hook
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.language.printing import print_ruleset
from pyfw.rules.program.program import Program

V4 = IP(src="10.0.0.2", dst="10.99.0.7")
V6 = IPv6(src="2001:db8::2", dst="fd00::80")

TRANSPORT_RULES = [
    "-p tcp", "! -p tcp", "-p udp", "-p sctp", "-p 47", "-p tcp --dport 80", "-p tcp ! --dport 80", "-p tcp --dport 80:90",
    "-p tcp --sport :1023 --dport 80", "-p tcp ! --sport 1:9 ! --dport 80", "-p udp --dport 53", "-p udp ! --sport 53",
    "-p sctp --dport 53", "-p tcp --syn", "-p tcp ! --syn", "-p tcp --tcp-flags ALL NONE", "-p tcp --tcp-flags SYN,FIN SYN,FIN",
    "-p tcp --tcp-flags ALL SYN", "-p tcp ! --tcp-flags ACK,URG URG", "-p tcp -m tcp", "-m comment --comment x -p udp",
    f"-i {DEVICE}", "-i tun+", "-i tun", "! -i tun+", "! -i eth0", "-i eth0", "-i tun00",
]
RULES = {
    4: [*TRANSPORT_RULES, "-s 10.0.0.0/8", "! -s 10.0.0.0/8", "-s 10.0.0.2/255.0.0.255", "-d 10.99.0.7", "! -d 10.99.0.0/24", "-s 0/0",
        "-f", "! -f", "-p icmp --icmp-type 8", "-p icmp --icmp-type 3/1", "-p icmp ! --icmp-type 3/1", "-p icmp --icmp-type any", "-p 1"],
    6: [*TRANSPORT_RULES, "-s 2001:db8::/32", "! -s 2001:db8::/32", "-d fd00::80", "-d fd00::81", "! -d fd00::/8", "-s ::/0",
        "-p icmpv6 --icmpv6-type 128", "-p icmpv6 ! --icmpv6-type 128", "-p icmpv6 --icmpv6-type 1/4", "-p icmpv6 --icmpv6-type 255"],
}
TRANSPORTS: list[Packet] = [
    TCP(sport=40000, dport=80, flags="S"), TCP(sport=5, dport=80, flags="SA"), TCP(sport=10, dport=81, flags="A"), TCP(dport=90, flags=""),
    TCP(dport=91, flags="SF"), TCP(flags="SEC"), TCP(flags="SP"), TCP(flags="FPU"), TCP(flags="R") / Raw(b"x" * 100),
    UDP(dport=53), UDP(sport=53, dport=54) / Raw(b"x"), SCTP(dport=53), SCTP(dport=54),
]
PACKETS = {
    4: [*(V4 / transport for transport in TRANSPORTS), IP(src="11.0.0.2", dst="10.99.0.7") / UDP(), IP(src="10.0.0.3", dst="10.99.1.7") / UDP(),
        V4 / ICMP(type=8, code=3), V4 / ICMP(type=0), V4 / ICMP(type=3, code=1), V4 / ICMP(type=3, code=2), V4 / ICMP(type=77),
        IP(dst="10.99.0.7", proto=47) / Raw(b"12345678"),
        *(IP(dst="10.99.0.7", proto=proto) / Raw(b"x" * size) for proto in (1, 6, 17, 132) for size in (0, 3, 7, 8, 11, 12, 19, 20)),
        *(IP(dst="10.99.0.7", proto=proto, frag=frag) / Raw(b"x" * 40) for proto in (1, 6, 17) for frag in (1, 2, 100)),
        *(IP(src="10.0.0.2", dst="10.99.0.7", flags="MF") / transport / Raw(b"x" * 40) for transport in TRANSPORTS)],
    6: [*(V6 / transport for transport in TRANSPORTS), IPv6(src="2001:db9::2", dst="fd00::81") / UDP(), V6 / ICMPv6EchoRequest(),
        V6 / ICMPv6EchoReply(), V6 / IPv6ExtHdrDestOpt() / UDP(dport=53), V6 / IPv6ExtHdrHopByHop() / TCP(dport=80), IPv6(src="2001:db8::2", dst="fd00::80", nh=59),
        *(IPv6(src="2001:db8::2", dst="fd00::80", nh=proto) / Raw(b"x" * size) for proto in (58, 6, 17, 132) for size in (0, 3, 7, 8, 11, 12, 19, 20)),
        IPv6(src="2001:db8::2", dst="fd00::80", nh=60) / Raw(b"\x06\x04" + b"x" * 10), IPv6(src="2001:db8::2", dst="fd00::80", nh=60) / Raw(b"\x06"),
        *(V6 / IPv6ExtHdrFragment(offset=offset, nh=proto, m=1) / Raw(b"x" * 40) for proto in (6, 17, 58) for offset in (0, 1, 9))],
}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_same_counts(kernel: Kernel, family: int, order: int) -> None:
    """Rules in several orders: a rule that drops a packet for having no transport header hides those after it."""
    rules = random.Random(order).sample(RULES[family], len(RULES[family]))
    text = "*raw\n" + "".join(f"-A PREROUTING {rule}\n" for rule in rules) + "COMMIT\n"
    ours = Program(parse_save(text, family=family))
    kernel.restore(family, print_ruleset(ours.ruleset, family=family), "legacy")
    before = [(0, 0)] * len(rules)
    for packet in PACKETS[family]:
        data = bytes(packet)
        ours.zero()
        assert ours.walk("raw", data, Hook.PREROUTING, DEVICE) is not None
        kernel.send(data)
        after = kernel.rule_counters(family, "legacy")
        counted = [(new[0] - old[0], new[1] - old[1]) for new, old in zip(after, before, strict=True)]
        before = after
        by_us = ours.counters()["raw", "PREROUTING"][1]
        assert dict(zip(rules, by_us, strict=True)) == dict(zip(rules, counted, strict=True)), packet.summary()


def test_jumps_count_alike(kernel: Kernel) -> None:
    text = """*raw
:one - [0:0]
:side - [0:0]
:two - [0:0]
-A PREROUTING -p tcp --dport 1 -j one
-A PREROUTING -p tcp --dport 2 -g one
-A PREROUTING -p tcp --dport 9 -j RETURN
-A PREROUTING -p tcp
-A one -p tcp --sport 1 -j two
-A one -p tcp --sport 2 -j RETURN
-A one -p tcp --sport 3 -g side
-A one -p tcp --sport 4 -j DROP
-A side -p udp -j DROP
-A two -g side
COMMIT
"""
    ours = Program(parse_save(text))
    kernel.restore(4, text, "legacy")
    for dport in (1, 2, 8, 9):
        for sport in (1, 2, 3, 4, 5):
            packet = bytes(V4 / TCP(sport=sport, dport=dport))
            ours.walk("raw", packet, Hook.PREROUTING, DEVICE)
            kernel.send(packet)
    counts = ours.counters()
    by_us = [count for chain in ("PREROUTING", "one", "side", "two") for count in counts["raw", chain][1]]
    assert by_us == kernel.rule_counters(4, "legacy")
    assert sum(packets for packets, _ in by_us) > 20
