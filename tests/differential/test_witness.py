"""The witness is believed because it says what is known of the kernel, and because it can say otherwise."""
from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from kit.packed_packets import ACK, ICMP, PSH, RST, SYN, TCP, UDP, URG, address, fragment_ipv4, icmp, ip, ipv4, tcp, udp
from kit.witness import Sent, Settings, Witness

CLIENT, SERVER = address("10.0.0.2"), address("10.0.1.2")
CLIENT6, SERVER6 = address("2001:db8::2"), address("2001:db8:1::2")


def segment(side: int, flags: int, seq: int, ack: int = 0, *, payload: bytes = b"", port: int = 80, **other: int) -> Sent:
    (src, sport), (dst, dport) = ((CLIENT, 40000), (SERVER, port))[::1 if side == 0 else -1]
    return Sent(side, ip(src, dst, TCP, tcp(src, dst, sport, dport, flags, seq, ack, payload=payload, **other)))


def datagram(side: int, src: bytes, dst: bytes, sport: int = 5000, dport: int = 53) -> Sent:
    return Sent(side, ip(src, dst, UDP, udp(src, dst, sport, dport, b"?")))


HANDSHAKE = [segment(0, SYN, 100), segment(1, SYN | ACK, 900, 101), segment(0, ACK, 101, 901)]


@pytest.fixture(scope="module")
def witness() -> Iterator[Witness]:
    with Witness() as running:
        yield running


def opinions(witness: Witness, *packets: Sent) -> list[str]:
    """"STATE DIRECTION" of each; "-" for a packet that tracking never saw; "dropped" where it was."""
    said = []
    for seen in witness.testify(packets).opinions:
        words = [seen.state or "-", *([seen.direction] if seen.direction else [])]
        said.append(" ".join([*words, *(["dropped"] if seen.forwarded and not seen.out else [])]))
    return said


@pytest.mark.parametrize(("packets", "expected"), [
    (HANDSHAKE, ["NEW ORIGINAL", "ESTABLISHED REPLY", "ESTABLISHED ORIGINAL"]),
    ([HANDSHAKE[0], HANDSHAKE[0]], ["NEW ORIGINAL", "NEW ORIGINAL"]),
    ([segment(0, PSH | URG, 1)], ["INVALID"]),
    ([segment(0, ACK, 1, 1)], ["NEW ORIGINAL"]),
    ([segment(0, SYN, 1, sum_=1)], ["INVALID"]),
    ([datagram(0, CLIENT, SERVER), datagram(1, SERVER, CLIENT, 53, 5000)], ["NEW ORIGINAL", "ESTABLISHED REPLY"]),
    ([datagram(0, CLIENT6, SERVER6), datagram(1, SERVER6, CLIENT6, 53, 5000)], ["NEW ORIGINAL", "ESTABLISHED REPLY"]),
    ([Sent(0, b"\x45no packet")], ["-"]),
    ([Sent(0, b"\0")], ["-"]),
    ([Sent(0, ipv4(CLIENT, SERVER, UDP, udp(CLIENT, SERVER, 1, 2), sum_=1))], ["-"]),
])
def test_known_opinions(witness: Witness, packets: list[Sent], expected: list[str]) -> None:
    assert opinions(witness, *packets) == expected


def test_error_about_a_connection_is_related_in_its_direction(witness: Witness) -> None:
    question = datagram(0, CLIENT, SERVER)
    error = Sent(1, ip(SERVER, CLIENT, ICMP, icmp(3, 3, bytes(4), question.data)))
    assert opinions(witness, question, error) == ["NEW ORIGINAL", "RELATED REPLY"]
    assert opinions(witness, error) == ["INVALID"]


def test_reasons_are_the_kernels_words(witness: Witness) -> None:
    unseen = segment(0, ACK, 101, 99_999)
    refused = witness.testify([*HANDSHAKE, unseen, segment(0, SYN | RST, 1)]).opinions[3:]
    assert [seen.reasons for seen in refused] == [
        ("nf_ct_proto_6: ACK is over upper bound 902 (ACKed data not seen yet)",),
        ("nf_ct_proto_6: invalid tcp flag combination",)]


def test_table_is_told_and_every_list_starts_with_an_empty_one(witness: Witness) -> None:
    line, = witness.testify(HANDSHAKE).table
    assert "ESTABLISHED src=10.0.0.2 dst=10.0.1.2 sport=40000 dport=80 packets=2 bytes=80 " in line
    assert "[ASSURED]" in line
    assert witness.testify([]).table == []


def test_fragments_have_an_opinion_where_they_complete_a_datagram(witness: Witness) -> None:
    whole = ipv4(CLIENT, SERVER, UDP, udp(CLIENT, SERVER, 1, 2, bytes(100)), ident=7)
    pieces = [Sent(0, piece) for piece in fragment_ipv4(whole, [(56, 108), (0, 56)])]
    waiting, complete = witness.testify(pieces).opinions
    assert (waiting.state, waiting.whole) == (None, None)
    assert (complete.state, complete.whole, complete.out) == ("NEW", whole, True)


def test_ftp_announcement_is_expected_once_the_table_is_flushed_it_is_not() -> None:
    control = [segment(0, SYN, 100, port=21), segment(1, SYN | ACK, 900, 101, port=21), segment(0, ACK, 101, 901, port=21),
               segment(0, PSH | ACK, 101, 901, port=21, payload=b"USER x\r\n"),
               segment(0, PSH | ACK, 109, 901, port=21, payload=b"PORT 10,0,0,2,4,1\r\n")]
    data = Sent(1, ip(SERVER, CLIENT, TCP, tcp(SERVER, CLIENT, 20, 1025, SYN, 5)))
    with Witness(Settings(ftp=True)) as witness:
        expectation, = witness.testify(control).expectations
        assert expectation.endswith("l3proto = 2 proto=6 src=10.0.1.2 dst=10.0.0.2 sport=0 dport=1025 ftp")
        assert opinions(witness, data) == ["NEW ORIGINAL"]
        assert opinions(witness, *control, data)[-1] == "RELATED ORIGINAL"
        cut = segment(0, PSH | ACK, 109, 901, port=21, payload=b"PORT 10,0")
        assert opinions(witness, *control[:4], cut)[-1] == "ESTABLISHED ORIGINAL dropped"


@pytest.mark.parametrize(("settings", "expected"), [
    (Settings(), "NEW ORIGINAL"), (Settings(tcp_loose=False), "INVALID")])
def test_settings_reach_the_kernel(settings: Settings, expected: str) -> None:
    with Witness(settings) as witness:
        assert opinions(witness, segment(0, ACK, 1, 1)) == [expected]


def test_fast_enough_to_ask_often(witness: Witness) -> None:
    packets = [datagram(0, CLIENT, SERVER)] * 5000
    assert len(packets) / witness.testify(packets).seconds > 5000


def test_echo_reply_without_request(witness: Witness) -> None:
    rest = struct.pack("!HH", 7, 1)
    request, reply = (Sent(side, ip(*hosts, ICMP, icmp(kind, 0, rest)))
                      for side, hosts, kind in ((0, (CLIENT, SERVER), 8), (1, (SERVER, CLIENT), 0)))
    assert opinions(witness, reply, request, reply) == ["INVALID", "NEW ORIGINAL", "ESTABLISHED REPLY"]
