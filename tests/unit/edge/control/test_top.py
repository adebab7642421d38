"""`top` and `stats --watch`: the samples, by a clock that only the tests move; over the socket; and as programs."""
from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kit.control import Client, RunningServer, running, wait_until
from kit.moving import SECOND_NS, START_NS, Asked, LiveDaemon, MovedDaemon
from kit.packets import CLIENT6, SERVER6, gre, icmp, udp
from kit.programs import pyfwctl
from pyfw.conntrack.settings import TrackingSettings
from pyfw.edge.control.table import COMMANDS, CommandError, Pause
from pyfw.edge.queue_counters import QueueCounters
from pyfw.engine.engine import Engine
from pyfw.enums import Hook
from pyfw.report.rates import flat, plain, rates, scaled
from pyfw.report.top import age_text, cells, sample_text


@pytest.fixture
def daemon() -> MovedDaemon:
    return MovedDaemon()


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The local time is UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def sources(sample: dict) -> list[str]:
    return [connection["original"]["src"] for connection in sample["connections"]]


# -- a sample ----------------------------------------------------------------------------------------------------


def test_one_sample_takes_the_interval_and_has_all_rates(daemon: MovedDaemon) -> None:
    daemon.judge(1)
    daemon.judge(9, 3)
    asked = Asked(daemon, "top", once=True, json=True, interval=4.0)
    assert isinstance(asked.waits, Pause)
    daemon.judge(1, 8)
    daemon.judge(2, 20)
    daemon.judge(9, 12)
    daemon.kernel = QueueCounters(0, 1, 5, 2, 65531, 40, 2, 0)
    assert asked.wait() == 4
    assert asked.ended
    (sample,) = asked.records()
    connections = sample.pop("connections")
    assert sample == {
        "time": START_NS / 1e9 + 4, "elapsed": 4.0,
        "packets": {"DROP": 3.0, "ACCEPT": 7.0}, "bits": {"DROP": 3 * 28 * 8.0, "ACCEPT": 7 * 28 * 8.0},
        "refused": {"RULE": {"total": 15, "rate": 3.0}},
        "table": {"entries": 2, "max_entries": 64, "created": 2, "destroyed": 0, "expired": 0, "early_drop": 0, "table_full": 0,
                  "rate": {"created": 0.25, "destroyed": 0.0, "early_drop": 0.0, "table_full": 0.0}},
        "queue": {"queued": 5, "queue_dropped": 40, "user_dropped": 2, "rate": {"queue_dropped": 10.0, "user_dropped": 0.5}},
        "accounting": True, "matched": 2,
    }
    assert [(row["original"]["src"], row["rate"], row["age"]) for row in connections] == [
        ("10.0.0.2", {"bytes": 140.0, "packets": 5.0}, 4.0), ("10.0.0.1", {"bytes": 56.0, "packets": 2.0}, 4.0)]


def test_samples_follow_each_other_the_first_of_them_soon(daemon: MovedDaemon) -> None:
    asked = Asked(daemon, "top", json=True, interval=2.0)
    waits, rates_seen = [], []
    for count in (5, 6, 0):
        daemon.judge(1, count)
        waits.append(asked.wait())
        (sample,) = asked.records()
        rates_seen.append(sample["connections"][0]["rate"]["packets"])
    assert waits == [0.5, 2, 2]
    assert rates_seen == [10, 3, 0]
    assert not asked.ended


def test_what_the_peer_says_changes_the_next_sample_which_comes_soon(daemon: MovedDaemon) -> None:
    daemon.judge(1)
    asked = Asked(daemon, "top", json=True, interval=60.0)
    asked.wait()
    asked.records()
    daemon.judge(1, 60)
    daemon.judge(2, 12)
    assert asked.waits.seconds == 10         # at most, without a sign of life
    asked.hear({"command": "top", "json": True, "interval": 60.0, "src": "10.0.0.2"})
    assert asked.wait() == pytest.approx(0.4)
    (sample,) = asked.records()
    assert sources(sample) == ["10.0.0.2"]
    assert sample["matched"] == 1
    assert sample["connections"][0]["rate"]["packets"] == 24
    assert sample["packets"]["ACCEPT"] == 144
    asked.hear({"command": "top", "json": True, "sort": "age", "interval": 0.2})
    asked.wait()
    (sample,) = asked.records()
    assert sources(sample) == ["10.0.0.1", "10.0.0.2"]


@pytest.mark.parametrize(("request_", "complaint"), [
    ({"command": "top", "src": "nowhere"}, "src: 'nowhere' is not an address or a network"),
    ({"command": "top", "lines": 0}, "--lines takes a number from 1 to 1000, not 0"),
    ({"command": "count"}, "top is under way on this connection: send 'count' on another"),
    ({"command": "tip"}, "unknown command 'tip'"), ([], "a request is a JSON object"),
    ({"command": "top", "lines": "many"}, "argument 'lines' must be a number"),
])
def test_what_cannot_be_is_noted_and_changes_nothing(daemon: MovedDaemon, request_: Any, complaint: str) -> None:
    daemon.judge(1)
    daemon.judge(2)
    asked = Asked(daemon, "top", json=True, src="10.0.0.1")
    asked.hear(request_)
    assert complaint in asked.got.pop()["note"]
    asked.wait()
    (sample,) = asked.records()
    assert sources(sample) == ["10.0.0.1"]


def test_a_long_silence_is_broken(daemon: MovedDaemon) -> None:
    asked = Asked(daemon, "top", once=True, interval=25.0)
    waits = [asked.wait(), asked.wait(), asked.wait()]
    assert waits == [10, 10, 5]
    assert asked.ended
    assert asked.got[:2] == [{}, {}]
    assert "text" in asked.got[2]


def test_the_walk_takes_a_small_part_of_the_time(daemon: MovedDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves with every look at it: the walk seems to take 3 s."""
    asked = Asked(daemon, "top", json=True, interval=0.1)
    passed = daemon.now_ns

    def slow() -> int:
        daemon.clock_ns += SECOND_NS
        return passed()
    monkeypatch.setattr(daemon, "now_ns", slow)
    asked.wait()
    assert 2 * 5 - 4 < asked.waits.seconds <= 10


def test_a_queue_that_is_gone(daemon: MovedDaemon) -> None:
    daemon.kernel = None
    asked = Asked(daemon, "top", once=True)
    asked.wait()
    assert "\nqueue    gone\n" in asked.got[0]["text"]


def test_remarks_about_packets_that_pass_are_no_refusals(daemon: MovedDaemon) -> None:
    daemon.engine.judge(b"\0", Hook.FORWARD)
    asked = Asked(daemon, "top", once=True, json=True)
    asked.wait()
    assert asked.records()[0]["refused"] == {"NOT_IP": {"total": 1, "rate": 0.0}}


@pytest.mark.parametrize(("arguments", "complaint"), [
    ({"lines": 1001}, "--lines takes a number from 1 to 1000, not 1001"),
    ({"interval": 0.05}, "--interval takes 0.1 to 3600 seconds, not 0.05"),
    ({"interval": float("nan")}, "--interval takes 0.1 to 3600 seconds, not nan"),
    ({"interval": float("inf")}, "--interval takes"), ({"protocol": "tpc"}, "unknown protocol 'tpc'"),
])
def test_bad_questions(daemon: MovedDaemon, arguments: dict, complaint: str) -> None:
    with pytest.raises(CommandError, match=complaint.replace("(", r"\(")) as caught:
        Asked(daemon, "top", **arguments)
    assert caught.value.status == 2


# -- as text -----------------------------------------------------------------------------------------------------


def test_a_sample_as_text(daemon: MovedDaemon, utc: None) -> None:
    daemon.judge(1)
    asked = Asked(daemon, "top", once=True, lines=2, interval=2)
    daemon.judge(1, 8)
    daemon.judge(2, 20)
    daemon.judge(3)
    daemon.judge(9, 3)
    daemon.engine.judge(udp("192.0.2.1", "10.0.0.2", 53, 5000, b"answer"), Hook.FORWARD, now=daemon.clock_ns)
    asked.wait()
    assert asked.got == [{"text": """\
time     00:16:42, rates over 2.0 s
packets  16.5/s: 15.0/s accepted, 1.5/s dropped
bits     3720.0/s: 3384.0/s accepted, 336.0/s dropped
refused  RULE 1.5/s (3)
queue    0 waiting, queue_dropped 0.0/s (0), user_dropped 0.0/s (0)
table    3 of 64 (4.7%), created 1.0/s, destroyed 0.0/s, early_drop 0.0/s, table_full 0.0/s
shown    2 of 3 connections

BYTES/S  PACKETS/S  AGE  PROTO  STATE      SOURCE         DESTINATION
  297.0       10.5    2  udp    REPLIED    10.0.0.2:5000  192.0.2.1:53
  112.0        4.0    2  udp    UNREPLIED  10.0.0.1:5000  192.0.2.1:53
"""}]


def test_without_accounting_the_text_says_so(daemon: MovedDaemon) -> None:
    daemon.engine = Engine(max_entries=4, tracking=TrackingSettings(accounting=False))
    asked = Asked(daemon, "top", once=True)
    asked.wait()
    assert "\nshown    0 of 0 connections; conntrack.accounting is off: they are not counted\n" in asked.got[0]["text"]


@pytest.mark.parametrize(("packet", "row"), [
    (udp(CLIENT6, SERVER6, 5, 53), ("udp", "UNREPLIED", f"[{CLIENT6}]:5", f"[{SERVER6}]:53")),
    (icmp("10.0.0.1", "10.0.0.2", 8, id=7), ("icmp", "UNREPLIED", "10.0.0.1", "10.0.0.2 type 8 id 7")),
    (gre("10.0.0.1", "10.0.0.2"), ("gre", "UNREPLIED", "10.0.0.1", "10.0.0.2")),
])
def test_rows_of_other_protocols(daemon: MovedDaemon, packet: bytes, row: tuple[str, ...]) -> None:
    daemon.engine.judge(packet, Hook.FORWARD, now=daemon.clock_ns)
    asked = Asked(daemon, "top", once=True, json=True)
    asked.wait()
    (connection,) = asked.records()[0]["connections"]
    assert cells(connection, plain, age_text)[3:] == row


@pytest.mark.parametrize(("number", "text"), [
    (0, "0"), (0.0, "0"), (7, "7"), (7.0, "7"), (7.25, "7.2"), (99.94, "99.9"), (99.96, "100"), (999, "999"), (999.6, "1.00k"),
    (1234, "1.23k"), (12345, "12.3k"), (99_960, "100k"), (999_499, "999k"), (999_500, "1.00M"), (1.5e9, "1.50G"), (2e12, "2.00T"),
    (5e15, "5000T"), (-3, "-3"), (-1234.0, "-1.23k"),
])
def test_scaled_numbers(number: float, text: str) -> None:
    assert scaled(number) == text


@pytest.mark.parametrize(("seconds", "text"), [
    (0, "0s"), (59.9, "59s"), (60, "1m00s"), (3599, "59m59s"), (7500, "2h05m"), (86400 * 4 + 3 * 3600, "4d03h")])
def test_ages(seconds: float, text: str) -> None:
    assert age_text(seconds) == text


def test_rates_of_nested_counters() -> None:
    before = {"packets": 10, "name": "x", "reasons": {"RULE": 1}}
    now = {"packets": 30, "name": "x", "reasons": {"RULE": 1, "TTL": 4}, "new": {"group": 2}}
    changes = rates(now, before, 4)
    assert changes == {"packets": 5.0, "reasons": {"RULE": 0.0, "TTL": 1.0}, "new": {"group": 0.5}}
    assert list(flat(changes)) == [("packets", 5.0), ("reasons.RULE", 0.0), ("reasons.TTL", 1.0), ("new.group", 0.5)]


# -- stats --watch -----------------------------------------------------------------------------------------------


def test_counters_again_and_again_with_their_rates(daemon: MovedDaemon) -> None:
    asked = Asked(daemon, "stats", watch=2.0, json=True)
    first = asked.records()
    daemon.counted = {"packets": 30, "version": "1", "states": {"NEW": 3}, "reasons": {"RULE": 1}}
    assert asked.wait() == 2
    second = asked.records()
    assert first == [{"time": START_NS / 1e9, "elapsed": 0.0, "rates": {},
                      "statistics": {"packets": 0, "version": "1", "states": {"NEW": 0}}}]
    assert second == [{"time": START_NS / 1e9 + 2, "elapsed": 2.0, "statistics": daemon.counted,
                       "rates": {"packets": 15.0, "states": {"NEW": 1.5}, "reasons": {"RULE": 0.5}}}]


def test_counters_as_lines(daemon: MovedDaemon, utc: None) -> None:
    asked = Asked(daemon, "stats", watch=2)
    daemon.counted["packets"] = 7
    asked.wait()
    assert asked.got == [{"text": "00:16:40 packets 0 -\n00:16:40 version 1 -\n00:16:40 states.NEW 0 -\n"}, {},
                         {"text": "00:16:42 packets 7 3.5/s\n00:16:42 version 1 -\n00:16:42 states.NEW 0 0.0/s\n"}, {}]


def test_the_interval_can_be_changed(daemon: MovedDaemon) -> None:
    asked = Asked(daemon, "stats", watch=5, json=True)
    asked.hear({"command": "stats", "watch": 1})
    assert asked.wait() == pytest.approx(0.4)
    assert asked.waits.seconds == 1
    asked.hear({"command": "stats", "watch": 0})
    assert asked.got[-1] == {"note": "--watch takes 0.1 to 3600 seconds, not 0"}


# -- over the socket ---------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path):
    with running(tmp_path / "control.sock", LiveDaemon()) as server:
        yield server


def begun(served: RunningServer, **arguments: Any) -> Client:
    client = served.connect()
    client.send(json.dumps({"command": "top", "interval": 0.1, "json": True, **arguments}).encode() + b"\n")
    assert "records" in client.answer()
    return client


def test_a_stream_hears_its_client_and_ends_with_it(served: RunningServer) -> None:
    served.services.judge(1)
    served.services.judge(2)
    with begun(served) as client:
        client.send(b'{"command": "top", "interval": 0.1, "json": true, "src": "10.0.0.2"}\n')
        while sources(client.answer()["records"][0]) != ["10.0.0.2"]:
            pass
        client.send(b"nonsense\n")
        while "records" in (answer := client.answer()):
            pass
        assert answer["error"].startswith("not a line of JSON")
        assert client.ask(command="count")[0] == {"text": "2\n"}        # the stream has ended, the connection has not
    wait_until(lambda: served.server.counters()["connections"] == 0)


def test_only_so_many_watch_and_who_leaves_makes_room(served: RunningServer) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(begun(served)) for _ in range(4)]
        with served.connect() as fifth:
            (refusal,) = fifth.ask(command="top")
        assert refusal["status"] == 1
        assert "4 are watching the connections" in refusal["error"]
        clients[0].close()
        wait_until(lambda: served.server.counters()["connections"] == 3)
        begun(served).close()
    wait_until(lambda: served.server.counters()["connections"] == 0)


def test_members_of_the_group_may_watch() -> None:
    assert not COMMANDS["top"].needs_root
    assert not COMMANDS["stats"].needs_root


# -- as programs, without a terminal -----------------------------------------------------------------------------


@pytest.mark.parametrize("once", [[], ["--once"]])
def test_where_there_is_no_terminal_top_prints_once(served: RunningServer, once: list[str]) -> None:
    served.services.judge(1)
    done = pyfwctl("--socket", str(served.path), "top", *once, "-i", "0.1", "-n", "1", "-p", "udp")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[6:8] == ["shown    1 of 1 connections", ""]
    assert done.stdout.count("10.0.0.1:5000") == 1


def test_json_is_one_object(served: RunningServer) -> None:
    served.services.judge(1)
    done = pyfwctl("--socket", str(served.path), "top", "-i", "0.1", "--json")
    assert sources(json.loads(done.stdout)) == ["10.0.0.1"]
    assert sample_text(json.loads(done.stdout)).endswith("192.0.2.1:53\n")


@pytest.mark.parametrize("arguments", [["top", "-i", "0"], ["top", "-n", "0"], ["stats", "--watch", "0"], ["top", "-s", "nowhere"]])
def test_values_that_cannot_be(served: RunningServer, arguments: list[str]) -> None:
    done = pyfwctl("--socket", str(served.path), *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_stats_go_on_until_the_reader_has_enough(served: RunningServer) -> None:
    command = f"{sys.executable} -m pyfw.cli.pyfwctl.main --socket {served.path} stats --watch 0.1 | head -n 5"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=30)
    assert [line.split(maxsplit=1)[1] for line in done.stdout.splitlines()] == [
        "packets 0 -", "version 1 -", "states.NEW 0 -", "packets 0 0.0/s", "version 1 -"]
    assert done.stderr == ""


def test_watch_has_an_interval_of_its_own(served: RunningServer) -> None:
    watching = subprocess.Popen([sys.executable, "-m", "pyfw.cli.pyfwctl.main", "--socket", str(served.path), "stats", "--watch", "--json"],
                                stdout=subprocess.PIPE, text=True)
    with watching:
        samples = [json.loads(watching.stdout.readline()) for _ in range(2)]
        watching.terminate()
    assert samples[0]["elapsed"] == 0
    assert samples[1]["elapsed"] >= 1
