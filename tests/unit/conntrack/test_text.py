"""Lines of /proc/net/ip_conntrack (Linux 2.6.18) and nf_conntrack, byte for byte."""
import struct

import pytest

from kit.packets import CLIENT, CLIENT6, SERVER, SERVER6, SYN, chunk, gre, icmp, ip, pptp, sctp, tcp, udp, udplite
from kit.traffic import TcpConversation, Watch
from pyfw.engine.engine import Engine

ENDS, ENDS6 = (CLIENT, SERVER), (CLIENT6, SERVER6)
THERE6 = "src=fd00:0000:0000:0000:0000:0000:0000:0002 dst=fd00:0001:0000:0000:0000:0000:0000:0002 "
BACK6 = "src=fd00:0001:0000:0000:0000:0000:0000:0002 dst=fd00:0000:0000:0000:0000:0000:0000:0002 "
SYN_OPTIONS = b"\2\4\5\xb4\4\2\x08\x0a" + bytes(8) + b"\1\3\3\7"        # 60 bytes, as Linux sends it


@pytest.fixture
def silent():
    """A gateway that does not count."""
    return Watch(accounting=False)


def line_of(watch: Watch, *packets: bytes, style: str = "proc") -> str:
    for packet in packets:
        watch.send(packet)
    watch.wait(0.5)             # the second that has begun is not whole any more
    (line,) = watch.lines(style)
    return line


# -- the default, as Linux 2.6.18 wrote it -------------------------------------------------------------------------

def test_an_established_connection(silent):
    TcpConversation(silent).open()
    assert line_of(silent) == ("tcp      6 431999 ESTABLISHED src=10.0.0.2 dst=10.0.1.2 sport=40000 dport=80 "
                               "src=10.0.1.2 dst=10.0.0.2 sport=80 dport=40000 [ASSURED] mark=0 use=1")


def test_an_unanswered_syn_with_counters(watch):
    assert line_of(watch, tcp(*ENDS, 40001, 81, SYN, options=SYN_OPTIONS)) == (
        "tcp      6 119 SYN_SENT src=10.0.0.2 dst=10.0.1.2 sport=40001 dport=81 packets=1 bytes=60 [UNREPLIED] "
        "src=10.0.1.2 dst=10.0.0.2 sport=81 dport=40001 packets=0 bytes=0 mark=0 use=1")


def test_a_question(silent):
    assert line_of(silent, udp(*ENDS, 5000, 53)) == (
        "udp      17 29 src=10.0.0.2 dst=10.0.1.2 sport=5000 dport=53 [UNREPLIED] "
        "src=10.0.1.2 dst=10.0.0.2 sport=53 dport=5000 mark=0 use=1")


def test_an_echo(silent):
    assert line_of(silent, icmp(*ENDS, 8, id=1234), icmp(SERVER, CLIENT, 0, id=1234)) == (
        "icmp     1 29 src=10.0.0.2 dst=10.0.1.2 type=8 code=0 id=1234 "
        "src=10.0.1.2 dst=10.0.0.2 type=0 code=0 id=1234 mark=0 use=1")


def test_a_protocol_without_a_name(silent):
    assert line_of(silent, ip(*ENDS, 46, b"")) == (
        "unknown  46 599 src=10.0.0.2 dst=10.0.1.2 [UNREPLIED] src=10.0.1.2 dst=10.0.0.2 mark=0 use=1")


def test_counters_of_both_directions(watch):
    TcpConversation(watch).open().client.data(100)
    assert line_of(watch) == (
        "tcp      6 299 ESTABLISHED src=10.0.0.2 dst=10.0.1.2 sport=40000 dport=80 packets=3 bytes=220 "
        "src=10.0.1.2 dst=10.0.0.2 sport=80 dport=40000 packets=1 bytes=40 [ASSURED] mark=0 use=1")


@pytest.mark.parametrize(("packet", "beginning"), [
    (udplite(*ENDS, 5, 6), "udplite  136 29 src=10.0.0.2 dst=10.0.1.2 sport=5 dport=6 [UNREPLIED] "),
    (sctp(*ENDS, 5, 6, 0, chunk(1, struct.pack("!IIHHI", 1, 1, 1, 1, 1))),
     "sctp     132 9 CLOSED src=10.0.0.2 dst=10.0.1.2 sport=5 dport=6 [UNREPLIED] "),
    (sctp(*ENDS, 5, 6, 9, chunk(4)), "sctp     132 29 HEARTBEAT_SENT src=10.0.0.2 dst=10.0.1.2 sport=5 dport=6 "),
    (gre(*ENDS), "gre      47 29 timeout=30, stream_timeout=180 "
                 "src=10.0.0.2 dst=10.0.1.2 srckey=0x0 dstkey=0x0 [UNREPLIED] "
                 "src=10.0.1.2 dst=10.0.0.2 srckey=0x0 dstkey=0x0 mark=0 use=1"),
    (pptp(*ENDS, 0x0A0F), "gre      47 29 timeout=30, stream_timeout=180 "
                          "src=10.0.0.2 dst=10.0.1.2 srckey=0x0 dstkey=0xa0f [UNREPLIED] "
                          "src=10.0.1.2 dst=10.0.0.2 srckey=0xa0f dstkey=0x0 mark=0 use=1"),
    (udp("255.255.255.255", "0.0.0.0", 65535, 0),
     "udp      17 29 src=255.255.255.255 dst=0.0.0.0 sport=65535 dport=0 [UNREPLIED] "),
    (ip(*ENDS, 255, b""), "unknown  255 599 src=10.0.0.2 dst=10.0.1.2 [UNREPLIED] "),
], ids=["udplite", "sctp", "sctp heartbeat", "gre", "pptp", "longest addresses", "unknown"])
def test_how_lines_begin(silent, packet, beginning):
    assert line_of(silent, packet).startswith(beginning)


@pytest.mark.parametrize(("request_type", "reply_type"), [(8, 0), (13, 14), (15, 16), (17, 18)])
def test_a_reply_tuple_of_icmp_has_the_answers_type(silent, request_type, reply_type):
    assert line_of(silent, icmp(*ENDS, request_type, id=65535)) == (
        f"icmp     1 29 src=10.0.0.2 dst=10.0.1.2 type={request_type} code=0 id=65535 [UNREPLIED] "
        f"src=10.0.1.2 dst=10.0.0.2 type={reply_type} code=0 id=65535 mark=0 use=1")


# -- nf_conntrack: the family first, IPv6 in eight full groups -----------------------------------------------------

def test_ipv4_in_nf_style(silent):
    TcpConversation(silent).open()
    assert line_of(silent, style="nf") == (
        "ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.2 dst=10.0.1.2 sport=40000 dport=80 "
        "src=10.0.1.2 dst=10.0.0.2 sport=80 dport=40000 [ASSURED] mark=0 use=1")


def test_ipv6_in_nf_style(silent):
    TcpConversation(silent, *ENDS6).open()
    assert line_of(silent, style="nf") == (
        f"ipv6     10 tcp      6 431999 ESTABLISHED {THERE6}sport=40000 dport=80 {BACK6}sport=80 dport=40000 "
        "[ASSURED] mark=0 use=1")


def test_icmpv6_in_nf_style_with_counters(watch):
    assert line_of(watch, icmp(*ENDS6, 128, id=7), style="nf") == (
        f"ipv6     10 icmpv6   58 29 {THERE6}type=128 code=0 id=7 packets=1 bytes=48 [UNREPLIED] "
        f"{BACK6}type=129 code=0 id=7 packets=0 bytes=0 mark=0 use=1")


@pytest.mark.parametrize(("address", "groups"), [
    ("::1", "0000:0000:0000:0000:0000:0000:0000:0001"),
    ("2001:db8:ffff::abcd", "2001:0db8:ffff:0000:0000:0000:0000:abcd"),
    ("::ffff:192.0.2.1", "0000:0000:0000:0000:0000:ffff:c000:0201"),
])
def test_addresses_are_never_shortened(silent, address, groups):
    assert f"src={groups} " in line_of(silent, udp(address, SERVER6, 1, 2), style="nf")


# -- the last second -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("seconds", "left"), [(0, 30), (0.001, 29), (29, 1), (29.001, 0), (29.999, 0)])
def test_seconds_left_are_whole_ones(silent, seconds, left):
    silent.send(udp(*ENDS, 5000, 53))
    silent.wait(seconds)
    (line,) = silent.lines()
    assert line.split()[2] == str(left)


def test_the_longest_line_is_whole():
    """IPv6, and every number as long as it can be."""
    memory = bytearray(Engine.memory_size(1, 1))
    watch = Watch(memory=memory, max_entries=1, expect_max=1)
    longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff"
    watch.send(sctp(longest + "e", longest + "d", 65535, 65534, 9, chunk(4)))
    entry = 4096 + 192
    memory[entry + 48:entry + 56] = b"\xff" * 8          # Conn.expires_ns
    memory[entry + 60:entry + 64] = b"\xff" * 4          # Conn.mark
    memory[entry + 128:entry + 160] = b"\xff" * 32       # Conn.packets, Conn.bytes
    watch.now_s = 0
    most, there, back = 2**64 - 1, f"src={longest}e dst={longest}d ", f"src={longest}d dst={longest}e "
    assert watch.lines("nf") == [
        f"ipv6     10 sctp     132 {most // 10**9} HEARTBEAT_SENT {there}sport=65535 dport=65534 "
        f"packets={most} bytes={most} [UNREPLIED] {back}sport=65534 dport=65535 packets={most} bytes={most} "
        f"mark={2**32 - 1} use=1"]
