"""TCP segments that do not fit: RSTs real and forged, SYNs within a connection, ports used again."""
import pytest

from kit.packets import ACK, SYN
from kit.traffic import TcpConversation, Watch
from pyfw.enums import CtState, Direction, Reason

NEW, ESTABLISHED, INVALID = CtState.NEW, CtState.ESTABLISHED, CtState.INVALID
FAR_AWAY = 3_000_000_000        # a new connection's first sequence number


# -- RST -----------------------------------------------------------------------------------------------------------

def test_an_exact_rst_closes(tcp):
    tcp.open()
    tcp.server.ack()
    assert tcp.client.rst().state is ESTABLISHED
    assert (tcp.state, tcp.timeout_s) == ("CLOSE", 10)


def test_an_rst_elsewhere_in_the_window_keeps_the_state_for_10_s(tcp):
    """The receiver will challenge it; if it was real, its sender repeats it with the right number."""
    tcp.open()
    tcp.server.ack()
    judgement = tcp.client.rst(seq=tcp.client.seq + 100)
    assert (judgement.state, judgement.reason) == (ESTABLISHED, Reason.NONE)
    assert (tcp.state, tcp.timeout_s) == ("ESTABLISHED", 10)


def test_a_live_connection_recovers_from_such_an_rst(tcp):
    tcp.open()
    tcp.server.ack()
    tcp.client.rst(seq=tcp.client.seq + 100)
    tcp.server.ack()
    assert (tcp.state, tcp.timeout_s) == ("ESTABLISHED", 300), "what the RST claims to follow is unacknowledged"


def test_an_rst_right_after_data_closes_though_nobody_acknowledged_them(tcp):
    tcp.open()
    tcp.client.data(100)
    tcp.client.rst()
    assert tcp.state == "CLOSE"


def test_an_rst_below_what_was_acknowledged_is_forged(tcp):
    tcp.open()
    judgement = tcp.client.rst(seq=tcp.client.seq - 1)
    assert (judgement.state, judgement.reason, judgement.reason_text) == (INVALID, Reason.TCP_RST, "invalid rst")
    assert tcp.state == "ESTABLISHED"


def test_forged_rsts_may_be_tolerated():
    tcp = TcpConversation(Watch(tcp_ignore_invalid_rst=True)).open()
    assert tcp.client.rst(seq=tcp.client.seq - 1).state is ESTABLISHED
    assert tcp.state == "ESTABLISHED"


def test_an_rst_beyond_the_window_is_invalid(tcp):
    tcp.open()
    tcp.server.ack()
    judgement = tcp.client.rst(seq=tcp.client.seq + 200_000)
    assert (judgement.state, judgement.reason) == (INVALID, Reason.TCP_SEQ_OVER)
    assert tcp.state == "ESTABLISHED"


# -- a SYN where none belongs --------------------------------------------------------------------------------------

def test_a_client_that_restarted_is_brought_back_into_step(tcp):
    """Its SYN passes and changes nothing; the SYN/ACK that acknowledges it tells that both ends began anew."""
    tcp.open()
    syn = tcp.client.syn(seq=FAR_AWAY)
    assert (syn.state, syn.reason) == (ESTABLISHED, Reason.TCP_IGNORED)
    assert syn.reason_text == "packet (index 0) in dir 0 ignored, state ESTABLISHED"
    assert tcp.state == "ESTABLISHED"
    assert tcp.server.synack(seq=77, ack=FAR_AWAY + 1).reason is Reason.NONE
    assert (tcp.state, tcp.timeout_s) == ("SYN_RECV", 60)
    assert tcp.client.ack(seq=FAR_AWAY + 1, ack=78).reason is Reason.NONE
    assert tcp.client.data(10, seq=FAR_AWAY + 1, ack=78).reason is Reason.NONE
    assert tcp.state == "ESTABLISHED"


def test_a_synack_for_something_else_brings_nothing_into_step(tcp):
    tcp.open()
    tcp.client.syn(seq=FAR_AWAY)
    assert tcp.server.synack(seq=77, ack=FAR_AWAY + 2).reason is Reason.TCP_IGNORED
    assert tcp.state == "ESTABLISHED"


def test_ignored_packets_touch_neither_timer_nor_counters(tcp):
    tcp.open()
    tcp.watch.wait(100)
    before = tcp.record
    tcp.client.syn(seq=FAR_AWAY)
    tcp.server.synack(seq=1, ack=2)
    assert tcp.record == before


@pytest.mark.parametrize(("end", "flags", "passes"), [
    ("client", SYN, True), ("server", SYN | ACK, True), ("server", SYN, False), ("client", SYN | ACK, False),
])
def test_the_handshake_said_again_in_a_live_connection(tcp, end, flags, passes):
    tcp.open()
    judgement = getattr(tcp, end).say(flags, seq=FAR_AWAY, ack=1)
    assert judgement.state is (ESTABLISHED if passes else INVALID)
    assert judgement.reason is (Reason.TCP_IGNORED if passes else Reason.TCP_STATE)
    assert tcp.state == "ESTABLISHED"


def test_a_challenge_ack_does_not_end_the_connection(tcp):
    """In LAST_ACK an ACK ends it, but not the one that challenges a SYN just passed (RFC 5961, 4)."""
    tcp.open()
    tcp.client.fin()
    tcp.server.fin()
    assert tcp.state == "LAST_ACK"
    tcp.client.syn(seq=FAR_AWAY)
    challenge = tcp.server.ack()
    assert (challenge.state, challenge.reason) == (ESTABLISHED, Reason.TCP_CHALLENGE_ACK)
    assert tcp.state == "LAST_ACK"
    tcp.client.ack()
    assert tcp.state == "TIME_WAIT"


def test_the_rst_that_answers_a_challenge_in_syn_sent_closes(tcp):
    """A client uses a port that the server still holds: SYN, challenge ACK, RST with the number that names."""
    tcp.client.syn()
    challenge = tcp.server.ack(seq=900, ack=4242)
    assert (challenge.state, challenge.reason) == (ESTABLISHED, Reason.TCP_IGNORED)
    tcp.client.rst(seq=4242)
    assert (tcp.state, tcp.timeout_s) == ("CLOSE", 10)
    assert tcp.client.syn(seq=FAR_AWAY).state is NEW
    assert tcp.state == "SYN_SENT"


# -- the port used again -------------------------------------------------------------------------------------------

def test_a_syn_in_time_wait_reopens(tcp):
    tcp.open().close()
    former = tcp.record["id"]
    assert tcp.client.syn(seq=FAR_AWAY).state is NEW
    assert tcp.state == "SYN_SENT"
    assert tcp.record["id"] != former
    assert tcp.record["original"]["packets"] == 1


def test_the_former_server_may_reopen_and_is_the_client_then(tcp):
    tcp.open().close()
    judgement = tcp.server.syn(seq=FAR_AWAY)
    assert (judgement.state, judgement.direction) == (NEW, Direction.ORIGINAL)
    assert tcp.record["original"]["sport"] == tcp.server.port


def test_a_syn_after_ones_own_rst_reopens(tcp):
    tcp.open()
    tcp.client.rst()
    assert tcp.state == "CLOSE"
    assert tcp.client.syn(seq=FAR_AWAY).state is NEW


def test_a_syn_after_the_others_rst_is_ignored(tcp):
    tcp.open()
    tcp.server.rst()
    assert tcp.state == "CLOSE"
    assert tcp.client.syn(seq=FAR_AWAY).reason is Reason.TCP_IGNORED
    assert tcp.state == "CLOSE"
