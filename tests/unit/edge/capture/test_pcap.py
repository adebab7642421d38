"""Capture files: every format, link layer and kind of damage, read as the formats' own documents say."""
import gzip
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP

from kit.captures import LINK, block, enhanced, ethernet, interface, pcap, pcapng, section, simple, syn, syn6
from pyfw.edge.capture.pcap import Capture, CaptureError, Record
from pyfw.wire.ip_packet import IpPacket

SYN, SYN6 = syn(), syn6()
COOKED_V1 = struct.pack(">HHH8s", 0, 1, 6, bytes(8))
COOKED_V2 = struct.pack(">HIHBB8s", 0, 3, 1, 0, 6, bytes(8))      # what follows its protocol


@pytest.fixture
def read(tmp_path: Path):
    def read_bytes(content: bytes) -> list[Record]:
        path = tmp_path / "capture"
        path.write_bytes(content)
        with Capture(path) as capture:
            return list(capture)
    return read_bytes


def cooked_v2(protocol: int, packet: bytes) -> bytes:
    return struct.pack(">H", protocol) + COOKED_V2 + packet


@pytest.mark.parametrize(("link_type", "frame", "packet"), [
    pytest.param(1, ethernet(SYN), SYN, id="ethernet"),
    pytest.param(1, ethernet(SYN6), SYN6, id="ethernet, IPv6"),
    pytest.param(1, ethernet(SYN, 0x8100), SYN, id="802.1Q"),
    pytest.param(1, ethernet(SYN6, 0x88A8, 0x8100), SYN6, id="802.1ad around 802.1Q"),
    pytest.param(1, ethernet(SYN, 0x9100, 0x8100, 0x8100), SYN, id="three tags"),
    pytest.param(1, ethernet(SYN) + bytes(6), SYN, id="ethernet, padded"),
    pytest.param(0x50000001, ethernet(SYN) + b"\1\2\3\4", SYN, id="ethernet with its frame check sequence"),
    pytest.param(1, ethernet(SYN, ethertype=0x0806), None, id="ARP's ethertype"),
    pytest.param(1, bytes(LINK / ARP()), None, id="ARP"),
    pytest.param(1, ethernet(SYN6, ethertype=0x0800), None, id="IPv6 that calls itself IPv4"),
    pytest.param(1, ethernet(SYN)[:14], None, id="ethernet without its payload"),
    pytest.param(1, b"\2\0", None, id="two bytes"),
    pytest.param(1, ethernet(b"", 0x8100, ethertype=0x8100), None, id="tags and nothing else"),
    *[pytest.param(kind, SYN, SYN, id=f"raw {kind}") for kind in (12, 14, 101, 228)],
    *[pytest.param(kind, SYN6, SYN6, id=f"raw {kind}, IPv6") for kind in (12, 14, 101, 229)],
    pytest.param(229, SYN, None, id="IPv4 where the link type says IPv6"),
    pytest.param(101, b"", None, id="raw, empty"),
    pytest.param(101, b"\x00garbage", None, id="raw, neither version"),
    pytest.param(113, COOKED_V1 + b"\x08\x00" + SYN, SYN, id="cooked v1"),
    pytest.param(113, COOKED_V1 + b"\x86\xdd" + SYN6, SYN6, id="cooked v1, IPv6"),
    pytest.param(113, COOKED_V1 + b"\x81\x00\x00\x64\x08\x00" + SYN, SYN, id="cooked v1, 802.1Q"),
    pytest.param(276, cooked_v2(0x0800, SYN), SYN, id="cooked v2"),
    pytest.param(276, cooked_v2(0x86DD, SYN6), SYN6, id="cooked v2, IPv6"),
    pytest.param(276, cooked_v2(0x8100, b"\x00\x64\x08\x00" + SYN), SYN, id="cooked v2, 802.1Q"),
    pytest.param(276, cooked_v2(0x0806, SYN), None, id="cooked v2, ARP"),
    pytest.param(0, b"\2\0\0\0" + SYN, SYN, id="loopback, little-endian"),
    pytest.param(0, b"\0\0\0\2" + SYN, SYN, id="loopback, big-endian"),
    *[pytest.param(0, bytes([family, 0, 0, 0]) + SYN6, SYN6, id=f"loopback, IPv6 is {family}")
      for family in (10, 24, 28, 30)],
    pytest.param(108, b"\0\0\0\2" + SYN, SYN, id="OpenBSD loopback"),
    pytest.param(0, b"\7\0\0\0" + SYN, None, id="loopback, another family"),
])
def test_link_layers(read, link_type, frame, packet):
    [record] = read(pcap([(1.5, frame)], link_type))
    assert record.number == 1
    assert record.frame == frame
    assert record.packet == (None if packet is None else IpPacket(packet, len(packet)))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("nano", "time_ns"), [(False, 1_700_000_000_123_456_000), (True, 1_700_000_000_123_456_789)])
def test_pcap_times(read, order, nano, time_ns):
    content = bytearray(pcap([(1_700_000_000, SYN)], 101, order=order, nano=nano))
    content[28:32] = struct.pack(order + "I", 123_456_789 if nano else 123_456)
    assert [record.time_ns for record in read(bytes(content))] == [time_ns]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("tsresol", "tsoffset", "units", "time_ns"), [
    pytest.param(None, None, 1_700_000_000_123_456, 1_700_000_000_123_456_000, id="microseconds unless said"),
    pytest.param(9, None, 1_700_000_000_123_456_789, 1_700_000_000_123_456_789, id="nanoseconds"),
    pytest.param(3, None, 1_700_000_000_123, 1_700_000_000_123_000_000, id="milliseconds"),
    pytest.param(0x80 | 10, None, 1024 * 5 + 512, 5_500_000_000, id="a power of two"),
    pytest.param(6, 1_700_000_000, 250_000, 1_700_000_000_250_000_000, id="offset"),
    pytest.param(6, -10, 15_000_000, 5_000_000_000, id="negative offset"),
    pytest.param(6, -10, 1, 0, id="before the epoch"),
    pytest.param(0, 2**62, 2**63, 1 << 62, id="beyond any clock"),
    pytest.param(127, None, 2**63, 0, id="finer than anything"),
])
def test_pcapng_times(read, order, tsresol, tsoffset, units, time_ns):
    described = interface(101, tsresol=tsresol, tsoffset=tsoffset, order=order)
    [record] = read(pcapng(described, enhanced(units, SYN, order=order), order=order))
    assert record.time_ns == time_ns
    assert record.packet == IpPacket(SYN, len(SYN))


def test_several_interfaces_have_their_own_link_type_and_clock(read):
    records = read(pcapng(interface(1, name="eth0"), interface(101, tsresol=9, name="tun0"),
                          enhanced(2_000_000, ethernet(SYN), 0), enhanced(3_000_000_000, SYN6, 1),
                          enhanced(4_000_000, ethernet(SYN), 0)))
    assert [(record.number, record.time_ns, record.link_type) for record in records] == [
        (1, 2_000_000_000, 1), (2, 3_000_000_000, 101), (3, 4_000_000_000, 1)]
    assert [record.packet.data for record in records] == [SYN, SYN6, SYN]


def test_a_new_section_counts_its_interfaces_anew_and_may_turn_the_bytes_around(read):
    records = read(pcapng(interface(1), enhanced(1, ethernet(SYN))) + section(">")
                   + interface(101, order=">") + enhanced(2, SYN6, 0, order=">"))
    assert [(record.number, record.link_type, record.packet.data) for record in records] == [
        (1, 1, SYN), (2, 101, SYN6)]


def test_a_simple_packet_has_the_time_of_the_one_before(read):
    records = read(pcapng(interface(101), enhanced(7_000_000, SYN), simple(SYN6)))
    assert [(record.time_ns, record.packet.data) for record in records] == [(7_000_000_000, SYN), (7_000_000_000, SYN6)]


def test_blocks_that_are_no_packets_are_not_counted(read):
    statistics, secrets, unknown = block(5, bytes(12)), block(10, b"KSLT\5\0\0\0hello"), block(0x0BAD, b"1234")
    records = read(pcapng(statistics, interface(101), secrets, enhanced(1, SYN), unknown, enhanced(2, SYN), statistics))
    assert [record.number for record in records] == [1, 2]


@pytest.mark.parametrize("content", [pcap([(1, SYN)], 101), pcapng(interface(101), enhanced(1, SYN))])
def test_gzip(read, content):
    assert read(gzip.compress(content)) == read(content)


@pytest.mark.parametrize(("frame", "packet"), [
    pytest.param((1, ethernet(SYN)[:54], 60), IpPacket(SYN, 40), id="the whole packet, its padding cut"),
    pytest.param((1, ethernet(SYN)[:48], 54), IpPacket(SYN[:34], 40), id="cut in the TCP header"),
    pytest.param((1, ethernet(SYN)[:17], 54), IpPacket(SYN[:3], 40), id="cut in the IP header"),
    pytest.param((1, ethernet(SYN6)[:60], 74), IpPacket(SYN6[:46], 60), id="IPv6"),
    pytest.param((1, ethernet(SYN)[:50]), IpPacket(SYN[:36], 36), id="short on the wire: not the snap length's doing"),
])
def test_cut_packets_keep_their_real_length(read, frame, packet):
    [record] = read(pcap([frame], snap_length=len(frame[1])))
    assert record.packet == packet


@pytest.mark.parametrize(("packet", "length"), [
    pytest.param(bytes(IP(src="10.0.0.2", dst="10.0.1.2") / UDP() / bytes(3000)), slice(2, 4), id="IPv4"),
    pytest.param(SYN6, slice(4, 6), id="IPv6"),
])
def test_before_segmentation_the_length_is_the_frames(read, packet, length):
    unfilled = bytearray(packet)
    unfilled[length] = b"\0\0"
    [record] = read(pcap([(1, ethernet(bytes(unfilled)))]))
    assert record.packet == IpPacket(packet, len(packet), offloaded=True)


def test_ipv6_without_next_header_may_be_empty(read):
    bare = bytearray(SYN6[:40])
    bare[4:7] = b"\0\0\x3b"
    [record] = read(pcap([(1, ethernet(bytes(bare)) + bytes(6))]))
    assert record.packet == IpPacket(bytes(bare), 40)


WHOLE = pcap([(1, SYN), (2, SYN)], 101)
WHOLE_NG = pcapng(interface(101), enhanced(1, SYN), enhanced(2, SYN))


@pytest.mark.parametrize(("content", "said"), [
    pytest.param(b"", "the file is empty", id="empty"),
    pytest.param(b"hello, world", "not a capture file", id="text"),
    pytest.param(b"\xd4\xc3", "not a capture file", id="half a magic number"),
    pytest.param(gzip.compress(b""), "the file is empty", id="empty, gzipped"),
    pytest.param(gzip.compress(b"hello"), "not a capture file", id="text, gzipped"),
    pytest.param(b"\x1f\x8bnot gzip at all", "cannot be read", id="gzip's magic number, then garbage"),
    pytest.param(WHOLE[:20], "the file is cut off in its header", id="pcap header"),
    pytest.param(WHOLE_NG[:20], "the file is cut off in its header", id="pcapng header"),
    pytest.param(pcapng()[:12] + b"\2" + pcapng()[13:], "its header is damaged", id="pcapng version 2"),
    pytest.param(WHOLE_NG + pcapng()[:12] + b"\2" + pcapng()[13:], "is damaged", id="a second section of version 2"),
    pytest.param(WHOLE_NG + pcapng()[:4] + struct.pack("<I", 0x2005C) + pcapng()[8:24] + bytes(100), "is damaged",
                 id="a second section that is longer than the file"),
    pytest.param(pcap([(1, SYN)], 189), "link type 189; pyfw reads Ethernet", id="USB"),
    pytest.param(pcapng(interface(147), enhanced(1, SYN)), "link type 147; pyfw reads", id="a user's link type"),
    pytest.param(pcapng(enhanced(1, SYN)), "names interface 0, and the file describes 0", id="no interface"),
    pytest.param(pcapng(struct.pack("<II", 6, 0xFFFFFFF0)), "claims to be", id="a block of 4 GiB"),
    pytest.param(WHOLE[:24] + struct.pack("<IIII", 1, 0, 0x7FFFFFFF, 40) + SYN, "claims to be", id="a packet of 2 GiB"),
])
def test_what_cannot_be_read_is_said_in_one_line(read, tmp_path, content, said):
    with pytest.raises(CaptureError) as caught:
        read(content)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'capture'}: ")
    assert said in message
    assert "\n" not in message


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(CaptureError, match=r"nothing\.pcap: No such file or directory"):
        Capture(tmp_path / "nothing.pcap")
    with pytest.raises(CaptureError, match="Is a directory"):
        Capture(tmp_path)


@pytest.mark.parametrize(("content", "first_end"), [
    pytest.param(WHOLE, 24 + 16 + 40, id="pcap"),
    pytest.param(WHOLE_NG, len(pcapng(interface(101), enhanced(1, SYN))), id="pcapng"),
])
def test_a_file_cut_in_a_record_gives_the_records_before(tmp_path, content, first_end):
    path = tmp_path / "capture"
    for size in range(first_end, len(content)):
        path.write_bytes(content[:size])
        records = []
        with Capture(path) as capture:
            if size == first_end:
                records.extend(capture)
            else:
                with pytest.raises(CaptureError, match=rf"cut off in the record at byte {first_end}; the 1 records"):
                    records.extend(capture)
        assert [record.packet.data for record in records] == [SYN], size


def test_a_gzip_file_cut_in_the_middle_says_so(tmp_path):
    path = tmp_path / "capture.gz"
    content = gzip.compress(pcap([(number, syn(seq=number * 7919)) for number in range(2000)], 101))
    path.write_bytes(content[:len(content) // 2])
    records = []
    with Capture(path) as capture, pytest.raises(CaptureError, match="is damaged: Compressed file ended"):
        records.extend(capture)
    assert len(records) > 100


def test_a_damaged_block_length_is_no_end_of_file(tmp_path):
    path = tmp_path / "capture"
    damaged = bytearray(WHOLE_NG)
    damaged[-4:] = b"\xff\xff\xff\xff"
    path.write_bytes(damaged)
    with Capture(path) as capture, pytest.raises(CaptureError, match=r"record at byte .* is damaged"):
        list(capture)


@settings(max_examples=400, deadline=None)
@given(st.one_of(
    st.binary(max_size=400),
    st.builds(lambda start, rest: start + rest, st.sampled_from([WHOLE[:24], WHOLE_NG[:48], b"\x1f\x8b\x08\0"]),
              st.binary(max_size=400)),
    st.builds(lambda content, place, byte: content[:place] + bytes([byte]) + content[place + 1:],
              st.sampled_from([WHOLE, WHOLE_NG, gzip.compress(WHOLE)]), st.integers(0, len(WHOLE_NG)),
              st.integers(0, 255))))
def test_any_bytes_are_records_or_a_capture_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(content)
    try:
        with Capture(path) as capture:
            for record in capture:
                assert record.packet is None or len(record.packet.data) <= record.packet.length
    except CaptureError as error:
        assert "\n" not in str(error)
