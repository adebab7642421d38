"""A question has the answer that the packet itself would get, and leaves no trace."""
from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import pytest

from kit.announcing import Announcer, Master, coming
from kit.packets import ACK, CLIENT, FIN, PSH, RST, SERVER, SYN, chunk, icmp, ip, sctp, spoil, tcp, udp
from kit.traffic import TcpConversation, Watch
from pyfw.engine.engine import Engine, Judgement
from pyfw.enums import CtState, Direction, Hook, Reason, TcpState, Verdict
from pyfw.explain.dry_run import Answer, dry_run, find_known
from pyfw.explain.packet_spec import PacketSpec
from pyfw.explain.text import answer_record, explanation_text
from pyfw.helpers import Expectation, Finding, HelperBinding
from pyfw.observe.dump import expect_text
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.program.program import Program

RULES = """
*raw
-A PREROUTING -p udp --dport 53 -j NOTRACK
-A PREROUTING -p udp --dport 666 -j DROP
COMMIT
*filter
:FORWARD DROP
:known - [0:0]
:new - [0:0]
-A FORWARD -j LOG
-A FORWARD -m state --state ESTABLISHED,RELATED -j known
-A FORWARD -m state --state INVALID -j DROP
-A FORWARD -p tcp -j SET --add-set seen src
-A FORWARD -g new
-A known -j ACCEPT
-A new -p tcp --dport 23 -j REJECT --reject-with tcp-reset
-A new -p tcp -j ACCEPT
-A new -p udp -j ACCEPT
-A new -p icmp -j ACCEPT
COMMIT
"""


class Glass(Watch):
    """An engine whose every byte can be compared: its memory, its counters, its rules' counters, sets and log."""

    def __init__(self, **settings) -> None:
        settings = {"max_entries": 64, "expect_max": 4} | settings
        self.memory = bytearray(Engine.memory_size(settings["max_entries"], settings["expect_max"]))
        super().__init__(memory=self.memory, **settings)
        self.engine.environment.sets.change("create", ["seen", "hash:ip"], 0)
        self.program = Program(parse_save(RULES), self.engine.environment, log_rate=0)
        self.engine.load(self.program)

    def everything(self) -> tuple:
        sets = "".join(self.engine.environment.sets.saved(None, self.now_ns, True))
        return (bytes(self.memory), self.engine.counters(), self.program.counters(), self.lines("nf"),
                expect_text(self.engine, self.now_ns), sets, len(self.program.logs(1000)), self.program.logs_suppressed)

    def ask(self, data: bytes, hook: Hook = Hook.FORWARD, **options) -> Answer:
        """The answer; fails if anything is different afterwards."""
        self.program.logs(1000)
        before = self.everything()
        answer = dry_run(self.engine, data, hook, "eth0", "eth1", self.now_ns, **options)
        assert self.everything() == before
        return answer

    def foretold(self, data: bytes, **options) -> Answer:
        """The answer; fails if judging does not come to the same."""
        answer = self.ask(data, **options)
        assert answer.judgement == self.send(data, **options)
        return answer


@pytest.fixture
def helper() -> Announcer:
    return Announcer()


@pytest.fixture
def glass(helper: Announcer) -> Glass:
    return Glass(helpers=[HelperBinding(helper, (6100,))])


@pytest.fixture
def conversation(glass: Glass) -> TcpConversation:
    return TcpConversation(glass).open()


PACKETS: dict[str, Callable[[TcpConversation], bytes]] = {
    "data": lambda tcp: tcp.client.packet(ACK | PSH, b"x" * 100),
    "answer": lambda tcp: tcp.server.packet(ACK | PSH, b"x" * 100),
    "FIN": lambda tcp: tcp.client.packet(FIN | ACK),
    "RST": lambda tcp: tcp.server.packet(RST),
    "SYN on an open connection": lambda tcp: tcp.client.packet(SYN),
    "out of window": lambda tcp: tcp.client.packet(ACK, b"x", seq=tcp.client.seq + 2**30),
    "bad checksum": lambda tcp: spoil(tcp.client.packet(ACK | PSH, b"x")),
    "impossible flags": lambda tcp: tcp.client.packet(SYN | FIN),
    "ICMP error": lambda tcp: icmp("10.0.5.5", CLIENT, 3, 1, payload=tcp.client.packet(ACK)),
    "ICMP error about nothing": lambda _: icmp("10.0.5.5", CLIENT, 3, 1, payload=udp(CLIENT, SERVER, 1, 2)),
    "ICMP error to somebody else": lambda tcp: icmp("10.0.5.5", "10.0.0.9", 3, 1, payload=tcp.client.packet(ACK)),
    "ICMP error without a quote": lambda _: icmp("10.0.5.5", CLIENT, 3, 1, payload=b"short"),
    "echo request": lambda _: icmp(CLIENT, SERVER, 8, id=7),
    "echo reply to nobody": lambda _: icmp(CLIENT, SERVER, 0, id=7),
    "another connection": lambda _: tcp(CLIENT, SERVER, 40001, 80, SYN),
    "rejected": lambda _: tcp(CLIENT, SERVER, 40001, 23, SYN),
    "UDP": lambda _: udp(CLIENT, SERVER, 5000, 5001),
    "untracked": lambda _: udp(CLIENT, SERVER, 5000, 53),
    "dropped in raw": lambda _: udp(CLIENT, SERVER, 5000, 666),
    "SCTP INIT": lambda _: sctp(CLIENT, SERVER, 5000, 5001, 0, chunk(1, bytes(15) + b"\1")),
    "GRE": lambda _: ip(CLIENT, SERVER, 47, bytes(8)),
    "TTL spent": lambda _: ip(CLIENT, SERVER, 99, b"", ttl=1),
    "fragment": lambda _: ip(CLIENT, SERVER, 17, bytes(16), fragment=0x2000),
    "cut header": lambda _: b"\x45" + bytes(10),
    "not IP": lambda _: b"\x05",
}


@pytest.mark.parametrize("kind", PACKETS)
def test_the_answer_is_the_judgement_and_nothing_changes(glass: Glass, conversation: TcpConversation, kind: str) -> None:
    glass.foretold(PACKETS[kind](conversation))


def test_judging_does_change_what_is_compared(glass: Glass) -> None:
    before = glass.everything()
    glass.send(tcp(CLIENT, SERVER, 40001, 80, SYN))
    same = [now for now, then in zip(glass.everything(), before, strict=True) if now == then]
    assert same == ["", 0]              # no expectation came, and no log line was suppressed


def test_a_whole_connection_is_foretold_packet_by_packet(glass: Glass) -> None:
    judge = glass.send

    def foretell_and_judge(data: bytes, **options) -> Judgement:
        answer, judgement = glass.ask(data, **options), judge(data, **options)
        assert answer.judgement == judgement
        return judgement
    glass.send = foretell_and_judge
    tcp = TcpConversation(glass).open().close()
    assert tcp.state == "TIME_WAIT"
    glass.wait(10)
    TcpConversation(glass, client_seq=900_000).open()     # reopens: the old entry goes, a new one comes
    assert tcp.state == "ESTABLISHED"


def test_reopening_shows_both_connections(glass: Glass) -> None:
    tcp = TcpConversation(glass).open().close()
    answer = glass.foretold(TcpConversation(glass, client_seq=900_000).client.packet(SYN))
    assert "TIME_WAIT" in answer.known.line
    assert answer.known.tcp_state is TcpState.TIME_WAIT
    assert answer.packet_trace.begins
    assert "SYN_SENT" in answer.packet_trace.connection
    assert tcp.state == "SYN_SENT"


def test_an_expected_connection_and_its_master(glass: Glass, helper: Announcer) -> None:
    Master(glass, helper).announce(30000)
    answer = glass.foretold(coming(30000))
    assert answer.judgement.state == CtState.RELATED
    assert answer.packet_trace.expected
    assert "dport=6100" in answer.master
    answer = glass.foretold(coming(30000, sport=21))
    assert answer.judgement.state == CtState.NEW
    assert answer.master is None


def test_an_expectation_of_the_connection_that_is_reopened(glass: Glass, helper: Announcer) -> None:
    """It dies with the entry that the SYN replaces."""
    master = Master(glass, helper)
    helper.finding = Finding(expectations=(Expectation(None, ip_address(SERVER).packed, 6100),))
    master.tcp.client.data(5)
    helper.finding = None
    master.tcp.close()
    assert expect_text(glass.engine, glass.now_ns)
    answer = glass.foretold(TcpConversation(glass, dport=6100, client_seq=900_000).client.packet(SYN))
    assert answer.judgement.state == CtState.NEW


def test_the_helper_is_not_asked(glass: Glass, helper: Announcer) -> None:
    master = Master(glass, helper)
    shown = len(helper.segments)
    answer = glass.ask(master.tcp.client.packet(ACK | PSH, b"PORT"))
    assert answer.packet_trace.inspected
    assert answer.packet_trace.helper == "announcer"
    assert len(helper.segments) == shown


@pytest.mark.parametrize("assured", [False, True])
def test_a_full_table(assured: bool) -> None:
    glass = Glass(max_entries=1, expect_max=1)
    tcp = TcpConversation(glass)
    if assured:
        tcp.open()
    else:
        tcp.client.syn()
    answer = glass.foretold(udp(CLIENT, SERVER, 1, 2))
    assert answer.full == assured
    assert answer.judgement.reason == (Reason.TABLE_FULL if assured else Reason.NONE)


def test_an_expired_connection_is_none(glass: Glass) -> None:
    glass.send(udp(CLIENT, SERVER, 1, 2))
    glass.wait(1000)
    answer = glass.foretold(udp(CLIENT, SERVER, 1, 2))
    assert answer.known is None
    assert answer.packet_trace.begins


def test_a_connection_that_ends_at_once(glass: Glass) -> None:
    glass.send(sctp(CLIENT, SERVER, 1, 2, 0, chunk(1, bytes(15) + b"\1")))
    tcp = TcpConversation(glass)
    tcp.client.syn()
    answer = glass.foretold(tcp.server.packet(RST | ACK, ack=tcp.client.seq))
    assert answer.known is not None
    assert answer.judgement.direction == Direction.REPLY


def test_what_is_known_of_a_connection_changes_nothing(glass: Glass, conversation: TcpConversation) -> None:
    glass.program.logs(1000)
    before = glass.everything()
    known = find_known(glass.engine, conversation.server.packet(ACK), glass.now_ns)
    assert (known.direction, known.next_seq, known.next_ack) == (1, conversation.server.seq, conversation.client.seq)
    assert find_known(glass.engine, udp(CLIENT, SERVER, 9, 9), glass.now_ns) is None
    assert find_known(glass.engine, b"\x45", glass.now_ns) is None
    assert glass.everything() == before


def test_without_rules(watch: Watch) -> None:
    answer = dry_run(watch.engine, udp(CLIENT, SERVER, 1, 2), Hook.FORWARD, now_ns=watch.now_ns)
    assert answer.judgement.verdict == Verdict.ACCEPT
    assert answer.packet_trace.steps == []
    assert answer.packet_trace.begins
    assert watch.lines() == []


@pytest.mark.slow
def test_more_rules_than_an_answer_holds() -> None:
    engine = Engine(max_entries=8)
    engine.load(Program(parse_save("-P FORWARD DROP\n" + "-A FORWARD -s 192.0.2.1\n" * 70_000), engine.environment))
    asked = PacketSpec(udp(CLIENT, SERVER, 1, 2), Hook.FORWARD)
    answer = asked.put(engine, 1)
    assert len(answer.packet_trace.steps) == 65536
    assert answer.packet_trace.met == 70_001
    assert "(4465 more rules are not shown)" in explanation_text(answer_record(answer, asked))


REMEMBERING = """
-A FORWARD -p icmp -m limit --limit 1/hour --limit-burst 3 -j ACCEPT
-A FORWARD -p udp -m hashlimit --hashlimit-upto 2/hour --hashlimit-burst 2 --hashlimit-mode srcip --hashlimit-name h -j ACCEPT
-A FORWARD -p udp -m recent --rcheck --hitcount 2 --name again -j REJECT
-A FORWARD -p udp -m recent --set --name again
-A FORWARD -p gre -m statistic --mode nth --every 3 --packet 0 -j ACCEPT
-A FORWARD -p tcp -m connlimit --connlimit-above 2 -j REJECT
-A FORWARD -p tcp -j SET --add-set seen src
-A FORWARD -p tcp -j CONNMARK --set-mark 5
-A FORWARD -p tcp -m connmark --mark 5 -j MARK --set-mark 6
-A FORWARD -p tcp -j ACCEPT
-P FORWARD DROP
"""


def test_questions_use_up_nothing_that_rules_remember() -> None:
    """Two engines judge the same traffic, one of which is asked before each packet."""
    asked, unasked = Glass(), Glass()
    for glass in (asked, unasked):
        glass.engine.load(Program(parse_save(REMEMBERING), glass.engine.environment))
    fates = []
    for turn in range(6):
        for data in (icmp(CLIENT, SERVER, 8, id=turn), udp(CLIENT, SERVER, turn, 1), ip(CLIENT, SERVER, 47, bytes(8)),
                     tcp(CLIENT, SERVER, 40000 + turn, 80, SYN)):
            for _ in range(3):
                answer = asked.ask(data)
            judgement = unasked.send(data)
            assert asked.send(data) == answer.judgement == judgement
            fates.append(judgement.verdict)
    assert fates.count(Verdict.ACCEPT) == 3 + 2 + 2 + 2         # what there was to use up was used up


def test_bad_arguments(glass: Glass) -> None:
    with pytest.raises(ValueError, match="is not a hook"):
        dry_run(glass.engine, b"\x45", 9)
    with pytest.raises(ValueError, match="longer than 15 bytes"):
        dry_run(glass.engine, b"\x45", Hook.INPUT, "x" * 16)
