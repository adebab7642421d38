"""pyfw-gateway(7), followed: its rules of nat, the sample config, and every kind of connection that the page names.

    outside: the lab's server        LAN: the lab's client, 192.0.2.2 and 192.0.2.3        DMZ: a namespace on the gateway's eth2
"""
from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import services
from firewall import Firewall
from pyfw.lab import CLIENT, GATEWAY_INSIDE, GATEWAY_OUTSIDE, SERVER, Lab, wait_until

ROOT = Path(__file__).resolve().parents[3]
PUBLIC, WEB, NEIGHBOUR = GATEWAY_OUTSIDE.ipv4, "203.0.113.2", "192.0.2.3"
FORWARDING = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}

# Says which address it is asked from.
SERVE = """
import socketserver, sys
class Teller(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall((sys.argv[1] + " sees " + self.client_address[0]).encode())
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    address_family = socketserver.socket.AF_INET6 if ":" in sys.argv[2] else socketserver.socket.AF_INET
Server((sys.argv[2], int(sys.argv[3])), Teller).serve_forever()
"""
ASK = "import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 3); s.settimeout(3); print(s.recv(99).decode())"


def blocks_of_the_page() -> list[str]:
    """What it shows literally."""
    return re.findall(r"^\.Bd -literal.*?\n(.*?)^\.Ed", (ROOT / "pyfw/man/pyfw-gateway.7").read_text(), re.MULTILINE | re.DOTALL)


class Network:
    """The page's gateway, in a lab, without pyfw."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab, self.dmz = lab, f"{lab.name}-dmz"
        self._web: subprocess.Popen | None = None
        services.start_ftp(lab, "server", directory)

    def up(self) -> None:
        ip = ["ip", "-n"]
        for words in (["ip", "netns", "add", self.dmz],
                      [*ip, self.dmz, "link", "set", "lo", "up"],
                      [*ip, self.lab.namespace("gateway"), "link", "add", "eth2", "type", "veth", "peer", "eth0", "netns", self.dmz],
                      [*ip, self.lab.namespace("gateway"), "addr", "add", "203.0.113.1/24", "dev", "eth2"],
                      [*ip, self.lab.namespace("gateway"), "link", "set", "eth2", "up"],
                      [*ip, self.dmz, "addr", "add", f"{WEB}/24", "dev", "eth0"],
                      [*ip, self.dmz, "link", "set", "eth0", "up"],
                      [*ip, self.dmz, "route", "add", "default", "via", "203.0.113.1"],
                      [*ip, self.lab.namespace("client"), "addr", "add", f"{NEIGHBOUR}/24", "dev", "eth0"],
                      [*ip, self.lab.namespace("gateway"), "neigh", "add", NEIGHBOUR, "lladdr", CLIENT.mac, "dev", "eth1", "nud", "permanent"]):
            subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
        self._web = subprocess.Popen(self._in("dmz", self._teller("web", WEB, 80)), stdin=subprocess.DEVNULL)
        self.lab.start("client", self._teller("neighbour", NEIGHBOUR, 8080))
        self.lab.start("server", self._teller("outside", SERVER.ipv4, 80))
        self.lab.start("server", self._teller("outside", SERVER.ipv6, 80))
        forward, = (block for block in blocks_of_the_page() if "sysctl" in block)
        rules, = (block for block in blocks_of_the_page() if "*nat" in block)
        self.lab.run("gateway", ["sh", "-ec", forward.removeprefix("# ")], check=True)
        self.lab.run("gateway", ["iptables-restore"], input=rules, check=True)
        wait_until(lambda: all((self.ask("dmz", WEB, 80), self.lab.listens("client", 8080), self.ask("server", SERVER.ipv4, 80),
                                self.ask("server", SERVER.ipv6, 80))), "the servers")

    def down(self) -> None:
        if self._web is not None:
            self._web.terminate()
            self._web.wait()
        subprocess.run(["ip", "netns", "del", self.dmz], check=False, stdin=subprocess.DEVNULL)

    def _in(self, role: str, argv: list[str]) -> list[str]:
        return ["ip", "netns", "exec", self.dmz, *argv] if role == "dmz" else self.lab.command(role, argv)

    @staticmethod
    def _teller(name: str, address: str, port: int) -> list[str]:
        return [sys.executable, "-c", SERVE, name, address, str(port)]

    def ask(self, role: str, address: str, port: int) -> str:
        """What is told there, if anything."""
        return subprocess.run(self._in(role, [sys.executable, "-c", ASK, address, str(port)]), stdin=subprocess.DEVNULL,
                              capture_output=True, text=True).stdout.strip()

    def works(self) -> dict[str, str]:
        fetched = self.lab.run("client", ["curl", "-sS", "-m", "5", "-P", "-", f"ftp://{SERVER.ipv4}/{services.FILE_NAME}"]).stdout
        hop = self.lab.run("client", ["traceroute", "-n", "-q1", "-m1", SERVER.ipv4]).stdout
        return {"masquerade": self.ask("client", SERVER.ipv4, 80),
                "port forward": self.ask("server", PUBLIC, 80),
                "from the LAN by the public address": self.ask("client", PUBLIC, 80),
                "from the gateway itself": self.ask("gateway", PUBLIC, 80),
                "hairpin": self.ask("client", PUBLIC, 8080),
                "DMZ": self.ask("dmz", SERVER.ipv4, 80),
                "IPv6": self.ask("client", SERVER.ipv6, 80),
                "FTP": fetched.strip(),
                "ICMP errors": str(GATEWAY_INSIDE.ipv4 in hop)}


EXPECTED = {
    "masquerade": f"outside sees {PUBLIC}", "port forward": f"web sees {SERVER.ipv4}",
    "from the LAN by the public address": f"web sees {CLIENT.ipv4}", "from the gateway itself": f"web sees {PUBLIC}",
    "hairpin": f"neighbour sees {GATEWAY_INSIDE.ipv4}", "DMZ": f"outside sees {PUBLIC}", "IPv6": f"outside sees {CLIENT.ipv6}",
    "FTP": services.FILE_TEXT.strip(), "ICMP errors": "True"}


@pytest.fixture
def network(lab: Lab, shared_directory: Path) -> Iterator[Network]:
    network = Network(lab, shared_directory)
    try:
        network.up()
        yield network
    finally:
        network.down()


def test_the_page(network: Network, tmp_path: Path):
    """With pyfw, and without: what differs is what pyfw's rules refuse."""
    refused = [("server", PUBLIC, 8080), ("dmz", NEIGHBOUR, 8080)]
    with Firewall(network.lab, ROOT / "config/gateway-nat.yaml", tmp_path) as firewall:
        assert network.works() == EXPECTED
        assert [network.ask(*where) for where in refused] == ["", ""]
        seen = "\n".join(firewall.connections())
        assert f"src={SERVER.ipv4} dst={WEB} " in seen
        assert f"src={CLIENT.ipv4} dst={NEIGHBOUR} " in seen
        assert f"src={CLIENT.ipv4} dst={SERVER.ipv4} " in seen
        for sysctl in FORWARDING.values():
            network.lab.run("gateway", ["sysctl", "-qw", f"{sysctl}=0"], check=True)
        assert network.ask("client", SERVER.ipv4, 80) == network.ask("client", SERVER.ipv6, 80) == "", "forwarding is the kernel's to switch"
        for sysctl in FORWARDING.values():
            network.lab.run("gateway", ["sysctl", "-qw", f"{sysctl}=1"], check=True)
    assert network.works() == EXPECTED
    assert [network.ask(*where) for where in refused] == [f"neighbour sees {SERVER.ipv4}", f"neighbour sees {WEB}"]


def test_the_kernels_filter_goes_on_to_apply(network: Network, tmp_path: Path):
    with Firewall(network.lab, ROOT / "config/gateway-nat.yaml", tmp_path) as firewall:
        network.lab.run("gateway", ["iptables", "-A", "FORWARD", "-d", WEB, "-j", "DROP"], check=True)
        assert network.ask("server", PUBLIC, 80) == ""
        assert network.ask("client", SERVER.ipv4, 80) == EXPECTED["masquerade"]
        assert not any(f"dst={WEB} " in line for line in firewall.connections()), "what it drops is not seen"
