"""`explain` and `trace` over the control socket, and as programs."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.utils import wrpcap

from kit.captures import LINK
from kit.control import RunningServer, udp_packet, wait_until
from kit.programs import pyfwctl
from pyfw.edge.control.table import COMMANDS
from pyfw.enums import Hook
from pyfw.rules.language.iptables import parse_save
from pyfw.rules.program.program import Program

RULES = "-P FORWARD DROP\n-A FORWARD -i eth7 -j ACCEPT\n-A FORWARD -m state --state ESTABLISHED -j ACCEPT\n"
KNOWN = ["udp", "192.0.2.1:53", "10.0.0.1:5000"]       # the reply to a connection of the harness


@pytest.fixture
def ruled(control: RunningServer) -> RunningServer:
    engine = control.services.engine
    engine.load(Program(parse_save(RULES), engine.environment))
    return control


def watched(control: RunningServer) -> bool:
    """Whether a trace is under way."""
    return control.services.engine.observing


# -- explain -----------------------------------------------------------------------------------------------------------------


def test_explain_prints_the_way(ruled: RunningServer) -> None:
    done = pyfwctl("--socket", str(ruled.path), "explain", *KNOWN, "--in", "eth0", "--out", "eth1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == """\
packet    192.0.2.1:53 > 10.0.0.1:5000 udp 0 bytes; 28 bytes, at FORWARD, in eth0, out eth1
tracking  state ESTABLISHED, direction REPLY
          now:  ipv4     2 udp      17 3599 src=10.0.0.1 dst=192.0.2.1 sport=5000 dport=53 packets=1 bytes=28 [UNREPLIED] \
src=192.0.2.1 dst=10.0.0.1 sport=53 dport=5000 packets=0 bytes=0 mark=0 use=1
          then:  ipv4     2 udp      17 3600 src=10.0.0.1 dst=192.0.2.1 sport=5000 dport=53 packets=1 bytes=28 \
src=192.0.2.1 dst=10.0.0.1 sport=53 dport=5000 packets=1 bytes=28 mark=0 use=1
filter    filter:FORWARD:rule:1  -A FORWARD -i eth7 -j ACCEPT   no: -i eth7: packet has eth0
          filter:FORWARD:rule:2  -A FORWARD -m state --state ESTABLISHED -j ACCEPT   matched
verdict   ACCEPT by filter:FORWARD:rule:2
"""
    assert "[UNREPLIED]" in pyfwctl("--socket", str(ruled.path), "list-conntrack", "-s", "10.0.0.1").stdout


def test_explain_as_json(ruled: RunningServer) -> None:
    with ruled.connect() as client:
        (answer, _) = client.ask(command="explain", words=[*KNOWN, "--json"])
    (record,) = answer["records"]
    assert record["verdict"] == {"verdict": "ACCEPT", "rule": "filter:FORWARD:rule:2", "reason": None, "reason_text": "", "reject": None,
                                 "mark": 0, "inspected": False}
    assert record["packet"] == {"summary": "192.0.2.1:53 > 10.0.0.1:5000 udp 0 bytes", "hook": "FORWARD", "in": "", "out": "", "bytes": 28}
    assert record["filter"][0] == {"rule": "filter:FORWARD:rule:1", "text": "-A FORWARD -i eth7 -j ACCEPT", "depth": 0, "outcome": "no",
                                   "why": "-i eth7: packet has none"}
    assert {key: record["tracking"][key] for key in ("state", "direction", "begins", "ends", "expected", "master", "table_full")} == {
        "state": "ESTABLISHED", "direction": "REPLY", "begins": False, "ends": False, "expected": False, "master": None,
        "table_full": False}


def test_explain_a_captured_packet(ruled: RunningServer, tmp_path: Path) -> None:
    capture = tmp_path / "c.pcap"
    wrpcap(str(capture), [LINK / IP(src="192.0.2.1", dst="10.0.0.1") / UDP(sport=53, dport=5000) / b"answer"])
    done = pyfwctl("--socket", str(ruled.path), "explain", "pcap", str(capture), "--in", "eth7", "--out", "eth1")
    assert done.returncode == 0
    assert done.stdout.endswith("verdict   ACCEPT by filter:FORWARD:rule:1\n")


@pytest.mark.parametrize(("words", "complaint"), [
    (["tcp"], "tcp SRC:PORT DST:PORT is expected, not 0 words behind tcp"),
    (["pcap", "/nonexistent"], "/nonexistent"),
    (["udp", "1.1.1.1:1", "2.2.2.2:2", "--hop", "3"], "unrecognized arguments: --hop 3"),
])
def test_bad_questions(ruled: RunningServer, words: list[str], complaint: str) -> None:
    done = pyfwctl("--socket", str(ruled.path), "explain", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("pyfwctl: ")
    assert complaint in done.stderr


def test_the_daemon_opens_no_file_for_anybody(ruled: RunningServer) -> None:
    with ruled.connect() as client:
        (answer,) = client.ask(command="explain", words=["pcap", "/etc/hostname"])
    assert answer["status"] == 2
    assert "reads no files" in answer["error"]


@pytest.mark.parametrize(("command", "expected"), [("explain", "[TYPE] SRC DST"), ("trace", "--count N")])
def test_help(ruled: RunningServer, command: str, expected: str) -> None:
    done = pyfwctl("--socket", str(ruled.path), command, "--help")
    assert done.returncode == 0
    assert expected in done.stdout


def test_explain_without_a_daemon(tmp_path: Path) -> None:
    config = tmp_path / "pyfw.yaml"
    config.write_text(json.dumps({"rules": {"filter": {"FORWARD": {"policy": "DROP", "rules": ["-p tcp --dport 22 -j ACCEPT"]}}}}))

    def explain(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "pyfw", "explain", "-c", str(config), *words], capture_output=True, text=True,
                              timeout=30)
    accepted = explain("tcp", "10.0.0.1:1", "10.0.0.2:22")
    assert accepted.returncode == 0
    assert accepted.stdout.endswith("verdict   ACCEPT by filter:FORWARD:rule:1\n")
    dropped = explain("tcp", "10.0.0.1:1", "10.0.0.2:23", "--json")
    assert dropped.returncode == 0
    assert json.loads(dropped.stdout)["verdict"]["rule"] == "filter:FORWARD:policy:2"
    refused = explain("tcp", "10.0.0.1:1")
    assert refused.returncode == 2
    assert refused.stderr.startswith("pyfw: tcp SRC:PORT")
    config.write_text("bogus: 1\n")
    assert explain("tcp", "10.0.0.1:1", "10.0.0.2:22").returncode == 2


# -- trace -------------------------------------------------------------------------------------------------------------------


def judge(control: RunningServer, flow: int = 1) -> None:
    control.services.engine.judge(udp_packet(flow), Hook.FORWARD, "eth1", "eth0", control.services.now_ns())


def test_trace_shows_packets_as_they_come_and_ends(ruled: RunningServer) -> None:
    with ruled.connect() as client:
        client.send(json.dumps({"command": "trace", "words": ["-s", "10.0.0.1", "--count", "2", "--json"]}).encode() + b"\n")
        assert client.answer() == {}
        for flow in (1, 2, 1, 1):
            judge(ruled, flow)
        answers = [client.answer()]
        while "done" not in answers[-1]:
            answers.append(client.answer())
    records = [record for answer in answers for record in answer.get("records", ())]
    assert [record["packet"]["summary"] for record in records] == ["10.0.0.1:5000 > 192.0.2.1:53 udp 0 bytes"] * 2
    assert records[0]["filter"][-1] == {"rule": "filter:FORWARD:policy:3", "text": "-P FORWARD DROP", "depth": 0, "outcome": "end", "why": ""}
    assert answers[-1] == {"done": True, "count": 2, "suppressed": 0}
    assert not watched(ruled)


def test_a_trace_ends_with_its_reader(ruled: RunningServer) -> None:
    with ruled.connect() as client:
        client.send(b'{"command": "trace"}\n')
        assert client.answer() == {}
        assert watched(ruled)
    wait_until(lambda: not watched(ruled))


def test_no_more_traces_than_the_packets_can_bear(ruled: RunningServer) -> None:
    clients = [ruled.connect() for _ in range(5)]
    for client in clients[:4]:
        client.send(b'{"command": "trace", "words": ["-p", "tcp"]}\n')
        assert client.answer() == {}
    (refusal,) = clients[4].ask(command="trace")
    assert refusal["status"] == 1
    assert "4 traces are under way" in refusal["error"]
    for client in clients:
        client.close()


@pytest.mark.parametrize(("words", "complaint"), [
    (["--count", "0"], "--count takes a number from 1 to 100000"), (["--count"], "--count takes a number"), (["--count=x"], "not 'x'"),
    (["-p", "tpc"], "unknown protocol 'tpc'"), (["-j", "DROP"], "leave -j and -g out"), (["tcp"], "unexpected 'tcp'"),
])
def test_bad_traces(ruled: RunningServer, words: list[str], complaint: str) -> None:
    done = pyfwctl("--socket", str(ruled.path), "trace", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert not watched(ruled)


def test_only_root_sees_other_peoples_packets() -> None:
    assert COMMANDS["trace"].needs_root
    assert not COMMANDS["explain"].needs_root
