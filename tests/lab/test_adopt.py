"""A gateway with live connections, which the kernel has tracked, gets pyfw: with `adopt: kernel` they go on."""
from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from firewall import Firewall
from kit.keeper import KeptFirewall
from pyfw.lab import CLIENT, SERVER, Lab

CONFIG = """
hooks: [FORWARD]
adopt: {adopt}
conntrack: {{tcp: {{loose: false}}}}
helpers: {{ftp: {{ports: [21]}}}}
rules:
  filter:
    FORWARD: {{policy: DROP, rules: [-m conntrack --ctstate ESTABLISHED -j ACCEPT]}}
"""


def exchange(client: socket.socket, server: socket.socket) -> bool:
    """Whether something that one says reaches the other, both ways."""
    try:
        client.sendall(b"NOOP\r\n")
        told = server.recv(100)
        server.sendall(b"200 OK\r\n")
        return (told, client.recv(100)) == (b"NOOP\r\n", b"200 OK\r\n")
    except TimeoutError:
        return False


@pytest.mark.parametrize(("adopt", "goes_on"), [("kernel", True), ("none", False)])     # the second is the control
def test_connections_of_the_kernels_table_go_on(lab: Lab, tmp_path: Path, adopt: str, goes_on: bool) -> None:
    lab.run("gateway", ["iptables", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"])
    lab.run("gateway", ["ip6tables", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"])
    lab.run("gateway", ["iptables", "-t", "raw", "-A", "PREROUTING", "-p", "tcp", "--dport", "21", "-j", "CT", "--helper", "ftp"])
    config = tmp_path / "pyfw.yaml"
    config.write_text(CONFIG.format(adopt=adopt))
    with ExitStack() as stack:
        pairs = []
        for family, port in ((4, 5001), (6, 5001), (4, 21)):
            with lab.inside("server"):
                listener = stack.enter_context(socket.create_server(
                    (SERVER.address(family), port), family=socket.AF_INET if family == 4 else socket.AF_INET6))
            with lab.inside("client"):
                client = stack.enter_context(socket.create_connection((SERVER.address(family), port), timeout=2))
            server = stack.enter_context(listener.accept()[0])
            server.settimeout(2)
            assert exchange(client, server)
            pairs.append((client, server))
        with lab.inside("client"):
            udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            udp.bind((CLIENT.ipv4, 4000))
            udp.connect((SERVER.ipv4, 4001))
        with lab.inside("server"):
            udp_server = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            udp_server.bind((SERVER.ipv4, 4001))
            udp_server.connect((CLIENT.ipv4, 4000))
        for side in (udp, udp_server):
            side.settimeout(2)
        assert exchange(udp, udp_server)
        pairs.append((udp, udp_server))
        with Firewall(lab, config, tmp_path) as firewall:
            if goes_on:
                lines = firewall.connections("-o", "nf")
                assert len(lines) == 4
                assert all("[UNREPLIED]" not in line for line in lines)
                assert sum("ESTABLISHED" in line and "[ASSURED]" in line for line in lines) == 3
                assert "4 connections taken over" in firewall.log.read_text()
            assert [exchange(*pair) for pair in pairs] == [goes_on] * 4
            if goes_on:                 # the helper goes on with the control connection
                client, server = pairs[2]
                assert exchange(client, server)     # where lines begin is known from here on
                client.sendall(b"PASV\r\n")
                assert server.recv(100) == b"PASV\r\n"
                server.sendall(b"227 Entering Passive Mode (198,51,100,2,19,137)\r\n")
                assert client.recv(100).startswith(b"227")
                assert "dport=5001 " in firewall.ctl("list-expect").stdout
            for client, _ in pairs[:3]:
                client.close()
            if goes_on:
                firewall.wait_for("FIN to be followed", lambda lines: sum("FIN_WAIT" in line or "CLOSE_WAIT" in line
                                                                          for line in lines) == 2)


def test_who_goes_on_with_a_predecessors_table_asks_the_kernel_no_more(lab: Lab, tmp_path: Path) -> None:
    """What was flushed does not come back with a restart."""
    lab.run("gateway", ["iptables", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"])
    config = tmp_path / "pyfw.yaml"
    config.write_text(CONFIG.format(adopt="kernel"))
    with lab.inside("client"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", (SERVER.ipv4, 9))
    with KeptFirewall(lab, config, tmp_path) as firewall:
        assert len(firewall.connections()) == 1
        firewall.ctl("flush", check=True)
        firewall.kill()
        firewall.start()
        assert firewall.connections() == []


def test_what_is_full_takes_no_more(lab: Lab, tmp_path: Path) -> None:
    lab.run("gateway", ["iptables", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"])
    config = tmp_path / "pyfw.yaml"
    config.write_text(CONFIG.format(adopt="kernel"))
    with lab.inside("client"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for port in range(1, 41):
            sender.sendto(b"x", (SERVER.ipv4, port))
    with Firewall(lab, config, tmp_path, settings=["conntrack.max_entries=25"]) as firewall:
        assert len(firewall.connections()) == 25
