"""The kernel as witness: the same fragments to a namespace and to the Reassembler deliver the same datagrams.

Random datagrams, cut at random places, with extra fragments that repeat, overlap, run over the end or contradict
it, in random order.  IPv6 goes through the kernel's connection-tracking reassembly, as packets for pyfw do.

    [this namespace]  <name>a ------ <name>b  [namespace <name>]   UDP socket on port 53
"""
from __future__ import annotations

import ctypes
import os
import random
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from kit.captures import fragment
from pyfw.wire.checksum import internet_checksum
from pyfw.wire.ip_packet import IpPacket
from pyfw.wire.reassembly import Reassembler

CASES = 500
ANSWER_S = 0.004            # a delivery over veth takes some 0.05 ms; a late one is waited for again
LATE_S = 0.2
PORTS = struct.pack(">HH", 5000, 53)


@dataclass
class Namespace:
    wire: socket.socket     # frames into the namespace
    address: bytes          # its end's hardware address
    received: dict[int, socket.socket]      # by IP version: what its UDP socket got

    def deliver(self, packets: list[bytes], expected: int) -> list[bytes]:
        version = packets[0][0] >> 4
        ethertype = b"\x86\xdd" if version == 6 else b"\x08\x00"
        for packet in packets:
            self.wire.send(self.address + b"\2\0\0\0\0\1" + ethertype + packet)
        got: list[bytes] = []
        while select.select([self.received[version]], [], [], ANSWER_S if len(got) >= expected else LATE_S)[0]:
            got.append(self.received[version].recv(65535))
        return got


def udp_socket(namespace: str, family: int) -> socket.socket:
    """A UDP socket on port 53 that lives in another namespace; made in a thread that goes there and ends."""
    made: list[socket.socket] = []

    def make() -> None:
        with open(f"/run/netns/{namespace}") as there:
            if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), 0):
                return
        bound = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(("", 53))
        made.append(bound)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    name = f"pfp-{os.getpid()}"
    near, far = f"{name}a", f"{name}b"

    def ip(arguments: str) -> None:
        subprocess.run(["ip", *arguments.split()], check=True)

    ip(f"netns add {name}")
    try:
        ip(f"link add {near} type veth peer name {far} netns {name}")
        ip(f"link set {near} up")
        ip(f"-n {name} link set {far} up")
        ip(f"-n {name} address add 10.99.0.2/16 dev {far}")
        ip(f"-n {name} address add fd99::2/64 dev {far} nodad")
        subprocess.run(["ip", "netns", "exec", name, "ip6tables", "-A", "INPUT", "-m", "conntrack",
                        "--ctstate", "INVALID", "-j", "ACCEPT"], check=True)
        text = subprocess.run(["ip", "netns", "exec", name, "cat", f"/sys/class/net/{far}/address"], check=True,
                              capture_output=True, text=True).stdout
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        wire.bind((near, 0))
        sockets = {4: udp_socket(name, socket.AF_INET), 6: udp_socket(name, socket.AF_INET6)}
        with wire, sockets[4], sockets[6]:
            yield Namespace(wire, bytes.fromhex(text.strip().replace(":", "")), sockets)
    finally:
        ip(f"netns delete {name}")


def random_fragments(choose: random.Random, body: bytes) -> list[tuple[int, bytes, bool]]:
    """(offset, payload, more) in random order."""
    cuts = sorted({0, len(body), *choose.sample(range(8, len(body), 8), choose.randrange(1, 5))})
    pieces = [(start, body[start:end], end < len(body)) for start, end in pairwise(cuts)]
    for _ in range(choose.choice([0, 0, 0, 1, 1, 2])):
        start = choose.randrange(0, len(body), 8)
        size = choose.choice([0, 5, 8, 16, 24, 64])
        pieces.append((start, (body + bytes(8))[start:start + size], choose.random() < 0.8))
    choose.shuffle(pieces)
    return pieces


def udp_payload(packet: bytes) -> bytes | None:
    """What a UDP socket gets of the packet: nothing unless ports, length and checksum are right."""
    version6 = packet[0] >> 4 == 6
    datagram = packet[40:] if version6 else packet[20:]
    length = int.from_bytes(datagram[4:6], "big")
    if datagram[:4] != PORTS or not 8 <= length <= len(datagram):
        return None
    addresses = packet[8:40] if version6 else packet[12:20]
    pseudo_header = addresses + struct.pack(">II" if version6 else ">HH", *((length, 17) if version6 else (17, length)))
    return None if internet_checksum(pseudo_header + datagram[:length]) else datagram[8:length]


def reassembled(packets: list[bytes]) -> list[bytes]:
    reassembler = Reassembler()
    answers = [(packet, reassembler.feed(IpPacket(packet, len(packet)), 0)) for packet in packets]
    whole = [answer.data for packet, answer in answers
             if isinstance(answer, IpPacket) and not (answer.data == packet and is_fragment(packet))]
    return [payload for payload in map(udp_payload, whole) if payload is not None]


def is_fragment(packet: bytes) -> bool:
    return packet[6] == 44 if packet[0] >> 4 == 6 else bool(packet[6] & 0x3F or packet[7])


@pytest.mark.parametrize("version", [4, 6])
def test_the_kernel_delivers_what_the_reassembler_makes(namespace, version):
    choose = random.Random(version)
    outcomes: dict[int, int] = {}
    for number in range(CASES):
        if version == 4:
            base = IP(src=f"10.99.{1 + number // 250}.{number % 250 + 1}", dst="10.99.0.2")
        else:
            base = IPv6(src=f"fd99::1:{number:x}", dst="fd99::2", nh=17)
        payload = struct.pack(">I", number) + choose.randbytes(choose.choice([28, 52, 84, 116]))
        body = bytes(base / UDP(sport=5000, dport=53) / Raw(payload))[20 if version == 4 else 40:]
        packets = [fragment(base, offset, piece, more=more) for offset, piece, more in random_fragments(choose, body)]
        expected = reassembled(packets)
        assert namespace.deliver(packets, len(expected)) == expected, [packet.hex() for packet in packets]
        outcomes[len(expected)] = outcomes.get(len(expected), 0) + 1
    # Controls: both outcomes were put to the test, many times.
    assert outcomes[1] > CASES // 3
    assert outcomes[0] > CASES // 20
