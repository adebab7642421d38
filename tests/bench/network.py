"""Where one contender is measured: three network namespaces in a row.

       client                    gateway                      server
    +-----------+          +------------------+          +--------------+
    |      eth0 |==========| lan          wan |==========| eth0         |
    +-----------+          +------------------+          +--------------+
     10.81.0.2/16   10.81.255.254     10.82.0.1/24        10.82.0.2/24
     and the flood's sources,                             10.82.0.9: discards
     10.81.1.0 and on

All contenders have the same addresses, each in namespaces of its own, so that they can stand ready side by
side while traffic goes through one after the other.

10.82.0.9 has a neighbour entry with a hardware address that is not the server's: the server's network card
counts the frame and the stack drops it first thing, so a flood costs nothing beyond the gateway.
"""
from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PREFIX = "pyfw-bench-"

CLIENT_ADDRESS = "10.81.0.2"
FLOOD_SOURCE = "10.81.1.0"
LAN_ADDRESS = "10.81.255.254"
LAN_PREFIX = 16
WAN_ADDRESS = "10.82.0.1"
SERVER_ADDRESS = "10.82.0.2"
DISCARD_ADDRESS = "10.82.0.9"
WAN_PREFIX = 24

LAN_MAC = "02:00:00:00:00:01"
DISCARD_MAC = "02:00:00:00:00:09"

SYSCTLS = {
    "client": {"net.ipv4.ip_local_port_range": "1024 65535"},
    "gateway": {"net.ipv4.ip_forward": "1"},
    "server": {},
}
SYSCTLS_EVERYWHERE = {
    "net.ipv4.tcp_no_metrics_save": "1",        # no round learns from the one before it
    "net.ipv6.conf.all.disable_ipv6": "1",
    "net.ipv6.conf.default.disable_ipv6": "1",
}


@dataclass(frozen=True)
class Network:
    """The names of one contender's namespaces."""

    client: str
    gateway: str
    server: str

    def arrived(self) -> int:
        """Packets that have reached the server's network card since it was made."""
        (link,) = json.loads(ip("-json", "-statistics", "-n", self.server, "link", "show", "eth0"))
        return link["stats64"]["rx"]["packets"]


@contextmanager
def network(name: str) -> Iterator[Network]:
    """Three namespaces, wired, addressed and routed; gone at the end."""
    names = {host: f"{PREFIX}{os.getpid()}-{name}-{host}" for host in SYSCTLS}
    with ExitStack() as cleanup:
        for host, namespace in names.items():
            ip("netns", "add", namespace)
            cleanup.callback(ip, "netns", "delete", namespace)
            set_sysctls(namespace, SYSCTLS_EVERYWHERE | SYSCTLS[host])
        net = Network(**names)
        _wire(net)
        yield net


def _wire(net: Network) -> None:
    ip("-n", net.client, "link", "add", "eth0", "type", "veth", "peer", "lan", "address", LAN_MAC, "netns", net.gateway)
    ip("-n", net.server, "link", "add", "eth0", "type", "veth", "peer", "wan", "netns", net.gateway)
    _address(net.client, "eth0", CLIENT_ADDRESS, LAN_PREFIX)
    _address(net.gateway, "lan", LAN_ADDRESS, LAN_PREFIX)
    _address(net.gateway, "wan", WAN_ADDRESS, WAN_PREFIX)
    _address(net.server, "eth0", SERVER_ADDRESS, WAN_PREFIX)
    ip("-n", net.client, "route", "add", "default", "via", LAN_ADDRESS)
    ip("-n", net.server, "route", "add", "default", "via", WAN_ADDRESS)
    ip("-n", net.gateway, "neighbour", "add", DISCARD_ADDRESS, "lladdr", DISCARD_MAC, "dev", "wan", "nud", "permanent")


def _address(namespace: str, interface: str, address: str, prefix: int) -> None:
    ip("-n", namespace, "address", "add", f"{address}/{prefix}", "dev", interface)
    ip("-n", namespace, "link", "set", interface, "up")


def ip(*arguments: str, stdin: str = "") -> str:
    """Runs iproute2's command and returns what it printed; what it complains of goes to stderr."""
    return subprocess.run(["ip", *arguments], check=True, input=stdin, stdout=subprocess.PIPE, text=True).stdout


def set_sysctls(namespace: str, values: dict[str, str]) -> None:
    """Sets sysctls inside a namespace; all of them must exist."""
    for name, value in values.items():
        path = "/proc/sys/" + name.replace(".", "/")
        ip("netns", "exec", namespace, "tee", path, stdin=value)


def remove_leftovers(directory: Path) -> None:
    """Removes what killed runs left: namespaces, and directories in `directory`, named after a process that is gone."""
    for namespace in json.loads(ip("-json", "netns", "list") or "[]"):
        if _is_leftover(namespace["name"]):
            ip("netns", "delete", namespace["name"])
    for path in directory.iterdir():
        if _is_leftover(path.name):
            shutil.rmtree(path)


def _is_leftover(name: str) -> bool:
    return name.startswith(PREFIX) and not Path("/proc", name.removeprefix(PREFIX).split("-")[0]).exists()
