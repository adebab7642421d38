"""Reassembly: what Linux makes of fragments, for both families."""
import itertools
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet import fragment as scapy_fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, IPv6ExtHdrRouting, fragment6
from scapy.packet import Raw

from kit.captures import datagram, datagram6, fragment, fragments, syn, syn6
from pyfw.wire.checksum import internet_checksum
from pyfw.wire.ip_packet import IpPacket
from pyfw.wire.reassembly import IPV4_TIMEOUT_NS, IPV6_TIMEOUT_NS, MAX_DISTANCE, MEMORY_LIMIT, Reassembler, Withheld

PAYLOAD = bytes(range(256)) * 8
PACKETS = {"IPv4": datagram(PAYLOAD), "IPv6": datagram6(PAYLOAD)}
BYTES = PAYLOAD[:64]

families = pytest.mark.parametrize("packet", PACKETS.values(), ids=PACKETS)


def expected(packet) -> IpPacket:
    data = bytes(packet)
    return IpPacket(data, len(data))


def feed(reassembler: Reassembler, pieces, now_ns: int = 0) -> list:
    return [reassembler.feed(IpPacket(piece, len(piece)), now_ns) for piece in pieces]


WAIT, DUPLICATE, OVERLAP = Withheld.WAITING, Withheld.DUPLICATE, Withheld.OVERLAP


@pytest.mark.parametrize("packet", [syn(), syn6(), b"", b"\x45", b"\x60" + bytes(20), syn()[:19], bytes(100)])
def test_what_is_no_fragment_passes_as_it_is(packet):
    whole = IpPacket(packet, len(packet))
    assert Reassembler().feed(whole, 0) is whole


@families
@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_any_order_gives_the_whole_at_the_last_piece(packet, order):
    pieces = fragments(packet, [512, 1024, 1600])
    answers = feed(Reassembler(), [pieces[number] for number in order])
    assert answers == [WAIT, WAIT, WAIT, expected(packet)]


@families
def test_one_piece_missing_gives_nothing(packet):
    pieces = fragments(packet, [512, 1024])
    for missing in range(3):
        assert feed(Reassembler(), pieces[:missing] + pieces[missing + 1:]) == [WAIT, WAIT]


@families
def test_two_datagrams_interleaved(packet):
    first, second = fragments(packet, [512]), [fragment(packet, 0, BYTES, more=True, identification=8),
                                               fragment(packet, 64, BYTES, more=False, identification=8)]
    answers = feed(Reassembler(), [first[0], second[0], first[1], second[1]])
    assert answers[:3] == [WAIT, WAIT, expected(packet)]
    assert answers[3].length == answers[2].length - len(PAYLOAD) - 8 + 128


@families
def test_duplicates_are_dropped_and_the_rest_still_counts(packet):
    pieces = fragments(packet, [512, 1024])
    answers = feed(Reassembler(), [pieces[0], pieces[0], pieces[1], pieces[0], pieces[1], pieces[2]])
    assert answers == [WAIT, DUPLICATE, WAIT, DUPLICATE, DUPLICATE, expected(packet)]


@families
def test_a_piece_of_what_is_there_is_a_duplicate_whatever_it_holds(packet):
    pieces = fragments(packet, [512, 1024])
    answers = feed(Reassembler(), [pieces[0], pieces[1], fragment(packet, 256, b"X" * 512, more=True), pieces[2]])
    assert answers == [WAIT, WAIT, DUPLICATE, expected(packet)]


@families
@pytest.mark.parametrize(("first", "second"), [
    pytest.param((0, 64), (56, 64), id="over the end"),
    pytest.param((64, 64), (0, 72), id="over the start"),
    pytest.param((64, 64), (0, 192), id="around it"),
    pytest.param((0, 64), (0, 72), id="same start, longer"),
])
def test_an_overlap_condemns_the_datagram(packet, first, second):
    reassembler = Reassembler()
    pieces = [fragment(packet, offset, PAYLOAD[:size], more=True) for offset, size in (first, second)]
    assert feed(reassembler, pieces) == [WAIT, OVERLAP]
    assert reassembler.waiting == 0


@families
def test_after_an_overlap_the_remaining_pieces_do_not_complete_anything(packet):
    pieces = fragments(packet, [512, 1024])
    answers = feed(Reassembler(), [pieces[0], pieces[1], fragment(packet, 1016, BYTES, more=True), pieces[2]])
    assert answers == [WAIT, WAIT, OVERLAP, WAIT]


@pytest.mark.parametrize(("packet", "timeout_ns"), [(PACKETS["IPv4"], IPV4_TIMEOUT_NS), (PACKETS["IPv6"], IPV6_TIMEOUT_NS)])
def test_timeout_by_the_clock_that_is_handed_in(packet, timeout_ns):
    pieces = fragments(packet, [512, 1024])
    in_time, too_late = Reassembler(), Reassembler()
    for reassembler in (in_time, too_late):
        assert feed(reassembler, pieces[:1], 1000) == [WAIT]
        assert feed(reassembler, pieces[1:2], 1000 + timeout_ns // 2) == [WAIT]     # does not renew it
    assert feed(in_time, pieces[2:], 999 + timeout_ns) == [expected(packet)]
    assert feed(too_late, pieces[2:], 1000 + timeout_ns) == [WAIT]


def test_ipv4_and_ipv6_timeouts_are_the_kernels():
    assert (IPV4_TIMEOUT_NS, IPV6_TIMEOUT_NS) == (30 * 10**9, 60 * 10**9)


@families
def test_an_identification_used_again_makes_a_new_datagram(packet):
    pieces = fragments(packet, [512])
    reassembler = Reassembler()
    assert feed(reassembler, pieces * 3) == [WAIT, expected(packet)] * 3
    assert reassembler.waiting == 0


def test_ipv4_the_protocol_tells_datagrams_apart():
    udp, tcp = fragments(PACKETS["IPv4"], [512])[0], bytearray(fragments(PACKETS["IPv4"], [512])[1])
    tcp[9] = 6
    tcp[10:12] = b"\0\0"
    tcp[10:12] = internet_checksum(tcp[:20]).to_bytes(2, "big")
    assert feed(Reassembler(), [udp, bytes(tcp)]) == [WAIT, WAIT]


@pytest.mark.parametrize(("others", "completes"), [(MAX_DISTANCE - 1, True), (MAX_DISTANCE, False)])
def test_ipv4_after_many_other_fragments_of_its_sender_a_datagram_starts_over(others, completes):
    packet = PACKETS["IPv4"]
    pieces = fragments(packet, [512])
    between = [fragment(packet, 0, BYTES, more=True, identification=1000 + number) for number in range(others)]
    answers = feed(Reassembler(), [pieces[0], *between, pieces[1]])
    assert answers[-1] == (expected(packet) if completes else WAIT)


@pytest.mark.parametrize(("packet", "answers"), [
    pytest.param(PACKETS["IPv4"], [WAIT, Withheld.CONTRADICTION, WAIT], id="IPv4: the datagram goes"),
    pytest.param(PACKETS["IPv6"], [WAIT, Withheld.CONTRADICTION, "whole"], id="IPv6: only the fragment"),
])
@pytest.mark.parametrize("liar", [(2048 + 8, False), (4096, True)])
def test_a_second_end_contradicts_the_first(packet, answers, liar):
    pieces = fragments(packet, [1024])
    offset, more = liar
    got = feed(Reassembler(), [pieces[1], fragment(packet, offset, BYTES, more=more), pieces[0]])
    assert got == [expected(packet) if answer == "whole" else answer for answer in answers]


def test_an_end_before_what_is_there_contradicts():
    packet = PACKETS["IPv4"]
    answers = feed(Reassembler(), [fragment(packet, 1024, BYTES, more=True), fragment(packet, 512, BYTES, more=False)])
    assert answers == [WAIT, Withheld.CONTRADICTION]


@pytest.mark.parametrize(("packet", "waiting"), [(PACKETS["IPv4"], 0), (PACKETS["IPv6"], 1)])
def test_an_empty_fragment(packet, waiting):
    reassembler = Reassembler()
    answers = feed(reassembler, [fragment(packet, 0, BYTES, more=True), fragment(packet, 64, b"", more=True)])
    assert answers == [WAIT, Withheld.EMPTY]
    assert reassembler.waiting == waiting


def test_ipv4_a_fragment_with_more_to_come_is_cut_to_a_multiple_of_eight():
    packet = datagram(bytes(120))
    whole = bytes(packet)
    first = fragment(packet, 0, whole[20:20 + 64] + b"tail", more=True)
    assert feed(Reassembler(), [first, fragment(packet, 64, whole[84:], more=False)]) == [WAIT, expected(packet)]


def test_ipv6_a_fragment_with_more_to_come_that_is_no_multiple_of_eight_is_left_to_the_engine():
    packet = PACKETS["IPv6"]
    reassembler = Reassembler()
    odd = fragment(packet, 64, bytes(63), more=True)
    assert feed(reassembler, [fragment(packet, 0, BYTES, more=True), odd]) == [WAIT, IpPacket(odd, len(odd))]
    assert reassembler.waiting == 0


def test_ipv6_a_first_fragment_without_the_whole_transport_header_is_left_to_the_engine():
    tiny = bytes(IPv6(src="2001:db8::2", dst="2001:db8:1::2") / IPv6ExtHdrFragment(nh=6, m=1, id=7) / Raw(bytes(16)))
    assert feed(Reassembler(), [tiny]) == [IpPacket(tiny, len(tiny))]


@pytest.mark.parametrize("inner", [bytes([6, 0]) + bytes(6) + bytes(16), bytes([17, 8]) + bytes(14), bytes([89, 0]) + bytes(6)])
def test_ipv6_a_first_fragment_without_its_last_extension_headers_is_left_to_the_engine(inner):
    tiny = bytes(IPv6(src="2001:db8::2", dst="2001:db8:1::2") / IPv6ExtHdrFragment(nh=60, m=1, id=7) / Raw(inner))
    assert feed(Reassembler(), [tiny]) == [IpPacket(tiny, len(tiny))]
    longer = bytes(IPv6(src="2001:db8::2", dst="2001:db8:1::2") / IPv6ExtHdrFragment(nh=60, m=1, id=7) / Raw(inner + bytes(64)))
    assert feed(Reassembler(), [longer]) == [WAIT]


@pytest.mark.parametrize(("there", "answer"), [(1, Withheld.HEADER), (3, Withheld.HEADER), (4, None), (7, None), (8, None)])
def test_ipv6_a_fragment_header_that_is_cut_off(there, answer):
    cut = bytes(IPv6(src="2001:db8::2", dst="2001:db8:1::2", nh=44) / Raw(bytes([89, 0, 0, 1, 0, 0, 0, 7])[:there]))
    assert feed(Reassembler(), [cut]) == [answer or IpPacket(cut, len(cut))]


def test_ipv4_a_tiny_first_fragment_is_reassembled():
    packet = datagram(bytes(120))
    assert feed(Reassembler(), fragments(packet, [8])) == [WAIT, expected(packet)]


def test_ipv6_atomic_fragment_loses_its_header():
    packet = PACKETS["IPv6"]
    [atomic] = fragments(packet, [])
    assert b"\x2c" in atomic[6:7]
    assert feed(Reassembler(), [atomic]) == [expected(packet)]


@pytest.mark.parametrize(("packet", "offset"), [(PACKETS["IPv4"], 65528), (PACKETS["IPv6"], 65528)])
def test_the_ping_of_death_is_too_long(packet, offset):
    pieces = [fragment(packet, start, bytes(8192), more=True) for start in range(0, 57344, 8192)]
    pieces += [fragment(packet, 57344, bytes(8184), more=True), fragment(packet, offset, bytes(64), more=False)]
    assert feed(Reassembler(), pieces)[-1] is Withheld.TOO_LONG


def with_tos(packet, tos: int):
    copy = packet.copy()
    setattr(copy, "tc" if packet.version == 6 else "tos", tos)
    return copy


@families
@pytest.mark.parametrize(("codes", "result"), [
    ((0, 0), 0), ((1, 1), 1), ((2, 2), 2), ((3, 3), 3),
    ((2, 3), 3), ((3, 2), 3), ((1, 3), 3), ((1, 2), 1),
    ((0, 2), Withheld.ECN), ((3, 0), Withheld.ECN), ((0, 1), Withheld.ECN),
])
def test_ecn_marks_as_rfc_3168_wants_them(packet, codes, result):
    pieces = [fragments(with_tos(packet, 0x48 | code), [512])[number] for number, code in enumerate(codes)]
    answer = feed(Reassembler(), pieces)[-1]
    assert answer == (result if isinstance(result, Withheld) else expected(with_tos(packet, 0x48 | result)))


def test_ipv4_dont_fragment_stays_if_the_longest_fragment_has_it():
    packet = datagram(bytes(120))
    marked = []
    for piece in fragments(packet, [64]):
        ip = IP(piece)
        ip.flags |= 2
        del ip.chksum
        marked.append(bytes(ip))
    whole = datagram(bytes(120), flags="DF")
    assert feed(Reassembler(), marked) == [WAIT, expected(whole)]


def test_ipv6_extension_headers_before_and_behind():
    inner = IPv6(src="2001:db8::2", dst="2001:db8:1::2") / IPv6ExtHdrRouting() / datagram6(PAYLOAD).payload
    cut = IPv6(src=inner.src, dst=inner.dst) / IPv6ExtHdrRouting() / IPv6ExtHdrFragment(id=7) / inner[UDP]
    pieces = [bytes(piece) for piece in fragment6(cut, 600)]
    assert len(pieces) > 2
    assert feed(Reassembler(), reversed(pieces))[-1] == expected(inner)


def test_scapys_own_fragments():
    packet = datagram(PAYLOAD)
    pieces = [bytes(piece) for piece in scapy_fragment(packet, 500)]
    assert feed(Reassembler(), pieces)[-1] == expected(packet)


@families
def test_a_fragment_cut_by_the_snap_length_counts_whole_and_ends_what_can_be_read(packet):
    first, second, third = fragments(packet, [512, 1024])
    header = len(bytes(packet)) - len(PAYLOAD) - 8
    reassembler = Reassembler()
    assert reassembler.feed(IpPacket(first, len(first)), 0) is WAIT
    assert reassembler.feed(IpPacket(second[:100], len(second)), 0) is WAIT
    whole = reassembler.feed(IpPacket(third, len(third)), 0)
    readable = header + 512 + (100 - (len(second) - 512))
    assert whole == IpPacket(bytes(packet)[:readable], len(bytes(packet)))


@pytest.mark.parametrize("damage", [
    pytest.param(lambda piece: piece[:10] + b"\xff\xff" + piece[12:], id="header checksum"),
    pytest.param(lambda piece: b"\x44" + piece[1:], id="header length 16"),
    pytest.param(lambda piece: b"\x4f" + piece[1:40], id="header longer than the packet"),
    pytest.param(lambda piece: piece[:100], id="shorter on the wire than it says"),
])
def test_ipv4_a_fragment_that_no_stack_would_take_is_left_to_the_engine(damage):
    piece = damage(fragments(PACKETS["IPv4"], [512])[0])
    assert feed(Reassembler(), [piece]) == [IpPacket(piece, len(piece))]


@pytest.mark.slow
@families
def test_memory_is_bounded_and_comes_back(packet):
    reassembler = Reassembler()
    pieces = [fragment(packet, 0, bytes(1024), more=True, identification=number) for number in range(10000)]
    answers = feed(reassembler, pieces)
    held = answers.count(WAIT)
    assert set(answers) == {WAIT, Withheld.MEMORY}
    assert held * 1024 <= MEMORY_LIMIT <= held * 4096
    later = feed(reassembler, fragments(packet, [512]), 120 * 10**9)
    assert later == [WAIT, expected(packet)]


def test_many_pieces_backwards_take_no_quadratic_time():
    pieces = [fragment(datagram(b""), offset, bytes(8), more=True) for offset in range(40000, 0, -16)]
    reassembler = Reassembler()
    started = time.process_time()
    answers = feed(reassembler, pieces)
    assert time.process_time() - started < 1        # some 20 ms; 2,500 * 2,500 / 2 comparisons would take longer
    assert set(answers) == {WAIT}


@families
def test_random_cuts_in_random_order(packet):
    choose = random.Random(1)
    size = len(PAYLOAD) + 8
    for _ in range(50):
        cuts = sorted(choose.sample(range(24, size, 8), choose.randrange(1, 12)))
        pieces = fragments(packet, cuts)
        choose.shuffle(pieces)
        assert feed(Reassembler(), pieces)[-1] == expected(packet)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([b"\x45\0", b"\x60\0", b"\x46\0"]), st.binary(max_size=120), st.integers(0, 70000)),
                max_size=20))
def test_any_bytes_are_a_packet_or_withheld(contents):
    reassembler = Reassembler()
    for start, rest, length in contents:
        packet = IpPacket(start + rest, max(length, len(rest) + 2))
        assert isinstance(reassembler.feed(packet, length * 10**6), (IpPacket, Withheld))
