"""Whatever comes, the helper answers, its memory can be read, and its work grows no faster than the payload."""
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfw.enums import Direction, Verdict
from pyfw.helpers import MEMORY_SIZE, Finding, Segment
from pyfw.helpers.ftp import FtpHelper
from pyfw.helpers.ftp_dialogue import Awaited, Dialogue, LineStarts, Step

OWN = {4: (bytes([10, 0, 0, 2]), bytes([10, 0, 1, 2])), 6: (bytes(15) + b"\2", bytes(15) + b"\3")}
WORDS = [b"PORT ", b"EPRT ", b"227 ", b"229 (", b"PASV\r\n", b"EPSV\r\n", b"10,0,0,2,", b"|1|", b"|2|", b"|||", b"::",
         b"0", b"255", b"99999999999999999999", b",", b".", b"|", b"\r", b"\n", b"200 ", b"211-", b"\0", b"\xff", b" "]

payloads = st.one_of(st.binary(min_size=1, max_size=80),
                     st.lists(st.sampled_from(WORDS), min_size=1, max_size=14).map(b"".join))
sequence_numbers = st.one_of(st.integers(0, 40), st.integers(0xFFFFFFF0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF))


def segment(direction, payload, seq=0, family=4):
    sender, receiver = OWN[family][direction], OWN[family][1 - direction]
    return Segment(family, direction, seq, payload, sender, receiver, 40000, 21)


def at_line_start(seq=0, strict=True) -> bytearray:
    """The memory of a connection that knows a line start at seq, both ways, and awaits a 227 if strict."""
    memory = bytearray(MEMORY_SIZE)
    if strict:
        dialogue = Dialogue(Step.IN_STEP)
        dialogue.expected, dialogue.at_line_start = [seq, seq], [True, True]
        dialogue.outstanding, dialogue.awaited = 1, Awaited.PASSIVE
        dialogue.store(memory)
    else:
        line_starts = LineStarts()
        line_starts.places = ([seq], [seq])
        line_starts.store(memory)
    return memory


def fields(kept):
    return [getattr(kept, name) for name in kept.__slots__]


def check(finding):
    assert finding is None or isinstance(finding, Finding)
    for expectation in finding.expectations if finding else ():
        assert finding.verdict == Verdict.ACCEPT
        assert len(expectation.source) == len(expectation.destination)
        assert 0 <= expectation.port <= 0xFFFF


memories = st.one_of(st.binary(min_size=MEMORY_SIZE, max_size=MEMORY_SIZE),
                     st.builds(lambda some, step: some + bytes([step]),
                               st.binary(min_size=MEMORY_SIZE - 1, max_size=MEMORY_SIZE - 1),
                               st.sampled_from([0, *Step])))


@pytest.mark.parametrize("layout", [Dialogue, LineStarts])
@given(memory=memories)
def test_any_memory_can_be_read_and_is_kept(layout, memory):
    kept = layout.load(memory)
    stored = bytearray(MEMORY_SIZE)
    kept.store(stored)
    assert fields(layout.load(stored)) == fields(kept)


@pytest.mark.parametrize(("memory", "step"), [
    (bytes(MEMORY_SIZE), Step.BEGINNING), (b"\xff" * MEMORY_SIZE, Step.IN_STEP)], ids=["new", "taken over"])
def test_a_new_connections_memory_knows_nothing(memory, step):
    assert fields(Dialogue.load(memory)) == fields(Dialogue(step))
    assert LineStarts.load(memory).places == ([], [])


@given(place=st.integers(0, 0xFFFFFFFF))
def test_what_the_other_mode_has_kept_opens_nothing(place):
    assert Dialogue.load(at_line_start(place, strict=False)).step is Step.LOST
    assert LineStarts.load(at_line_start(place, strict=True)).places == ([], [])


@pytest.mark.parametrize("strict", [True, False])
@given(memory=memories, family=st.sampled_from([4, 6]),
       loose=st.booleans(),
       traffic=st.lists(st.tuples(st.sampled_from([0, 1]), sequence_numbers, payloads), max_size=6))
def test_any_traffic_on_any_memory(strict, memory, family, loose, traffic):
    helper, kept = FtpHelper(strict=strict, loose=loose), bytearray(memory)
    for direction, seq, payload in traffic:
        check(helper.inspect(segment(Direction(direction), payload, seq, family), memoryview(kept)))


@pytest.mark.parametrize("strict", [True, False])
@given(direction=st.sampled_from(list(Direction)[:2]), family=st.sampled_from([4, 6]), payload=payloads)
def test_any_payload_at_a_line_start(strict, direction, family, payload):
    memory = memoryview(at_line_start(strict=strict))
    check(FtpHelper(strict=strict).inspect(segment(direction, payload, family=family), memory))


@given(payload=payloads)
def test_strict_opens_only_ports_of_the_announcer_above_1023(payload):
    for direction in (Direction.ORIGINAL, Direction.REPLY):
        finding = FtpHelper().inspect(segment(direction, payload), memoryview(at_line_start()))
        for expectation in finding.expectations if finding else ():
            assert expectation.destination == OWN[4][direction]
            assert expectation.port >= 1024


def operations(payload, direction, strict, family) -> int:
    """Lines of Python that one inspection runs through."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += event == "line"
        return trace

    memory = memoryview(at_line_start(strict=strict))
    item = segment(direction, payload, family=family)
    helper = FtpHelper(strict=strict)
    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        helper.inspect(item, memory)
    finally:
        sys.settrace(previous)
    return count


FLOODS = {
    "digits": b"PORT " + b"1" * 65000, "commas": b"PORT " + b"," * 65000, "blanks": b"227 " + b" " * 65000,
    "zeros": b"EPRT |1|" + b"0" * 65000, "dots": b"EPRT |1|" + b"." * 65000,
    "ipv6 zeros": b"EPRT |2|" + b"0" * 60000 + b"fffff|", "colons": b"EPRT |2|" + b":" * 65000,
    "ipv6 quad": b"EPRT |2|::" + b"1." * 30000 + b"|", "port digits": b"229 (|||" + b"7" * 65000 + b"|",
    "newlines": b"\n" * 65000, "replies": b"200 \n" * 13000, "multi-line": b"211-\n" * 13000,
    "requests": b"PASV\r\n" * 10000, "nothing": b"\0" * 65000,
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("direction", [Direction.ORIGINAL, Direction.REPLY])
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("flood", FLOODS)
def test_work_is_linear_in_the_payload(flood, family, direction, strict):
    whole = FLOODS[flood]
    once, twice, whole_work = (operations(whole[:size], direction, strict, family)
                               for size in (len(whole) // 8, len(whole) // 4, len(whole)))
    assert twice <= 2 * once + 100
    assert whole_work <= 8 * once + 100
    assert whole_work <= 2000                               # the rest is done in C


@pytest.mark.parametrize("digits", [10, 1000, 64000])
def test_a_number_of_any_length_is_read_modulo_its_width(digits):
    """No conversion of the whole number: Python would refuse more than 4,300 digits, and take quadratic time."""
    number = b"1" + b"0" * digits + b"2"
    memory = memoryview(at_line_start(strict=False))
    item = segment(Direction.ORIGINAL, b"PORT 10,0,0,2,0," + number + b"\r\n")
    (expectation,) = FtpHelper(strict=False).inspect(item, memory).expectations
    assert expectation.port == (pow(10, digits + 1, 2 ** 16) + 2) % 2 ** 16
