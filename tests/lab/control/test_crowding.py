"""A member of the group, who may look, against a live daemon: it judges, is heard by root, feeds its watchdog, and stops."""
from __future__ import annotations

import grp
import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from firewall import Firewall
from kit.keeper import KeptFirewall
from pyfw.cli.pyfwctl.client import ask
from pyfw.edge.control.server import ROOM
from pyfw.lab import SERVER, Lab, wait_until

pytestmark = pytest.mark.alone

NOBODY = 65534
GROUP = grp.getgrnam("games")
CONFIG = "hooks: [FORWARD]\nrules: {filter: {FORWARD: {policy: DROP, rules: ['-p icmp -j ACCEPT', '-p udp -j ACCEPT']}}}\n"

# What the member does: argv is the socket's path, what is asked, how many times at once, and whether answers are read.
MEMBER = r"""
import json, select, socket, sys, time
path, request, count, reads = sys.argv[1], sys.argv[2].encode() + b"\n", int(sys.argv[3]), sys.argv[4] == "reads"

def connect():
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    connection.setblocking(False)
    return connection

connections, said = {}, False
while True:
    while len(connections) < count:
        connection = connect()
        connections[connection] = True
        try:
            connection.send(request)
        except OSError:
            pass
    if not said:
        print("at it", flush=True)
        said = True
    if not reads:
        time.sleep(0.01)
        continue
    for connection in select.select(list(connections), [], [], 1)[0]:
        try:
            data = connection.recv(1 << 20)
            if not data:
                raise ConnectionError
            if b'"done"' in data[-200:] or b'"error"' in data[-200:]:
                connection.send(request)
        except BlockingIOError:
            pass
        except OSError:
            del connections[connection]
            connection.close()
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="pyfw-test-", dir="/run") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def firewall(lab: Lab, directory: Path) -> Iterator[KeptFirewall]:
    """Its watchdog's messages, and all others to the service manager, are kept in `said`."""
    config = directory / "pyfw.yaml"
    config.write_text(CONFIG)
    firewall = KeptFirewall(lab, config, directory, settings=[f"control.group={GROUP.gr_name}"])
    firewall.start()
    try:
        yield firewall
    finally:
        assert firewall.stop() == 0
        assert "PYFW" not in lab.run("gateway", ["iptables-save"]).stdout
        assert "Traceback" not in firewall.log.read_text()


@contextmanager
def member(firewall: Firewall, request: dict, count: int, how: str, *, waits: bool = True) -> Iterator[None]:
    """Nobody, in the group, at work."""
    words = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--groups", str(GROUP.gr_gid), "/usr/bin/python3", "-c", MEMBER,
             str(firewall.socket), json.dumps(request), str(count), how]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    try:
        assert not waits or process.stdout.readline() == "at it\n"
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def pings(lab: Lab, count: int) -> int:
    done = lab.run("client", ["ping", "-c", str(count), "-i", "0.01", "-W", "5", SERVER.ipv4])
    return int(re.search(r"(\d+) received", done.stdout)[1])


def memory_kib(firewall: Firewall) -> int:
    status = Path(f"/proc/{firewall.process.pid}/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)[1])


def flows(lab: Lab, count: int) -> None:
    with lab.inside("client"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for flow in range(count):
            sender.sendto(b"x", (SERVER.ipv4, 1024 + flow))


ABUSES = [
    ({"command": "count"}, 1000, "stays"),                  # silent connections, as many as a process may have
    ({"command": "list-conntrack", "output": "json"}, 16, "reads"),
    ({"command": "list-conntrack"}, 16, "stays"),           # and never read
    ({"command": "events"}, 16, "stays"),
    ({"command": "top", "interval": 0.1, "lines": 1000}, 16, "reads"),
    ({"command": "stats", "watch": 0.1}, 16, "reads"),
    ({"command": "explain", "words": ["hex", "45" * 30_000]}, 16, "reads"),
    ({"command": "explain", "words": ["--json"] * 6_000}, 16, "reads"),
    ({"command": "explain", "words": ["tcp", "192.0.2.2:1", f"{SERVER.ipv4}:2"]}, 16, "reads"),
    ({"command": "ping"}, 16, "reads"),
    ({"command": "x" * 60_000}, 16, "reads"),
    ({"command": "list-rules", "chain": "x" * 60_000}, 16, "reads"),
    ({"command": "iptables-save", "counters": True}, 16, "reads"),
    ({"command": "trace", "words": []}, 16, "reads"),       # which is refused
]


def roots(firewall: Firewall, **request: object) -> dict:
    """The last answer, and what came before it in the key `records`."""
    *before, done = ask(str(firewall.socket), request)
    return {**done, "records": [record for answer in before for record in answer.get("records", ())]}


def control(firewall: Firewall) -> dict:
    return roots(firewall, command="stats", json=True)["records"][0]["control"]


def test_a_member_stops_neither_packets_nor_root_nor_the_watchdog(lab: Lab, firewall: KeptFirewall) -> None:
    flows(lab, 3000)
    before_kib = memory_kib(firewall)
    for request, count, how in ABUSES:
        what = f"{str(request)[:80]}, {count} at once"
        with member(firewall, request, count, how):
            wait_until(lambda: control(firewall)["others"] > 0, what)
            assert pings(lab, 30) == 30, what
            assert roots(firewall, command="count")["count"] >= 3000, what
            counters = control(firewall)
            assert counters["others"] <= ROOM.user, what
            firewall.skip()
            firewall.read_until("WATCHDOG=1")
            assert memory_kib(firewall) - before_kib < 64 * 1024, what
    assert counters["refusals"]["too_many"] > 100
    assert counters["refusals"]["busy"] > 10
    assert counters["refusals"]["permission"] > 10
    assert "internal_error" not in counters["refusals"]
    assert counters["defects"] == 0


def test_more_connections_than_descriptors_at_once(lab: Lab, directory: Path) -> None:
    """With as many descriptors as systemd gives, and the connections made while the daemon cannot accept any."""
    config = directory / "pyfw.yaml"
    config.write_text(CONFIG)
    firewall = Firewall(lab, config, directory, settings=[f"control.group={GROUP.gr_name}"])
    firewall.argv = ["prlimit", "--nofile=1024:2048", *firewall.argv]
    with firewall:
        firewall.process.send_signal(signal.SIGSTOP)
        crowd = ({"command": "count"}, 700, "stays")
        with member(firewall, *crowd), member(firewall, *crowd, waits=False):
            wait_until(lambda: Path("/proc/net/unix").read_text().count(f" {firewall.socket}\n") >= 1024, "the backlog to be full")
            firewall.process.send_signal(signal.SIGCONT)
            assert roots(firewall, command="count")["count"] == 0
            assert pings(lab, 10) == 10
            firewall.process.terminate()
            assert firewall.process.wait(20) == 0
    assert "PYFW" not in lab.run("gateway", ["iptables-save"]).stdout
    assert firewall.log.read_text().count("\n") == 1, "the greeting"


def test_it_stops_while_it_is_crowded(lab: Lab, firewall: KeptFirewall) -> None:
    with member(firewall, {"command": "list-conntrack"}, 1000, "stays"), member(firewall, {"command": "count"}, 16, "reads"):
        firewall.process.terminate()
        assert firewall.process.wait(20) == 0
    assert "PYFW" not in lab.run("gateway", ["iptables-save"]).stdout
    firewall.start()


def test_it_stops_without_a_free_descriptor(lab: Lab, directory: Path) -> None:
    """Root's own connections have taken all that there are, which are few here."""
    config = directory / "pyfw.yaml"
    config.write_text(CONFIG)
    firewall = Firewall(lab, config, directory)
    firewall.argv = ["prlimit", "--nofile=72:72", *firewall.argv]
    firewall.start()
    connections = [socket.socket(socket.AF_UNIX) for _ in range(64)]
    for connection in connections:
        connection.connect(str(firewall.socket))
    descriptors = Path(f"/proc/{firewall.process.pid}/fd")
    wait_until(lambda: len(list(descriptors.iterdir())) == 72, "all descriptors to be taken")
    assert pings(lab, 10) == 10
    firewall.process.terminate()
    assert firewall.process.wait(20) == 0
    assert "PYFW" not in lab.run("gateway", ["iptables-save"]).stdout
    assert "Traceback" not in firewall.log.read_text()
    for connection in connections:
        connection.close()


# Becomes the daemon whose netlink ports, as a rule numbered as the process is, a user has taken before.
HELD_PORTS = r"""
import os, socket, sys
from pyroute2 import netns
pid, (taken, told), (waits, lives) = os.getpid(), os.pipe(), os.pipe()
if os.fork() == 0:
    os.close(lives)
    netns.setns(sys.argv[1], flags=0)
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    held = [socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) for protocol in (0, 4, 12)]   # route, diag, netfilter
    for one in held:
        one.bind((pid, 0))
    os.write(told, b"x")
    os.read(waits, 1)
    os._exit(0)
os.read(taken, 1)
os.set_inheritable(lives, True)             # when the daemon ends, the holder does
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_netlink_ports_that_a_user_has_taken_end_no_start(lab: Lab, directory: Path) -> None:
    config = directory / "pyfw.yaml"
    config.write_text(CONFIG)
    firewall = Firewall(lab, config, directory, settings=["adopt=kernel", "metrics.listen=127.0.0.1:9469"])
    firewall.argv = [sys.executable, "-c", HELD_PORTS, lab.namespace("gateway"), *firewall.argv]
    with firewall:
        held = lab.run("gateway", ["cat", "/proc/net/netlink"]).stdout
        assert len(re.findall(rf"^\S+ +(?:0|4|12) +{firewall.process.pid} ", held, re.MULTILINE)) == 3
        assert pings(lab, 3) == 3
        assert roots(firewall, command="stats", json=True)["records"][0]["degraded"] == {}


def test_as_many_descriptors_as_may_be(firewall: KeptFirewall) -> None:
    limits = Path(f"/proc/{firewall.process.pid}/limits").read_text()
    soft, hard = re.search(r"^Max open files +(\d+) +(\d+)", limits, re.MULTILINE).groups()
    assert soft == hard
