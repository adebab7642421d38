"""Events of random traffic: what pyfw tells its listeners is what `conntrack -E` prints for the same packets, line by line."""
from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from differential import engine_side, generate_ftp
from differential.generate_mix import FLOWS, PACKETS, TIMEOUTS, VARIANTS, Scenario, scenario, with_pauses
from differential.kernel_events import event_differences, kernel_events, run_inside
from kit.packed_packets import address, ip, udp
from kit.witness import Sent, Settings, Witness
from pyfw.conntrack.selection import Selection
from pyfw.engine.engine import Engine
from pyfw.observe.events import Kind, Listener
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.program.program import Program

LAST = address("203.0.113.1"), address("203.0.113.2")
CONNTRACK_NAMES = {Kind.NEW: "NEW", Kind.UPDATE: "UPDATES", Kind.DESTROY: "DESTROY"}
LAST_TEXT = "src=203.0.113.1 dst=203.0.113.2"

# Some packets change their connection and are dropped, or mark it.  None marks it twice: the kernel tells of a mark
# that is set and set back, pyfw does not.
RULES = ["-A FORWARD -p tcp -m tcp --tcp-flags FIN,PSH PSH -j CONNMARK --set-xmark 0x7/0xffffffff",
         "-A FORWARD -p tcp -m tcp --tcp-flags FIN FIN -j CONNMARK --set-xmark 0x0/0xffffffff",
         "-A FORWARD -p tcp -m tcp --tcp-flags FIN FIN -m length --length 40:52 -j DROP",
         "-A FORWARD -p tcp -m tcp --tcp-flags SYN,ACK SYN,ACK -m length --length 53:100 -j DROP",
         "-A FORWARD -p udp -m udp --sport 53 -m length --length 28:60 -j DROP",
         "-A FORWARD -p sctp -m length --length 60:100 -j DROP"]


EVERY_KIND = ~Kind(0)


def is_from_the_link(packet: Sent) -> bool:
    return packet.data[:1] == b"\x60" and packet.data[8:10] == b"\xFE\x80"


def told(scenario: Scenario, directory: Path, rules: list[str], kinds: Kind = EVERY_KIND,
         engine_settings: Settings | None = None) -> tuple[list[str], list[str]]:
    """The kernel's events of these kinds, and pyfw's.

    What comes from a link-local address (redirects) is left out: the kernel tracks and never forwards it, so that changes of its
    connection are not told with it.
    """
    packets = [*(packet for packet in scenario.packets if not is_from_the_link(packet)), Sent(0, ip(*LAST, 17, udp(*LAST, 9, 9)))]
    with Witness(scenario.settings) as witness:
        for tool in ("iptables", "ip6tables"):
            for rule in rules:
                run_inside(witness.name, tool, *rule.split())
        mask = ",".join(CONNTRACK_NAMES[kind] for kind in kinds)
        with kernel_events(witness.name, directory / "events", "-e", mask) as kernel:
            evidence = witness.testify(kernel.keeping_up(packets))
            theirs = kernel.until(LAST_TEXT)
    listener = Listener(Selection(), kinds)

    def prepare(engine: Engine) -> None:
        engine.load(Program(parse_save("\n".join(rules) + "\n"), engine.environment))
        listener.arm(engine)

    engine_side.judge(packets, evidence, engine_settings or scenario.settings, prepare)
    ours: list[str] = []
    while (heard := listener.take()).shown:
        assert heard.lost == 0
        ours += heard.shown.decode().splitlines()
    listener.disarm()
    assert LAST_TEXT in ours.pop()
    return theirs, ours


@pytest.mark.parametrize("rules", [[], RULES], ids=["accepted", "some dropped"])
@pytest.mark.parametrize("seed", range(2 * len(VARIANTS)))
def test_the_same_events(seed: int, rules: list[str], tmp_path: Path) -> None:
    theirs, ours = told(scenario(seed, PACKETS), tmp_path, rules)
    assert event_differences(theirs, ours) == []
    kinds = Counter(line.split()[0] for line in theirs)
    assert kinds["[NEW]"] > 200
    assert kinds["[UPDATE]"] > 200
    assert kinds["[DESTROY]"] > 5
    assert any("mark=7" in line for line in theirs) == any("mark=0" in line for line in theirs) == bool(rules)


@pytest.mark.parametrize("seed", range(2))
def test_expired_connections(seed: int, tmp_path: Path) -> None:
    """When they go is up to each one's sweeping, and many go at once; what comes after them is told."""
    flows = tuple((generator, weight) for generator, weight in FLOWS if generator is not generate_ftp.session)
    short = with_pauses(scenario(seed, 4000, flows), 3, 1.3, tuple((name, 1) for name in TIMEOUTS))
    theirs, ours = told(short, tmp_path, [], Kind.NEW | Kind.UPDATE)
    assert event_differences(theirs, ours) == []


def test_an_engine_that_tracks_otherwise_is_found_out(tmp_path: Path) -> None:
    theirs, ours = told(scenario(0, 2000), tmp_path, [], engine_settings=Settings(tcp_loose=False))
    assert event_differences(theirs, ours)
