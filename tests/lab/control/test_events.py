"""Events of live connections: as the kernel tells them of the same packets, and without a cost to those packets.

    client ──── gateway: pyfw, and the kernel's conntrack ──── server
"""
from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import services
from differential.kernel_events import event_differences, kernel_events
from firewall import BIN, Firewall
from kit.witness import Sent, Settings, Witness
from pyfw.lab import SERVER, Lab, wait_until

Guard = Callable[..., Firewall]

ACCEPT_ALL = {"policies": {"FORWARD": "ACCEPT"}, "FORWARD": []}
S4, S6, FILE = SERVER.ipv4, SERVER.ipv6, services.FILE_NAME
SESSIONS = {
    "HTTP": f"curl -sS -m 5 http://{S4}/{FILE}",
    "HTTP, IPv6": f"curl -sS -m 5 http://[{S6}]/{FILE}",
    "refused": f"curl -sS -m 5 http://{S4}:81/",
    "UDP": f"dig +tries=1 +time=2 @{S4} {services.DNS_NAME}",
    "ping": f"ping -c 2 -i 0.2 -W 2 {S4}",
    "FTP": f"curl -sS -m 5 --disable-epsv ftp://{S4}/{FILE}",
}
EXCHANGE = shlex.split(SESSIONS["UDP"])
LAST_PORT = 9
LAST = f" dport={LAST_PORT} "
FLOOD_PORTS = range(1024, 61024)


class Listening:
    """A `pyfwctl events` that hears of everything from now on."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path, complaints: Path) -> None:
        self.process = process
        self._output = output
        self._complaints = complaints

    def lines(self) -> list[str]:
        return self._output.read_text().splitlines()

    def until(self, what: str) -> list[str]:
        """The lines up to the first with `what` in it, waiting for that; it is left out."""
        wait_until(lambda: any(what in line for line in self.lines()), f"an event with {what!r}")
        lines = self.lines()
        return lines[:next(position for position, line in enumerate(lines) if what in line)]

    def complaints(self) -> str:
        return self._complaints.read_text()


@contextmanager
def listening(firewall: Firewall, directory: Path, *arguments: str) -> Iterator[Listening]:
    before = listeners(firewall)
    output, complaints = directory / f"events{before}", directory / f"complaints{before}"
    with output.open("w") as out, complaints.open("w") as err:
        process = subprocess.Popen([BIN / "pyfwctl", "--socket", firewall.socket, "events", *arguments], stdin=subprocess.DEVNULL,
                                   stdout=out, stderr=err)
    try:
        wait_until(lambda: listeners(firewall) > before, "a listener")
        yield Listening(process, output, complaints)
    finally:
        process.kill()
        process.wait()


def statistic(firewall: Firewall, name: str) -> int:
    """The number behind a name of `pyfwctl stats`, such as "events.listeners"."""
    group, _, name = name.partition(".")
    return json.loads(firewall.ctl("stats", "--json", check=True).stdout)[group][name]


def listeners(firewall: Firewall) -> int:
    return statistic(firewall, "events.listeners")


def send_udp(lab: Lab, *ports: int) -> None:
    with lab.inside("client"):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        for port in ports:
            sender.sendto(b"x", (S4, port))


def kernels(packets: list[Sent], directory: Path) -> list[str]:
    """What the kernel tells of these packets, when each has taken its whole way before the next one comes."""
    with Witness(Settings(ftp=True)) as witness, kernel_events(witness.name, directory / "kernel") as kernel:
        witness.testify(kernel.keeping_up(packets))
        return kernel.until(LAST)


@pytest.fixture
def tracking(lab: Lab) -> Lab:
    """The kernel of the gateway tracks and counts, too."""
    lab.run("gateway", ["sh", "-c", "echo 1 >/proc/sys/net/netfilter/nf_conntrack_acct"], check=True)
    lab.run("gateway", ["iptables", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "NEW"], check=True)
    return lab


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("name", SESSIONS)
def test_a_session_is_told_as_the_kernel_tells_it(name: str, lab: Lab, guard: Guard, wire: Callable[[], list[Sent]],
                                                  tmp_path: Path) -> None:
    firewall = guard(**ACCEPT_ALL, helpers={"ftp": {"strict": False}})
    with listening(firewall, tmp_path) as listener:
        lab.run("client", shlex.split(SESSIONS[name]))
        firewall.settle()
        send_udp(lab, LAST_PORT)
        ours = listener.until(LAST)
    theirs = kernels(wire(), tmp_path)
    assert event_differences(theirs, ours) == []
    assert len(ours) >= 2
    assert ours[0].startswith("    [NEW] ")


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("options", [[], ["-o", "id,timestamp,extended"]], ids=["plain", "with more"])
def test_a_deleted_connection(options: list[str], tracking: Lab, guard: Guard, tmp_path: Path) -> None:
    firewall = guard(**ACCEPT_ALL)
    with (kernel_events(tracking.namespace("gateway"), tmp_path / "kernel", *options) as kernel,
          listening(firewall, tmp_path, *options) as listener):
        tracking.run("client", EXCHANGE, check=True)
        firewall.settle()
        firewall.ctl("delete", "-p", "udp", check=True)
        tracking.run("gateway", ["conntrack", "-D", "-p", "udp"], check=True)
        send_udp(tracking, LAST_PORT)
        ours, theirs = listener.until(LAST), kernel.until(LAST)
    if options:
        ours, theirs = ([unnumbered(line) for line in lines] for lines in (ours, theirs))
    assert event_differences(theirs, ours) == []
    assert len(ours) == 3
    assert "[DESTROY] " in ours[2]
    assert "packets=1 " in ours[2]


def unnumbered(line: str) -> str:
    """A line of `-o id,timestamp,extended` as one without, checked for what must be there."""
    parts = re.fullmatch(r"\[\d{10}\.\d{6}\]\t( *\[\w+\]) ipv4     2 (.*) id=\d+( \[USERSPACE\] portid=\d+(?: progname=\S+)?)?", line)
    assert parts, line
    return f"{parts[1]} {parts[2]}"


@pytest.mark.usefixtures("servers")
def test_a_timed_out_connection(tracking: Lab, guard: Guard, tmp_path: Path) -> None:
    tracking.run("gateway", ["sh", "-c", "echo 1 >/proc/sys/net/netfilter/nf_conntrack_udp_timeout"], check=True)
    firewall = guard(**ACCEPT_ALL, settings=["conntrack.timeouts.udp=1s"])
    with (kernel_events(tracking.namespace("gateway"), tmp_path / "kernel") as kernel, listening(firewall, tmp_path) as listener):
        tracking.run("client", EXCHANGE, check=True)

        def swept() -> bool:
            """The kernel looks for expired entries when its table is read."""
            tracking.run("gateway", ["cat", "/proc/net/nf_conntrack"], check=True)
            return any("[DESTROY]" in line for line in kernel.lines())
        wait_until(swept, "the kernel's last event")
        wait_until(lambda: any("[DESTROY]" in line for line in listener.lines()), "pyfw's last event")
        assert event_differences(kernel.lines(), listener.lines()) == []
        assert [line.split()[0] for line in listener.lines()] == ["[NEW]", "[UPDATE]", "[DESTROY]"]


def test_a_filter_lets_nothing_else_through(lab: Lab, guard: Guard, tmp_path: Path) -> None:
    firewall = guard(**ACCEPT_ALL)
    with (listening(firewall, tmp_path, "--dport", "7") as filtered, listening(firewall, tmp_path, "-e", "DESTROY") as of_a_kind,
          listening(firewall, tmp_path) as everything):
        send_udp(lab, 8, LAST_PORT)
        assert len(everything.until(LAST)) == 1
        assert filtered.lines() == of_a_kind.lines() == []
        send_udp(lab, 7)
        wait_until(filtered.lines, "the event that is asked for")
        assert [" dport=7 " in line for line in filtered.lines()] == [True]


def test_a_reader_that_sleeps_loses_events_and_nobody_else_anything(lab: Lab, guard: Guard, tmp_path: Path) -> None:
    lab.run("server", ["iptables", "-A", "INPUT", "-p", "udp", "-j", "DROP"], check=True)       # and answers nothing
    firewall = guard(**ACCEPT_ALL)
    with listening(firewall, tmp_path, "-p", "udp", "-e", "NEW") as listener:
        listener.process.send_signal(signal.SIGSTOP)
        for first in range(0, len(FLOOD_PORTS), 2000):
            send_udp(lab, *FLOOD_PORTS[first:first + 2000])
            firewall.settle()
        assert lab.run("client", ["ping", "-c", "5", "-i", "0.1", "-W", "2", S4]).stdout.count("bytes from") == 5
        created = statistic(firewall, "table.created") - 1          # the ping
        lost = statistic(firewall, "events.lost")
        assert lost > 0
        assert listener.complaints() == ""
        listener.process.send_signal(signal.SIGCONT)
        wait_until(lambda: len(listener.lines()) + lost >= created, "what was kept")
        wait_until(lambda: sum(map(int, re.findall(r"^pyfwctl: (\d+) events lost$", listener.complaints(), re.M))) >= lost,
                   "what was lost to be told")
        assert len(listener.lines()) + lost == created
        assert sum(map(int, re.findall(r"(\d+) events lost", listener.complaints()))) == lost == statistic(firewall, "events.lost")
        send_udp(lab, 61500)
        wait_until(lambda: " dport=61500 " in listener.lines()[-1], "an event after that")
