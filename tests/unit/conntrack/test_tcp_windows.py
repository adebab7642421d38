"""TCP windows: what lies within, what beyond, at their very edges; scaling, SACK, and numbers that wrap.

After open(): client 1001.., server 5001.., both windows 65535 unless said otherwise.
"""
import struct

import pytest

from kit.packets import ACK, FIN
from kit.traffic import TcpConversation, Watch
from pyfw.enums import CtState, Reason

ESTABLISHED, INVALID = CtState.ESTABLISHED, CtState.INVALID
SACK_PERMITTED = b"\4\2"


def scale(shift: int) -> bytes:
    return struct.pack("!BBB", 3, 3, shift)


def sack_blocks(*blocks: tuple[int, int]) -> bytes:
    return struct.pack("!BB", 5, 2 + 8 * len(blocks)) + b"".join(
        struct.pack("!II", left % 2**32, right % 2**32) for left, right in blocks)


# Offsets from the first number that the client has not used; the server takes 1000 bytes.
@pytest.mark.parametrize(("offset", "length", "reason"), [
    (0, 1, Reason.NONE),
    (0, 2000, Reason.NONE),                 # the start counts, as in the kernel
    (1000, 0, Reason.NONE),
    (1000, 1, Reason.NONE),
    (1001, 0, Reason.TCP_OVERSHOT),         # beyond, by no more than another window
    (1001, 998, Reason.TCP_OVERSHOT),
    (1001, 999, Reason.TCP_SEQ_OVER),
    (2000, 0, Reason.TCP_SEQ_OVER),
    (-1000, 0, Reason.NONE),
    (-1001, 1, Reason.NONE),                # the end counts
    (-1001, 0, Reason.TCP_SEQ_UNDER),
])
def test_where_the_window_for_data_ends(tcp, offset, length, reason):
    tcp.server.window = 1000
    tcp.open()
    judgement = tcp.client.say(ACK, bytes(length), seq=1001 + offset, ack=5001)
    assert judgement.reason is reason
    assert judgement.state is (INVALID if reason is Reason.TCP_SEQ_OVER else ESTABLISHED)


@pytest.mark.parametrize(("offset", "reason"), [
    (0, Reason.NONE), (1, Reason.TCP_ACK_OVER), (-65999, Reason.NONE), (-66000, Reason.NONE),
    (-66001, Reason.TCP_ACK_UNDER),
])
def test_where_the_window_for_acknowledgements_ends(tcp, offset, reason):
    tcp.open()
    judgement = tcp.client.ack(ack=5001 + offset)
    assert judgement.reason is reason
    assert judgement.state is (INVALID if reason is Reason.TCP_ACK_OVER else ESTABLISHED)


@pytest.mark.parametrize(("numbers", "text"), [
    ({"seq": 900_000}, "SEQ is over upper bound 66537 (over the window of the receiver)"),
    ({"ack": 900_000}, "ACK is over upper bound 5002 (ACKed data not seen yet)"),
    ({"seq": 1001 - 70_000}, f"SEQ is under lower bound {(1000 - 65535) % 2**32} (already ACKed data retransmitted)"),
    ({"ack": 5001 - 70_000},
     f"ignored ACK under lower bound {(5000 - 66000) % 2**32} (possible overly delayed)"),
])
def test_the_bound_is_told(tcp, numbers, text):
    tcp.open()
    assert tcp.client.ack(**numbers).reason_text == text


def test_what_is_too_old_passes_and_touches_nothing(tcp):
    tcp.open()
    tcp.watch.wait(60)
    before = tcp.record
    assert tcp.client.ack(ack=5001 - 66001).state is ESTABLISHED
    assert tcp.client.ack(seq=1001 - 70000).state is ESTABLISHED
    assert tcp.record == before


def test_the_window_moves_with_acknowledgements(tcp):
    tcp.open()
    beyond = {"seq": 1001 + 140_000, "ack": 5001}
    assert tcp.client.ack(**beyond).state is INVALID
    for _ in range(50):
        tcp.client.data(1400)
        tcp.client.data(1400)
        tcp.server.ack()
    assert tcp.client.seq == 1001 + 140_000
    assert tcp.client.ack(**beyond).state is ESTABLISHED


def test_a_liberal_tracker_refuses_rsts_only():
    tcp = TcpConversation(Watch(tcp_liberal=True)).open()
    assert tcp.client.ack(seq=900_000, ack=900_000).state is ESTABLISHED
    assert tcp.client.rst(seq=tcp.client.seq - 1).state is INVALID


# -- scaling -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("client_options", "server_options", "reach"), [
    (b"", b"", 1000),
    (scale(7), b"", 1000),                  # scaling counts only where both offered it
    (b"", scale(7), 1000),
    (scale(2), scale(0), 1000),
    (scale(0), scale(7), 1000 << 7),
    (scale(2), b"\1" + scale(7), 1000 << 7),
    (scale(0), scale(14), 1000 << 14),
    (scale(0), scale(15), 1000 << 14),      # RFC 7323, 2.3: as if it were 14
    (scale(0), scale(255), 1000 << 14),
])
def test_how_far_a_window_of_1000_reaches(tcp, client_options, server_options, reach):
    """The server announces 1000, scaled as agreed; what it said in its SYN/ACK (1000, unscaled) is less or as much."""
    tcp.client.options, tcp.server.options = client_options, server_options
    tcp.server.window = 1000
    tcp.open()
    tcp.server.ack()
    assert tcp.client.ack(seq=1001 + reach + 1 + 2 * (reach + 2)).reason is Reason.TCP_SEQ_OVER
    assert tcp.client.ack(seq=1001 + reach).reason is Reason.NONE


def test_windows_of_syns_are_not_scaled(tcp):
    tcp.client.options = tcp.server.options = scale(7)
    tcp.server.window = 1000
    tcp.client.syn()
    tcp.server.synack()
    tcp.client.ack()
    assert tcp.client.say(ACK, bytes(10), seq=1001 + 1002, ack=5001).reason is Reason.TCP_OVERSHOT


@pytest.mark.parametrize("options", [b"\3", b"\3\0", b"\3\1\7", b"\3\4\7\0", b"\3\x28\7\0", b"\0\3\3\7", b"\x1e\2\2\3"])
def test_options_that_are_malformed_or_cut_off_are_not_believed(tcp, options):
    tcp.client.options = tcp.server.options = options
    tcp.server.window = 1000
    tcp.open()
    tcp.server.ack()
    assert tcp.client.ack(seq=1001 + 4000).reason is Reason.TCP_SEQ_OVER


# -- SACK ----------------------------------------------------------------------------------------------------------

def with_a_hole(tcp: TcpConversation) -> TcpConversation:
    """The client's 1001..1100 are lost beyond us, 1101..1200 arrive."""
    tcp.client.options = tcp.server.options = SACK_PERMITTED
    tcp.open()
    tcp.client.data(100)
    tcp.client.data(100)
    return tcp


def test_blocks_acknowledge_like_the_ack_itself(tcp):
    with_a_hole(tcp)
    judgement = tcp.server.ack(ack=1001, options=b"\1\1" + sack_blocks((1101, 1201)))
    assert (judgement.state, judgement.reason) == (ESTABLISHED, Reason.NONE)


def test_a_block_of_data_never_sent_is_invalid(tcp):
    with_a_hole(tcp)
    judgement = tcp.server.ack(ack=1001, options=b"\1\1" + sack_blocks((1101, 1201), (1201, 1301)))
    assert (judgement.state, judgement.reason) == (INVALID, Reason.TCP_ACK_OVER)


def test_blocks_are_not_read_where_sack_was_not_agreed(tcp):
    tcp.open()
    tcp.client.data(100)
    assert tcp.server.ack(options=b"\1\1" + sack_blocks((5000, 999_999))).reason is Reason.NONE


# -- numbers that wrap ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("client_seq", "server_seq"), [
    (2**32 - 1, 2**32 - 1), (2**32 - 700, 2**31 - 700), (2**31 - 1, 0), (0, 2**32 - 2),
])
def test_a_transfer_over_the_end_of_the_numbers(watch, client_seq, server_seq):
    tcp = TcpConversation(watch, client_seq=client_seq, server_seq=server_seq).open()
    for _ in range(100):
        assert tcp.client.data(1000).reason is Reason.NONE
        assert tcp.server.data(1000).reason is Reason.NONE
    tcp.close()
    assert tcp.state == "TIME_WAIT"
    assert watch.reasons() == {}


@pytest.mark.parametrize(("distance", "reason"), [(2**31 - 1, Reason.TCP_SEQ_OVER), (2**31 + 70000, Reason.TCP_SEQ_UNDER)])
def test_half_the_numbers_are_future_and_half_are_past(tcp, distance, reason):
    tcp.open()
    assert tcp.client.ack(seq=1001 + distance).reason is reason


# -- leave taken out of the window ---------------------------------------------------------------------------------

def test_fins_of_both_sides_out_of_the_window_shorten_the_life(tcp):
    """Whatever we believe about the windows: the two ends are done."""
    tcp.open()
    tcp.server.ack()
    assert tcp.timeout_s == 432000
    assert tcp.client.say(FIN | ACK, seq=900_000).reason is Reason.TCP_SEQ_OVER
    assert tcp.timeout_s == 432000
    assert tcp.server.say(FIN | ACK, seq=900_000).reason is Reason.TCP_SEQ_OVER
    assert tcp.timeout_s == 300


def test_gso_packets_count_their_whole_length(tcp):
    """64 KB segments arrive cut: the IP length tells how much was sent."""
    tcp.open()
    packet = tcp.client.packet(ACK, bytes(60_000))
    assert tcp.watch.send(packet[:128], length=len(packet)).reason is Reason.NONE
    assert tcp.server.ack(ack=1001 + 60_000).reason is Reason.NONE
    assert tcp.record["original"]["bytes"] == 40 + 40 + 60_040
