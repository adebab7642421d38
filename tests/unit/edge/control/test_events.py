"""`pyfwctl events` over the control socket, and as a program."""
from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.control import LATER_NS, Client, RunningServer, StillDaemon, running, udp_packet, wait_until
from kit.programs import pyfwctl
from pyfw.edge.control.handlers import events as event_commands
from pyfw.edge.control.table import COMMANDS
from pyfw.enums import Hook
from pyfw.observe.events import KEPT, MOST

NEW = "    [NEW] udp      17 3600 src=10.0.0.{0} dst=192.0.2.1 sport=5000 dport=53 [UNREPLIED] " \
      "src=192.0.2.1 dst=10.0.0.{0} sport=53 dport=5000\n"
FLOWS = 3 * KEPT


@pytest.fixture
def control(tmp_path, monkeypatch) -> Iterator[RunningServer]:
    yield from emptied(tmp_path, 32, monkeypatch)


@pytest.fixture
def roomy(tmp_path, monkeypatch) -> Iterator[RunningServer]:
    yield from emptied(tmp_path, FLOWS, monkeypatch)


def emptied(directory: Path, room: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    """A daemon whose table is empty and has room for so many connections; it soon notices who has gone, and all have at the end."""
    monkeypatch.setattr(event_commands, "HEARTBEAT_POLLS", 1)
    with running(directory / "control.sock", StillDaemon(room)) as server:
        with server.connect() as client:
            client.ask(command="flush")
        yield server
        wait_until(lambda: listeners(server) == 0)


def send(control: RunningServer, *flows: int) -> None:
    for flow in flows:
        control.services.engine.judge(udp_packet(flow), Hook.FORWARD, "eth1", "eth0", now=LATER_NS)


def listeners(control: RunningServer) -> int:
    return control.services.engine.counters()["events"]["listeners"]


def listening(control: RunningServer, **request: object) -> Client:
    """A client that has been told that from now on it hears of everything."""
    client = control.connect()
    client.send(json.dumps({"command": "events", **request}).encode() + b"\n")
    assert client.answer() == {}
    return client


def answers(client: Client) -> Iterator[dict]:
    while True:
        if answer := client.answer():
            yield answer


def test_events_come_as_they_happen(control: RunningServer) -> None:
    send(control, 0)
    with listening(control) as client:
        coming = answers(client)
        for flow in (7, 8):
            send(control, 0, flow)
            assert next(coming) == {"text": NEW.format(flow)}
        with control.connect() as other:
            other.ask(command="delete", src="10.0.0.7")
        assert next(coming)["text"].startswith("[DESTROY] udp      17 3600 src=10.0.0.7 ")


def test_as_json_one_object_a_line(control: RunningServer) -> None:
    with listening(control, output="json", event_mask="new,destroy") as client:
        send(control, 7)
        records = next(answers(client))["records"]
    assert [(record["event"], record["original"]["src"], record["helper"]) for record in records] == [("NEW", "10.0.0.7", None)]


def test_filters(control: RunningServer) -> None:
    with listening(control, src="10.0.0.8", protocol="udp", dport=53) as client, listening(control, dport=54) as deaf:
        send(control, 7, 8, 9)
        coming = answers(client)
        assert next(coming) == {"text": NEW.format(8)}
        send(control, 10, 7)
        with control.connect() as other:
            other.ask(command="delete", dst="192.0.2.1")
        assert next(coming)["text"].startswith("[DESTROY] ")
        deaf.send(b"")
        assert deaf.answer() == deaf.answer() == {}         # it lives, and has nothing to tell


@pytest.mark.parametrize(("arguments", "complaint"), [
    (["-e", "OLD"], "unknown event 'OLD': one of NEW, UPDATE, DESTROY, or several with commas"),
    (["-e", "NEW,"], "unknown event ''"),
    (["-o", "xml"], "unknown output 'xml': one of text, json, id, timestamp, extended, or several with commas"),
    (["-p", "tpc"], "unknown protocol 'tpc'"), (["-s", "10.0.0.0/33"], "src: '10.0.0.0/33' is not an address"),
    (["--state", "OPEN"], "state: 'OPEN' is not a TCP state"), (["--dport", "70000"], "dport must be 0 to 65535"),
])
def test_what_cannot_be_listened_to(control: RunningServer, arguments: list[str], complaint: str) -> None:
    done = pyfwctl("--socket", str(control.path), "events", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"pyfwctl: {complaint}")
    assert done.stderr.count("\n") == 1
    assert listeners(control) == 0


def test_a_listener_that_goes_away_is_forgotten(control: RunningServer) -> None:
    clients = [listening(control) for _ in range(MOST)]
    with control.connect() as client:
        (refusal,) = client.ask(command="events")
    assert refusal == {"error": "4 listen to events already, and more would slow the packets down; try again later", "status": 1}
    assert control.refusals("busy") == 1
    assert listeners(control) == MOST
    for client in clients:
        client.close()
    wait_until(lambda: listeners(control) == 0)
    listening(control).close()


@pytest.mark.parametrize("output", ["text", "json"])
def test_who_reads_too_slowly_is_told_how_many_were_lost(roomy: RunningServer, output: str) -> None:
    with listening(roomy, output=output, event_mask="NEW") as client:
        coming = answers(client)
        send(roomy, *range(FLOWS))        # nobody reads meanwhile: the socket takes a part of it, the ring another
        shown, lost, gaps = 0, 0, 0
        while shown + (gaps if output == "json" else lost) < FLOWS:
            answer = next(coming)
            lost += int(answer.get("note", "0 events lost").removesuffix(" events lost"))
            shown += answer.get("text", "").count("\n")
            for record in answer.get("records", ()):
                shown += record["event"] == "NEW"
                gaps += record["count"] if record["event"] == "LOST" else 0
    assert lost > 0
    assert shown >= KEPT
    assert gaps == (lost if output == "json" else 0)


def test_as_a_program(control: RunningServer) -> None:
    command = [sys.executable, "-m", "pyfw.cli.pyfwctl.main", "--socket", str(control.path), "events", "-e", "NEW", "-o", "id"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: listeners(control) == 1)
        send(control, 7)
        assert process.stdout.readline() == NEW.format(7).rstrip("\n") + " id=33\n"
    finally:
        process.kill()
        process.communicate()
    wait_until(lambda: listeners(control) == 0)


def test_who_may_list_may_listen() -> None:
    assert not COMMANDS["events"].needs_root
    assert not COMMANDS["list-conntrack"].needs_root
