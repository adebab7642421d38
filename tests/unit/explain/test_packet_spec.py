"""Words to packets: what can be asked, and what the refusals say."""
from __future__ import annotations

from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

from kit.captures import LINK
from kit.packets import CLIENT, SERVER, chunk, sctp
from kit.traffic import TcpConversation, Watch
from pyfw.cli.frames import read_frame, without_files
from pyfw.enums import Hook
from pyfw.explain.packet_spec import PacketSpec, SpecError, packet_spec, read_spec
from pyfw.wire.summary import summarize


def asked(words: str, watch: Watch | None = None) -> PacketSpec:
    """As the command line asks, which reads capture files."""
    watch = watch or Watch()
    spec = read_spec(words.split())
    read_frame(spec)
    return packet_spec(spec, watch.engine, watch.now_ns)


@pytest.mark.parametrize(("words", "summary"), [
    ("tcp 10.0.0.5:4000 203.0.113.7:443", "10.0.0.5:4000 > 203.0.113.7:443 tcp S"),
    ("tcp 10.0.0.5 203.0.113.7:https --flags SYN,ACK", "10.0.0.5:40000 > 203.0.113.7:443 tcp S."),
    ("tcp 10.0.0.5 203.0.113.7:443 --flags none --length 50", "10.0.0.5:40000 > 203.0.113.7:443 tcp none 10 bytes"),
    ("6 [2001:db8::1]:1 [::2]:443", "[2001:db8::1]:1 > [::2]:443 tcp S"),
    ("udp 10.0.0.5:53 10.0.0.6:5353 --length 128", "10.0.0.5:53 > 10.0.0.6:5353 udp 100 bytes"),
    ("udplite 10.0.0.5:53 10.0.0.6:5353", "10.0.0.5:53 > 10.0.0.6:5353 udplite 0 bytes"),
    ("sctp 10.0.0.5:53 10.0.0.6:5353", "10.0.0.5:53 > 10.0.0.6:5353 sctp"),
    ("icmp 10.0.0.5 10.0.0.6", "10.0.0.5 > 10.0.0.6 icmp echo request id 1 seq 1"),
    ("icmp echo 10.0.0.5 10.0.0.6 --id 7", "10.0.0.5 > 10.0.0.6 icmp echo request id 7 seq 1"),
    ("icmp echo-reply 10.0.0.5 10.0.0.6", "10.0.0.5 > 10.0.0.6 icmp echo reply id 1 seq 1"),
    ("icmp 3/1 10.0.0.5 10.0.0.6 --quote udp 10.0.0.6:1 9.9.9.9:53", "10.0.0.5 > 10.0.0.6 icmp unreachable code 1"),
    ("icmpv6 echo-request fe80::1 fe80::2", "fe80::1 > fe80::2 icmp6 echo request id 1 seq 1"),
    ("ipv6-icmp packet-too-big fe80::1 fe80::2 --quote gre fe80::2 fe80::3", "fe80::1 > fe80::2 icmp6 packet too big"),
    ("gre 10.0.0.5 10.0.0.6", "10.0.0.5 > 10.0.0.6 gre"),
    ("99 10.0.0.5 10.0.0.6 --ttl 1", "10.0.0.5 > 10.0.0.6 protocol 99"),
    ("hex 4500001c 0000000040110000 0a000005 0a000006 0035003500080000", "10.0.0.5:53 > 10.0.0.6:53 udp 0 bytes"),
])
def test_packets(words: str, summary: str) -> None:
    assert summarize(asked(words).data) == summary


@pytest.mark.parametrize("words", [
    "tcp 10.0.0.5:4000 203.0.113.7:443 --length 45", "udp 10.0.0.5:1 10.0.0.6:2 --length 61", "icmp echo 10.0.0.5 10.0.0.6 --length 77",
    "sctp 10.0.0.5:53 10.0.0.6:5353", "udplite [::1]:1 [::2]:2", "icmpv6 [::1] ::2", "tcp [::1]:1 [::2]:2",
    "gre 10.0.0.5 10.0.0.6 --tos 8 --ttl 3"])
def test_lengths_and_checksums_are_right(words: str) -> None:
    if "icmpv6 [" in words:
        words = words.replace("[::1]", "::1")
    asked_about = asked(words)
    judgement = Watch().send(asked_about.data)
    assert judgement.reason_text == ""
    data = asked_about.data
    parsed = IP(data) if data[0] >> 4 == 4 else IPv6(data)
    assert bytes(parsed) == data
    for layer in (IP, TCP, UDP, ICMP, ICMPv6EchoRequest):
        if layer in parsed:
            field = "cksum" if layer is ICMPv6EchoRequest else "chksum"
            right = getattr(parsed[layer], field)
            delattr(parsed[layer], field)
            assert getattr((IP if IP in parsed else IPv6)(bytes(parsed))[layer], field) == right


@pytest.mark.parametrize(("words", "hook"), [
    ("", Hook.FORWARD), ("--in eth0", Hook.INPUT), ("--out eth0", Hook.OUTPUT), ("--in eth0 --out eth1", Hook.FORWARD),
    ("--in eth0 --hook FORWARD", Hook.FORWARD), ("--hook output", Hook.OUTPUT),
])
def test_where_it_is_met(words: str, hook: Hook) -> None:
    assert asked(f"icmp 10.0.0.1 10.0.0.2 {words}").hook == hook


def test_what_else_can_be_said() -> None:
    found = asked("udp 10.0.0.1:1 10.0.0.2:2 --mark 0x10 --mac 02:00:00:00:00:01 --uid 33 --out lo")
    assert (found.mark, found.hardware, found.owner, found.outdev) == (16, b"\2\0\0\0\0\1", (33, 0), "lo")


@pytest.mark.parametrize(("words", "complaint"), [
    ("", "the following arguments are required: WORD"),
    ("tcp 10.0.0.5:1", "tcp SRC:PORT DST:PORT is expected, not 1 words behind tcp"),
    ("tcp 10.0.0.5:1 10.0.0.6", "the destination's port is missing"),
    ("tcp 10.0.0.5:1 10.0.0.6:", "the port behind the colon is missing"),
    ("tcp 10.0.0.5:1 [::1]:2", "of different families"),
    ("tcp 10.0.0.5:1 [::1", "write [2001:db8::1]:443"),
    ("tcp 10.0.0.5:1 example.org:2", "names are not resolved"),
    ("tcp 10.0.0.5:1 10.0.0.6:70000", "70000"),
    ("tcp 10.0.0.5:1 10.0.0.6:2 --flags SYM", "unknown TCP flag 'SYM'"),
    ("tcp 10.0.0.5:1 10.0.0.6:2 --length 39", "the headers alone are 40 bytes"),
    ("udp 10.0.0.5:1 10.0.0.6:2 --flags SYN", "--flags is about tcp"),
    ("gre 10.0.0.5:1 10.0.0.6", "this protocol has no ports"),
    ("udpp 10.0.0.5:1 10.0.0.6:2", "unknown protocol 'udpp'; did you mean udp"),
    ("all 10.0.0.5 10.0.0.6", "ask about one"),
    ("icmp eco 10.0.0.5 10.0.0.6", "unknown ICMP type 'eco'"),
    ("icmp ::1 ::2", "icmp goes between IPv4 addresses"),
    ("icmp port-unreachable 10.0.0.5 10.0.0.6", "say which with --quote"),
    ("icmp echo 10.0.0.5 10.0.0.6 --quote tcp 1.1.1.1:1 1.1.1.1:2", "--quote belongs to an ICMP error"),
    ("hex 4", "pairs of hexadecimal digits"),
    ("hex", "hex needs the bytes of a packet"),
    ("pcap", "pcap takes one file"),
    ("pcap /nonexistent", "/nonexistent"),
    ("icmp 10.0.0.5 10.0.0.6 --in averyveryverylongname", "longer than 15 bytes"),
    ("icmp 10.0.0.5 10.0.0.6 --mark x", "'x' is no number from 0 to 4294967295"),
    ("icmp 10.0.0.5 10.0.0.6 --mac 1", "no Ethernet address"),
    ("icmp 10.0.0.5 10.0.0.6 --hook PREROUTING", "invalid choice"),
    ("icmp 10.0.0.5 10.0.0.6 --bogus", "unrecognized arguments: --bogus"),
])
def test_refusals(words: str, complaint: str) -> None:
    with pytest.raises(SpecError) as error:
        asked(words)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


# -- the next packet of a known connection -----------------------------------------------------------------------------------


def question_of(end) -> str:
    return f"tcp {end.address}:{end.port} {end.peer.address}:{end.peer.port}"


def test_the_next_packet_fits(watch: Watch) -> None:
    """Each packet of a conversation that is asked about, rather than made, is what the connection waits for."""
    tcp = TcpConversation(watch)
    for end, flags in ((tcp.client, "S"), (tcp.server, "S."), (tcp.client, "."), (tcp.server, "."), (tcp.client, ".")):
        found = asked(question_of(end), watch)
        assert summarize(found.data).endswith(f" tcp {flags}")
        judgement = watch.send(found.data)
        assert judgement.reason_text == ""
        again = asked(question_of(end), watch)
        assert watch.send(again.data).state == judgement.state
    assert watch.only()["state"] == "ESTABLISHED"


def test_a_connection_that_is_over_begins_anew(watch: Watch) -> None:
    tcp = TcpConversation(watch).open().close()
    assert summarize(asked(question_of(tcp.client), watch).data).endswith(" tcp S")
    assert watch.send(asked(question_of(tcp.client), watch).data).state.name == "NEW"


def test_what_is_said_is_not_changed(watch: Watch) -> None:
    TcpConversation(watch).open()
    found = asked(f"tcp {CLIENT}:40000 {SERVER}:80 --flags RST --seq 5 --ack 6", watch)
    assert found.notes == ()
    assert summarize(found.data).endswith(" tcp R")
    assert found.data[24:32] == (5).to_bytes(4) + (6).to_bytes(4)


def test_the_tag_of_a_known_sctp_association(watch: Watch) -> None:
    watch.send(sctp(CLIENT, SERVER, 1, 2, 0, chunk(1, (77).to_bytes(4) + bytes(11) + b"\1")))
    watch.send(sctp(SERVER, CLIENT, 2, 1, 77, chunk(2, (88).to_bytes(4) + bytes(11) + b"\1")))
    found = asked(f"sctp {CLIENT}:1 {SERVER}:2", watch)
    assert found.data[24:28] == (88).to_bytes(4)
    assert found.notes == ("chunk DATA",)


# -- capture files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    path = tmp_path / "c.pcap"
    wrpcap(str(path), [LINK / IP(src="10.0.0.5", dst="10.0.0.6") / UDP(sport=1, dport=2), Ether(type=0x88CC) / b"lldp",
                       LINK / IP(src="10.0.0.7", dst="10.0.0.6") / UDP(sport=1, dport=2) / bytes(40_000)])
    return path


def test_a_frame_of_a_capture(capture: Path) -> None:
    assert summarize(asked(f"pcap {capture} --in eth0").data).startswith("10.0.0.5:1 >")
    assert summarize(asked(f"pcap {capture} --frame 3").data).startswith("10.0.0.7:1 >")


@pytest.mark.parametrize(("frame", "complaint"), [(2, "frame 2 carries no IP packet"), (9, "has no frame 9: it has 3")])
def test_frames_that_are_none(capture: Path, frame: int, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        asked(f"pcap {capture} --frame {frame}")


def test_a_capture_goes_to_the_daemon_as_bytes(capture: Path) -> None:
    words = without_files(["--json", "pcap", str(capture), "--frame", "3", "--in", "eth0"])
    assert str(capture) not in words
    assert sum(map(len, words)) < 60_000
    found = asked(" ".join(words))
    assert found.indev == "eth0"
    assert found.length == 40_028
    assert len(found.data) == 16 * 1024
    assert without_files(["tcp", "1.1.1.1:1", "2.2.2.2:2"]) == ["tcp", "1.1.1.1:1", "2.2.2.2:2"]
