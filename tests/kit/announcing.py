"""A helper that announces connections, and the connection that it sits on."""
from __future__ import annotations

from ipaddress import ip_address

from kit.packets import CLIENT, SERVER, SYN, tcp
from kit.traffic import TcpConversation, Watch
from pyfw.helpers import Expectation, Finding


class Announcer:
    """A helper that finds what the test tells it to, and remembers what it was shown."""
    name, protocol, max_expected, timeout_s = "announcer", 6, 2, 300

    def __init__(self):
        self.finding: Finding | None = None
        self.segments = []

    def inspect(self, segment, memory):
        self.segments.append(segment)
        return self.finding


class Master:
    """A connection whose helper announces at will."""

    def __init__(self, watch: Watch, helper: Announcer, sport: int = 40000, client=CLIENT, server=SERVER):
        self.watch, self.helper = watch, helper
        self.tcp = TcpConversation(watch, client, server, sport=sport, dport=6100).open()

    def announce(self, *ports: int, source: str | None = SERVER, active: bool = True, **finding):
        packed = source and ip_address(source).packed
        self.helper.finding = Finding(expectations=tuple(
            Expectation(packed, ip_address(self.tcp.client.address).packed, port, active=active) for port in ports),
            **finding)
        return self.tcp.client.data(5)


def coming(port: int, source: str = SERVER, sport: int = 20) -> bytes:
    return tcp(source, CLIENT, sport, port, SYN)
