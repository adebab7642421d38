"""`pyfwctl top` on a live daemon: the flow that is the busiest stands first, with about its rate; and the terminal.

    client ──iperf3──> gateway (pyfw) ──> server
"""
from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from firewall import BIN, Firewall
from kit.terminal import OnTerminal
from pyfw.lab import CLIENT, SERVER, Lab, wait_until

Guard = Callable[..., Firewall]

IPERF_PORT, IDLE_PORT, DROPPED_PORT = 5201, 5001, 9
PAYLOAD, HEADERS = 1000, 28
FORWARD = [f"-p udp --dport {DROPPED_PORT} -j DROP"]
ABOUT = 2.0                     # what top says, by what iperf3 says, and the other way round


@dataclass
class Flow:
    """A UDP flow under way."""

    process: subprocess.Popen[str]

    def bytes_per_second(self) -> float:
        """What it was, on the IP layer; waits for its end."""
        output, _ = self.process.communicate(timeout=60)
        sent = json.loads(output)["end"]["sum_sent"]
        return sent["packets"] * (PAYLOAD + HEADERS) / sent["seconds"]


@contextmanager
def udp_flow(lab: Lab, seconds: int) -> Iterator[Flow]:
    server = lab.start("server", ["iperf3", "--server", "--one-off", "--forceflush"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    while "listening" not in server.stdout.readline():
        pass
    client = lab.start("client", ["iperf3", "--client", SERVER.ipv4, "--udp", "--bitrate", "8M", "--length", str(PAYLOAD),
                                  "--time", str(seconds), "--json"], stdout=subprocess.PIPE)
    try:
        yield Flow(client)
    finally:
        for process in (client, server):
            lab.stop(process)
            process.stdout.close()


@pytest.fixture
def idle_connection(lab: Lab) -> Iterator[Callable[[], int]]:
    """Opens a TCP connection on which nothing is said; returns the client's port."""
    ends: list[socket.socket] = []

    def connect() -> int:
        with lab.inside("server"):
            listener = socket.create_server((SERVER.ipv4, IDLE_PORT))
        with lab.inside("client"):
            client = socket.create_connection((SERVER.ipv4, IDLE_PORT), timeout=10)
        ends.extend((listener, client, listener.accept()[0]))
        return client.getsockname()[1]

    yield connect
    for end in ends:
        end.close()


def sample(firewall: Firewall, *arguments: str) -> dict:
    return json.loads(firewall.ctl("top", "--json", *arguments, check=True).stdout)


def flow_is_on(firewall: Firewall) -> None:
    firewall.wait_for("the flow", lambda lines: any(line.startswith("udp") and f"dport={IPERF_PORT}" in line for line in lines))


def test_the_busiest_connection_is_the_first_line_with_its_rate(lab: Lab, guard: Guard, idle_connection) -> None:
    firewall = guard(FORWARD=FORWARD, policies={"FORWARD": "ACCEPT"})
    idle_port = idle_connection()
    with udp_flow(lab, 6) as flow:
        flow_is_on(firewall)
        text = firewall.ctl("top", "-i", "1", check=True).stdout
        seen = sample(firewall, "-i", "2")
        fewest = sample(firewall, "-i", "1", "-R")
        oldest = sample(firewall, "-i", "1", "--sort", "age", "-n", "1")
        rate = flow.bytes_per_second()
    first = seen["connections"][0]
    assert (first["protocol"], first["original"]["src"], first["original"]["dport"]) == (17, CLIENT.ipv4, IPERF_PORT)
    assert rate / ABOUT < first["rate"]["bytes"] < rate * ABOUT
    assert first["rate"]["bytes"] / first["rate"]["packets"] == pytest.approx(PAYLOAD + HEADERS, rel=0.01)
    assert rate * 8 / ABOUT < seen["bits"]["ACCEPT"] < rate * 8 * ABOUT
    (idle,) = [connection for connection in seen["connections"] if connection["original"]["dport"] == IDLE_PORT]
    assert idle["original"]["sport"] == idle_port
    assert idle["rate"] == {"bytes": 0, "packets": 0}
    assert seen["matched"] == 3                     # the third is iperf3's own TCP connection
    assert fewest["connections"][-1]["original"]["dport"] == IPERF_PORT
    assert fewest["connections"][-1]["protocol"] == 17
    assert [connection["original"]["sport"] for connection in oldest["connections"]] == [idle_port]
    row = text.splitlines()[9].split()
    assert row[3] == "udp"
    assert row[6] == f"{SERVER.ipv4}:{IPERF_PORT}"
    assert rate / ABOUT < float(row[0]) < rate * ABOUT


def test_what_is_dropped_shows_in_the_head(lab: Lab, guard: Guard) -> None:
    firewall = guard(FORWARD=FORWARD, policies={"FORWARD": "ACCEPT"})
    watching = subprocess.Popen([BIN / "pyfwctl", "--socket", firewall.socket, "top", "-i", "2", "--json"], stdout=subprocess.PIPE)
    with watching:
        wait_for_command(firewall, "top")
        with lab.inside("client"):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sender:
            for _ in range(50):
                sender.sendto(b"x", (SERVER.ipv4, DROPPED_PORT))
        seen = json.loads(watching.stdout.read())
    assert seen["packets"]["DROP"] * seen["elapsed"] == pytest.approx(50)
    assert seen["packets"]["ACCEPT"] == 0
    assert seen["bits"]["DROP"] * seen["elapsed"] == pytest.approx(50 * 29 * 8)
    assert seen["refused"]["RULE"]["total"] == 50
    assert seen["refused"]["RULE"]["rate"] == seen["packets"]["DROP"]
    assert seen["connections"] == []
    assert seen["table"]["entries"] == 0
    assert set(seen["queue"]) == {"queued", "queue_dropped", "user_dropped", "rate"}


def wait_for_command(firewall: Firewall, name: str) -> None:
    wait_until(lambda: json.loads(firewall.ctl("stats", "--json").stdout)["control"]["commands"].get(name), f"{name} to begin")
    firewall.settle()


def test_on_a_terminal_with_keys(lab: Lab, guard: Guard, idle_connection) -> None:
    firewall = guard(FORWARD=FORWARD, policies={"FORWARD": "ACCEPT"})
    idle_port = idle_connection()
    with udp_flow(lab, 30), OnTerminal([BIN / "pyfwctl", "--socket", firewall.socket, "top", "-i", "0.5"]) as terminal:
        frame = terminal.wait_for("the flow with its rate", lambda frame: len(frame) > 8 and f":{IPERF_PORT}" in frame[8]
                                  and frame[8].split()[0][-1] in "kM")
        assert "udp" in frame[8].split()
        terminal.press("a")
        terminal.wait_for("the oldest first", lambda frame: "oldest first" in frame[6] and f"{CLIENT.ipv4}:{idle_port}" in frame[8])
        terminal.press(f"/--dport {IPERF_PORT} -p udp\n")
        terminal.wait_for("the flow alone", lambda frame: frame[6].startswith("shown    1 of 1 ") and f":{IPERF_PORT}" in frame[8])
        terminal.press("q")
        assert terminal.end() == (0, "")
        assert terminal.is_restored


@pytest.mark.parametrize("arguments", [("top",), ("stats", "--watch", "0.5")], ids=["top", "stats"])
def test_a_daemon_that_is_killed_ends_it(guard: Guard, arguments: tuple[str, ...]) -> None:
    firewall = guard(FORWARD=FORWARD)
    with OnTerminal([BIN / "pyfwctl", "--socket", firewall.socket, *arguments]) as terminal:
        terminal.wait_for("a sample", lambda frame: any("every" in line for line in frame))
        firewall.kill()
        assert terminal.end() == (3, f"pyfwctl: the daemon at {firewall.socket} is gone\n")
        assert terminal.is_restored
    firewall.start()


def test_a_daemon_that_stops_is_not_kept_waiting(guard: Guard) -> None:
    firewall = guard(FORWARD=FORWARD)
    with OnTerminal([BIN / "pyfwctl", "--socket", firewall.socket, "top", "-i", "60"]) as terminal:
        terminal.wait_for("a sample", lambda frame: any("every" in line for line in frame))
        assert firewall.stop() == 0
        assert terminal.end()[0] == 3
        assert terminal.is_restored
    firewall.start()
