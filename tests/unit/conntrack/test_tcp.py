"""TCP connections from their first packet to their last: states, timeouts, ASSURED."""
import pytest

from kit.packets import ACK, CLIENT6, CWR, ECE, FIN, PSH, RST, SERVER6, SYN, URG
from kit.traffic import TcpConversation, Watch
from pyfw.enums import CtState, Direction, Reason, Verdict

NEW, ESTABLISHED, INVALID = CtState.NEW, CtState.ESTABLISHED, CtState.INVALID


@pytest.mark.parametrize("ends", [(), (CLIENT6, SERVER6)], ids=["IPv4", "IPv6"])
def test_a_life_from_syn_to_time_wait(watch, ends):
    tcp = TcpConversation(watch, *ends)
    client, server = tcp.client, tcp.server
    life = [
        (client.syn, NEW, "SYN_SENT", 120),
        (server.synack, ESTABLISHED, "SYN_RECV", 60),
        (client.ack, ESTABLISHED, "ESTABLISHED", 432000),
        (client.fin, ESTABLISHED, "FIN_WAIT", 120),
        (server.ack, ESTABLISHED, "CLOSE_WAIT", 60),
        (server.fin, ESTABLISHED, "LAST_ACK", 30),
        (client.ack, ESTABLISHED, "TIME_WAIT", 120),
    ]
    for say, state, entry, timeout_s in life:
        judgement = say()
        assert (judgement.state, judgement.reason, judgement.verdict) == (state, Reason.NONE, Verdict.ACCEPT), say
        assert judgement.direction is (Direction.ORIGINAL if say.__self__ is client else Direction.REPLY)
        assert (tcp.state, tcp.timeout_s) == (entry, timeout_s), say


def test_assured_from_the_ack_that_completes_the_handshake(tcp):
    for say, seen_reply, assured in [(tcp.client.syn, False, False), (tcp.server.synack, True, False),
                                     (tcp.client.ack, True, True)]:
        say()
        assert (tcp.record["seen_reply"], tcp.record["assured"]) == (seen_reply, assured)


def test_packets_and_bytes_are_counted_by_direction(tcp):
    tcp.open()
    tcp.client.data(100)
    original, reply = tcp.record["original"], tcp.record["reply"]
    assert (original["packets"], original["bytes"]) == (3, 40 + 40 + 140)
    assert (reply["packets"], reply["bytes"]) == (1, 40)


def test_a_syn_is_new_until_answered_and_its_repetition_does_not_renew_the_timer(tcp):
    first = tcp.client.packet(SYN)
    assert tcp.watch.send(first).state is NEW
    tcp.watch.wait(50)
    assert tcp.watch.send(first).state is NEW
    assert (tcp.state, tcp.timeout_s) == ("SYN_SENT", 70)


def test_a_refused_connection_leaves_at_once(tcp):
    tcp.client.syn()
    refusal = tcp.server.say(RST | ACK, seq=0, ack=tcp.client.seq)
    assert refusal.state is ESTABLISHED
    assert tcp.watch.records() == []
    assert tcp.client.ack().state is NEW, "nothing is remembered: a pickup"


@pytest.mark.parametrize(("flags", "state"), [
    (SYN, NEW), (SYN | URG, NEW), (SYN | PSH, NEW), (SYN | ECE | CWR, NEW), (ACK, NEW), (ACK | PSH, NEW),
    (ACK | URG, NEW), (SYN | ACK, INVALID), (FIN | ACK, INVALID), (RST, INVALID), (RST | ACK, INVALID),
    (0, INVALID), (PSH, INVALID), (URG, INVALID), (FIN, INVALID), (SYN | FIN, INVALID), (SYN | RST, INVALID),
    (FIN | PSH | URG, INVALID), (SYN | ACK | URG, INVALID), (0xFF, INVALID),
])
def test_which_first_packets_may_begin_a_connection(tcp, flags, state):
    judgement = tcp.client.say(flags)
    assert judgement.state is state
    assert len(tcp.watch.records()) == (state is NEW)


# -- picked up -----------------------------------------------------------------------------------------------------

def test_a_connection_from_before_our_time_is_picked_up(tcp):
    assert tcp.client.data(10).state is NEW
    assert (tcp.state, tcp.timeout_s, tcp.record["assured"]) == ("ESTABLISHED", 300, False)
    assert tcp.server.data(10, seq=777, ack=tcp.client.seq).state is ESTABLISHED
    assert not tcp.record["assured"]
    assert tcp.client.ack(ack=787).state is ESTABLISHED
    assert (tcp.state, tcp.record["assured"]) == ("ESTABLISHED", True)


def test_windows_of_a_connection_picked_up_are_not_enforced(tcp):
    tcp.client.data(10, ack=777)
    tcp.server.data(10, seq=777, ack=tcp.client.seq + 10)
    assert tcp.client.data(10, seq=tcp.client.seq + 10**6, ack=787).state is ESTABLISHED


def test_strict_tracking_picks_nothing_up():
    tcp = TcpConversation(Watch(tcp_loose=False))
    judgement = tcp.client.ack(ack=777)
    assert (judgement.state, judgement.reason) == (INVALID, Reason.TCP_NEW)
    assert tcp.open().state == "ESTABLISHED"


# -- both at once --------------------------------------------------------------------------------------------------

def test_simultaneous_open(tcp):
    assert tcp.client.say(SYN, seq=1000).state is NEW
    assert tcp.server.say(SYN, seq=5000).state is ESTABLISHED
    assert (tcp.state, tcp.timeout_s) == ("SYN_SENT2", 120)
    assert tcp.client.say(SYN | ACK, seq=1000, ack=5001).state is ESTABLISHED
    assert tcp.state == "SYN_RECV"
    assert tcp.server.say(SYN | ACK, seq=5000, ack=1001).state is ESTABLISHED
    assert tcp.client.say(ACK, seq=1001, ack=5001).state is ESTABLISHED
    assert (tcp.state, tcp.record["assured"]) == ("ESTABLISHED", True)


def test_simultaneous_close(tcp):
    tcp.open()
    tcp.client.fin(seq=1001, ack=5001)
    assert tcp.state == "FIN_WAIT"
    tcp.server.fin(seq=5001, ack=1001)
    assert tcp.state == "LAST_ACK"
    tcp.client.ack(seq=1002, ack=5002)
    assert tcp.state == "TIME_WAIT"


# -- timeouts that come down ---------------------------------------------------------------------------------------

def test_data_that_nobody_acknowledges_waits_300_s(tcp):
    tcp.open()
    assert tcp.timeout_s == 432000
    tcp.client.data(100)
    assert tcp.timeout_s == 300
    tcp.server.ack()
    assert tcp.timeout_s == 432000


def test_the_same_data_sent_three_times_more_brings_the_timeout_down():
    """max_retrans is 77 s here, to tell it from `unacknowledged`."""
    tcp = TcpConversation(Watch(timeouts={"tcp_max_retrans": 77})).open()
    segment = tcp.client.packet(ACK | PSH, b"hello")
    seconds = []
    for _ in range(5):
        tcp.watch.send(segment)
        seconds.append(tcp.timeout_s)
    assert seconds == [300, 300, 300, 77, 77]


def test_how_often_data_may_be_sent_is_a_setting():
    tcp = TcpConversation(Watch(timeouts={"tcp_max_retrans": 77}, tcp_max_retrans=1)).open()
    segment = tcp.client.packet(ACK | PSH, b"hello")
    tcp.watch.send(segment)
    tcp.watch.send(segment)
    assert tcp.timeout_s == 77


def test_a_closed_window_waits_max_retrans():
    tcp = TcpConversation(Watch(timeouts={"tcp_max_retrans": 77})).open()
    tcp.server.ack(window=0)
    assert tcp.timeout_s == 77
    tcp.server.ack(window=1000)
    assert tcp.timeout_s == 432000


def test_timeouts_are_settings():
    tcp = TcpConversation(Watch(timeouts={"tcp_established": 7200, "tcp_syn_sent": 1.5}))
    tcp.client.syn()
    assert tcp.timeout_s == 1.5
    tcp.server.synack()
    tcp.client.ack()
    assert tcp.timeout_s == 7200


@pytest.mark.parametrize(("settings", "complaint"), [
    ({"timeouts": {"tcp_forever": 1}}, "no timeout is named 'tcp_forever'"), ({"timeouts": {"tcp_close": -1}}, "timeout tcp_close must be"),
    ({"max_entries": 0}, "max_entries must be"), ({"expect_max": 0}, "for 0 expectations"), ({"boot_id": b"short"}, "boot_id"),
    ({"tcp_max_retrans": 256}, "max_retrans must be 0 to 255"), ({"memory": bytearray(100)}, "too few for 1024 entries"),
])
def test_settings_that_cannot_be_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        Watch(**settings)
