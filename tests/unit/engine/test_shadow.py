"""A shadow ruleset judges every packet that the rules in force judge; it tells what it would have decided otherwise, and decides nothing."""
from __future__ import annotations

from threading import Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.packets import CLIENT, CLIENT6, SERVER, SERVER6, SYN, icmp, ip, spoil, tcp, udp
from kit.traffic import TcpConversation, Watch
from pyfw.engine.shadow import Difference
from pyfw.enums import CtState, Hook, Reject, Verdict
from pyfw.report.shadow import difference_record, difference_text
from pyfw.rules.language.commands import read_request
from pyfw.rules.language.edit import edit
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.parts import RuleEnvironment
from pyfw.rules.program.program import Program

ESTABLISHED = "-A FORWARD -m state --state ESTABLISHED -j ACCEPT"


def text(*lines: str, policy: str = "DROP", raw: tuple[str, ...] = ()) -> str:
    tables = [f"*filter\n:FORWARD {policy}\n", *(f"{line}\n" for line in lines), "COMMIT\n"]
    return "".join(tables + (["*raw\n", *(f"{line}\n" for line in raw), "COMMIT\n"] if raw else []))


class Shadowed(Watch):
    """A gateway with rules in force and a shadow."""

    def __init__(self, live: str | None, shadow: str, *, sets: tuple[str, ...] = ()) -> None:
        super().__init__()
        near = self.engine.environment
        for words in sets:
            near.sets.change("create", words.split(), 0)
        if live is not None:
            self.engine.load(Program(parse_save(live), near))
        self.engine.load_shadow(Program(parse_save(shadow), RuleEnvironment(near.helpers, near.sets, near.table, near.addresses)))

    @property
    def found(self) -> list[Difference]:
        return self.engine.shadow.found(self.engine.program)

    @property
    def told(self) -> list[tuple]:
        """(packets, verdict and rule in force, verdict and rule of the shadow); rules without their tables"""
        return sorted((found.packets, found.live.verdict.name, (found.live.rule or "").partition(":")[2],
                       found.shadow.verdict.name, (found.shadow.rule or "").partition(":")[2]) for found in self.found)

    def tally(self, name: str) -> int:
        return self.engine.shadow.counters()[name]


def dns(sport: int = 5000, dport: int = 53) -> bytes:
    return udp(CLIENT, SERVER, sport, dport)


# -- what is told ---------------------------------------------------------------------------------------------------------------

def test_what_both_say_is_no_difference():
    watch = Shadowed(text("-A FORWARD -p udp -j ACCEPT"), text("-A FORWARD -p tcp -j DROP", "-A FORWARD -p udp --dport 53 -j ACCEPT"))
    assert watch.send(dns()).verdict is Verdict.ACCEPT
    assert watch.send(icmp(CLIENT, SERVER, 8)).verdict is Verdict.DROP
    assert watch.found == []
    assert watch.engine.shadow.counters() == {"judged": 2, "otherwise": 0, "unkept": 0}


def test_a_difference_names_both_rules_counts_and_keeps_the_first_packet():
    watch = Shadowed(text("-A FORWARD -p udp -j ACCEPT"), text("-A FORWARD -p tcp -j ACCEPT", "-A FORWARD -p udp --dport 99 -j REJECT"))
    assert [watch.send(dns(sport)).verdict for sport in (1, 2, 3)] == [Verdict.ACCEPT] * 3
    watch.send(tcp(CLIENT, SERVER, 7, 80, SYN))
    watch.send(udp(CLIENT, SERVER, 1, 99, b"payload"))
    assert watch.told == [(1, "ACCEPT", "FORWARD:rule:1", "DROP", "FORWARD:rule:2"),
                          (1, "DROP", "FORWARD:policy:2", "ACCEPT", "FORWARD:rule:1"),
                          (3, "ACCEPT", "FORWARD:rule:1", "DROP", "FORWARD:policy:3")]
    most = watch.found[0]
    assert (most.packets, most.bytes, most.live.text, most.shadow.text) == (3, 84, "-A FORWARD -p udp -j ACCEPT", "-P FORWARD DROP")
    assert difference_text(most) == (
        "3 packets, 84 bytes: ACCEPT, the shadow DROP\n"
        "  real    filter:FORWARD:rule:1     -A FORWARD -p udp -j ACCEPT\n"
        "  shadow  filter:FORWARD:policy:3   -P FORWARD DROP\n"
        f"  such as {CLIENT}:1 > {SERVER}:53 udp 0 bytes; 28 bytes, at FORWARD, in eth0, out eth1, state NEW\n")
    rejected = next(found for found in watch.found if found.shadow.reject)
    record = difference_record(rejected)
    assert record["shadow"] == {"verdict": "DROP", "reject": "icmp-port-unreachable", "rule": "filter:FORWARD:rule:2",
                                "text": "-A FORWARD -p udp -m udp --dport 99 -j REJECT --reject-with icmp-port-unreachable"}
    assert record["example"] == {"summary": f"{CLIENT}:1 > {SERVER}:99 udp 7 bytes", "hook": "FORWARD", "in": "eth0", "out": "eth1",
                                 "bytes": 35, "state": "NEW"}


def test_connections_are_what_the_rules_in_force_make_of_them():
    watch = Shadowed(text("-A FORWARD -j ACCEPT"), text(ESTABLISHED))
    conversation = TcpConversation(watch).open()
    conversation.client.data(10)
    assert watch.told == [(1, "ACCEPT", "FORWARD:rule:1", "DROP", "FORWARD:policy:2")]     # the SYN; what follows belongs to it


def test_rejecting_is_not_dropping_but_rejecting_alike_is():
    watch = Shadowed(text("-A FORWARD -p tcp -j REJECT --reject-with tcp-reset", "-A FORWARD -p udp -j REJECT"),
                     text("-A FORWARD -p tcp -j DROP", "-A FORWARD -j REJECT"))
    watch.send(tcp(CLIENT, SERVER, 1, 2, SYN))
    watch.send(dns())
    (found,) = watch.found
    assert (found.live.reject, found.shadow.reject) == (Reject.TCP_RESET, Reject.NONE)


def test_without_rules_everything_is_accepted_by_no_rule():
    watch = Shadowed(None, text(ESTABLISHED))
    watch.send(dns())
    assert watch.told == [(1, "ACCEPT", "", "DROP", "FORWARD:policy:2")]
    assert "  real    no rule\n" in difference_text(watch.found[0])


def test_packets_that_no_rule_is_asked_about_are_not_judged():
    watch = Shadowed(text("-A FORWARD -j ACCEPT"), text())
    watch.send(b"\0" * 40)                                          # no IP packet
    watch.send(ip(CLIENT, SERVER, 17, dns()[20:], ttl=1))           # forwarding would discard it
    assert watch.tally("judged") == 0
    assert watch.send(spoil(dns())).state is CtState.INVALID        # rules are asked about what is INVALID
    assert watch.tally("judged") == 1


# -- the raw table --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("live_raw", "shadow_raw", "told"), [
    ("-A PREROUTING -p udp -j DROP", "-A PREROUTING -p tcp -j DROP", [(1, "DROP", "PREROUTING:rule:1", "ACCEPT", "PREROUTING:policy:2")]),
    ("-A PREROUTING -p tcp -j DROP", "-A PREROUTING -p udp -j DROP", [(1, "ACCEPT", "FORWARD:rule:1", "DROP", "PREROUTING:rule:1")]),
    ("-A PREROUTING -p udp -j DROP", "-A PREROUTING -p udp -j DROP", []),
    ("-A PREROUTING -p tcp -j NOTRACK", "-A PREROUTING -p udp -j NOTRACK", [(1, "ACCEPT", "FORWARD:rule:1", "DROP", "FORWARD:policy:2")]),
    ("-A PREROUTING -p udp -j NOTRACK", "-A PREROUTING -p udp -j NOTRACK", []),
])
def test_raw_chains_are_compared_too(live_raw, shadow_raw, told):
    rule = "-A FORWARD -m state --state " + ("UNTRACKED" if "udp -j NOTRACK" in live_raw else "NEW") + " -j ACCEPT"
    watch = Shadowed(text(rule, raw=(live_raw,)), text(rule, raw=(shadow_raw,)))
    watch.send(dns())
    assert watch.told == told


# -- what it must not do -----------------------------------------------------------------------------------------------------------

BUSY = text("-A FORWARD -j MARK --set-mark 7", "-A FORWARD -j CONNMARK --set-mark 9", "-A FORWARD -j SET --add-set seen src",
            "-A FORWARD -j SET --del-set known src", "-A FORWARD -m set --match-set known src", "-A FORWARD -m recent --name list --set",
            "-A FORWARD -m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 1 --hashlimit-name h",
            "-A FORWARD -j LOG", "-A FORWARD -p udp -j DROP")
SETS = ("seen hash:ip counters", "known hash:ip counters")


def test_marks_sets_lists_and_limits_stay_as_they_are():
    live = text("-A FORWARD -m set --match-set seen src -j DROP", "-A FORWARD -m recent --name list --rcheck -j DROP",
                "-A FORWARD -m hashlimit --hashlimit-above 1/hour --hashlimit-burst 2 --hashlimit-name h -j DROP",
                "-A FORWARD -m connmark ! --mark 0 -j DROP", "-A FORWARD -m mark ! --mark 0 -j DROP", "-A FORWARD -j ACCEPT")
    watch = Shadowed(live, BUSY, sets=SETS)
    watch.engine.environment.sets.change("add", ["known", CLIENT], 0)
    judged = [watch.send(dns()) for _ in range(3)]
    assert [(said.verdict.name, said.mark, said.rule[-6:]) for said in judged] == [
        ("ACCEPT", 0, "rule:6"), ("ACCEPT", 0, "rule:6"), ("DROP", 0, "rule:3")]
    assert watch.only()["mark"] == 0
    saved = list(watch.engine.environment.sets.saved(None, watch.now_ns, True))
    assert [line for piece in saved for line in piece.splitlines() if line.startswith("add")] == [f"add known {CLIENT} packets 0 bytes 0"]
    assert watch.told == [(2, "ACCEPT", "FORWARD:rule:6", "DROP", "FORWARD:rule:9")]


def test_its_own_counters_limits_lists_and_log_move_as_if_it_were_in_force():
    watch = Shadowed(text("-A FORWARD -j ACCEPT"), text(
        "-A FORWARD -m recent --name list --rcheck", "-A FORWARD -m recent --name list --set", "-A FORWARD -j LOG --log-prefix 'x: '",
        "-A FORWARD -m limit --limit 1/hour --limit-burst 2 -j ACCEPT"))
    for sport in range(5):
        watch.send(dns(sport + 1))
    program = watch.engine.shadow.program
    policy, rules = program.counters()["filter", "FORWARD"]
    assert ([packets for packets, _ in rules], policy[0]) == ([4, 5, 5, 2], 3)
    assert [record.settings.prefix for record in program.logs()] == ["x: "] * 5
    assert watch.told == [(3, "ACCEPT", "FORWARD:rule:1", "DROP", "FORWARD:policy:5")]


def test_what_the_rules_in_force_do_to_a_packet_does_not_show_in_its_judgement():
    watch = Shadowed(text("-A FORWARD -j MARK --set-mark 7", "-A FORWARD -j CONNMARK --set-mark 9", "-A FORWARD -j SET --add-set seen src",
                          "-A FORWARD -j ACCEPT"),
                     text("-A FORWARD -m mark --mark 7 -j ACCEPT", "-A FORWARD -m connmark --mark 9 -j ACCEPT",
                          "-A FORWARD -m set --match-set seen src -j ACCEPT"), sets=SETS)
    assert watch.send(dns()).mark == 7
    assert watch.told == [(1, "ACCEPT", "FORWARD:rule:4", "DROP", "FORWARD:policy:4")]


def test_its_own_marks_last_from_the_raw_table_on():
    live, shadow = text("-A FORWARD -j ACCEPT", raw=("-A PREROUTING -j MARK --set-mark 1",)), text(
        "-A FORWARD -m mark --mark 5 -j ACCEPT", raw=("-A PREROUTING -j MARK --set-mark 5",))
    watch = Shadowed(live, shadow)
    assert watch.send(dns()).mark == 1
    assert watch.found == []


PACKETS = st.lists(st.sampled_from([
    dns(), dns(1), dns(1, 9), udp(SERVER, CLIENT, 53, 5000), icmp(CLIENT, SERVER, 8), icmp(SERVER, CLIENT, 0), spoil(dns(), 27), b"\x45",
    tcp(CLIENT, SERVER, 1, 80, SYN), tcp(SERVER, CLIENT, 80, 1, SYN | 16), tcp(CLIENT, SERVER, 1, 80, 4), udp(CLIENT6, SERVER6, 1, 53)]),
    max_size=30)


@settings(max_examples=100, deadline=None)
@given(packets=PACKETS)
def test_no_judgement_and_no_entry_differs_for_it(packets):
    live = text(ESTABLISHED, "-A FORWARD -p udp -m recent --name list --set -m limit --limit 1/s --limit-burst 3 -j ACCEPT",
                "-A FORWARD -p tcp -j CONNMARK --set-mark 3", "-A FORWARD -p tcp -j ACCEPT", "-A FORWARD -p icmp -j REJECT",
                raw=("-A PREROUTING -p udp --dport 9 -j NOTRACK",))
    alone, shadowed = Shadowed(live, BUSY, sets=SETS), Shadowed(live, BUSY, sets=SETS)
    alone.engine.load_shadow(None)
    for packet in packets:
        assert alone.send(packet) == shadowed.send(packet)
        alone.wait(0.1), shadowed.wait(0.1)
    assert alone.records() == shadowed.records()
    assert alone.engine.counters() == shadowed.engine.counters()
    assert alone.engine.program.counters() == shadowed.engine.program.counters()


# -- bounds, edits, resets -----------------------------------------------------------------------------------------------------------

def test_beyond_so_many_kinds_of_difference_packets_are_only_counted():
    ports = range(1, 301)
    watch = Shadowed(text("-A FORWARD -j ACCEPT"), text(*(f"-A FORWARD -p udp --dport {port} -j DROP" for port in ports)))
    for port in ports:
        watch.send(dns(5, port))
    assert (watch.tally("otherwise"), watch.tally("unkept")) == (300, 44)
    assert len(watch.found) == 256
    assert all(found.packets == 1 for found in watch.found)
    watch.send(dns(6, 300))                                 # those that were read have made room
    assert (len(watch.found), watch.tally("unkept")) == (257, 44)


def test_differences_survive_edits_of_the_rules_in_force_under_their_words():
    watch = Shadowed(text("-A FORWARD -p udp -j ACCEPT"), text(ESTABLISHED))
    watch.send(dns(1))
    for number in range(3):
        program = watch.engine.program
        edited = edit(program.ruleset, read_request(["-I", "FORWARD", "-s", f"192.0.2.{number}", "-j", "DROP"], 4)).ruleset
        watch.engine.load(Program(edited, watch.engine.environment, previous=program))
        watch.send(dns(2 + number))
    assert watch.told == [(4, "ACCEPT", "FORWARD:rule:4", "DROP", "FORWARD:policy:2")]
    assert difference_record(watch.found[0])["example"]["summary"].startswith(f"{CLIENT}:1 >")


def test_reset_counts_anew():
    watch = Shadowed(text("-A FORWARD -j ACCEPT"), text())
    watch.send(dns(1))
    assert len(watch.found) == 1
    watch.engine.shadow.reset()
    assert watch.found == []
    assert watch.tally("judged") == 0
    assert watch.engine.shadow.program.counters()["filter", "FORWARD"][0] == (0, 0)
    watch.send(dns(2))
    assert watch.told == [(1, "ACCEPT", "FORWARD:rule:1", "DROP", "FORWARD:policy:1")]


def test_taken_away_it_sees_no_more():
    watch = Shadowed(text("-A FORWARD -j ACCEPT"), text())
    shadow = watch.engine.shadow
    watch.engine.load_shadow(None)
    watch.send(dns())
    assert watch.engine.shadow is None
    assert shadow.counters()["judged"] == 0


def test_both_families_come_to_one_difference_with_an_example():
    watch = Shadowed(text("-A FORWARD -j ACCEPT"), text("-A FORWARD -p udp -j DROP", policy="ACCEPT"))
    watch.send(udp(CLIENT6, SERVER6, 1, 53))
    watch.send(dns())
    assert watch.told == [(2, "ACCEPT", "FORWARD:rule:1", "DROP", "FORWARD:rule:1")]
    assert difference_record(watch.found[0])["example"]["summary"] in (f"[{CLIENT6}]:1 > [{SERVER6}]:53 udp 0 bytes",
                                                                       f"{CLIENT}:5000 > {SERVER}:53 udp 0 bytes")


def test_no_packet_is_lost_from_the_count_while_it_is_read_and_rules_change():
    watch = Shadowed(text("-A FORWARD -j ACCEPT"), text())
    sent = 4000

    def traffic() -> None:
        for number in range(sent):
            watch.engine.judge(udp(CLIENT, SERVER, 1, 53), Hook.FORWARD, "eth0", "eth1", watch.now_ns)

    def edits() -> None:
        for _ in range(100):
            watch.engine.load(Program(parse_save(text("-A FORWARD -j ACCEPT")), watch.engine.environment))

    threads = [Thread(target=traffic), Thread(target=edits)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert watch.found is not None
    for thread in threads:
        thread.join()
    assert watch.told == [(sent, "ACCEPT", "FORWARD:rule:1", "DROP", "FORWARD:policy:1")]
