"""Short lives in a row make the next start wait; a long one, or an end that was asked for, does not."""
from __future__ import annotations

import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from pyfw.edge.host import restarts
from pyfw.edge.host.restarts import FREE, MAX_DELAY_S, NAME, Restarts, delay


def test_the_delay_grows_to_its_end() -> None:
    delays = [delay(lives) for lives in range(FREE + 40)]
    assert delays[:FREE] == [0.0] * FREE            # a daemon that is killed now and then is back at once
    assert all(later == min(2 * earlier, MAX_DELAY_S) for earlier, later in pairwise(delays[FREE:]))
    assert delays[-1] == MAX_DELAY_S


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr(restarts.time, "sleep", waited.append)
    return waited


def test_lives_are_counted_over_processes(tmp_path: Path, waits: list[float]) -> None:
    environment = {"RUNTIME_DIRECTORY": str(tmp_path)}
    for _ in range(FREE + 2):
        Restarts(environment).begin()
    assert waits == [delay(FREE), delay(FREE + 1)]
    Restarts(environment).ended_well()
    Restarts(environment).begin()
    assert len(waits) == 2


@pytest.mark.parametrize("content", ["", "nonsense", "-7", "9" * 5000])
def test_a_damaged_count_is_none_or_the_most(tmp_path: Path, waits: list[float], content: str) -> None:
    (tmp_path / NAME).write_text(content)
    Restarts({"RUNTIME_DIRECTORY": str(tmp_path)}).begin()
    assert waits == []


@pytest.mark.parametrize("directory", ["", "relative", "/a:/b"])
def test_without_a_service_nothing_waits_and_nothing_is_written(directory: str, waits: list[float]) -> None:
    restarted = Restarts({"RUNTIME_DIRECTORY": directory})
    restarted.begin()
    restarted.ended_well()
    assert waits == []


def test_who_ends_a_waiting_start_need_not_wait_at_the_next(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("1000")
    program = ("import time; from pyfw.edge.host.restarts import Restarts; sleep = time.sleep\n"
               "time.sleep = lambda seconds: (print(flush=True), sleep(seconds))\n"
               "Restarts().begin()")
    with subprocess.Popen([sys.executable, "-c", program], env={"RUNTIME_DIRECTORY": str(tmp_path)},
                          stdout=subprocess.PIPE, cwd=Path(restarts.__file__).parents[2]) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert (tmp_path / NAME).read_text() == "0\n"
