"""The builders against scapy's: the same bytes for the same packet."""
from __future__ import annotations

import random
import struct

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.packet import Packet

from kit import packed_packets as packets

V4 = packets.address("10.0.0.2"), packets.address("198.51.100.7")
V6 = packets.address("2001:db8::2"), packets.address("2001:db8:ffff::7")
TEXT4, TEXT6 = {"src": "10.0.0.2", "dst": "198.51.100.7"}, {"src": "2001:db8::2", "dst": "2001:db8:ffff::7"}
BASE4, BASE6 = IP(id=0, **TEXT4), IPv6(**TEXT6)
OPTIONS = [("MSS", 1460), ("SAckOK", b""), ("WScale", 7), ("EOL", None)]
OPTION_BYTES = bytes.fromhex("020405b4 0402 030307 00")


def built(addresses: tuple[bytes, bytes], protocol: int, segment: bytes) -> bytes:
    return packets.ip(*addresses, protocol, segment)


@pytest.mark.parametrize(("ours", "scapys"), [
    (built(V4, 6, packets.tcp(*V4, 1, 2, 0x12, 7, 9, window=5)), BASE4 / TCP(sport=1, dport=2, flags="SA", seq=7, ack=9, window=5)),
    (built(V6, 6, packets.tcp(*V6, 1, 2, 0x18, 7, 9, payload=b"odd")), BASE6 / TCP(sport=1, dport=2, flags="PA", seq=7, ack=9) / b"odd"),
    (built(V4, 6, packets.tcp(*V4, 1, 2, 2, 7, options=OPTION_BYTES)), BASE4 / TCP(sport=1, dport=2, flags="S", seq=7, options=OPTIONS)),
    (built(V4, 17, packets.udp(*V4, 1, 2, b"hello")), BASE4 / UDP(sport=1, dport=2) / b"hello"),
    (built(V6, 17, packets.udp(*V6, 1, 2, b"hello!")), BASE6 / UDP(sport=1, dport=2) / b"hello!"),
    (built(V4, 1, packets.icmp(8, 0, struct.pack("!HH", 3, 4), b"ping")), BASE4 / ICMP(id=3, seq=4) / b"ping"),
    (built(V6, 58, packets.icmpv6(*V6, 128, 0, struct.pack("!HH", 3, 4), b"ping")), BASE6 / ICMPv6EchoRequest(id=3, seq=4, data=b"ping")),
])
def test_same_bytes_as_scapy(ours: bytes, scapys: Packet) -> None:
    assert ours.hex() == bytes(scapys).hex()


def test_checksums_of_random_segments_verify() -> None:
    generator = random.Random(1)
    for _ in range(2000):
        payload = generator.randbytes(generator.randrange(64))
        ours = built(V4, 17, packets.udp(*V4, generator.getrandbits(16), generator.getrandbits(16), payload))
        theirs = IP(ours)
        del theirs[UDP].chksum, theirs.chksum
        assert ours == bytes(theirs)


def test_same_fragments_as_scapy() -> None:
    whole = packets.ipv4(*V4, 17, packets.udp(*V4, 1, 2, bytes(range(100))), ident=77)
    ours = packets.fragment_ipv4(whole, [(0, 40), (40, 80), (80, 108)])
    assert ours == [bytes(piece) for piece in fragment(IP(whole), fragsize=40)]
    assert all(map(packets.is_fragment, ours))
    assert not packets.is_fragment(whole)


def test_flow_is_one_for_both_directions_and_for_errors_about_it() -> None:
    there = built(V4, 17, packets.udp(*V4, 1, 2))
    back = built(V4[::-1], 17, packets.udp(*V4[::-1], 2, 1))
    error = packets.ipv4(V4[1], V4[0], 1, packets.icmp(3, 3, bytes(4), there))
    other = built(V4, 17, packets.udp(*V4, 1, 3))
    assert packets.flow(there) == packets.flow(back) == packets.flow(error) != packets.flow(other)


def test_descriptions() -> None:
    segment = packets.tcp(*V4, 40000, 21, 0x18, 7, 9, payload=b"PORT 1,2\r\n")
    assert packets.describe(built(V4, 6, segment)) == \
        "tcp 10.0.0.2.40000 > 198.51.100.7.21 PA seq 7 ack 9 win 8192 10 bytes b'PORT 1,2\\r\\n'"
    assert packets.describe(b"\0junk") == "5 bytes that are no IP packet: 006a756e6b"
