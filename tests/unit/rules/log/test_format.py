"""LOG: what its line says, byte for byte, and how many lines there are."""
from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, IPOption_Router_Alert, TCPerror, UDPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    IPerror6,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
)
from scapy.layers.ipsec import AH, ESP
from scapy.packet import Packet, Raw

from pyfw.enums import Hook
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.log.format import LogRecord, format_log
from pyfw.rules.program.program import Program

V4 = IP(src="10.0.0.2", dst="192.0.2.80", id=7)
V6 = IPv6(src="2001:db8::2", dst="fd00::80")
HEAD4 = "IN=eth0 OUT=eth1 MAC= SRC=10.0.0.2 DST=192.0.2.80 "
HEAD6 = ("IN=eth0 OUT=eth1 MAC= SRC=2001:0db8:0000:0000:0000:0000:0000:0002 "
         "DST=fd00:0000:0000:0000:0000:0000:0000:0080 ")


def records(packet: Packet | bytes, options: str = "", times_ns: tuple[int, ...] = (0,), **program: int) -> tuple[list[LogRecord], Program]:
    rules = Program(parse_save(f"-A FORWARD -j LOG {options}"), **program)
    for now_ns in times_ns:
        rules.walk("filter", bytes(packet), Hook.FORWARD, "eth0", "eth1", now_ns=now_ns)
    return rules.logs(1000), rules


def line(packet: Packet | bytes, options: str = "") -> str:
    (record,), _ = records(packet, options)
    return format_log(record)


@pytest.mark.parametrize(("packet", "options", "expected"), [
    (V4 / TCP(sport=40000, dport=80, flags="S", window=64240), "",
     HEAD4 + "LEN=40 TOS=0x00 PREC=0x00 TTL=64 ID=7 PROTO=TCP SPT=40000 DPT=80 WINDOW=64240 RES=0x00 SYN URGP=0 "),
    (IP(src="10.0.0.2", dst="192.0.2.80", id=7, flags="DF", tos=0xB8) / TCP(sport=1, dport=2, flags="NCEUAPRSF", urgptr=9, reserved=7), "",
     HEAD4 + "LEN=40 TOS=0x18 PREC=0xA0 TTL=64 ID=7 DF PROTO=TCP SPT=1 DPT=2 WINDOW=8192 RES=0x38 AE CWR ECE URG ACK PSH RST SYN FIN URGP=9 "),
    (V4 / TCP(sport=1, dport=2, seq=5, ack=6, flags="A", options=[("MSS", 1460)]), "--log-tcp-sequence --log-tcp-options",
     HEAD4 + "LEN=44 TOS=0x00 PREC=0x00 TTL=64 ID=7 PROTO=TCP SPT=1 DPT=2 SEQ=5 ACK=6 WINDOW=8192 RES=0x00 ACK URGP=0 OPT (020405B4) "),
    (IP(src="10.0.0.2", dst="192.0.2.80", id=7, options=[IPOption_Router_Alert()]) / UDP(sport=1, dport=2), "--log-ip-options",
     HEAD4 + "LEN=32 TOS=0x00 PREC=0x00 TTL=64 ID=7 OPT (94040000) PROTO=UDP SPT=1 DPT=2 LEN=8 "),
    (V4 / UDP(sport=1, dport=2) / Raw(b"xx"), "--log-prefix 'x: '",
     "x: " + HEAD4 + "LEN=30 TOS=0x00 PREC=0x00 TTL=64 ID=7 PROTO=UDP SPT=1 DPT=2 LEN=10 "),
    (IP(src="10.0.0.2", dst="192.0.2.80", id=7, proto=136) / UDP(sport=1, dport=2, len=8), "",
     HEAD4 + "LEN=28 TOS=0x00 PREC=0x00 TTL=64 ID=7 PROTO=UDPLITE SPT=1 DPT=2 LEN=8 "),
    (V4 / ICMP(type=8, id=3, seq=4), "", HEAD4 + "LEN=28 TOS=0x00 PREC=0x00 TTL=64 ID=7 PROTO=ICMP TYPE=8 CODE=0 ID=3 SEQ=4 "),
    (V4 / ICMP(type=3, code=4, nexthopmtu=1400) / IPerror(src="1.1.1.1", dst="2.2.2.2", id=9) / UDPerror(sport=5, dport=6), "",
     HEAD4 + "LEN=56 TOS=0x00 PREC=0x00 TTL=64 ID=7 PROTO=ICMP TYPE=3 CODE=4 [SRC=1.1.1.1 DST=2.2.2.2 LEN=28 TOS=0x00 PREC=0x00 "
     "TTL=64 ID=9 PROTO=UDP SPT=5 DPT=6 LEN=8 ] MTU=1400 "),
    (V4 / ICMP(type=11) / IPerror(src="1.1.1.1", dst="2.2.2.2", id=9, len=40, proto=6) / Raw(bytes(TCPerror(sport=5, dport=6))[:8]), "",
     HEAD4 + "LEN=56 TOS=0x00 PREC=0x00 TTL=64 ID=7 PROTO=ICMP TYPE=11 CODE=0 [SRC=1.1.1.1 DST=2.2.2.2 LEN=40 TOS=0x00 PREC=0x00 "
     "TTL=64 ID=9 PROTO=TCP INCOMPLETE [8 bytes] ] "),
    (V4 / ICMP(type=5, gw="9.8.7.6") / IPerror(src="1.1.1.1", dst="2.2.2.2", id=9) / UDPerror(sport=5, dport=6), "",
     HEAD4 + "LEN=56 TOS=0x00 PREC=0x00 TTL=64 ID=7 PROTO=ICMP TYPE=5 CODE=0 GATEWAY=9.8.7.6 [SRC=1.1.1.1 DST=2.2.2.2 LEN=28 "
     "TOS=0x00 PREC=0x00 TTL=64 ID=9 PROTO=UDP SPT=5 DPT=6 LEN=8 ] "),
    (V4 / ICMP(type=3, code=1) / Raw(b"short"), "", HEAD4 + "LEN=33 TOS=0x00 PREC=0x00 TTL=64 ID=7 PROTO=ICMP TYPE=3 CODE=1 INCOMPLETE [13 bytes] "),
    (IP(src="10.0.0.2", dst="192.0.2.80", id=7, proto=47) / Raw(b"12345678"), "",
     HEAD4 + "LEN=28 TOS=0x00 PREC=0x00 TTL=64 ID=7 PROTO=47 "),
    (IP(src="10.0.0.2", dst="192.0.2.80", id=7, proto=17, frag=3, flags="MF") / Raw(b"x" * 8), "",
     HEAD4 + "LEN=28 TOS=0x00 PREC=0x00 TTL=64 ID=7 MF FRAG:3 PROTO=UDP "),
    (IP(src="10.0.0.2", dst="192.0.2.80", id=7, proto=6) / Raw(b"x" * 6), "",
     HEAD4 + "LEN=26 TOS=0x00 PREC=0x00 TTL=64 ID=7 PROTO=TCP INCOMPLETE [6 bytes] "),
    (V4 / ESP(spi=0xABC, seq=1), "", HEAD4 + "LEN=28 TOS=0x00 PREC=0x00 TTL=64 ID=7 PROTO=ESP SPI=0xabc "),
    (V4 / AH(spi=0xABC, seq=1, icv=b"x" * 12) / UDP(), "", None),
    (V6 / TCP(sport=1, dport=2, flags="S"), "",
     HEAD6 + "LEN=60 TC=0 HOPLIMIT=64 FLOWLBL=0 PROTO=TCP SPT=1 DPT=2 WINDOW=8192 RES=0x00 SYN URGP=0 "),
    (IPv6(src="2001:db8::2", dst="fd00::80", tc=0xB8, fl=0x12345, hlim=3) / UDP(sport=1, dport=2), "",
     HEAD6 + "LEN=48 TC=184 HOPLIMIT=3 FLOWLBL=74565 PROTO=UDP SPT=1 DPT=2 LEN=8 "),
    (V6 / ICMPv6EchoRequest(id=3, seq=4), "", HEAD6 + "LEN=48 TC=0 HOPLIMIT=64 FLOWLBL=0 PROTO=ICMPv6 TYPE=128 CODE=0 ID=3 SEQ=4 "),
    (V6 / ICMPv6DestUnreach(code=4) / IPerror6(src="::1", dst="::2") / UDPerror(sport=5, dport=6), "",
     HEAD6 + "LEN=96 TC=0 HOPLIMIT=64 FLOWLBL=0 PROTO=ICMPv6 TYPE=1 CODE=4 [SRC=0000:0000:0000:0000:0000:0000:0000:0001 "
     "DST=0000:0000:0000:0000:0000:0000:0000:0002 LEN=48 TC=0 HOPLIMIT=64 FLOWLBL=0 PROTO=UDP SPT=5 DPT=6 LEN=8 ] "),
    (V6 / ICMPv6PacketTooBig(mtu=1280) / IPerror6(src="::1", dst="::2") / UDPerror(sport=5, dport=6), "", None),
    (V6 / ICMPv6ParamProblem(ptr=6) / IPerror6(src="::1", dst="::2") / UDPerror(sport=5, dport=6), "", None),
    (V6 / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2), "--log-ip-options",
     HEAD6 + "LEN=56 TC=0 HOPLIMIT=64 FLOWLBL=0 OPT ( ) PROTO=UDP SPT=1 DPT=2 LEN=8 "),
    (V6 / IPv6ExtHdrFragment(offset=2, id=0xABC, nh=17) / Raw(b"x" * 8), "",
     HEAD6 + "LEN=56 TC=0 HOPLIMIT=64 FLOWLBL=0 FRAG:16 ID:00000abc PROTO=UDP "),
])
def test_line(packet: Packet, options: str, expected: str | None) -> None:
    printed = line(packet, options)
    if expected is None:            # the kernel's own line stands in tests/lab/rules
        assert printed.startswith((HEAD4, HEAD6))
        assert "PROTO=" in printed
    else:
        assert printed == expected


def test_chains_without_an_interface() -> None:
    rules = Program(parse_save("-A INPUT -j LOG\n-A OUTPUT -j LOG\n*raw\n-A PREROUTING -j LOG"))
    packet = bytes(V4 / UDP())
    rules.walk("filter", packet, Hook.INPUT, "eth0")
    rules.walk("filter", packet, Hook.OUTPUT, "", "eth1")
    rules.walk("raw", packet, Hook.FORWARD, "eth0", "eth1")
    assert [format_log(record).split(" SRC=")[0] for record in rules.logs()] == ["IN=eth0 OUT= MAC=", "IN= OUT=eth1", "IN=eth0 OUT= MAC="]


def test_the_packet_s_mark() -> None:
    rules = Program(parse_save("-A FORWARD -j LOG"))
    rules.walk("filter", bytes(V4 / UDP()), Hook.FORWARD, "eth0", "eth1", mark=0xAB)
    assert format_log(rules.logs()[0]).endswith("LEN=8 MARK=0xab ")


def test_a_packet_longer_than_what_is_kept() -> None:
    (record,), _ = records(V4 / UDP(sport=1, dport=2) / Raw(b"x" * 2000))
    assert (len(record.data), record.length) == (256, 2028)
    assert format_log(record).endswith("PROTO=UDP SPT=1 DPT=2 LEN=2008 ")


def test_every_beginning_of_a_packet_prints_something() -> None:
    whole = bytes(V6 / IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment() / ICMPv6DestUnreach() / IPerror6() / IPv6ExtHdrDestOpt() / TCPerror())
    (record,), _ = records(whole, "--log-ip-options --log-tcp-options")
    for size in range(1, len(whole)):
        cut = LogRecord(record.settings, record.rule, 0, record.hook, "eth0", "", 0, len(whole), whole[:size])
        assert format_log(cut).startswith("IN=eth0 OUT= MAC= ")


# -- how many ---------------------------------------------------------------------------------------------------------------

SECOND = 10**9


def test_a_burst_then_the_rate() -> None:
    times = (0,) * 25 + (SECOND // 10,) * 2 + (SECOND,) * 15
    kept, rules = records(V4 / UDP(), times_ns=times)
    assert len(kept) == 20 + 1 + 9
    assert rules.logs_suppressed == 5 + 1 + 6


def test_rate_and_burst_can_be_chosen() -> None:
    kept, rules = records(V4 / UDP(), times_ns=(0,) * 5 + (SECOND,) * 5, log_rate=2, log_burst=3)
    assert (len(kept), rules.logs_suppressed) == (5, 5)


def test_a_clock_that_stands_still_or_goes_back_earns_nothing() -> None:
    kept, _ = records(V4 / UDP(), times_ns=(5 * SECOND,) * 20 + (SECOND,) * 5)
    assert len(kept) == 20


def test_a_ring_that_nobody_reads_is_full_after_128() -> None:
    kept, rules = records(V4 / UDP(), times_ns=(0,) * 200, log_rate=0)
    assert (len(kept), rules.logs_suppressed) == (128, 72)


def test_logs_come_in_order_and_once() -> None:
    rules = Program(parse_save("-A FORWARD -p udp -j LOG\n-A FORWARD -j LOG --log-level info"))
    rules.walk("filter", bytes(V4 / UDP()), Hook.FORWARD, now_ns=3)
    found = rules.logs(1) + rules.logs(5)
    assert [(record.rule, record.settings.level, record.now_ns) for record in found] == [
        ("filter:FORWARD:rule:1", 4, 3), ("filter:FORWARD:rule:2", 6, 3)]
    assert rules.logs() == []
