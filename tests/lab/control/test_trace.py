"""Asking a live daemon: what it says would happen is what happens; what it shows is what passes.

    client ──> gateway (pyfw) ──> server
"""
from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from firewall import BIN, Firewall
from pyfw.lab import CLIENT, SERVER, Lab, wait_until

Guard = Callable[..., Firewall]

FORWARD = ["-m state --state ESTABLISHED,RELATED -j ACCEPT", "-p tcp --dport 5001 -m state --state NEW -j ACCEPT",
           "-p icmp -m limit --limit 1/hour --limit-burst 2 -j ACCEPT", "-p udp --dport 9 -j REJECT"]


def explain(firewall: Firewall, *words: object) -> dict:
    answer = firewall.ctl("explain", *map(str, words), "--in", "eth1", "--out", "eth0", "--json", check=True).stdout
    return json.loads(answer)


def connected(lab: Lab) -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection through the gateway."""
    with lab.inside("server"):
        listener = socket.create_server((SERVER.ipv4, 5001))
    with lab.inside("client"):
        client = socket.create_connection((SERVER.ipv4, 5001), timeout=5)
    with listener:
        server, _ = listener.accept()
    return client, server


def send_udp(lab: Lab, port: int, count: int = 1) -> None:
    with lab.inside("client"):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        for _ in range(count):
            with suppress(ConnectionRefusedError):
                sender.sendto(b"x", (SERVER.ipv4, port))


def ping_passes(lab: Lab) -> bool:
    return lab.run("client", ["ping", "-c", "1", "-W", "1", SERVER.ipv4]).returncode == 0


def trace(firewall: Firewall, *words: str) -> subprocess.Popen[str]:
    """A trace that has begun."""
    before = firewall.ctl("stats", "--json").stdout
    started = json.loads(before)["control"]["commands"].get("trace", 0)
    process = subprocess.Popen([BIN / "pyfwctl", "--socket", firewall.socket, "trace", *words, "--json"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    wait_until(lambda: json.loads(firewall.ctl("stats", "--json").stdout)["control"]["commands"].get("trace", 0) > started, "a trace")
    firewall.settle()
    return process


def shown(process: subprocess.Popen[str]) -> list[dict]:
    output, complaints = process.communicate(timeout=30)
    assert process.returncode == 0, complaints
    return [json.loads(line) for line in output.splitlines()]


# -- explain -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flags", "state"), [("ACK", "ESTABLISHED"), ("FIN,ACK", "ESTABLISHED"), ("RST", "ESTABLISHED"), ("SYN", "ESTABLISHED")])
def test_questions_about_a_living_connection_leave_it_alone(lab: Lab, guard: Guard, flags: str, state: str) -> None:
    firewall = guard(FORWARD=FORWARD)
    client, server = connected(lab)
    with client, server:
        port = client.getsockname()[1]
        before, counted = untimed(firewall.connections()), firewall.rule_packets()
        for _ in range(3):
            record = explain(firewall, "tcp", f"{CLIENT.ipv4}:{port}", f"{SERVER.ipv4}:5001", "--flags", flags)
            assert record["tracking"]["state"] == state
            assert record["verdict"]["rule"] == "filter:FORWARD:rule:1"
        assert untimed(firewall.connections()) == before
        assert firewall.rule_packets() == counted
        client.sendall(b"still here")
        assert server.recv(100) == b"still here"
        assert untimed(firewall.connections()) != before        # the control: a packet does change something


def untimed(lines: list[str]) -> list[str]:
    """Connections without the seconds that are left to them."""
    return [re.sub(r"^(\S+ +\d+ )\d+", r"\1-", line) for line in lines]


def test_questions_take_nothing_from_a_limit(lab: Lab, guard: Guard) -> None:
    firewall = guard(FORWARD=FORWARD)
    for _ in range(5):
        assert explain(firewall, "icmp", CLIENT.ipv4, SERVER.ipv4)["verdict"]["verdict"] == "ACCEPT"
    assert ping_passes(lab)
    record = explain(firewall, "icmp", CLIENT.ipv4, SERVER.ipv4)
    assert record["verdict"]["verdict"] == "ACCEPT"
    assert ping_passes(lab)
    refused = explain(firewall, "icmp", CLIENT.ipv4, SERVER.ipv4)
    assert refused["verdict"]["verdict"] == "DROP"
    assert refused["filter"][2]["why"].startswith("-m limit")
    assert not ping_passes(lab)


def test_the_answer_foretells_what_happens(lab: Lab, guard: Guard) -> None:
    firewall = guard(FORWARD=FORWARD)
    record = explain(firewall, "udp", f"{CLIENT.ipv4}:4000", f"{SERVER.ipv4}:9")
    assert record["verdict"] == {"verdict": "DROP", "rule": "filter:FORWARD:rule:4", "reason": "RULE", "reason_text": "dropped by a rule",
                                 "reject": "icmp-port-unreachable", "mark": 0, "inspected": False}
    with lab.inside("client"):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        sender.settimeout(5)
        sender.connect((SERVER.ipv4, 9))
        sender.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            sender.recv(1)


# -- trace ---------------------------------------------------------------------------------------------------------------------


def test_real_packets_with_their_rules(lab: Lab, guard: Guard) -> None:
    firewall = guard(FORWARD=FORWARD)
    tracing = trace(firewall, "-p", "tcp", "--dport", "5001", "--count", "2")
    send_udp(lab, 9)                                # the control: the filter leaves it out
    client, server = connected(lab)
    with client, server:
        records = shown(tracing)
    assert [record["tracking"]["state"] for record in records] == ["NEW", "ESTABLISHED"]
    assert [record["verdict"]["rule"] for record in records] == ["filter:FORWARD:rule:2", "filter:FORWARD:rule:1"]
    assert all(record["packet"]["summary"].startswith(f"{CLIENT.ipv4}:") for record in records)
    assert [visit["outcome"] for visit in records[0]["filter"]] == ["no", "matched"]


def test_a_filter_by_state(lab: Lab, guard: Guard) -> None:
    firewall = guard(FORWARD=FORWARD)
    tracing = trace(firewall, "-m", "state", "--state", "ESTABLISHED", "--count", "1")
    client, server = connected(lab)
    with client, server:
        (record,) = shown(tracing)
    assert record["tracking"]["direction"] == "REPLY"
    assert record["packet"]["summary"].startswith(f"{SERVER.ipv4}:5001")


@pytest.mark.alone
def test_more_packets_than_are_shown(lab: Lab, guard: Guard) -> None:
    """100 at once and 100 a second are kept, however many come: 200 take a second at least."""
    firewall = guard(FORWARD=FORWARD, policies={"FORWARD": "ACCEPT"})
    tracing = trace(firewall, "-p", "udp", "--dport", "10", "--count", "200")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(tracing.communicate, timeout=30)
        sent = 0
        while not reading.done():
            send_udp(lab, 10, 500)
            sent += 500
        output, complaints = reading.result()
    times = [json.loads(line)["time"] for line in output.splitlines()]
    assert len(times) == 200
    assert times[-1] - times[0] > 0.9
    assert re.fullmatch(r"pyfwctl: \d+ more packets matched and are not shown: they came too fast\n", complaints)
    assert firewall.rule_packets()["-P FORWARD ACCEPT"] == sent


def test_the_tracer_that_goes_away_is_forgotten(lab: Lab, guard: Guard) -> None:
    firewall = guard(FORWARD=FORWARD)

    def room_for_another() -> bool:
        """Another sees a packet, and ends with it; or is refused."""
        other = subprocess.Popen([BIN / "pyfwctl", "--socket", firewall.socket, "trace", "-p", "udp", "--count", "1"],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while other.poll() is None:
            send_udp(lab, 10)
        complaints = other.communicate()[1]
        assert other.returncode == 0 or "4 traces are under way" in complaints, complaints
        return other.returncode == 0

    tracing = [trace(firewall, "-p", "tcp") for _ in range(4)]
    assert not room_for_another()                   # the control
    for process in tracing:
        process.kill()
        process.communicate()
    wait_until(room_for_another, "the dead tracers to be forgotten", 10)


def test_the_target_writes_the_kernels_lines(lab: Lab, guard: Guard) -> None:
    firewall = guard(FORWARD=FORWARD, raw={"PREROUTING": ["-p udp --dport 9 -j TRACE"]})
    send_udp(lab, 10)
    send_udp(lab, 9)
    firewall.settle()
    wait_until(lambda: "TRACE: " in firewall.log.read_text(), "the lines")
    traced = [line for line in firewall.log.read_text().splitlines() if "TRACE: " in line]
    assert [line.split(" IN=")[0] for line in traced] == ["TRACE: raw:PREROUTING:policy:2", "TRACE: filter:FORWARD:rule:4"]
    assert all(f"SRC={CLIENT.ipv4} DST={SERVER.ipv4} " in line and "DPT=9 " in line for line in traced)


