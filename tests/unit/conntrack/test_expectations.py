"""Expectations: what a helper announced is RELATED, once, in time, while its master lives."""
from ipaddress import ip_address

import pytest

from kit.announcing import Announcer, Master, coming
from kit.packets import ACK, CLIENT, CLIENT6, SERVER, SERVER6, SYN, tcp, udp
from kit.traffic import TcpConversation, Watch
from pyfw.enums import CtState, Reason, Verdict
from pyfw.helpers import HelperBinding
from pyfw.observe.dump import expect_text

NEW, ESTABLISHED, RELATED = CtState.NEW, CtState.ESTABLISHED, CtState.RELATED


@pytest.fixture
def helper():
    return Announcer()


@pytest.fixture
def watch(helper):
    return Watch(expect_max=4, helpers=[HelperBinding(helper, (6100,))])


@pytest.fixture
def master(watch, helper):
    return Master(watch, helper)


def test_as_many_as_there_may_be_and_then_others(watch, helper):
    """Four, of as many connections; when their time is over a fifth finds room, before any sweep."""
    for sport in range(40000, 40004):
        assert Master(watch, helper, sport).announce(sport - 39000).verdict is Verdict.ACCEPT
    late = Master(watch, helper, 40005)
    assert late.announce(2000).verdict is Verdict.DROP
    assert watch.engine.counters()["full"]["expectations"] == 1
    watch.wait(301)
    assert Master(watch, helper, 40006).announce(2000).verdict is Verdict.ACCEPT
    assert watch.send(coming(2000)).state is RELATED


def test_two_ends_cannot_make_a_place_slow_to_look_up(helper):
    """Connections to many servers, all of which are to call the same port of one client."""
    watch = Watch(expect_max=64, helpers=[HelperBinding(helper, (6100,))])
    servers = [f"10.9.0.{number}" for number in range(1, 41)]
    said = [Master(watch, helper, 41000 + number, server=server).announce(2000, source=server).verdict is Verdict.ACCEPT
            for number, server in enumerate(servers)]
    assert said == [True] * 32 + [False] * 8


def expectations(watch: Watch) -> dict[str, int]:
    return watch.engine.counters()["expectations"]


def test_what_was_announced_is_related_until_it_is_answered(master):
    master.announce(7000)
    data = TcpConversation(master.watch, SERVER, CLIENT, sport=20, dport=7000)
    assert data.client.syn().state is RELATED
    assert master.watch.send(data.client.packet(SYN, seq=1000)).state is RELATED
    assert data.server.synack().state is ESTABLISHED
    assert data.client.ack().state is ESTABLISHED
    assert data.record["expected"]


def test_it_is_used_once(master):
    master.announce(7000)
    assert master.watch.send(coming(7000)).state is RELATED
    assert master.watch.send(coming(7000, sport=21)).state is NEW
    assert expectations(master.watch) == {"entries": 0, "max_entries": 4, "created": 1, "used": 1, "expired": 0}


@pytest.mark.parametrize(("packet", "state"), [
    (coming(7000), RELATED), (coming(7000, sport=65535), RELATED), (coming(7001), NEW),
    (coming(7000, source="10.0.1.3"), NEW), (tcp(SERVER, "10.0.0.3", 20, 7000, SYN), NEW),
    (udp(SERVER, CLIENT, 20, 7000), NEW), (tcp(SERVER, CLIENT, 20, 7000, ACK), RELATED),
])
def test_what_fits(master, packet, state):
    """Any source port, and any first packet, a bare ACK included, as in the kernel."""
    master.announce(7000)
    assert master.watch.send(packet).state is state


def test_from_anyone(master):
    master.announce(7000, source=None)
    assert master.watch.send(coming(7000, source="192.0.2.1")).state is RELATED


def test_ipv6(watch, helper):
    Master(watch, helper, client=CLIENT6, server=SERVER6).announce(7000, source=SERVER6)
    assert watch.send(tcp(SERVER6, CLIENT6, 20, 7000, SYN)).state is RELATED


def test_it_does_not_wait_for_ever(master):
    master.announce(7000)
    master.watch.wait(300)
    assert expect_text(master.watch.engine, master.watch.now_ns) == ""
    assert master.watch.send(coming(7000)).state is NEW
    master.watch.engine.sweep(master.watch.now_ns)
    assert expectations(master.watch)["expired"] == 1


def test_it_dies_with_its_masters_entry(master):
    master.announce(7000)
    master.tcp.client.rst()
    assert master.tcp.state == "CLOSE"
    master.watch.wait(9)
    assert expect_text(master.watch.engine, master.watch.now_ns), "not with the master's TCP state"
    master.watch.wait(1)
    assert expect_text(master.watch.engine, master.watch.now_ns) == ""
    assert master.watch.send(coming(7000)).state is NEW


def test_the_oldest_gives_way_to_one_more_than_allowed(master):
    for port in (7000, 7001, 7002):
        master.announce(port)
    assert [master.watch.send(coming(port)).state for port in (7000, 7001, 7002)] == [NEW, RELATED, RELATED]


def test_announced_twice_it_is_still_one(master):
    master.announce(7000)
    master.announce(7000)
    assert expectations(master.watch)["entries"] == 1


def test_what_another_connection_expects_is_not_taken_over(watch, helper, master):
    master.announce(7000)
    second = Master(watch, helper, sport=40001)
    judgement = second.announce(7000)
    assert (judgement.verdict, judgement.reason) == (Verdict.DROP, Reason.HELPER_CLASH)
    assert second.announce(7001).verdict is Verdict.ACCEPT


def test_as_many_as_there_is_room_for(watch, helper):
    for sport in (1, 2):
        Master(watch, helper, sport=sport).announce(7000 + 10 * sport, 7001 + 10 * sport)
    full = Master(watch, helper, sport=3).announce(7000)
    assert (full.verdict, full.reason) == (Verdict.DROP, Reason.HELPER_CLASH)


def test_an_inactive_one_admits_nothing_before_it_is_activated(master):
    master.announce(7000, active=False)
    assert "INACTIVE" in expect_text(master.watch.engine, master.watch.now_ns)
    assert master.watch.send(coming(7000)).state is NEW
    master.announce(activate=True)
    assert master.watch.send(coming(7000, sport=21)).state is RELATED


def test_inactive_ones_are_cancelled_and_active_ones_stay(master):
    master.announce(7000)
    master.announce(7001, active=False)
    master.announce(cancel=True)
    assert [master.watch.send(coming(port)).state for port in (7000, 7001)] == [RELATED, NEW]


def test_lines_are_those_of_nf_conntrack_expect(watch, helper, master):
    master.announce(7000)
    Master(watch, helper, client=CLIENT6, server=SERVER6).announce(7001, source=None, active=False)
    watch.wait(0.5)
    assert expect_text(watch.engine, watch.now_ns).splitlines() == [
        "299 l3proto = 2 proto=6 src=10.0.1.2 dst=10.0.0.2 sport=0 dport=7000 announcer",
        "299 l3proto = 10 proto=6 src=0000:0000:0000:0000:0000:0000:0000:0000 "
        "dst=fd00:0000:0000:0000:0000:0000:0000:0002 sport=0 dport=7001 INACTIVE announcer",
    ]


# -- what a helper is shown ----------------------------------------------------------------------------------------

def test_payload_only_and_only_once_traffic_flowed_both_ways(watch, helper):
    conversation = TcpConversation(watch, dport=6100)
    watch.send(conversation.client.packet(SYN, b"too early"))
    conversation.open()
    conversation.server.ack()
    assert helper.segments == []
    conversation.client.data(3)
    (segment,) = helper.segments
    assert (segment.payload, segment.seq, segment.family) == (bytes(3), 1001, 4)
    assert (segment.sender, segment.receiver) == (ip_address(CLIENT).packed, ip_address(SERVER).packed)
    assert (segment.sender_port, segment.receiver_port) == (40000, 6100)


def test_only_connections_that_began_towards_its_port(watch, helper):
    TcpConversation(watch, sport=6100, dport=99).open().client.data(5)
    TcpConversation(watch, sport=7, dport=6101).open().client.data(5)
    assert helper.segments == []


def test_no_payload_that_was_cut(watch, helper):
    conversation = TcpConversation(watch, dport=6100).open()
    packet = conversation.client.packet(ACK, b"call me at 7000")
    watch.send(packet[:50], length=len(packet))
    assert helper.segments == []


@pytest.mark.parametrize(("attribute", "value"), [("max_expected", 0), ("timeout_s", -1)])
def test_a_helper_that_could_never_expect_anything_is_refused(attribute, value):
    helper = Announcer()
    setattr(helper, attribute, value)
    with pytest.raises(ValueError, match="max_expected and timeout_s must be 1 at least"):
        Watch(helpers=[HelperBinding(helper, (6100,))])
