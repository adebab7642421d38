"""Only what pyfw itself can have sent is exempt: RSTs and ICMP errors that leave with its mark, all 32 bits of it."""
from __future__ import annotations

import re
import socket
from collections.abc import Callable

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoRequest, IPv6
from scapy.packet import Packet

from firewall import Firewall
from pyfw.cli.pyfwctl.client import ask
from pyfw.lab import CLIENT, GATEWAY_INSIDE, SERVER, Lab

Guard = Callable[..., Firewall]

MARK = 0xFEDCBA98
FORMER_MARK = 0x40000000        # one bit that pyfw once looked for, and nothing else


def judged(firewall: Firewall) -> int:
    """Packets that the daemon has been given so far."""
    list(ask(str(firewall.socket), {"command": "ping"}))
    [answer, _] = ask(str(firewall.socket), {"command": "stats", "json": True})
    return answer["records"][0]["queue"]["packets"]


def send(lab: Lab, packet: Packet, mark: int) -> None:
    """From the gateway to the client, as a program with rights would."""
    family = socket.AF_INET if IP in packet else socket.AF_INET6
    with lab.inside("gateway"), socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark.to_bytes(4, "little"))
        raw.sendto(bytes(packet), (packet.dst, 0))


def to_client(version: int, payload: Packet) -> Packet:
    return (IP(src=GATEWAY_INSIDE.ipv4, dst=CLIENT.ipv4) if version == 4 else
            IPv6(src=GATEWAY_INSIDE.ipv6, dst=CLIENT.ipv6)) / payload


RST, ACK, DATAGRAM = TCP(flags="R"), TCP(flags="A"), UDP() / b"x"
ERRORS = {4: ICMP(type=3) / bytes(28), 6: ICMPv6DestUnreach() / bytes(48)}
ECHOES = {4: ICMP(type=8), 6: ICMPv6EchoRequest()}


@pytest.mark.parametrize("version", [4, 6])
def test_who_is_exempt(lab: Lab, guard: Guard, version: int):
    firewall = guard(INPUT=[], OUTPUT=[], settings=[f"queue.mark={MARK:#x}"])
    for payload, mark, exempt in (
            (RST, MARK, True), (TCP(flags="RA"), MARK, True), (ERRORS[version], MARK, True),
            (DATAGRAM, MARK, False), (ACK, MARK, False), (ECHOES[version], MARK, False),
            (RST, MARK ^ 1, False), (RST, MARK ^ 0x80000000, False), (RST, 0xFFFFFFFF, False), (RST, 0, False),
            (DATAGRAM, FORMER_MARK, False), (RST, FORMER_MARK, False), (ERRORS[version], FORMER_MARK, False)):
        before = judged(firewall)
        send(lab, to_client(version, payload), mark)
        assert (judged(firewall) - before == 0) == exempt, (payload.summary(), hex(mark))


@pytest.mark.parametrize("mark", [MARK, FORMER_MARK])
def test_nothing_is_exempt_where_packets_come_in_or_pass(lab: Lab, guard: Guard, mark: int):
    firewall = guard(INPUT=[], FORWARD=[], settings=[f"queue.mark={MARK:#x}"])
    lab.run("gateway", ["iptables", "-t", "mangle", "-A", "PREROUTING", "-j", "MARK", "--set-mark", hex(mark)], check=True)
    before = judged(firewall)
    with lab.inside("client"), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for target in (GATEWAY_INSIDE.ipv4, SERVER.ipv4):
            raw.sendto(bytes(IP(src=CLIENT.ipv4, dst=target) / RST), (target, 0))
    assert judged(firewall) - before == 2


@pytest.mark.parametrize("settings", [[], [f"queue.mark={MARK:#x}"]], ids=["drawn", "configured"])
def test_pyfws_own_answers_leave(lab: Lab, guard: Guard, settings: list[str]):
    """OUTPUT lets nothing out, and they leave all the same."""
    guard(INPUT=["-p tcp -j REJECT --reject-with tcp-reset", "-p udp -j REJECT"], OUTPUT=[], settings=settings)
    [mark] = set(re.findall(r"--mark (0x[0-9a-f]+) ", lab.run("gateway", ["iptables-save"]).stdout))
    assert (int(mark, 16) == MARK) == bool(settings)
    assert int(mark, 16) != FORMER_MARK
    for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with lab.inside("client"), socket.socket(family, kind) as caller, \
                    pytest.raises(ConnectionRefusedError):     # noqa: PT012  of TCP it is connect(), of UDP what follows
                caller.settimeout(5)
                caller.connect((GATEWAY_INSIDE.address(version), 9))
                caller.send(b"x")
                caller.recv(1)
