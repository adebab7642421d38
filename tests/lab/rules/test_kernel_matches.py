"""What the kernel's matches say is what pyfw's say: the same packets at the same time through the same rules, packet by packet.

Rules count and go on, so that every match meets every packet; each must have fitted some and not others.
"""
from __future__ import annotations

import random
import time

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.packet import Packet, Raw

from lab.rules.kernel import DEVICE, Kernel
from pyfw.enums import CtState, Hook
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.language.printing import print_ruleset
from pyfw.rules.parts import RuleEnvironment
from pyfw.rules.program.program import Program
from pyfw.rules.xt.addrtype import LocalAddresses, Route

LOCAL, BROADCAST = 2, 3
OWN_ROUTES = (Route(bytes([10, 99, 0, 1]), 32, LOCAL, DEVICE), Route(bytes([10, 99, 0, 255]), 32, BROADCAST, DEVICE))
BOTH_FAMILIES = [
    "-m recent --name seen ! --rcheck", "-m length --length 40:60", "-m length ! --length 60:", "-m tos --tos 0x10/0x10", "-m tos ! --tos 0x28",
    "-m dscp --dscp 10", "-m dscp ! --dscp-class EF", "-p tcp -m multiport --dports 80,443,1000:2000", "-p udp -m multiport ! --sports 53",
    "-p udp -m multiport --ports 53,5000:6000", "-m mark --mark 0", "-m mark ! --mark 0", "-m connmark --mark 0",
    "-m string --string GET --algo bm", "-m string --algo kmp --string get --icase", "-m string ! --string GET --algo bm --from 40",
    "-m string --hex-string |0d0a| --algo bm --to 60", "-m limit --limit 3/hour --limit-burst 4",
    "-m hashlimit --hashlimit-upto 3/hour --hashlimit-burst 2 --hashlimit-mode srcip --hashlimit-name one",
    "-m hashlimit --hashlimit-above 3/hour --hashlimit-burst 2 --hashlimit-mode dstip,dstport --hashlimit-name two",
    "-m recent --name seen --set", "-m recent --name seen --rcheck --seconds 3600 --hitcount 3",
    "-m recent --name other --update --rdest", "-m recent --name other --set --rdest", "-m statistic --mode nth --every 3 --packet 1",
    "-m conntrack --ctstate INVALID", "-m conntrack --ctproto 6", "-m conntrack --ctstate INVALID --ctproto 6",
    "-m helper --helper ftp", "-m helper ! --helper ftp",
    "-m time --timestart 00:00 --timestop 23:59:59", "-m time --datestop 2001-01-01",
    "-m time --monthdays 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15", "-m time --weekdays Mon,Tue,Wed",
    "-m time --timestart 12:00 --timestop 00:00 --contiguous",
]
RULES = {
    4: [*BOTH_FAMILIES, "-m length --length 28", "-m ttl --ttl-eq 64", "-m ttl ! --ttl-eq 64", "-m ttl --ttl-lt 5", "-m ttl --ttl-gt 64", "-m ttl --ttl-gt 0",
        "-m iprange --src-range 10.0.0.1-10.0.0.9", "-m iprange ! --dst-range 10.99.0.0-10.99.0.8",
        "-m hashlimit --hashlimit-upto 3/hour --hashlimit-burst 2 --hashlimit-mode srcip --hashlimit-srcmask 24 --hashlimit-name net",
        "-m addrtype --dst-type LOCAL", "-m addrtype ! --dst-type UNICAST", "-m addrtype --src-type UNICAST",
        "-m addrtype --dst-type MULTICAST,BROADCAST", "-m addrtype --dst-type LOCAL --limit-iface-in"],
    6: [*BOTH_FAMILIES, "-m length --length 48", "-m hl --hl-eq 64", "-m hl ! --hl-eq 64", "-m hl --hl-lt 5", "-m hl --hl-gt 64",
        "-m iprange --src-range 2001:db8::1-2001:db8::9", "-m iprange ! --dst-range fd00::-fd00::80",
        "-m addrtype --dst-type MULTICAST", "-m addrtype --src-type UNICAST"],
}
NEVER = {"-m mark ! --mark 0", "-m connmark --mark 0", "-m conntrack --ctproto 6", "-m helper --helper ftp",
         "-m ttl --ttl-gt 0"}
ALWAYS = {"-m mark --mark 0", "-m conntrack --ctstate INVALID", "-m conntrack --ctstate INVALID --ctproto 6", "-m helper ! --helper ftp",
          "-m recent --name seen --set", "-m recent --name other --set --rdest",
          "-m ttl --ttl-gt 0", "-m addrtype --src-type UNICAST"}
PAYLOADS = [UDP(sport=53, dport=5353), UDP(sport=1, dport=53) / Raw(b"GET /\r\n"), TCP(dport=80, sport=5) / Raw(b"get x"), TCP(dport=1500), TCP(dport=22),
            UDP(sport=5500, dport=1) / Raw(b"x" * 50 + b"GET")]
V4 = [{"src": "10.0.0.2", "ttl": 64}, {"src": "10.0.0.77", "ttl": 3, "tos": 0x10}, {"src": "10.0.0.5", "ttl": 128, "tos": 0x28}, {"src": "10.0.0.9", "tos": 0xB8}]
V6 = [{"src": "2001:db8::2", "hlim": 64}, {"src": "2001:db8::77", "hlim": 3, "tc": 0x10}, {"src": "2001:db8::5", "hlim": 128, "tc": 0x28}, {"src": "2001:db8::9", "tc": 0xB8}]


def packets(family: int) -> list[Packet]:
    if family == 4:
        destinations = ["10.99.0.7", "10.99.0.1", "10.99.0.255", "224.0.0.5"]
        return [IP(dst=dst, **header) / payload for header in V4 for payload in [*PAYLOADS, ICMP()] for dst in destinations]
    destinations = ["fd00::7", "fd00::99", "ff02::5"]
    return [IPv6(dst=dst, **header) / payload for header in V6 for payload in [*PAYLOADS, ICMPv6EchoRequest()] for dst in destinations]


@pytest.mark.parametrize("family", [4, 6])
def test_every_match_counts_alike(family: int) -> None:
    rules = RULES[family]
    addresses = LocalAddresses()
    addresses.replace(OWN_ROUTES)
    text = "*raw\n" + "".join(f"-A PREROUTING {rule}\n" for rule in rules) + "COMMIT\n"
    ours = Program(parse_save(text, family=family), RuleEnvironment(["ftp"], addresses=addresses))
    fitted: dict[str, int] = dict.fromkeys(rules, 0)
    sent = random.Random(family).sample(packets(family), len(packets(family)))
    with Kernel() as kernel:
        kernel.restore(family, print_ruleset(ours.ruleset, family=family), "legacy")
        before = [(0, 0)] * len(rules)
        for packet in sent:
            data = bytes(packet)
            ours.zero()
            ours.walk("raw", data, Hook.PREROUTING, DEVICE, state=CtState.INVALID, now_ns=time.monotonic_ns(), wall_ns=time.time_ns())
            kernel.send(data)
            after = kernel.rule_counters(family, "legacy")
            counted = [(new[0] - old[0], new[1] - old[1]) for new, old in zip(after, before, strict=True)]
            before = after
            by_us = ours.counters()["raw", "PREROUTING"][1]
            assert dict(zip(rules, by_us, strict=True)) == dict(zip(rules, counted, strict=True)), packet.summary()
            for rule, (number, _) in zip(rules, by_us, strict=True):
                fitted[rule] += number
    by_the_clock = {rule for rule in rules if rule.startswith("-m time")}
    assert {rule for rule, number in fitted.items() if number == 0} <= NEVER | by_the_clock
    assert {rule for rule, number in fitted.items() if number == len(sent)} <= ALWAYS | by_the_clock
