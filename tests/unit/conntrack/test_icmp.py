"""ICMP and ICMPv6: requests and their replies, errors about connections, IPv6's discovery."""
import struct

import pytest

from kit.packets import (
    ACK,
    CLIENT,
    CLIENT6,
    DSTOPTS,
    GRE,
    HOPOPTS,
    NO_NEXT,
    SCTP,
    SERVER,
    SERVER6,
    UDP,
    chunk,
    extended,
    icmp,
    ip,
    pptp,
    sctp,
    tcp,
    udp,
    udp_datagram,
    udplite,
)
from kit.traffic import TcpConversation
from pyfw.enums import CtState, Direction, Reason

NEW, ESTABLISHED, RELATED, INVALID, UNTRACKED = (
    CtState.NEW, CtState.ESTABLISHED, CtState.RELATED, CtState.INVALID, CtState.UNTRACKED)
ROUTER, ROUTER6 = "10.0.9.9", "fd00:9::9"
ENDS, ENDS6 = (CLIENT, SERVER), (CLIENT6, SERVER6)
INIT = chunk(1, struct.pack("!IIHHI", 77, 65535, 1, 1, 1))


# -- requests and replies ------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("ends", "request_type", "reply_type"), [
    (ENDS, 8, 0), (ENDS, 13, 14), (ENDS, 15, 16), (ENDS, 17, 18), (ENDS6, 128, 129), (ENDS6, 139, 140),
])
def test_a_request_and_its_replies(watch, ends, request_type, reply_type):
    client, server = ends
    assert watch.send(icmp(client, server, request_type, id=7)).state is NEW
    assert watch.send(icmp(client, server, request_type, id=7, seq=2)).state is NEW
    reply = watch.send(icmp(server, client, reply_type, id=7))
    assert (reply.state, reply.direction) == (ESTABLISHED, Direction.REPLY)
    assert watch.send(icmp(client, server, request_type, id=7, seq=3)).state is ESTABLISHED
    record = watch.only()
    assert (record["timeout"], record["assured"]) == (30, False)
    assert record["original"] == {"src": client, "dst": server, "type": request_type, "code": 0, "id": 7,
                                  "packets": 3, "bytes": 3 * (28 if client == CLIENT else 48)}
    assert record["reply"]["type"] == reply_type


def test_the_entry_keeps_its_30_s_after_the_reply(watch):
    watch.send(icmp(*ENDS, 8, id=7))
    watch.wait(10)
    watch.send(icmp(SERVER, CLIENT, 0, id=7))
    assert watch.only()["timeout"] == 30


@pytest.mark.parametrize("stray", [
    icmp(SERVER, CLIENT, 0, id=8), icmp(SERVER, CLIENT, 0, code=1, id=7), icmp(ROUTER, CLIENT, 0, id=7),
    icmp(SERVER, CLIENT, 14, id=7), icmp(CLIENT, SERVER, 0, id=7),
], ids=["another id", "another code", "another host", "another type", "from the asker"])
def test_a_reply_must_fit_its_request(watch, stray):
    watch.send(icmp(*ENDS, 8, id=7))
    judgement = watch.send(stray)
    assert (judgement.state, judgement.reason) == (INVALID, Reason.ICMP_NO_REQUEST)


@pytest.mark.parametrize(("ends", "type", "reason"), [
    *((ENDS, type, Reason.ICMP_NO_REQUEST) for type in (0, 1, 2, 6, 7, 9, 10, 14, 16, 18)),
    (ENDS, 19, Reason.ICMP_TYPE), (ENDS, 255, Reason.ICMP_TYPE),
    *((ENDS6, type, Reason.ICMP_NO_REQUEST) for type in (129, 138, 140, 141, 144, 150, 153, 255)),
])
def test_types_that_begin_nothing(watch, ends, type, reason):
    judgement = watch.send(icmp(*ends, type))
    assert (judgement.state, judgement.reason) == (INVALID, reason)


def test_icmp_belongs_to_its_family(watch):
    assert watch.send(ip(*ENDS, 58, bytes(8))).reason is Reason.ICMP_TYPE
    assert watch.send(ip(*ENDS6, 1, bytes(8))).reason is Reason.ICMP_TYPE


@pytest.mark.parametrize("type", [*range(130, 137), 143, 151, 152])
def test_discovery_is_untracked(watch, type):
    judgement = watch.send(icmp(*ENDS6, type, payload=bytes(16)))
    assert (judgement.state, judgement.direction, judgement.reason) == (UNTRACKED, Direction.NONE, Reason.NONE)
    assert watch.records() == []


# -- errors --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("first", "reply", "router", "error"), [
    *((udp(*ENDS, 5000, 53, b"who?"), udp(SERVER, CLIENT, 53, 5000), ROUTER, type) for type in (3, 4, 5, 11, 12)),
    *((udp(*ENDS6, 5000, 53), udp(SERVER6, CLIENT6, 53, 5000), ROUTER6, type) for type in (1, 2, 3, 4, 100, 127)),
    (tcp(*ENDS, 1, 2, 2), tcp(SERVER, CLIENT, 2, 1, 18, ack=1), ROUTER, 3),
    (icmp(*ENDS, 8, id=7), icmp(SERVER, CLIENT, 0, id=7), ROUTER, 11),
    (icmp(*ENDS6, 128, id=7), icmp(SERVER6, CLIENT6, 129, id=7), ROUTER6, 3),
    (udplite(*ENDS, 1, 2), udplite(SERVER, CLIENT, 2, 1), ROUTER, 3),
    (ip(*ENDS, 103, b""), ip(SERVER, CLIENT, 103, b""), ROUTER, 3),
    (ip(*ENDS, GRE, bytes(8)), ip(SERVER, CLIENT, GRE, bytes(8)), ROUTER, 3),
    (sctp(*ENDS, 9, 9, 0, INIT), sctp(SERVER, CLIENT, 9, 9, 77, chunk(6)), ROUTER, 3),
])
def test_an_error_is_related_to_the_connection_it_quotes(watch, first, reply, router, error):
    client, server = (ENDS6 if ":" in router else ENDS)
    assert watch.send(first).state is NEW
    watch.wait(1)
    before = watch.only()
    to_client = watch.send(icmp(router, client, error, payload=first))
    assert (to_client.state, to_client.direction) == (RELATED, Direction.REPLY)
    to_server = watch.send(icmp(router, server, error, payload=reply))
    assert (to_server.state, to_server.direction) == (RELATED, Direction.ORIGINAL)
    assert watch.only() == before, "neither state nor timer nor counters move"


def test_an_error_about_an_established_connection_is_related(tcp):
    tcp.open()
    quote = tcp.client.packet(ACK, bytes(100))
    assert tcp.watch.send(icmp(ROUTER, CLIENT, 3, code=4, payload=quote[:28])).state is RELATED


def test_a_connection_that_expired_has_no_errors(watch):
    first = udp(*ENDS, 5000, 53)
    watch.send(first)
    watch.wait(30)
    assert watch.send(icmp(ROUTER, CLIENT, 3, payload=first)).reason is Reason.ICMP_UNKNOWN


@pytest.mark.parametrize(("first", "enough"), [
    (udp(*ENDS, 5000, 53), 24), (tcp(*ENDS, 1, 2, 2), 24), (icmp(*ENDS, 8, id=7), 28), (ip(*ENDS, 103, b"abc"), 20),
    (udp(*ENDS6, 5000, 53), 44), (icmp(*ENDS6, 128, id=7), 48),
    (extended(*ENDS6, [HOPOPTS, DSTOPTS], UDP, udp_datagram(*ENDS6, 5000, 53)), 60),
], ids=["udp", "tcp", "icmp", "generic", "udp IPv6", "icmpv6", "udp after extensions"])
def test_how_much_an_error_must_quote(watch, first, enough):
    client, _, router = (*ENDS6, ROUTER6) if first[0] >> 4 == 6 else (*ENDS, ROUTER)
    error = 1 if router == ROUTER6 else 3
    watch.send(first)
    assert watch.send(icmp(router, client, error, payload=first[:enough])).state is RELATED
    for length in (enough - 1, enough - 2, 19, 1, 0):
        judgement = watch.send(icmp(router, client, error, payload=first[:length]))
        assert (judgement.state, judgement.reason) == (INVALID, Reason.ICMP_QUOTE), length


@pytest.mark.parametrize(("quote", "reason"), [
    (ip(*ENDS, UDP, udp_datagram(*ENDS, 5000, 53), fragment=1), Reason.ICMP_QUOTE),
    (ip(*ENDS, UDP, udp_datagram(*ENDS, 5000, 53), options=b"\1" * 40)[:60], Reason.ICMP_QUOTE),
    (pptp(*ENDS, 1, protocol=0x0800), Reason.ICMP_QUOTE),
    (udp(*ENDS, 5000, 54), Reason.ICMP_UNKNOWN),
    (udp(SERVER, CLIENT, 5000, 53), Reason.ICMP_UNKNOWN),
    (ip(*ENDS, SCTP, udp_datagram(*ENDS, 5000, 53)), Reason.ICMP_UNKNOWN),
    (icmp(*ENDS, 3, payload=udp(*ENDS, 5000, 53)), Reason.ICMP_UNKNOWN),
])
def test_quotes_that_lead_nowhere(watch, quote, reason):
    watch.send(udp(*ENDS, 5000, 53))
    judgement = watch.send(icmp(ROUTER, CLIENT, 3, payload=quote))
    assert (judgement.state, judgement.reason) == (INVALID, reason)


@pytest.mark.parametrize("length", [40 + 2, 40 + 7, 40 + 8])
def test_a_quote_that_ends_in_an_extension_header_still_names_its_protocol(watch, length):
    packet = extended(*ENDS6, [HOPOPTS], 89, b"hello")
    watch.send(packet)
    assert watch.send(icmp(ROUTER6, CLIENT6, 1, payload=packet[:length])).state is RELATED
    assert watch.send(icmp(ROUTER6, CLIENT6, 1, payload=packet[:40 + 1])).reason is Reason.ICMP_QUOTE


def test_a_quote_that_ends_in_an_extension_header_has_no_ports(watch):
    packet = extended(*ENDS6, [HOPOPTS], UDP, udp_datagram(*ENDS6, 0, 0))
    watch.send(packet)
    assert watch.send(icmp(ROUTER6, CLIENT6, 1, payload=packet[:48])).reason is Reason.ICMP_QUOTE


def test_a_quote_whose_extensions_lead_nowhere(watch):
    quote = extended(*ENDS6, [HOPOPTS], NO_NEXT, b"")
    assert watch.send(icmp(ROUTER6, CLIENT6, 1, payload=quote)).reason is Reason.ICMP_QUOTE


@pytest.mark.parametrize(("ends", "router", "foreigner", "error", "words"), [
    (ENDS, ROUTER, "10.0.0.66", 3, "outer daddr 10.0.0.66 != inner 10.0.0.2"),
    (ENDS6, ROUTER6, "fd00::66", 1, "outer daddr != inner saddr"),
])
def test_an_error_goes_to_who_sent_the_quoted_packet(watch, ends, router, foreigner, error, words):
    first = udp(*ends, 5000, 53)
    watch.send(first)
    judgement = watch.send(icmp(router, foreigner, error, payload=first))
    assert (judgement.state, judgement.reason, judgement.reason_text) == (INVALID, Reason.ICMP_OUTER, words)


# -- redirects of IPv6 ---------------------------------------------------------------------------------------------

def redirect(quote: bytes, *, src: str = "fe80::1", ttl: int = 255, option: int = 4) -> bytes:
    """RFC 4861, 4.5: target, destination, then the redirected packet as an option."""
    return icmp(src, CLIENT6, 137, id=0, seq=0, ttl=ttl,
                payload=bytes(32) + struct.pack("!BB6x", option, 1 + len(quote) // 8) + quote)


def test_a_routers_redirect_is_related_to_what_it_redirects(watch):
    first = udp(*ENDS6, 5000, 53)
    watch.send(first)
    assert watch.send(redirect(first)).state is RELATED
    assert watch.send(redirect(udp(*ENDS6, 5000, 54))).reason is Reason.ICMP_UNKNOWN
    assert watch.send(redirect(first[:30])).reason is Reason.ICMP_QUOTE


@pytest.mark.parametrize("fields", [{"src": ROUTER6}, {"ttl": 254}])
def test_a_redirect_from_beyond_the_link_is_invalid(watch, fields):
    first = udp(*ENDS6, 5000, 53)
    watch.send(first)
    assert watch.send(redirect(first, **fields)).reason is Reason.ICMP_REDIRECT


def test_unreachable_ports_end_nothing(watch):
    """The refused question may be asked again, and answered."""
    conversation = TcpConversation(watch)
    conversation.client.syn()
    watch.send(icmp(ROUTER, CLIENT, 3, code=3, payload=conversation.client.packet(2, seq=1000)))
    assert conversation.state == "SYN_SENT"
    assert conversation.server.synack().state is ESTABLISHED
