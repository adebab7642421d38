"""Dropped packets: each is logged with its rule and its reason, however the rules change, and counted for good."""
from __future__ import annotations

import sys

import pytest

from kit.packets import CLIENT, SERVER, UDP, ip, udp, udp_datagram
from kit.traffic import TcpConversation, Watch
from pyfw.enums import Reason, Verdict
from pyfw.helpers import Finding, HelperBinding
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.log.format import format_log
from pyfw.rules.program.program import Program

PORT = 6100
WEB = udp(CLIENT, SERVER, 40000, 80)
NAMES = udp(CLIENT, SERVER, 40000, 53)


def rules(text: str) -> Program:
    return Program(parse_save(f"*filter\n{text}\nCOMMIT\n"))


DROPS_WEB = ":FORWARD ACCEPT\n-A FORWARD -p udp --dport 80 -j DROP"


def heads(drops) -> list[str]:
    """What each logged line says before the packet's own fields."""
    return [format_log(record).partition("IN=")[0].rstrip() for record in drops.read()]


@pytest.fixture
def watch():
    return Watch(max_entries=16)


def test_the_line_names_rule_and_reason_and_prints_the_packet_as_LOG_does(watch):
    drops = watch.engine.log_drops()
    watch.engine.load(rules(DROPS_WEB))
    watch.send(NAMES)
    watch.send(WEB, mark=0xAB)
    (record,) = drops.read()
    assert format_log(record) == (
        f"DROP: filter:FORWARD:rule:1 RULE IN=eth0 OUT=eth1 MAC= SRC={CLIENT} DST={SERVER} LEN=28 TOS=0x00 PREC=0x00 TTL=64 ID=1 "
        "PROTO=UDP SPT=40000 DPT=80 LEN=8 MARK=0xab ")
    assert drops.read() == []


def test_what_tracking_says_of_an_invalid_packet_comes_with_its_numbers(watch):
    drops = watch.engine.log_drops()
    watch.engine.load(rules("-A FORWARD -m state --state INVALID -j DROP"))
    conversation = TcpConversation(watch).open()
    judgement = conversation.client.data(1, seq=conversation.client.seq + 10**6)
    assert judgement.reason is Reason.TCP_SEQ_OVER
    (record,) = drops.read()
    line = format_log(record)
    assert line.startswith(f"DROP: filter:FORWARD:rule:1 TCP_SEQ_OVER ({judgement.reason_text}) IN=eth0 OUT=eth1 ")
    assert f" SEQ={conversation.client.seq + 10**6} ACK={conversation.server.seq} " in line


@pytest.mark.parametrize(("text", "head"), [
    (":FORWARD DROP", "DROP: filter:FORWARD:policy:1 POLICY"),
    ("-A FORWARD -j REJECT", "DROP: filter:FORWARD:rule:1 RULE"),
    (":FORWARD ACCEPT\nCOMMIT\n*raw\n-A PREROUTING -p udp -j DROP", "DROP: raw:PREROUTING:rule:1 RULE"),
])
def test_who_decided(watch, text, head):
    drops = watch.engine.log_drops()
    watch.engine.load(rules(text))
    watch.send(WEB)
    assert heads(drops) == [head]


def test_what_no_rule_dropped_names_none(watch):
    drops = watch.engine.log_drops()
    watch.send(ip(CLIENT, SERVER, UDP, udp_datagram(CLIENT, SERVER, 1, 2), ttl=1))
    watch.engine.load(rules("-A FORWARD -j ACCEPT"))
    for sport in range(17):
        TcpConversation(watch, sport=sport + 1).open()
    watch.send(WEB)
    assert heads(drops)[0] == "DROP: - TTL (TTL exceeded)"
    assert watch.engine.counters()["drops"]["TABLE_FULL"] > 1
    watch.wait(1)
    watch.send(WEB)
    assert heads(drops)[-1] == "DROP: - TABLE_FULL (table full)"      # though rule 1 accepted it


@pytest.mark.parametrize(("data", "line"), [
    (b"", "DROP: - IP_TRUNCATED (IP packet shorter than its header says) IN=eth0 OUT=eth1 MAC= LEN=0"),
    (b"\x15rest", "DROP: - NOT_IP (not IP) IN=eth0 OUT=eth1 MAC= LEN=5"),
    (b"\x45rest", "DROP: - IP_TRUNCATED (IP packet shorter than its header says) IN=eth0 OUT=eth1 MAC= TRUNCATED"),
    (b"\x60rest", "DROP: - IP_TRUNCATED (IP packet shorter than its header says) IN=eth0 OUT=eth1 MAC= TRUNCATED"),
])
def test_what_is_no_packet_is_printed_too(watch, data, line):
    drops = watch.engine.log_drops()
    watch.send(data)
    (record,) = drops.read()
    assert format_log(record).rstrip() == line


def test_only_drops_since_it_was_asked_for(watch):
    watch.engine.load(rules(DROPS_WEB))
    watch.send(WEB)
    drops = watch.engine.log_drops()
    assert watch.engine.log_drops() is drops
    assert heads(drops) == []
    watch.send(WEB)
    assert len(heads(drops)) == 1


def test_a_name_is_that_of_the_rules_that_dropped(watch):
    """Rule number 0 is filter:INPUT's in the one program, raw's in the other; the reader comes after all of them."""
    drops = watch.engine.log_drops()
    watch.engine.load(rules(":FORWARD ACCEPT\n-A FORWARD -p udp --dport 53 -j DROP\n-A FORWARD -p udp --dport 80 -j DROP"))
    watch.send(WEB)
    watch.engine.load(rules(":mine -\n-A FORWARD -j mine\n-A mine -p udp -j DROP"))
    watch.send(WEB)
    watch.engine.load(rules(":FORWARD DROP"))
    watch.send(WEB)
    watch.engine.load(None)
    watch.send(ip(CLIENT, SERVER, UDP, udp_datagram(CLIENT, SERVER, 1, 2), ttl=1))
    watch.engine.load(rules(DROPS_WEB))
    watch.send(WEB)
    assert heads(drops) == ["DROP: filter:FORWARD:rule:2 RULE", "DROP: filter:mine:rule:1 RULE",
                            "DROP: filter:FORWARD:policy:1 POLICY", "DROP: - TTL (TTL exceeded)",
                            "DROP: filter:FORWARD:rule:1 RULE"]


def test_rules_that_come_back_keep_their_names(watch):
    drops = watch.engine.log_drops()
    old, other = rules(DROPS_WEB), rules(":FORWARD ACCEPT")
    for program in (old, other, old, other, old):
        watch.engine.load(program)
        watch.send(WEB)
    assert heads(drops) == ["DROP: filter:FORWARD:rule:1 RULE"] * 3
    watch.send(WEB)
    assert heads(drops) == ["DROP: filter:FORWARD:rule:1 RULE"]


def test_rules_that_are_gone_are_kept_only_until_their_drops_were_read(watch):
    drops = watch.engine.log_drops()
    gone = rules(DROPS_WEB)
    unused = sys.getrefcount(gone)
    watch.engine.load(gone)
    watch.send(WEB)
    watch.engine.load(rules(DROPS_WEB))
    assert sys.getrefcount(gone) > unused
    assert heads(drops) == ["DROP: filter:FORWARD:rule:1 RULE"]
    assert sys.getrefcount(gone) == unused


def test_ten_a_second_and_twenty_at_once_the_others_are_counted(watch):
    drops = watch.engine.log_drops()
    watch.engine.load(rules(DROPS_WEB))
    for _ in range(100):
        watch.send(WEB)
    assert (len(heads(drops)), drops.suppressed) == (20, 80)
    watch.wait(1)
    for _ in range(100):
        watch.send(WEB)
    assert (len(heads(drops)), drops.suppressed) == (10, 170)


# -- counters ------------------------------------------------------------------------------------------------


class Censor:
    """Refuses what says no, and looks at the engine's counters while it reads."""

    name, protocol, max_expected, timeout_s = "censor", 6, 1, 1

    def __init__(self):
        self.watch = None
        self.seen = []

    def inspect(self, segment, memory):
        self.seen.append(self.watch.engine.counters())
        return Finding(verdict=Verdict.DROP) if segment.payload == b"no" else None


@pytest.mark.parametrize(("payload", "verdict", "drops"), [(b"no", "DROP", {"HELPER_PARTIAL": 1}), (b"yes", "ACCEPT", {})])
def test_a_helpers_packet_is_counted_once_it_has_its_verdict(payload, verdict, drops):
    """A counter that is read meanwhile must not have to be taken back: to Prometheus that is a restart."""
    censor = Censor()
    watch = censor.watch = Watch(helpers=[HelperBinding(censor, (PORT,))])
    log = watch.engine.log_drops()
    conversation = TcpConversation(watch, dport=PORT).open()
    before = watch.engine.counters()
    conversation.client.say(0x18, payload)
    after = watch.engine.counters()
    assert censor.seen == [before]
    assert after["judged"]["ESTABLISHED"][verdict] == before["judged"]["ESTABLISHED"][verdict] + 1
    assert after["packets"] == before["packets"] + 1
    assert after["drops"] == drops
    assert heads(log) == ["DROP: - HELPER_PARTIAL (helper: partial line)"] * len(drops)
