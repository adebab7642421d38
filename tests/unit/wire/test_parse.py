"""From bytes to a packet: lengths, options, extension headers, fragments, checksums, cut captures."""
import struct

import pytest

from kit.packets import (
    ACK,
    AH,
    CLIENT,
    CLIENT6,
    DSTOPTS,
    FRAGMENT,
    HOPOPTS,
    ICMPV6,
    NO_NEXT,
    ROUTING,
    SERVER,
    SERVER6,
    SYN,
    TCP,
    UDP,
    extended,
    extension,
    icmp,
    ip,
    sctp,
    spoil,
    tcp,
    tcp_segment,
    udp,
    udp_datagram,
    udplite,
)
from kit.traffic import Watch
from pyfw.enums import CtState, Direction, Hook, Reason, Verdict

NEW, ESTABLISHED, INVALID = CtState.NEW, CtState.ESTABLISHED, CtState.INVALID
ENDS, ENDS6 = (CLIENT, SERVER), (CLIENT6, SERVER6)
DATAGRAM6 = udp_datagram(*ENDS6, 5000, 53, b"who?")


def with_length(packet: bytes, length: int) -> bytes:
    """The IPv4 packet with another total length, and its header checksum made good."""
    return ip(*ENDS, packet[9], packet[20:], length=length)


# -- what no stack would take is dropped before any rule -----------------------------------------------------------

@pytest.mark.parametrize(("data", "reason"), [
    (b"", Reason.IP_TRUNCATED),
    (b"\x45", Reason.IP_TRUNCATED),
    (udp(*ENDS, 1, 2)[:19], Reason.IP_TRUNCATED),
    (udp(*ENDS6, 1, 2)[:39], Reason.IP_TRUNCATED),
    (udp(*ENDS6, 1, 2)[:47], Reason.IP_TRUNCATED),
    (with_length(udp(*ENDS, 1, 2), 29), Reason.IP_TRUNCATED),
    (with_length(udp(*ENDS, 1, 2), 19), Reason.IP_HEADER),
    (b"\x44" + udp(*ENDS, 1, 2)[1:], Reason.IP_HEADER),
    (b"\x4f" + udp(*ENDS, 1, 2)[1:], Reason.IP_HEADER),
    (spoil(udp(*ENDS, 1, 2), 8), Reason.IP_HEADER),
    (b"\x05" + udp(*ENDS, 1, 2)[1:], Reason.NOT_IP),
    (b"\xff" * 64, Reason.NOT_IP),
])
def test_packets_that_no_stack_would_take(watch, data, reason):
    judgement = watch.send(data)
    assert (judgement.verdict, judgement.state, judgement.reason) == (Verdict.DROP, INVALID, reason)
    assert (judgement.direction, judgement.rule) == (Direction.NONE, None)


def test_padding_behind_a_packet_does_not_count(watch):
    watch.send(udp(*ENDS, 1, 2) + bytes(18))
    assert watch.only()["original"]["bytes"] == 28


@pytest.mark.parametrize("words", range(1, 11))
def test_ipv4_options_are_stepped_over(watch, words):
    packet = ip(*ENDS, UDP, udp_datagram(*ENDS, 5000, 53), options=b"\1" * 4 * words)
    assert watch.send(packet).state is NEW
    assert watch.only()["original"]["dport"] == 53


# -- extension headers ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("headers", [
    [], [HOPOPTS], [DSTOPTS], [ROUTING], [AH], [FRAGMENT], [HOPOPTS, DSTOPTS, ROUTING, FRAGMENT, AH, DSTOPTS],
    [DSTOPTS] * 30,
])
def test_extension_headers_are_stepped_over(watch, headers):
    assert watch.send(extended(*ENDS6, headers, UDP, DATAGRAM6)).state is NEW
    assert watch.only()["original"]["dport"] == 53
    assert watch.send(udp(SERVER6, CLIENT6, 53, 5000)).direction is Direction.REPLY


@pytest.mark.parametrize(("headers", "transport"), [
    ([NO_NEXT], b""), ([HOPOPTS, NO_NEXT], b""), ([HOPOPTS], b"\x3b\0"),
])
def test_chains_that_end_in_nothing(watch, headers, transport):
    protocol = NO_NEXT if headers[-1] == NO_NEXT else DSTOPTS
    judgement = watch.send(extended(*ENDS6, [h for h in headers if h != NO_NEXT], protocol, transport))
    assert (judgement.state, judgement.reason) == (INVALID, Reason.NO_TRANSPORT)


def test_an_extension_header_longer_than_the_packet(watch):
    giant = struct.pack("!BB6x", UDP, 255)
    judgement = watch.send(ip(*ENDS6, HOPOPTS, giant + DATAGRAM6))
    assert (judgement.state, judgement.reason) == (INVALID, Reason.UDP_TRUNCATED)


@pytest.mark.parametrize("cut", [0, 1])
def test_a_length_of_0_behind_hop_by_hop_options_is_all_there_is(watch, cut):
    packet = ip(*ENDS6, HOPOPTS, struct.pack("!BB6x", UDP, 0) + DATAGRAM6, length=40)
    assert watch.send(packet[:len(packet) - cut], length=len(packet)).state is NEW
    assert watch.only()["original"]["bytes"] == len(packet)


def test_a_length_of_0_is_0_elsewhere(watch):
    assert watch.send(ip(*ENDS6, UDP, DATAGRAM6, length=40)).reason is Reason.UDP_TRUNCATED


# -- fragments -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("packet", [
    ip(*ENDS, UDP, bytes(16), fragment=1), ip(*ENDS, TCP, tcp_segment(*ENDS, 1, 2, SYN), fragment=0x2001),
    ip(*ENDS6, FRAGMENT, struct.pack("!BBHI", UDP, 0, 8, 7) + bytes(16)),
    ip(*ENDS6, FRAGMENT, struct.pack("!BBHI", UDP, 0, 9, 7) + bytes(16)),
], ids=["IPv4 last", "IPv4 middle", "IPv6 last", "IPv6 middle"])
def test_later_fragments_have_no_transport_header(watch, packet):
    judgement = watch.send(packet)
    assert (judgement.state, judgement.reason) == (INVALID, Reason.FRAGMENT)


def in_fragment(place: int, payload: bytes, protocol: int = UDP) -> bytes:
    return struct.pack("!BBHI", protocol, 0, place, 7) + payload


@pytest.mark.parametrize("payload", [
    in_fragment(1, DATAGRAM6), in_fragment(7, DATAGRAM6), in_fragment(0, in_fragment(1, DATAGRAM6), FRAGMENT),
    in_fragment(1, in_fragment(0, DATAGRAM6), FRAGMENT), in_fragment(1, b"", 89)])
def test_a_first_fragment_of_ipv6_is_tracked_by_what_is_in_it(watch, payload):
    """The kernel passes on those that it does not put together: of a length that is no multiple of 8, or within another."""
    assert watch.send(ip(*ENDS6, FRAGMENT, payload)).state is NEW


def test_a_first_fragment_of_ipv6_without_a_transport_header(watch):
    judgement = watch.send(ip(*ENDS6, FRAGMENT, in_fragment(1, b"", NO_NEXT)))
    assert (judgement.state, judgement.reason) == (INVALID, Reason.NO_TRANSPORT)


def test_dont_fragment_is_no_fragment(watch):
    assert watch.send(ip(*ENDS, UDP, udp_datagram(*ENDS, 1, 2), fragment=0x4000)).state is NEW


# -- checksums -----------------------------------------------------------------------------------------------------

SUMMED = [
    (tcp(*ENDS, 1, 2, SYN, payload=b"odd"), Reason.TCP_CHECKSUM),
    (tcp(*ENDS6, 1, 2, SYN, payload=b"even"), Reason.TCP_CHECKSUM),
    (udp(*ENDS, 1, 2, b"odd"), Reason.UDP_CHECKSUM),
    (udp(*ENDS6, 1, 2, b"even"), Reason.UDP_CHECKSUM),
    (udplite(*ENDS, 1, 2, b"odd"), Reason.UDP_CHECKSUM),
    (udplite(*ENDS6, 1, 2, b"12345678", coverage=16), Reason.UDP_CHECKSUM),
    (icmp(*ENDS, 8, payload=b"odd"), Reason.ICMP_CHECKSUM),
    (icmp(*ENDS6, 128, payload=b"even"), Reason.ICMPV6_CHECKSUM),
    (sctp(*ENDS, 1, 2, 0, struct.pack("!BBHIIHHI4x", 1, 0, 24, 7, 1, 1, 1, 1)), Reason.SCTP_CHECKSUM),
]
SUMMED_IDS = ["tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "icmp", "icmpv6", "sctp"]


@pytest.mark.parametrize(("packet", "reason"), SUMMED, ids=SUMMED_IDS)
def test_damage_is_told(packet, reason):
    assert Watch().send(packet).reason is Reason.NONE
    for position in (-1, -2, -3):
        judgement = Watch().send(spoil(packet, position))
        assert (judgement.state, judgement.reason) == (INVALID, reason), position


@pytest.mark.parametrize(("packet", "reason"), SUMMED, ids=SUMMED_IDS)
@pytest.mark.parametrize(("settings", "options"), [
    ({}, {"trusted": True}), ({}, {"hook": Hook.OUTPUT}), ({"checksum": False}, {}),
], ids=["trusted", "our own packet", "switched off"])
def test_when_checksums_are_not_verified(packet, reason, settings, options):
    assert Watch(**settings).send(spoil(packet), **options).state is NEW


@pytest.mark.parametrize("packet", [packet for packet, _ in SUMMED], ids=SUMMED_IDS)
def test_what_was_cut_cannot_be_verified(watch, packet):
    """And is counted by its real length."""
    assert watch.send(packet[:-1], length=len(packet)).state is NEW
    assert watch.only()["original"]["bytes"] == len(packet)


def test_addresses_belong_to_the_sum():
    """An address changed on the way, with the IP header's sum mended, as a careless NAT would."""
    segment = tcp_segment(*ENDS, 1, 2, SYN)
    assert Watch().send(ip(CLIENT, "10.0.1.3", TCP, segment)).reason is Reason.TCP_CHECKSUM


# -- cut captures --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("kept", "reason"), [
    (19, Reason.IP_TRUNCATED), (20, Reason.TCP_TRUNCATED), (39, Reason.TCP_TRUNCATED), (40, Reason.NONE),
])
def test_a_cut_packet_needs_its_headers(watch, kept, reason):
    packet = tcp(*ENDS, 1, 2, SYN, payload=bytes(100))
    assert watch.send(packet[:kept], length=len(packet)).reason is reason


def test_options_that_were_cut_off_are_not_read(watch):
    packet = tcp(*ENDS, 1, 2, SYN, options=b"\3\3\7" * 10)
    for kept in range(40, len(packet)):
        assert Watch().send(packet[:kept], length=len(packet)).state is NEW


def test_less_than_the_ip_length_is_not_cut_but_truncated(watch):
    packet = udp(*ENDS, 1, 2, bytes(100))
    assert watch.send(packet[:60], length=len(packet) - 1).reason is Reason.IP_TRUNCATED


@pytest.mark.parametrize("words", [0, 4, 6, 15])
def test_a_tcp_header_is_20_bytes_at_least_and_no_longer_than_the_packet(watch, words):
    segment = bytearray(tcp_segment(*ENDS, 1, 2, ACK))
    segment[12] = words << 4
    assert watch.send(ip(*ENDS, TCP, bytes(segment)), trusted=True).reason is Reason.TCP_TRUNCATED


# -- arguments of judge() ------------------------------------------------------------------------------------------

def test_interface_names_that_cannot_be_are_refused(watch):
    with pytest.raises(ValueError, match="longer than 15"):
        watch.engine.judge(udp(*ENDS, 1, 2), Hook.FORWARD, "an-interface-name")


def test_hooks_that_are_none_are_refused(watch):
    with pytest.raises(ValueError, match="5 is not a hook"):
        watch.engine.judge(udp(*ENDS, 1, 2), 5)


def test_the_mark_passes_through(watch):
    assert watch.send(udp(*ENDS, 1, 2), mark=0xFFFFFFFF).mark == 0xFFFFFFFF


def test_totals_add_up(watch):
    packets = [udp(*ENDS, 1, 2), udp(SERVER, CLIENT, 2, 1), b"\0", icmp(*ENDS, 0), ip(*ENDS6, ICMPV6, bytes(4)),
               icmp(*ENDS6, 135, payload=extension(AH, 0))]
    for packet in packets:
        watch.send(packet)
    counters = watch.engine.counters()
    assert counters["packets"] == len(packets)
    assert counters["bytes"] == sum(map(len, packets))
    assert counters["states"] == {"INVALID": 3, "NEW": 1, "ESTABLISHED": 1, "RELATED": 0, "UNTRACKED": 1}
    assert counters["verdicts"] == {"ACCEPT": 5, "DROP": 1}
    assert counters["verdict_bytes"] == {"ACCEPT": counters["bytes"] - 1, "DROP": 1}
    assert counters["reasons"] == {"NOT_IP": 1, "ICMP_NO_REQUEST": 1, "ICMP_TRUNCATED": 1}
