"""pyfw's answers to rejected packets, with the kernel's own REJECT target as the witness."""
from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from pyfw.edge.queue.loop import QueueLoop
from pyfw.lab import CLIENT, GATEWAY_INSIDE, SERVER, Lab, Port, wait_until

ETH_P_ALL = 3
PING_ID = 0x7A7A
PACKET_HOST = 0

SYN = TCP(sport=40000, dport=80, seq=1000, flags="S", options=[("MSS", 1460)])
ACK = TCP(sport=40000, dport=80, seq=1000, ack=5000, flags="A") / b"data"
DATAGRAM = UDP(sport=40000, dport=53) / bytes(range(200))
LARGE = UDP(sport=40000, dport=53) / bytes(1400)
ICMP4_KINDS = ["icmp-net-unreachable", "icmp-host-unreachable", "icmp-proto-unreachable", "icmp-port-unreachable",
               "icmp-net-prohibited", "icmp-host-prohibited", "icmp-admin-prohibited"]
ICMP6_KINDS = ["icmp6-no-route", "icmp6-adm-prohibited", "icmp6-addr-unreachable", "icmp6-port-unreachable",
               "icmp6-policy-fail", "icmp6-reject-route"]


def ip(family: int, target: str) -> Packet:
    return IP(src=CLIENT.ipv4, dst=target, id=7, ttl=60) if family == 4 else IPv6(src=CLIENT.ipv6, dst=target, hlim=60)


def is_pong(packet: Packet) -> bool:
    return any(reply in packet and packet[reply].id == PING_ID and packet[reply].type == kind
               for reply, kind in ((ICMP, 0), (ICMPv6EchoReply, 129)))


def settled(loop: QueueLoop) -> Callable[[], bool]:
    """Whether the loop has answered one packet or decided not to."""
    return lambda: sum(rejects(loop).values()) == 1


def rejects(loop: QueueLoop) -> dict[str, int]:
    return {name: count for name, count in loop.counters().items() if name.startswith("rejects_") and count}


class Wire:
    """The client's cable: what is sent on it and what comes back."""

    def __init__(self, lab: Lab) -> None:
        with lab.inside("client"):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            self.socket.bind((CLIENT.interface, ETH_P_ALL))
        self.socket.settimeout(5)

    def answers(self, packet: Packet, settled: Callable[[], bool] = lambda: True) -> list[Packet]:
        """What comes back to a packet.  It is all there once the gateway, after settled(), has answered a ping.

        The ping is of the other IP version, so that no rule about the packet concerns it.
        """
        self._send(packet)
        wait_until(settled, "an answer to be sent, or not")
        self._send(IPv6(src=CLIENT.ipv6, dst=GATEWAY_INSIDE.ipv6) / ICMPv6EchoRequest(id=PING_ID) if IP in packet else
                   IP(src=CLIENT.ipv4, dst=GATEWAY_INSIDE.ipv4) / ICMP(id=PING_ID))
        answers = []
        while True:
            frame, address = self.socket.recvfrom(1 << 16)
            if address[2] != PACKET_HOST:
                continue
            answer = Ether(frame).payload
            if is_pong(answer):
                return answers
            answers.append(answer)

    def _send(self, packet: Packet) -> None:
        self.socket.send(bytes(Ether(src=CLIENT.mac, dst=GATEWAY_INSIDE.mac) / packet))

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def wire(lab: Lab) -> Iterator[Wire]:
    wire = Wire(lab)
    yield wire
    wire.close()


@contextmanager
def kernel_rule(lab: Lab, family: int, rule: str) -> Iterator[None]:
    program = {4: "iptables", 6: "ip6tables"}[family]
    lab.run("gateway", [program, "-A", *rule.split()], check=True)
    try:
        yield
    finally:
        lab.run("gateway", [program, "-D", *rule.split()], check=True)


def comparable(answers: list[Packet]) -> list[str]:
    """Without what the kernel numbers, draws at random or leaves to the hardware: IPv4's identification, IPv6's flow
    label, the TCP checksum of an RST over IPv4 (test_reject of the unit tests has pyfw's)."""
    shown = []
    for answer in answers:
        answer = answer.copy()
        if IP in answer:
            answer[IP].id = answer[IP].chksum = 0
        else:
            answer[IPv6].fl = 0
        if TCP in answer:
            answer[TCP].chksum = 0
        shown.append(answer.show2(dump=True))
    return shown


# family, --reject-with, the rule's match, what is sent
PING4, PING6 = "-p icmp --icmp-type echo-request", "-p ipv6-icmp --icmpv6-type echo-request"
CASES = [
    *((family, "tcp-reset", "-p tcp", segment) for family in (4, 6)
      for segment in (SYN, SYN / b"early data", ACK, TCP(seq=9, flags="FPU"))),
    *((4, kind, "-p udp", DATAGRAM) for kind in ICMP4_KINDS), (4, "icmp-port-unreachable", "-p udp", LARGE),
    *((6, kind, "-p udp", DATAGRAM) for kind in ICMP6_KINDS), (6, "icmp6-port-unreachable", "-p udp", LARGE),
    (4, "icmp-host-unreachable", "-p tcp", SYN), (6, "icmp6-no-route", "-p tcp", SYN),
    (4, "icmp-host-prohibited", f"{PING4} -s {CLIENT.ipv4}", ICMP(type=8, id=1) / b"ping"),
    (6, "icmp6-adm-prohibited", f"{PING6} -s {CLIENT.ipv6}", ICMPv6EchoRequest(id=1) / b"ping"),
]


@pytest.mark.parametrize(("hook", "target"), [("FORWARD", SERVER), ("INPUT", GATEWAY_INSIDE)], ids=["FORWARD", "INPUT"])
@pytest.mark.parametrize(("family", "kind", "match", "payload"), CASES)
def test_the_answer_is_the_kernel_s(lab: Lab, serve: Callable, wire: Wire, hook: str, target: Port, family: int,
                                    kind: str, match: str, payload: Packet):
    packet = ip(family, target.address(family)) / payload
    rule = f"{hook} {match} -j REJECT --reject-with {kind}"
    with kernel_rule(lab, family, rule):
        witnessed = comparable(wire.answers(packet))
    assert len(witnessed) == 1
    loop = serve(f"-A {rule}", hooks=[hook])
    assert comparable(wire.answers(packet, settled(loop))) == witnessed
    assert rejects(loop) == {"rejects_sent": 1}


BROADCAST = "192.0.2.255"


@pytest.mark.parametrize(("kind", "match", "packet", "counter"), [
    pytest.param("tcp-reset", "-p tcp", ip(4, SERVER.ipv4) / TCP(flags="R"), "rejects_suppressed", id="an RST"),
    pytest.param("icmp-port-unreachable", "-p udp", ip(4, SERVER.ipv4) / UDP(chksum=1) / b"x", "rejects_suppressed",
                 id="a bad checksum"),
    pytest.param("icmp-port-unreachable", "-p udp", ip(4, BROADCAST) / UDP() / b"x", "rejects_failed",
                 id="a directed broadcast"),
    pytest.param("icmp-port-unreachable", "-p udp", ip(4, "224.0.0.1") / UDP() / b"x", "rejects_suppressed",
                 id="a multicast"),
])
def test_silence(lab: Lab, serve: Callable, wire: Wire, kind: str, match: str, packet: Packet, counter: str):
    hook = "FORWARD" if packet.dst == SERVER.ipv4 else "INPUT"
    rule = f"{hook} {match} -j REJECT --reject-with {kind}"
    with kernel_rule(lab, 4, rule):
        assert wire.answers(packet) == []
    loop = serve(f"-A {rule}", hooks=[hook])
    assert wire.answers(packet, settled(loop)) == []
    assert rejects(loop) == {counter: 1}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("kind", "protocol"), [("tcp-reset", "tcp"), ("port-unreachable", "udp")])
def test_a_program_of_this_host_is_told(lab: Lab, serve: Callable, family: int, kind: str, protocol: str):
    """The answer to a packet that leaves goes through the loopback interface."""
    if kind == "port-unreachable":
        kind = f"icmp{'6' if family == 6 else ''}-{kind}"
    loop = serve(f"-A OUTPUT -p {protocol} --dport 9 -j REJECT --reject-with {kind}", hooks=["INPUT", "OUTPUT"])
    with lab.inside("gateway"):
        caller = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6,
                               socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
    with caller, pytest.raises(ConnectionRefusedError):     # noqa: PT012  of TCP it is connect(), of UDP what follows
        caller.settimeout(5)
        caller.connect((SERVER.address(family), 9))
        caller.send(b"x")
        caller.recv(1)
    wait_until(lambda: rejects(loop) == {"rejects_sent": 1}, "one answer to be counted")


def test_icmp_errors_are_limited(lab: Lab, serve: Callable, judge_all: Callable):
    """1,000 a second after a burst of 50."""
    loop = serve("-A FORWARD -p udp -j REJECT", judging=False)
    with lab.inside("client"):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        for _ in range(2000):
            sender.sendto(b"x", (SERVER.ipv4, 9))
    started_s = time.monotonic()
    judge_all(loop)
    longest_s = time.monotonic() - started_s
    counters = loop.counters()
    assert counters["rejects_sent"] + counters["rejects_suppressed"] == 2000
    assert 50 <= counters["rejects_sent"] <= 51 + 1000 * longest_s
