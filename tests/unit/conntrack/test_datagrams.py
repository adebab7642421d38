"""UDP, UDP-Lite, GRE and protocols without ports: conversations, streams, timeouts."""
import pytest

from kit.packets import CLIENT, CLIENT6, SERVER, SERVER6, gre, ip, pptp, udp, udplite
from kit.traffic import Watch
from pyfw.enums import CtState, Direction, Reason

NEW, ESTABLISHED, INVALID = CtState.NEW, CtState.ESTABLISHED, CtState.INVALID


def question(**fields) -> bytes:
    return udp(CLIENT, SERVER, 5000, 53, b"who?", **fields)


def answer() -> bytes:
    return udp(SERVER, CLIENT, 53, 5000, b"you")


def test_question_and_answer(watch):
    asked = watch.send(question())
    assert (asked.state, asked.direction) == (NEW, Direction.ORIGINAL)
    assert watch.only()["timeout"] == 30
    assert not watch.only()["seen_reply"]
    answered = watch.send(answer())
    assert (answered.state, answered.direction) == (ESTABLISHED, Direction.REPLY)
    assert watch.send(question()).state is ESTABLISHED
    assert watch.only()["timeout"] == 30
    assert not watch.only()["assured"]


def test_questions_without_answer_stay_new_and_renew_the_timer(watch):
    watch.send(question())
    watch.wait(20)
    assert watch.send(question()).state is NEW
    assert watch.only()["timeout"] == 30


@pytest.mark.parametrize(("seconds", "stream"), [(1.9, False), (2.0, False), (2.1, True)])
def test_a_conversation_that_goes_on_after_two_seconds_is_a_stream(watch, seconds, stream):
    watch.send(question())
    watch.send(answer())
    watch.wait(seconds)
    watch.send(question())
    assert (watch.only()["timeout"], watch.only()["assured"]) == ((120, True) if stream else (30, False))


def test_a_late_answer_alone_makes_no_stream(watch):
    watch.send(question())
    watch.wait(10)
    watch.send(answer())
    assert (watch.only()["timeout"], watch.only()["assured"]) == (30, False)


def test_expired_means_invisible(watch):
    watch.send(question())
    watch.wait(30)
    assert watch.records() == []
    assert watch.send(answer()).state is NEW, "nobody is known to have asked"


def test_udp_without_checksum_is_fine(watch):
    assert watch.send(question(checksum=0)).state is NEW


@pytest.mark.parametrize(("length", "state"), [(7, INVALID), (8, NEW), (11, NEW), (12, NEW), (13, INVALID)])
def test_udp_may_say_less_than_ip_but_not_more(watch, length, state):
    assert watch.send(question(length=length, checksum=0)).state is state


@pytest.mark.parametrize(("coverage", "state"), [(0, NEW), (7, INVALID), (8, NEW), (12, NEW), (13, INVALID)])
def test_how_much_a_udplite_checksum_may_cover(watch, coverage, state):
    assert watch.send(udplite(CLIENT, SERVER, 1, 2, b"test", coverage=coverage)).state is state


def test_udplite_is_right_where_only_what_is_not_covered_was_damaged(watch):
    packet = udplite(CLIENT, SERVER, 1, 2, b"voice", coverage=8)
    assert watch.send(packet[:-1] + b"\0").state is NEW


def test_udplite_is_a_stream_as_soon_as_it_is_answered(watch):
    watch.send(udplite(CLIENT, SERVER, 1, 2))
    assert watch.only()["timeout"] == 30
    watch.send(udplite(SERVER, CLIENT, 2, 1))
    watch.send(udplite(CLIENT, SERVER, 1, 2))
    assert (watch.only()["timeout"], watch.only()["assured"]) == (120, True)


@pytest.mark.parametrize("ends", [(CLIENT, SERVER), (CLIENT6, SERVER6)], ids=["IPv4", "IPv6"])
def test_of_other_protocols_only_the_addresses_are_known(watch, ends):
    client, server = ends
    assert watch.send(ip(client, server, 103, b"")).state is NEW
    assert watch.send(ip(client, server, 103, b"something else")).state is NEW
    assert watch.send(ip(server, client, 103, b"")).state is ESTABLISHED
    assert watch.send(ip(client, server, 104, b"")).state is NEW
    first = watch.records()[0]
    assert (first["protocol"], first["timeout"], first["assured"]) == (103, 600, False)


def test_gre_of_version_0_has_no_keys(watch):
    assert watch.send(gre(CLIENT, SERVER)).state is NEW
    assert watch.only()["timeout"] == 30
    assert watch.send(gre(SERVER, CLIENT)).state is ESTABLISHED
    watch.send(gre(CLIENT, SERVER))
    assert (watch.only()["timeout"], watch.only()["assured"]) == (180, True)
    assert (watch.only()["original"]["srckey"], watch.only()["original"]["dstkey"]) == (0, 0)


def test_pptp_calls_are_told_apart_by_their_receivers_key(watch):
    assert watch.send(pptp(CLIENT, SERVER, 0x1234)).state is NEW
    assert watch.only()["original"]["dstkey"] == 0x1234
    assert watch.send(pptp(CLIENT, SERVER, 0x1235)).state is NEW
    assert len(watch.records()) == 2
    assert watch.send(pptp(CLIENT, SERVER, 1, protocol=0x0800)).reason is Reason.GRE_PROTOCOL


def test_timeouts_are_settings():
    watch = Watch(timeouts={"udp": 5, "udp_stream": 7, "generic": 11, "gre": 13})
    watch.send(question())
    assert watch.only()["timeout"] == 5
    watch.send(answer())
    watch.wait(3)
    watch.send(question())
    assert watch.only()["timeout"] == 7
    watch.wait(8)
    watch.send(gre(CLIENT, SERVER))
    assert watch.only()["timeout"] == 13
