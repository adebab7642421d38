"""Packets against sets: the kernel's rules and pyfw's count the same packets, and leave the same sets."""
from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from lab.rules.kernel import DEVICE, NOW_NS, Kernel, sets
from pyfw.enums import Hook
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.language.printing import print_ruleset
from pyfw.rules.parts import RuleEnvironment
from pyfw.rules.program.program import Program
from pyfw.rules.sets.store import SetStore

SETS = {4: """
create ips hash:ip counters
add ips 10.0.0.2
add ips 10.0.0.4
create masked hash:ip netmask 24
add masked 10.0.1.0
create nets hash:net counters
add nets 10.0.0.0/24
add nets 10.0.0.4/30 nomatch
add nets 10.0.0.5
create ipports hash:ip,port
add ipports 10.0.0.2,80
add ipports 10.0.0.2,udp:53
add ipports 10.0.0.2,icmp:echo-request
add ipports 10.0.0.3,gre:0
add ipports 10.0.0.3,tcp:1024
create netports hash:net,port counters
add netports 10.0.0.0/30,80
add netports 10.0.0.0/16,udp:53
add netports 10.0.0.2,udp:53 nomatch
add netports 10.0.0.0/29,sctp:7
create both list:set counters
add both ips
add both nets
create grown hash:ip timeout 900 counters
create learnt hash:ip,port timeout 900
create seen hash:net
add seen 192.168.0.0/16
create small hash:ip maxelem 2
create into list:set
add into small
add into grown
""", 6: """
create ips hash:ip family inet6 counters
add ips 2001:db8::2
create masked hash:ip family inet6 netmask 112
add masked 2001:db8::1:0
create nets hash:net family inet6 counters
add nets 2001:db8::/64
add nets 2001:db8::4/126 nomatch
add nets 2001:db8::5
create ipports hash:ip,port family inet6
add ipports 2001:db8::2,80
add ipports 2001:db8::2,udp:53
add ipports 2001:db8::2,icmpv6:echo-request
add ipports 2001:db8::3,gre:0
create netports hash:net,port family inet6 counters
add netports 2001:db8::/126,80
add netports 2001:db8::/32,udp:53
add netports 2001:db8::2,udp:53 nomatch
create both list:set counters
add both ips
add both nets
create grown hash:ip family inet6 timeout 900 counters
create learnt hash:ip,port family inet6 timeout 900
create seen hash:net family inet6
add seen fd00::/16
create small hash:ip family inet6 maxelem 2
create into list:set
add into small
add into grown
"""}
RULES = [
    "-m set --match-set ips src", "-m set ! --match-set ips src", "-m set --match-set ips dst", "-m set --match-set masked src,dst",
    "-m set --match-set nets src", "-m set ! --match-set nets src", "-m set --match-set nets src --return-nomatch",
    "-m set ! --match-set nets src --return-nomatch", "-m set --match-set ipports src", "-m set --match-set ipports src,dst",
    "-m set --match-set ipports src,src", "-m set ! --match-set ipports src,dst", "-m set --match-set netports src,dst",
    "-m set --match-set netports src,dst --return-nomatch", "-m set --match-set both src", "-m set --match-set both src,dst",
    "-m set --match-set both src ! --update-counters", "-m set --match-set both src ! --update-subcounters",
    "-m set --match-set both src --return-nomatch", "-m set --match-set both src --packets-gt 9",
    "-m set --match-set ips src ! --update-counters --packets-gt 5", "-m set --match-set ips src --packets-lt 30",
    "-m set --match-set ips src ! --packets-eq 4", "-m set --match-set nets src --bytes-gt 900 --packets-lt 90",
    "-m set --match-set nets src ! --packets-eq 12", "-m set --match-set masked src --packets-eq 5",     # counters of a set without are not asked
    "-m set --match-set grown src", "-m set --match-set learnt src,dst", "-m set --match-set seen dst", "-m set --match-set small src",
    "-p udp -j SET --add-set grown src", "-p tcp -j SET --add-set learnt src,dst --exist", "-j SET --add-set seen dst",
    "-p tcp -j SET --add-set small src", "-p tcp -j SET --add-set into src", "-p udp --dport 54 -j SET --del-set grown src",
    "-p sctp -j SET --del-set both src", "-p tcp --dport 81 -j SET --add-set ips dst --del-set nets src",
    "-p udp --dport 53 -j SET --add-set grown src --exist --timeout 0",
]


def transports(family: int) -> list[Packet]:
    echo = ICMP(type=8) if family == 4 else ICMPv6EchoRequest()
    return [TCP(sport=1024, dport=80), TCP(sport=80, dport=81), UDP(sport=5, dport=53), UDP(sport=53, dport=54) / Raw(b"x" * 50),
            SCTP(sport=5, dport=7), echo, Raw(b"\x00" * 12)]


def packets(family: int) -> list[bytes]:
    """Every host with every transport, in random order, and what has no ports where a set asks for them."""
    rng = random.Random(family)
    header, base = (IP, "10.0.{}.{}") if family == 4 else (IPv6, "2001:db8::{}:{}")
    target = "10.99.0.7" if family == 4 else "fd00::80"
    found = []
    for host in [*(base.format(0, host) for host in range(1, 9)), base.format(1, 7), base.format(2, 7)]:
        for transport in transports(family):
            ends = {"src": host, "dst": target} if rng.random() < 0.8 else {"src": base.format(0, 77), "dst": host}
            proto = {"proto" if family == 4 else "nh": 47} if isinstance(transport, Raw) else {}
            found.append(bytes(header(**ends, **proto) / transport))
    source = {"src": base.format(0, 2), "dst": target}
    if family == 4:
        found += [bytes(IP(**source, proto=proto, frag=3) / Raw(b"x" * 16)) for proto in (1, 6, 17, 47, 132)]
        found += [bytes(IP(**source, proto=proto) / Raw(b"x" * size)) for proto in (6, 17, 132) for size in (3, 7, 12)]
    else:
        found += [bytes(IPv6(**source) / IPv6ExtHdrFragment(offset=3, nh=proto) / Raw(b"x" * 16)) for proto in (6, 17, 47, 58)]
    rng.shuffle(found)
    return found * 2


@pytest.fixture
def clean(kernel: Kernel) -> Iterator[Kernel]:
    yield kernel
    for family in (4, 6):
        kernel.restore(family, "*raw\nCOMMIT\n", "legacy")
    kernel.run("ipset", "flush")
    kernel.run("ipset", "destroy")


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_same_counts_and_same_sets(clean: Kernel, family: int, order: int) -> None:
    rules = random.Random(order).sample(RULES, len(RULES)) if order else RULES
    text = "*raw\n" + "".join(f"-A PREROUTING {rule}\n" for rule in rules) + "COMMIT\n"
    store = SetStore()
    store.restore(SETS[family].encode(), NOW_NS)
    ours = Program(parse_save(text, family=family), RuleEnvironment(sets=store))
    clean.run("ipset", "restore", text=SETS[family])
    clean.restore(family, print_ruleset(ours.ruleset, family=family), "legacy")
    seen = set()
    for packet in packets(family):
        clean.send(packet)
        ours.walk("raw", packet, Hook.PREROUTING, DEVICE, now_ns=NOW_NS)
        by_us, by_kernel = ours.counters()["raw", "PREROUTING"][1], clean.rule_counters(family, "legacy")
        assert dict(zip(rules, by_us, strict=True)) == dict(zip(rules, by_kernel, strict=True)), packet.hex()
        seen |= {rule for rule, count in zip(rules, by_us, strict=True) if count[0]}
    assert sets("".join(store.saved(None, NOW_NS))) == sets(clean.run("ipset", "save"))
    assert set(rules) - seen == {"-m set --match-set ipports src"}, "too few of src and dst: it never matches; all others have"
