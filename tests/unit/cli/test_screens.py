"""`top` and `stats --watch` on a screen: what is drawn at a given width, what keys do, and the ways out."""
from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kit.control import RunningServer, running, wait_until
from kit.moving import Asked, LiveDaemon, MovedDaemon
from kit.terminal import LEAVE_SCREEN, OnTerminal
from pyfw.cli.pyfwctl.screen import KEY, stepped_interval
from pyfw.cli.pyfwctl.stats_screen import StatsScreen
from pyfw.cli.pyfwctl.top_screen import TopScreen, read_filter
from pyfw.edge.control.handlers.top import HEARTBEAT_S

PYFWCTL = [sys.executable, "-m", "pyfw.cli.pyfwctl.main"]


def drawn(show: TopScreen | StatsScreen, width: int = 100, height: int = 14) -> list[str]:
    """The screen's lines, without what ends them and without colours."""
    console = Console(record=True, width=width, height=height, file=open(os.devnull, "w"), force_terminal=True)
    with console.file:
        console.print(show.draw(width, height))
    lines = console.export_text().splitlines()
    assert len(lines) == height
    assert all(len(line) <= width for line in lines)
    return [line.rstrip() for line in lines]


def sampled(**arguments: Any) -> dict:
    """A sample of 4 connections: 10.0.0.1 with 1 packet/s, 10.0.0.2 with 2000, and two that are idle."""
    daemon = MovedDaemon()
    for flow in (1, 2, 3, 4):
        daemon.judge(flow)
    asked = Asked(daemon, "top", once=True, json=True, **arguments)
    daemon.judge(2, 2000)
    daemon.judge(1)
    daemon.judge(9, 5)
    asked.wait()
    (sample,) = asked.records()
    return sample


def pressed(show: TopScreen, keys: str) -> dict:
    """What is asked of the daemon after these keys."""
    for key in KEY.findall(keys):
        show.press(key)
    return show.request(24)


@pytest.fixture
def top() -> TopScreen:
    show = TopScreen({"command": "top"})
    show.take(sampled())
    return show


# -- what is drawn -----------------------------------------------------------------------------------------------


def test_a_screen(top: TopScreen) -> None:
    assert drawn(top)[1:] == [
        "packets  2.01k/s: 2.00k/s accepted, 5/s dropped",
        "bits     449k/s: 448k/s accepted, 1.12k/s dropped",
        "refused  RULE 5/s (5)",
        "queue    0 waiting, queue_dropped 0/s (0), user_dropped 0/s (0)",
        "table    4 of 64 (6.2%), created 0/s, destroyed 0/s, early_drop 0/s, table_full 0/s",
        "shown    4 of 4 connections, most bytes/s first, every 1 s",
        "BYTES/S  PACKETS/S  AGE  PROTO  STATE      SOURCE                       DESTINATION",
        "  56.0k      2.00k   1s  udp    UNREPLIED  10.0.0.2:5000                192.0.2.1:53",
        "     28          1   1s  udp    UNREPLIED  10.0.0.1:5000                192.0.2.1:53",
        "      0          0   1s  udp    UNREPLIED  10.0.0.3:5000                192.0.2.1:53",
        "      0          0   1s  udp    UNREPLIED  10.0.0.4:5000                192.0.2.1:53",
        "",
        "q quit  b p a sort by bytes, packets, age  r reverse  / filter  space pause  + - interval  h help",
    ]


@pytest.mark.parametrize(("width", "height"), [(100, 14), (40, 12), (20, 10), (200, 60)])
def test_it_fits_any_screen(top: TopScreen, width: int, height: int) -> None:
    lines = drawn(top, width, height)
    assert sum("10.0." in line or line.strip().startswith("0") for line in lines[8:-1]) <= height - 9
    assert lines[1].startswith("packets  2.01k/s")


def test_before_the_first_sample() -> None:
    assert drawn(TopScreen({"command": "top"}), height=9)[7:] == ["measuring ...", drawn(TopScreen({"command": "top"}), height=9)[8]]


def test_addresses_and_filters_are_no_markup() -> None:
    show = TopScreen({"command": "top", "src": "[red]x[/red]"})
    show.take(sampled() | {"refused": {"[b]": {"total": 1, "rate": 1.0}}})
    lines = drawn(show)
    assert lines[3] == "refused  [b] 1/s (1)"
    assert lines[6].endswith("filter -s [red]x[/red]")


def test_help_covers_the_keys(top: TopScreen) -> None:
    pressed(top, "h")
    console = Console(record=True, width=100, file=open(os.devnull, "w"))
    with console.file:
        console.print(top.draw(100, 24))
    text = console.export_text()
    assert all(word in text for word in ("quit", "sort by", "reverse", "filter", "pause", "interval", "help"))
    assert "PACKETS/S" not in text
    pressed(top, "q")                   # leaves the help, not the program
    assert not top.over
    assert drawn(top)[7].startswith("BYTES/S")


# -- what keys do ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keys", "changes"), [
    ("", {}), ("b", {}), ("p", {"sort": "packets"}), ("a", {"sort": "age"}), ("apb", {}),
    ("r", {"reverse": True}), ("rr", {"reverse": False}), ("+", {"interval": 2.0}), ("--", {"interval": 0.2}), ("+-", {}),
    ("-" * 9, {"interval": 0.1}), ("+" * 9, {"interval": 60.0}),
    ("/-p tcp --dport 443\r", {"protocol": "tcp", "dport": 443}), ("/-s 10.0.0.1\n/\n", {}),
    ("/-s 10.0.0.1\n/-d 10.0.0.2\n", {"dst": "10.0.0.2"}), ("/-s 10.0.0.1\x1b", {}), ("/-p tdp\x7f\x7fcp\n", {"protocol": "tcp"}),
    ("/bpar\x15-p udp\n", {"protocol": "udp"}), ("/-f ipv6\n", {"family": "ipv6"}), (" ", {}), ("xyz\x1b[A\x1b[15~", {}),
])
def test_keys_change_what_is_asked_for(top: TopScreen, keys: str, changes: dict) -> None:
    assert pressed(top, keys) == {"command": "top", "json": True, "sort": "bytes", "interval": 1.0, "lines": 15} | changes


def test_q_quits_but_not_out_of_a_filter(top: TopScreen) -> None:
    pressed(top, "/q")
    assert not top.over
    assert drawn(top)[-1] == "filter: q_"
    pressed(top, "\x1bq")
    assert top.over


@pytest.mark.parametrize(("keys", "note"), [
    ("/-p\r", "filter: argument -p/--proto/--protocol: expected one argument"), ("/443\r", "filter: unrecognized arguments: 443"),
    ("/--sport x\r", "filter: argument --sport/--orig-port-src: invalid int value: 'x'"), ("/'\r", "filter: No closing quotation"),
    ("/-h\r", "filter: unrecognized arguments: -h"), ("/-o nf\r", "filter: unrecognized arguments: -o nf"),
])
def test_a_filter_that_cannot_be_is_said_and_not_sent(top: TopScreen, keys: str, note: str) -> None:
    before = top.request(24)
    assert pressed(top, keys) == before
    assert drawn(top)[-1] == note
    pressed(top, "x")
    assert drawn(top)[-1].startswith("q quit")


def test_a_filter_that_the_daemon_refuses_gives_way_to_the_one_before(top: TopScreen) -> None:
    before = pressed(top, "/-s 10.0.0.1\n")
    assert pressed(top, "/-s nowhere\n") != before
    top.note("src: 'nowhere' is not an address")
    assert top.request(24) == before
    assert drawn(top)[-1] == "src: 'nowhere' is not an address"


def test_a_pause_holds_the_screen_still(top: TopScreen) -> None:
    shown = drawn(top)
    pressed(top, " ")
    top.take(sampled() | {"time": 0.0, "matched": 77})
    assert drawn(top)[6] == shown[6] + ", PAUSED"
    assert drawn(top)[7:] == shown[7:]
    pressed(top, " ")
    assert "of 77 connections" in drawn(top)[6]


def test_the_command_line_is_where_it_begins() -> None:
    show = TopScreen({"command": "top", "sort": "age", "reverse": True, "interval": 5.0, "protocol": "tcp", "lines": 3})
    assert show.request(24) == {"command": "top", "json": True, "sort": "age", "reverse": True, "interval": 5.0, "protocol": "tcp",
                                "lines": 3}
    assert show.request(10)["lines"] == 1
    assert show.request(3)["lines"] == 1
    assert TopScreen({"command": "top"}).request(5000)["lines"] == 1000


def test_intervals_step_from_any() -> None:
    assert [stepped_interval(1.5, "-"), stepped_interval(1.5, "+"), stepped_interval(600, "+")] == [1, 2, 600]


def test_filters_are_read_as_list_conntrack_reads_them() -> None:
    assert read_filter("") == {}
    assert read_filter("-u ASSURED --state ESTABLISHED -d '2001:db8::/32'") == {
        "status": "ASSURED", "state": "ESTABLISHED", "dst": "2001:db8::/32"}


# -- stats -------------------------------------------------------------------------------------------------------


@pytest.fixture
def stats() -> StatsScreen:
    show = StatsScreen({"command": "stats", "watch": 1.0})
    show.take({"time": 0.0, "elapsed": 1.0, "statistics": {"packets": 5000, "version": "0.1", "states": {"NEW": 3, "INVALID": 0}},
               "rates": {"packets": 1500.0, "states": {"NEW": 0.0, "INVALID": 0.0}}})
    return show


def test_counters_with_their_rates(stats: StatsScreen) -> None:
    lines = drawn(stats, 70, 7)
    assert lines[0].endswith(", every 1 s")
    assert [line.split() for line in lines[1:5]] == [
        ["packets", "5000", "1.50k/s"], ["version", "0.1"], ["states.NEW", "3", "0/s"], ["states.INVALID", "0", "0/s"]]
    assert lines[-1].startswith("q quit")


def test_counters_in_columns(stats: StatsScreen) -> None:
    assert [line.split() for line in drawn(stats, 140, 5)[1:3]] == [
        ["packets", "5000", "1.50k/s", "states.NEW", "3", "0/s"], ["version", "0.1", "states.INVALID", "0", "0/s"]]


def test_counters_are_scrolled_as_far_as_there_are_any(stats: StatsScreen) -> None:
    def first() -> str:
        return drawn(stats, 70, 4)[1].split()[0]
    seen = [first()]
    for key in ("j", "j", "j", "k", "\x1b[A", "k", "\x1b[B"):
        stats.press(key)
        seen.append(first())
    assert seen == ["packets", "version", "states.NEW", "states.NEW", "version", "packets", "packets", "version"]


def test_keys_of_counters(stats: StatsScreen) -> None:
    stats.press("+")
    assert stats.request(24) == {"command": "stats", "watch": 2.0, "json": True}
    stats.press(" ")
    stats.take({"time": 0.0, "elapsed": 1.0, "statistics": {"other": 1}, "rates": {}})
    assert "PAUSED" in drawn(stats, 70, 7)[0]
    assert "packets" in drawn(stats, 70, 7)[1]
    stats.press(" ")
    assert "other" in drawn(stats, 70, 7)[1]
    assert not stats.over
    stats.press("q")
    assert stats.over


# -- on a terminal -----------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path):
    with running(tmp_path / "control.sock", LiveDaemon()) as server:
        for flow in (1, 2, 3):
            server.services.judge(flow)
        yield server


def screen(served: RunningServer, *arguments: str, **size: int) -> OnTerminal:
    return OnTerminal([*PYFWCTL, "--socket", served.path, *(arguments or ("top", "-i", "0.2"))], **size)


def shows(text: str):
    return lambda frame: any(text in line for line in frame)


def test_keys_on_a_terminal(served: RunningServer) -> None:
    with screen(served) as terminal:
        terminal.wait_for("three connections", shows("3 of 3 connections"))
        assert terminal.settings() != terminal.before
        terminal.press("/-s 10.0.0.2\n")
        frame = terminal.wait_for("the filter", shows("1 of 1 connections"))
        assert frame[8].split()[5] == "10.0.0.2:5000"
        assert "filter -s 10.0.0.2" in frame[6]
        terminal.press("/-s nowhere\n")
        terminal.wait_for("the refusal", shows("src: 'nowhere' is not an address"))
        terminal.press("/\na")
        terminal.wait_for("all of them, by age", lambda frame: "3 of 3 connections, oldest first" in frame[6])
        terminal.press("q")
        assert terminal.end() == (0, "")
        assert terminal.is_restored
    wait_until(lambda: served.server.counters()["connections"] == 0)


def test_a_terminal_that_changes_its_size(served: RunningServer) -> None:
    with screen(served, "top", "-i", "60", width=90, height=10) as terminal:
        terminal.wait_for("one line", shows("1 of 3 connections"))
        terminal.resize(120, 30)
        frame = terminal.wait_for("all lines", shows("3 of 3 connections"), HEARTBEAT_S / 2)    # nothing else would draw it again
        assert len(frame) == 30
        terminal.press("q")
        assert terminal.end() == (0, "")
        assert terminal.is_restored


@pytest.mark.parametrize("arguments", [("top",), ("stats", "--watch")], ids="-".join)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_end_it_politely(served: RunningServer, number: signal.Signals, arguments: tuple[str, ...]) -> None:
    with screen(served, *arguments) as terminal:
        terminal.wait_for("a sample", shows("every 1 s"))
        terminal.process.send_signal(number)
        assert terminal.end() == (128 + number, "")
        assert terminal.is_restored


def test_interrupt_and_stop_come_from_the_keyboard_too(served: RunningServer) -> None:
    with screen(served) as terminal:
        terminal.wait_for("a sample", shows("3 of 3"))
        terminal.press("\x13")                  # ^S does not stop the screen
        terminal.wait_for_frames(3)
        terminal.press("\x1a")
        assert os.WIFSTOPPED(os.waitpid(terminal.process.pid, os.WUNTRACED)[1])
        while LEAVE_SCREEN not in terminal.output:
            terminal.read(1)
        assert terminal.is_restored
        shown = len(terminal.output)
        terminal.process.send_signal(signal.SIGCONT)
        while not any("3 of 3" in part for part in terminal.output[shown:].split("\n")):
            terminal.read(1)
        assert terminal.settings() != terminal.before
        terminal.press("\x03")
        assert terminal.end() == (130, "")
        assert terminal.is_restored


def test_a_daemon_that_ends_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with ExitStack() as daemon:
        served = daemon.enter_context(running(path, LiveDaemon()))
        with screen(served) as terminal:
            terminal.wait_for("a sample", shows("0 of 0"))
            daemon.close()
            assert terminal.end() == (3, f"pyfwctl: the daemon at {path} is gone\n")
            assert terminal.is_restored


@pytest.mark.parametrize(("arguments", "status", "message"), [
    (("top", "-s", "nowhere"), 2, "pyfwctl: src: 'nowhere' is not an address or a network"),
    (("top", "-i", "0"), 2, "pyfwctl: --interval takes 0.1 to 3600 seconds, not 0"),
    (("top", "-n", "0"), 2, "pyfwctl: --lines takes a number from 1 to 1000, not 0"),
    (("stats", "--watch", "0"), 2, "pyfwctl: --watch takes 0.1 to 3600 seconds, not 0"),
])
def test_a_refusal_is_one_line_on_the_old_screen(served: RunningServer, arguments: tuple[str, ...], status: int, message: str) -> None:
    with screen(served, *arguments) as terminal:
        ended, text = terminal.end()
        assert ended == status
        assert text.startswith(message)
        assert text.count("\n") == 1
        assert terminal.is_restored


def test_no_daemon_is_one_line_and_no_screen(tmp_path: Path) -> None:
    with OnTerminal([*PYFWCTL, "--socket", tmp_path / "none", "top"]) as terminal:
        status, _ = terminal.end()
        assert status == 3
        assert terminal.output.startswith(f"pyfwctl: no pyfw daemon at {tmp_path / 'none'}")
        assert terminal.settings() == terminal.before


def test_a_terminal_that_can_do_nothing_gets_text(served: RunningServer) -> None:
    with OnTerminal(["/usr/bin/env", "TERM=dumb", *PYFWCTL, "--socket", served.path, "top", "-i", "0.1"]) as terminal:
        status, _ = terminal.end()
        assert status == 0
        assert "shown    3 of 3 connections\n" in terminal.output.replace("\r", "")
        assert "\x1b" not in terminal.output
