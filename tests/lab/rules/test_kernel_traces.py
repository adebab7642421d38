"""What TRACE logs is what the kernel's TRACE logs: the same rules in the same order, byte for byte."""
from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.packet import Packet

from lab.rules.kernel import DEVICE, Kernel, KernelLog
from pyfw.engine.engine import Engine
from pyfw.enums import Hook
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.language.printing import print_ruleset
from pyfw.rules.log.format import format_log
from pyfw.rules.program.program import Program

RULES = """
*raw
:PREROUTING ACCEPT
:own -
-A PREROUTING -p tcp --dport 1 -j DROP
-A PREROUTING -p tcp -j TRACE
-A PREROUTING -p udp -j TRACE
-A PREROUTING -p udp
-A PREROUTING -p {icmp} -j TRACE
-A PREROUTING -j own
-A own -p sctp -j ACCEPT
-A own -p udp -j RETURN
-A own -p {icmp}
-A own -p tcp --dport 2 -j DROP
COMMIT
*filter
:INPUT DROP
:a -
:b -
:c -
-A INPUT -p udp --dport 9 -g a
-A INPUT -p udp -j a
-A INPUT -p udp
-A INPUT -p tcp -m comment --comment all -j RETURN
-A INPUT -j b
-A INPUT -p udp --dport 10 -j REJECT
-A INPUT -j ACCEPT
-A a -p udp -j b
-A b -p udp
-A b -p {icmp} -j c
-A b -j RETURN
-A c -j DROP
COMMIT
"""
TRANSPORTS = [UDP(sport=1, dport=2), UDP(sport=1, dport=9), UDP(sport=1, dport=10), TCP(sport=1, dport=1), TCP(sport=1, dport=2),
              TCP(sport=7, dport=80, seq=5, options=[("MSS", 1460)])]


def packets(family: int) -> list[Packet]:
    header = IP(src="10.99.0.5", dst="10.99.0.1", id=7) if family == 4 else IPv6(src="fd99::5", dst="fd99::1")
    return [header / transport for transport in (*TRANSPORTS, ICMP(type=8) if family == 4 else ICMPv6EchoRequest())]


@pytest.mark.parametrize("family", [4, 6])
def test_same_lines(kernel: Kernel, family: int) -> None:
    kernel.run("ip", "address", "replace", "10.99.0.1/24" if family == 4 else "fd99::1/64", "dev", DEVICE)
    engine = Engine(max_entries=64)
    ours = Program(parse_save(RULES.format(icmp="icmp" if family == 4 else "ipv6-icmp"), family=family), engine.environment)
    engine.load(ours)
    kernel.restore(family, print_ruleset(ours.ruleset, family=family), "legacy")
    traced = 0
    with KernelLog() as log:
        for packet in packets(family):
            data = bytes(packet)
            log.lines("TRACE: ")
            kernel.send(data)
            engine.judge(data, Hook.INPUT, DEVICE)
            printed = [format_log(record).removeprefix("TRACE: ") for record in ours.logs()]
            witnessed = [line for line in log.lines("TRACE: ") if f"IN={DEVICE} " in line and "OUT= " in line]
            assert printed == witnessed, packet.summary()
            traced += len(printed)
    assert traced > 30
