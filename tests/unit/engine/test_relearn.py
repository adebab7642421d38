"""TCP connections after packets have passed unseen: they learn their windows anew, and are strict again afterwards."""
from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

import pytest

from kit.packets import ACK, RST
from kit.traffic import End, TcpConversation, Watch
from pyfw.engine.relearn import relearn_windows
from pyfw.enums import CtState, Reason

ESTABLISHED, INVALID = CtState.ESTABLISHED, CtState.INVALID
SCALE_AND_SACK = struct.pack("!BBB", 3, 3, 7) + b"\4\2\0"
BEHIND = 3_000_000_000          # bytes: more than half of all sequence numbers


def unseen(sender: End, length: int) -> None:
    """Data that passes by the gateway."""
    sender.seq = (sender.seq + length) % 2**32
    sender.peer.ack_number = sender.seq


def in_use(**options) -> TcpConversation:
    tcp = TcpConversation(Watch(), **options)
    tcp.client.options = tcp.server.options = SCALE_AND_SACK
    tcp.open()
    tcp.client.data(100)
    tcp.server.data(100)
    tcp.client.ack()
    return tcp


def behind(**options) -> TcpConversation:
    """One both of whose sides have gone on without the gateway."""
    tcp = in_use(**options)
    unseen(tcp.client, 5000)
    unseen(tcp.server, 70_000)
    return tcp


def relearnt(**options) -> TcpConversation:
    tcp = behind(**options)
    assert relearn_windows(tcp.watch.engine) == 1
    return tcp


def is_strict(tcp: TcpConversation) -> None:
    for end in (tcp.client, tcp.server):
        assert end.ack(ack=end.ack_number + 1).reason is Reason.TCP_ACK_OVER
        assert end.ack(seq=end.seq + 50_000_000).reason is Reason.TCP_SEQ_OVER


def test_the_control_without_relearning_both_directions_end():
    tcp = behind()
    for _ in range(3):
        assert tcp.client.data(10).reason is Reason.TCP_ACK_OVER
        assert tcp.server.data(10).reason is Reason.TCP_ACK_OVER
    assert tcp.watch.reasons() == {"TCP_ACK_OVER": 6}


@pytest.mark.parametrize("speaks", ["client", "server"])
@pytest.mark.parametrize("start", [1000, 2**32 - 5000])
def test_the_next_packet_of_each_side_teaches_its_windows(speaks: str, start: int):
    tcp = relearnt(client_seq=start)
    first: End = getattr(tcp, speaks)
    for _ in range(2):
        for end in (first, first.peer):
            assert end.data(10).state is ESTABLISHED
    assert tcp.watch.reasons() == {}
    is_strict(tcp)


def test_all_else_stays():
    tcp = in_use()
    tcp.watch.wait(7)
    before = tcp.record
    assert relearn_windows(tcp.watch.engine) == 1
    assert tcp.record == before
    assert before["state"] == "ESTABLISHED"
    tcp.server.window = 1000            # times 128, as agreed at the beginning
    tcp.server.ack()
    tcp.client.ack()
    tcp.server.ack()
    assert tcp.client.ack(seq=tcp.client.seq + 128_000).reason is Reason.NONE


def test_a_sender_that_has_said_all_may_be_acknowledged_piece_by_piece():
    """Its data is under way, past the gateway; it says no more."""
    tcp = relearnt()
    end = tcp.client.seq
    for left in range(4000, -1, -1000):
        assert tcp.server.ack(ack=end - left).state is ESTABLISHED
    tcp.client.data(10)
    tcp.server.ack()
    tcp.client.ack()
    is_strict(tcp)


def test_a_repetition_of_old_data_is_not_the_end_of_what_was_said():
    """An acknowledgement was lost, so that the client says its first bytes again; the server has them all."""
    tcp = relearnt()
    assert tcp.client.say(ACK, bytes(100), seq=tcp.client.seq - 5000, ack=tcp.client.ack_number).state is ESTABLISHED
    for _ in range(3):
        assert tcp.server.data(10).state is ESTABLISHED
        assert tcp.client.data(10).state is ESTABLISHED
    is_strict(tcp)


@pytest.mark.parametrize("forged", [{"seq": 3_000_000_000}, {"ack": 3_000_000_000}, {"seq": 2_000_000_000, "ack": 7}], ids=str)
def test_a_forged_first_packet_stops_nobody(forged: dict[str, int]):
    tcp = relearnt()
    tcp.client.say(ACK, b"forged", **({"seq": tcp.client.seq, "ack": tcp.client.ack_number} | forged))
    for _ in range(4):
        assert tcp.server.data(10).state is ESTABLISHED
        assert tcp.client.data(10).state is ESTABLISHED
    is_strict(tcp)


def test_while_data_flows_one_way_both_sides_are_soon_strict():
    tcp = relearnt()
    for _ in range(3):
        tcp.server.data(1000)
        tcp.server.data(1000)
        tcp.client.ack(ack=tcp.client.ack_number - 1000)
    is_strict(tcp)


def test_a_forged_rst_ends_nothing():
    tcp = relearnt()
    for seq in (1, 2_000_000_000, 4_000_000_000):
        tcp.client.say(RST, seq=seq)
        tcp.server.say(RST, seq=seq)
    assert tcp.state == "ESTABLISHED"


def test_an_rst_is_not_believed_for_an_acknowledgement_that_was_forged():
    tcp = relearnt()
    tcp.client.say(ACK, seq=7, ack=3_000_000_000)
    tcp.server.say(RST, seq=3_000_000_000)
    assert tcp.state == "ESTABLISHED"
    for _ in range(3):
        assert tcp.server.data(10).state is ESTABLISHED
        assert tcp.client.data(10).state is ESTABLISHED


def test_an_rst_is_weighed_by_what_was_learnt():
    """Though the numbers have gone more than half the way round."""
    tcp = in_use()
    unseen(tcp.client, BEHIND)
    relearn_windows(tcp.watch.engine)
    for _ in range(2):
        tcp.server.data(10)
        tcp.client.data(10)
    tcp.server.ack()
    assert tcp.client.rst(seq=tcp.client.seq - 1).reason is Reason.TCP_RST
    tcp.client.rst()
    assert tcp.state == "CLOSE"


class Talker:
    """An end that says `total` bytes, a window at a time, and repeats the first that is not acknowledged when it hears nothing."""

    WINDOW = 20

    def __init__(self, end: End, total: int) -> None:
        self.end, self.first, self.left_off = end, end.seq, end.seq + total
        self.acknowledged = self.sent = end.seq
        self.heard: set[int] = set()            # what of the other side has come, byte by byte
        self.expects = end.peer.seq

    def segments(self, repeat: bool) -> list[tuple[int, int]]:
        """(number, length) of what is said next; an acknowledgement alone has no length."""
        if repeat:
            return [(self.acknowledged, min(5, self.left_off - self.acknowledged))]
        found = []
        while self.sent < min(self.left_off, self.acknowledged + self.WINDOW):
            length = min(5, self.left_off - self.sent)
            found.append((self.sent, length))
            self.sent += length
        return found or [(self.sent, 0)]

    def hear(self, seq: int, length: int, ack: int) -> None:
        self.acknowledged = max(self.acknowledged, ack)
        self.sent = max(self.sent, self.acknowledged)
        self.heard.update(range(seq, seq + length))
        while self.expects in self.heard:
            self.expects += 1


def all_is_said(seed: int, relearns: bool) -> bool:
    """Whether both sides get all, though segments are lost, some pass by unseen, and some are judged before the walk."""
    random = Random(seed)
    tcp = TcpConversation(Watch())
    tcp.client.window = tcp.server.window = Talker.WINDOW
    tcp.open()
    talkers = [Talker(tcp.client, random.choice((0, 100, 400))), Talker(tcp.server, random.choice((40, 400)))]
    begins = random.randrange(1, 12)
    ends = begins + random.randrange(1, 12)
    walk = ends + random.randrange(4)
    for turn in range(300):
        if turn == walk and relearns:
            assert relearn_windows(tcp.watch.engine) == 1
        for talker, other in (talkers, talkers[::-1]):
            repeats = random.random() < 0.3 and talker.acknowledged < talker.sent
            for seq, length in talker.segments(repeats):
                ack = talker.expects
                if random.random() < 0.3:
                    continue
                if begins <= turn < ends or talker.end.say(ACK, bytes(length), seq=seq, ack=ack).state is ESTABLISHED:
                    other.hear(seq, length, ack)
    return all(talker.acknowledged == talker.left_off for talker in talkers)


def test_whatever_was_lost_and_whatever_passed_by_both_sides_get_all():
    assert [seed for seed in range(100) if not all_is_said(seed, relearns=True)] == []


def test_the_control_without_relearning_many_stand_still():
    assert sum(not all_is_said(seed, relearns=False) for seed in range(40)) > 5


def opening(tcp: TcpConversation) -> None:
    tcp.client.syn()


def closed(tcp: TcpConversation) -> None:
    tcp.open().close()


@pytest.mark.parametrize("begin", [opening, closed])
def test_what_has_not_begun_or_is_over_has_nothing_to_learn(begin: Callable[[TcpConversation], None]):
    tcp = TcpConversation(Watch())
    begin(tcp)
    assert relearn_windows(tcp.watch.engine) == 0
    if begin is opening:
        tcp.server.synack()
        tcp.client.ack()
        is_strict(tcp)


def test_a_connection_that_ends_after_relearning_ends_in_order():
    tcp = relearnt().close()
    assert tcp.state == "TIME_WAIT"
    assert tcp.watch.reasons() == {}


def test_every_connection_of_a_large_table_learns_anew():
    watch = Watch(max_entries=4096)
    for port in range(3000):
        TcpConversation(watch, sport=port + 1).open()
    assert relearn_windows(watch.engine) == 3000
    assert relearn_windows(Watch().engine) == 0
