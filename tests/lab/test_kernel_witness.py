"""The kernel as witness of live sessions: on one gateway, both track the very same packets at the same time.

    client ──── gateway: the kernel's conntrack and counters in filter FORWARD, pyfw in security FORWARD ──── server

Compared after each session: the connections, line by line, and how many packets each found in which state.  What the
gateway's inner interface saw is then put to both once more, packet by packet.
"""
from __future__ import annotations

import re
import shlex
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import differential
import services
from differential import captures
from differential.compare import table_differences
from differential.examine import examine
from differential.generate_mix import Scenario
from firewall import Firewall
from kit.packed_packets import FRAGMENT_HEADER, address
from kit.witness import Settings
from pyfw.lab import CLIENT, GATEWAY_INSIDE, SERVER, Lab, wait_until

pytestmark = pytest.mark.usefixtures("servers")

STATES = ("NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED")
IPV6_CAPTURES = Path(differential.__file__).parent / "ipv6"
S4, S6, FILE = SERVER.ipv4, SERVER.ipv6, services.FILE_NAME

ABORT = """
import socket, struct
s = socket.create_connection(("{host}", 80))
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
s.send(b"GET / HTTP/1.0\\r\\n")
s.close()
"""
HALF_OPEN = """
import socket
s = socket.socket()
s.settimeout(0.3)
try: s.connect(("{host}", 9))
except OSError: pass
"""


@dataclass(frozen=True)
class Session:
    command: str
    related: bool = False       # whether some packet of it is RELATED


def python(program: str) -> str:
    return f"python3 -c {shlex.quote(program.format(host=S4))}"


SESSIONS = {
    "HTTP": Session(f"curl -sS -m 5 http://{S4}/{FILE}"),
    "HTTP, IPv6": Session(f"curl -sS -m 5 http://[{S6}]/{FILE}"),
    "ping": Session(f"ping -c 2 -i 0.2 -W 2 {S4}"),
    "ping, IPv6": Session(f"ping -c 2 -i 0.2 -W 2 {S6}"),
    "UDP": Session(f"dig +tries=1 +time=2 @{S4} {services.DNS_NAME}"),
    "UDP to a closed port": Session(f"dig +tries=1 +time=1 -p 5353 @{S4} {services.DNS_NAME}", related=True),
    "FTP PORT": Session(f"curl -sS -m 5 -P - --disable-eprt ftp://{S4}/{FILE}", related=True),
    "FTP EPRT": Session(f"curl -sS -m 5 -P - ftp://[{S6}]/{FILE}", related=True),
    "FTP PASV": Session(f"curl -sS -m 5 --disable-epsv ftp://{S4}/{FILE}", related=True),
    "FTP EPSV": Session(f"curl -sS -m 5 ftp://[{S6}]/{FILE}", related=True),
    "refused": Session(f"curl -sS -m 5 http://{S4}:81/"),
    "aborted": Session(python(ABORT)),
    "half-open": Session(python(HALF_OPEN)),
}


@pytest.fixture
def kernel(lab: Lab) -> Kernel:
    return Kernel(lab)


class Kernel:
    """The gateway's own connection tracking, switched on and counting."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._run("sh", "-c", "echo 1 >/proc/sys/net/netfilter/nf_conntrack_acct")
        for tool in ("iptables", "ip6tables"):
            self._run(tool, "-t", "raw", "-A", "PREROUTING", "-p", "tcp", "--dport", "21", "-j", "CT", "--helper", "ftp")
            for state in STATES:
                self._run(tool, "-A", "FORWARD", "-m", "conntrack", "--ctstate", state)
        # The port 9 of the server answers nothing: the SYN stays alone.
        lab.run("server", ["iptables", "-A", "INPUT", "-p", "tcp", "--dport", "9", "-j", "DROP"], check=True)

    def _run(self, *argv: str) -> str:
        return self._lab.run("gateway", argv, check=True).stdout

    def connections(self) -> list[str]:
        return self._run("cat", "/proc/net/nf_conntrack").splitlines()

    def packets(self) -> dict[str, int]:
        listing = self._run("iptables", "-v", "-S", "FORWARD") + self._run("ip6tables", "-v", "-S", "FORWARD")
        counted = re.findall(r"--ctstate (\w+) -c (\d+)", listing)
        return {state: sum(int(packets) for name, packets in counted if name == state) for state in STATES}


def pyfw_packets(firewall: Firewall) -> dict[str, int]:
    return {state: firewall.rule_packets().get(f"-A FORWARD -m state --state {state} -j ACCEPT", 0) for state in STATES}


def guarded(guard: Callable[..., Firewall], helpers: dict) -> Firewall:
    return guard(FORWARD=[f"-m state --state {state} -j ACCEPT" for state in STATES], helpers=helpers)


@pytest.mark.parametrize("name", SESSIONS)
def test_the_same_connections_and_states(name, lab: Lab, guard, kernel: Kernel, wire) -> None:
    firewall = guarded(guard, {"ftp": {"strict": False}})
    lab.run("client", shlex.split(SESSIONS[name].command))
    firewall.settle()
    ours, theirs = pyfw_packets(firewall), kernel.packets()
    assert ours == theirs
    assert ours["NEW"]
    assert not ours["UNTRACKED"]
    assert bool(ours["RELATED"]) == SESSIONS[name].related
    assert table_differences(kernel.connections(), firewall.connections("-o", "nf")) == []
    packets = wire()
    assert len(packets) == sum(ours.values())
    examine(Scenario(Settings(ftp=True), packets)).must_agree()


def test_ipv6_that_is_seldom_seen_begins_connections_live_too(lab: Lab, guard) -> None:
    """The captures that the kernel calls NEW, from the client to the gateway; what may not be read is the control."""
    firewall = guard(INPUT=[f"-m state --state {state} -j ACCEPT" for state in STATES])
    packets = [sent.data for path in sorted(IPV6_CAPTURES.glob("*.pcap")) for sent in captures.read(path)[0]
               if sent.data[8:24] == address(CLIENT.ipv6)]
    later = bytearray(next(data for data in packets if data[6] == FRAGMENT_HEADER and len(data) % 8))
    later[42:44] = (8 | 1).to_bytes(2, "big")       # of a length that keeps it from being put together
    with lab.inside("client"), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((CLIENT.interface, 0))
        for data in (*packets, later):
            wire.send(bytes.fromhex((GATEWAY_INSIDE.mac + CLIENT.mac).replace(":", "") + "86dd") + data)
    counts = {state: f"-A INPUT -m state --state {state} -j ACCEPT" for state in ("NEW", "INVALID")}
    wait_until(lambda: firewall.rule_packets().get(counts["INVALID"]), "the last packet")
    assert (len(packets), firewall.rule_packets()[counts["NEW"]], firewall.rule_packets()[counts["INVALID"]]) == (5, 5, 1)


def test_a_firewall_without_the_helper_is_found_out(lab: Lab, guard, kernel: Kernel) -> None:
    firewall = guarded(guard, {})
    lab.run("client", shlex.split(SESSIONS["FTP PORT"].command))
    firewall.settle()
    assert pyfw_packets(firewall) != kernel.packets()
