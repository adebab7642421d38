"""A comparison that cannot fail is none: opinions that are altered on purpose must be reported."""
from __future__ import annotations

from dataclasses import replace

import pytest

from differential.compare import differences
from differential.engine_side import EngineEvidence, Judged
from differential.examine import examine, shrink
from differential.generate_mix import Scenario, scenario
from kit.packed_packets import ACK, PSH, SYN, TCP, address, ip, tcp
from kit.witness import Evidence, Opinion, Sent, Settings

CLIENT, SERVER = address("10.0.0.2"), address("10.0.1.2")
LINE = ("ipv4     2 tcp      6 100 CLOSE src=10.0.0.2 dst=10.0.1.2 sport=1 dport=2 packets=1 bytes=40 [UNREPLIED] "
        "src=10.0.1.2 dst=10.0.0.2 sport=2 dport=1 packets=0 bytes=0 mark=0 zone=0 use=2")
OURS = LINE.replace(" zone=0", "").replace("use=2", "use=1")
EXPECTED = "299 l3proto = 2 proto=6 src=10.0.1.2 dst=10.0.0.2 sport=0 dport=1025 ftp"
KERNEL = Opinion(0, "NEW", "ORIGINAL", True, True, ())
REFUSED = Opinion(0, "INVALID", None, True, True, ("nf_ct_proto_6: ACK is over upper bound 7 (ACKed data not seen yet)",))
ENGINE = Judged("NEW", "ORIGINAL", True, "")


def segment(side: int, flags: int, seq: int, ack: int = 0, payload: bytes = b"") -> Sent:
    ends = ((CLIENT, 40000), (SERVER, 80))
    (src, sport), (dst, dport) = ends[side], ends[1 - side]
    return Sent(side, ip(src, dst, TCP, tcp(src, dst, sport, dport, flags, seq, ack, payload=payload)))


PICKUP = [segment(0, PSH | ACK, 100, 900, b"in the middle"), segment(1, ACK, 900, 113)]
BEYOND_WINDOW = [segment(0, SYN, 100), segment(1, SYN | ACK, 900, 101), segment(0, ACK, 101, 901), segment(0, ACK, 90_000, 901, b"far off")]


@pytest.mark.parametrize(("packets", "altered", "expected"), [
    (PICKUP, Settings(tcp_loose=False), "packet 0: state: kernel 'NEW', pyfw 'INVALID'"),
    (BEYOND_WINDOW, Settings(tcp_be_liberal=True), "packet 3: state: kernel 'INVALID', pyfw 'ESTABLISHED'"),
    (BEYOND_WINDOW[:1], Settings(timeouts=(("tcp_syn_sent", 20),)), "at the end: table: kernel 'ipv4     2 tcp      6 1"),
])
def test_an_engine_that_tracks_otherwise_is_found_out(packets: list[Sent], altered: Settings, expected: str) -> None:
    examination = examine(Scenario(Settings(), packets), engine_settings=altered)
    assert str(examination.found[0]).startswith(expected)
    examine(Scenario(Settings(), packets)).must_agree()


def test_the_story_tells_the_flow_and_both_reasons() -> None:
    examination = examine(Scenario(Settings(), BEYOND_WINDOW), engine_settings=Settings(tcp_be_liberal=True))
    told = examination.report()
    assert told.count("tcp 10.0.") == len(BEYOND_WINDOW)
    assert "kernel: INVALID  nf_ct_proto_6: SEQ is over upper bound" in told
    assert "pyfw:   ESTABLISHED ORIGINAL" in told


def test_shrinking_leaves_what_matters() -> None:
    busy = scenario(0, 300).packets
    examination = examine(Scenario(Settings(), busy + PICKUP), engine_settings=Settings(tcp_loose=False))
    difference = next(found for found in examination.found if found.index == len(busy))
    smallest = shrink(examination, difference)
    assert smallest.packets == PICKUP[:1]


@pytest.mark.parametrize(("kernel", "engine", "what"), [
    (KERNEL, ENGINE, []),
    (KERNEL, Judged("INVALID", None, True, ""), ["state"]),
    (KERNEL, Judged("NEW", "REPLY", True, ""), ["direction"]),
    (KERNEL, Judged("NEW", "ORIGINAL", False, ""), ["verdict"]),
    (Opinion(0, "NEW", "ORIGINAL", True, False, ()), ENGINE, ["verdict"]),
    (Opinion(0, "NEW", "ORIGINAL", False, False, ()), ENGINE, []),
    (REFUSED, Judged("INVALID", None, True, "ACK is over upper bound 7 (ACKed data not seen yet)"), []),
    (REFUSED, Judged("INVALID", None, True, "ACK is over upper bound 8 (ACKed data not seen yet)"), ["reason"]),
    (REFUSED, None, []),
])
def test_opinions_are_compared(kernel: Opinion, engine: Judged | None, what: list[str]) -> None:
    found = differences(Evidence([kernel], [], [], 0), EngineEvidence([engine], [None], [], []))
    assert [difference.what for difference in found] == what


@pytest.mark.parametrize(("kernel", "ours", "what"), [
    (None, None, []), (b"a", b"a", []), (b"a", b"b", ["datagram"]), (None, b"a", ["datagram"]), (b"a", None, ["datagram"])])
def test_datagrams_are_compared(kernel: bytes | None, ours: bytes | None, what: list[str]) -> None:
    found = differences(Evidence([replace(KERNEL, whole=kernel)], [], [], 0), EngineEvidence([ENGINE], [ours], [], []))
    assert [difference.what for difference in found] == what


@pytest.mark.parametrize(("ours", "what"), [
    ([OURS], []),
    ([OURS.replace(" 100 ", " 102 ")], []),
    ([OURS.replace(" 100 ", " 103 ")], ["table"]),
    ([OURS.replace("CLOSE", "CLOSE_WAIT")], ["table"]),
    ([OURS.replace("packets=1", "packets=2")], ["table"]),
    ([OURS.replace("[UNREPLIED] ", "")], ["table"]),
    ([OURS.replace("sport=1 ", "sport=3 ")], ["table", "table"]),
    ([], ["table"]),
    ([OURS, OURS.replace("10.0.0.2", "10.0.0.3").replace(" 100 ", " 2 ")], []),
    ([OURS, OURS.replace("10.0.0.2", "10.0.0.3")], ["table"]),
])
def test_table_lines_are_compared(ours: list[str], what: list[str]) -> None:
    found = differences(Evidence([], [LINE], [], 0), EngineEvidence([], [], ours, []))
    assert [difference.what for difference in found] == what


@pytest.mark.parametrize(("ours", "what"), [
    ([EXPECTED], []), ([EXPECTED.replace("299", "298")], []), ([EXPECTED.replace("299", "250")], ["expectation"]),
    ([EXPECTED.replace("1025", "1026")], ["expectation", "expectation"]), ([], ["expectation"])])
def test_expectations_are_compared(ours: list[str], what: list[str]) -> None:
    found = differences(Evidence([], [], [EXPECTED], 0), EngineEvidence([], [], [], ours))
    assert [difference.what for difference in found] == what
