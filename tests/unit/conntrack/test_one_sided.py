"""What one side alone says, in the other's name too: tracked as in the kernel, and believed by nothing that it could hurt."""
import struct
from collections.abc import Callable

import pytest

from kit.packets import ACK, CLIENT, CLIENT6, RST, SERVER, SERVER6, SYN, chunk, gre, sctp, tcp, udp, udplite
from kit.traffic import TcpConversation, Watch
from pyfw.engine.engine import Engine
from pyfw.enums import CtState, Direction, Hook, Reason, Verdict

INSIDE, OUTSIDE, HAIRPIN = ("eth1", "eth0"), ("eth0", "eth1"), ("eth1", "eth1")
ENTRIES = 8                 # in as many buckets, all of which eviction looks into
INIT, INIT_ACK, ABORT, COOKIE_ECHO, COOKIE_ACK = 1, 2, 6, 10, 11

Packets = list[tuple[Direction, bytes]]


def tcp_talk(a: str, b: str, sport: int = 5, dport: int = 80) -> Packets:
    return [(Direction.ORIGINAL, tcp(a, b, sport, dport, SYN, seq=100)),
            (Direction.REPLY, tcp(b, a, dport, sport, SYN | ACK, seq=500, ack=101)),
            (Direction.ORIGINAL, tcp(a, b, sport, dport, ACK, seq=101, ack=501))]


def tcp_picked_up(a: str, b: str, sport: int = 5, dport: int = 80) -> Packets:
    return [(Direction.ORIGINAL, tcp(a, b, sport, dport, ACK, seq=100, ack=500)),
            (Direction.REPLY, tcp(b, a, dport, sport, ACK, seq=500, ack=100)),
            (Direction.ORIGINAL, tcp(a, b, sport, dport, ACK, seq=100, ack=500))]


def both_ways(make: Callable[..., bytes], *ports: int) -> Callable[[str, str], Packets]:
    def talk(a: str, b: str) -> Packets:
        there, back = make(a, b, *ports), make(b, a, *ports[::-1])
        return [(Direction.ORIGINAL, there), (Direction.REPLY, back)] * 2
    return talk


def sctp_talk(a: str, b: str) -> Packets:
    def init(kind: int, tag: int) -> bytes:
        return chunk(kind, struct.pack("!IIHHI", tag, 65535, 1, 1, 1))
    return [(Direction.ORIGINAL, sctp(a, b, 9, 9, 0, init(INIT, 7))), (Direction.REPLY, sctp(b, a, 9, 9, 7, init(INIT_ACK, 8))),
            (Direction.ORIGINAL, sctp(a, b, 9, 9, 8, chunk(COOKIE_ECHO))), (Direction.REPLY, sctp(b, a, 9, 9, 7, chunk(COOKIE_ACK)))]


TALKS = {"tcp": tcp_talk, "tcp picked up": tcp_picked_up, "udp": both_ways(udp, 5, 53), "udplite": both_ways(udplite, 5, 53),
         "gre": both_ways(gre), "sctp": sctp_talk}


def hosts() -> list[tuple[str, str]]:
    return [(f"10.66.0.{number}", SERVER) for number in range(1, ENTRIES + 1)]


def speak(watch: Watch, talks: list[Packets], replies: tuple[str, str]) -> None:
    """All the talks at once, a second between the packets of each; `replies`: the interfaces that replies come through."""
    for step in zip(*talks, strict=True):
        for direction, packet in step:
            watch.send(packet, links=INSIDE if direction is Direction.ORIGINAL else replies)
        watch.wait(1)


def assured_table(protocol: str, replies: tuple[str, str]) -> Watch:
    watch = Watch(max_entries=ENTRIES)
    speak(watch, [TALKS[protocol](*pair) for pair in hosts()], replies)
    records = watch.records()
    # as in the kernel
    assert len(records) == ENTRIES
    assert all(record["assured"] for record in records)
    return watch


# -- eviction ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("protocol", TALKS)
def test_who_answers_itself_cannot_keep_others_out(protocol):
    watch = assured_table(protocol, replies=INSIDE)
    honest = [TcpConversation(watch, sport=1000 + number).open() for number in range(ENTRIES // 2)]
    assert all(conversation.client.data(10).state is CtState.ESTABLISHED for conversation in honest)
    assert watch.table()["table_full"] == 0
    assert watch.table()["early_drop"] == len(honest)
    for _ in range(4):                                      # and does not get them out again
        speak(watch, [TALKS[protocol](*pair) for pair in hosts()], INSIDE)
    assert all(conversation.client.data(10).state is CtState.ESTABLISHED for conversation in honest)


@pytest.mark.parametrize("protocol", TALKS)
def test_those_that_were_answered_are_kept(protocol):
    watch = assured_table(protocol, replies=OUTSIDE)
    refused = watch.send(udp(CLIENT, SERVER, 1, 53), links=INSIDE)
    assert (refused.verdict, refused.reason) == (Verdict.DROP, Reason.TABLE_FULL)


def test_where_both_sides_are_behind_one_interface_the_reply_may_come_in_there():
    watch = Watch(max_entries=1)
    for _, packet in TALKS["tcp"](CLIENT, SERVER):
        watch.send(packet, links=HAIRPIN)
    assert watch.send(udp(CLIENT, SERVER, 1, 53), links=INSIDE).reason is Reason.TABLE_FULL


@pytest.mark.parametrize(("begins", "answers"), [
    ((Hook.INPUT, ("eth0", "")), (Hook.OUTPUT, ("", "eth0"))),
    ((Hook.OUTPUT, ("", "eth0")), (Hook.INPUT, ("eth0", ""))),
    ((Hook.OUTPUT, ("", "lo")), (Hook.OUTPUT, ("", "lo"))),
])
def test_what_the_host_itself_says_is_another_side(begins, answers):
    watch = Watch(max_entries=1)
    for direction, packet in TALKS["tcp"](CLIENT, SERVER):
        watch.send(packet, *(begins if direction is Direction.ORIGINAL else answers))
    assert watch.send(udp(CLIENT, SERVER, 1, 53)).reason is Reason.TABLE_FULL


def test_a_reply_in_the_hosts_name_is_no_answer():
    watch = Watch(max_entries=1)
    for _, packet in TALKS["tcp"](CLIENT6, SERVER6):
        watch.send(packet, Hook.INPUT, ("eth0", ""))
    assert watch.only()["assured"]
    assert watch.send(udp(CLIENT, SERVER, 1, 53)).verdict is Verdict.ACCEPT


def test_a_true_answer_does_not_vouch_for_a_forged_one():
    """The server's own SYN/ACK is heard; then another SYN is answered with other numbers, to which the opener's ACK fits."""
    watch = Watch(max_entries=1)
    (_, syn), (_, synack), _ = TALKS["tcp"](CLIENT, SERVER)
    watch.send(syn, links=INSIDE)
    watch.send(synack, links=OUTSIDE)
    watch.send(tcp(CLIENT, SERVER, 5, 80, SYN, seq=7000), links=INSIDE)
    watch.send(tcp(SERVER, CLIENT, 80, 5, SYN | ACK, seq=9000, ack=7001), links=INSIDE)
    watch.send(tcp(CLIENT, SERVER, 5, 80, ACK, seq=7001, ack=9001), links=INSIDE)
    assert watch.only()["assured"]
    watch.send(tcp(SERVER, CLIENT, 80, 5, RST, seq=9001), links=OUTSIDE)     # the server knows of no such connection
    assert watch.send(udp(CLIENT, SERVER, 1, 53), links=INSIDE).verdict is Verdict.ACCEPT


def test_a_refusal_does_not_vouch_for_what_comes_after_it():
    """The server aborts an association that it knows nothing of; then the entry is used once more."""
    watch = Watch(max_entries=1)
    speak(watch, [TALKS["sctp"](CLIENT, SERVER)], INSIDE)
    watch.send(sctp(SERVER, CLIENT, 9, 9, 7, chunk(ABORT)), links=OUTSIDE)
    assert watch.only()["state"] == "CLOSED"
    speak(watch, [TALKS["sctp"](CLIENT, SERVER)], INSIDE)
    assert (watch.only()["state"], watch.only()["assured"], watch.table()["created"]) == ("ESTABLISHED", True, 1)
    assert watch.send(udp(CLIENT, SERVER, 1, 53), links=INSIDE).verdict is Verdict.ACCEPT


@pytest.mark.parametrize(("replies", "reason"), [(INSIDE, Reason.NONE), (OUTSIDE, Reason.TABLE_FULL)])
def test_a_successor_knows_who_was_answered(replies, reason):
    memory = bytearray(Engine.memory_size(1, 16))
    watch = Watch(max_entries=1, memory=memory)
    speak(watch, [TALKS["tcp"](CLIENT, SERVER)], replies)
    successor = Watch(max_entries=1, memory=memory)
    assert successor.engine.adopted == 1
    assert successor.only()["assured"]
    assert successor.send(udp(CLIENT, SERVER, 1, 53), links=INSIDE).reason is reason


def test_the_other_side_may_still_answer():
    watch = Watch(max_entries=1)
    for _, packet in TALKS["tcp picked up"](CLIENT, SERVER):
        watch.send(packet, links=INSIDE)
    watch.send(tcp(SERVER, CLIENT, 80, 5, ACK, seq=500, ack=100, payload=b"data"), links=OUTSIDE)
    assert watch.send(udp(CLIENT, SERVER, 1, 53), links=INSIDE).reason is Reason.TABLE_FULL


def test_an_answered_connection_stays_so_whatever_is_said_in_its_name():
    watch = Watch(max_entries=1)
    speak(watch, [TALKS["udp"](CLIENT, SERVER)], OUTSIDE)
    watch.send(udp(SERVER, CLIENT, 53, 5), links=INSIDE)
    assert watch.send(udp(CLIENT, SERVER, 1, 53), links=INSIDE).reason is Reason.TABLE_FULL


# -- from an address to itself -------------------------------------------------------------------------------------------

TO_ITSELF = [udp(CLIENT, CLIENT, 7, 7), udp(CLIENT, CLIENT, 7, 8), tcp(CLIENT6, CLIENT6, 7, 7, ACK, seq=1, ack=1),
             sctp(CLIENT, CLIENT, 7, 7, 0, chunk(INIT, struct.pack("!IIHHI", 7, 65535, 1, 1, 1))), gre(CLIENT, CLIENT)]


@pytest.mark.parametrize("packet", TO_ITSELF)
@pytest.mark.parametrize(("hook", "links"), [(Hook.FORWARD, INSIDE), (Hook.INPUT, ("eth0", "")), (Hook.INPUT, ("lo0", ""))])
def test_a_foreign_host_begins_nothing_with_itself(watch, packet, hook, links):
    for _ in range(3):
        judgement = watch.send(packet, hook, links)
        assert (judgement.state, judgement.reason) == (CtState.INVALID, Reason.TO_ITSELF)
    assert watch.table()["created"] == 0


@pytest.mark.parametrize("packet", TO_ITSELF)
@pytest.mark.parametrize(("hook", "links"), [(Hook.OUTPUT, ("", "lo")), (Hook.INPUT, ("lo", "")), (Hook.FORWARD, ("", ""))])
def test_this_host_may(watch, packet, hook, links):
    assert watch.send(packet, hook, links).state is CtState.NEW
