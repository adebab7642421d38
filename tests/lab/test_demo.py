"""scripts/demo: passes as it is, says so when something is wrong, and leaves nothing behind."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import demo

ROOT = Path(__file__).resolve().parents[2]


NAME = f"pyfw-test-{os.getpid()}-demo"


@pytest.fixture(scope="module")
def run() -> subprocess.CompletedProcess:
    """What scripts/demo runs after its setup."""
    return subprocess.run([sys.executable, ROOT / "scripts" / "lib" / "demo.py", "--lab", NAME],
                          capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=110)


def test_every_session_passes_and_nothing_is_left(run: subprocess.CompletedProcess) -> None:
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{len(demo.SESSIONS)} of {len(demo.SESSIONS)} passed" in run.stdout
    assert not list(Path("/run/netns").glob(f"{NAME}*"))


def test_its_output_is_plain_and_shows_the_connections(run: subprocess.CompletedProcess) -> None:
    assert "\033" not in run.stdout
    assert max(map(len, run.stdout.splitlines())) <= demo.WIDTH
    joined = re.sub(r"\n +", " ", run.stdout)
    for line in (r"icmp +1 \d+ src=192\.0\.2\.2 dst=198\.51\.100\.2 type=8 ", r"udp +17 \d+ src=\S+ dst=\S+ sport=\d+ dport=53 ",
                 r"tcp +6 \d+ \w+ src=\S+ dst=\S+ sport=\d+ dport=80 .*\[ASSURED\]",
                 r"tcp +6 \d+ \w+ src=198\.51\.100\.2 dst=192\.0\.2\.2 sport=20 "):
        assert re.search(line, joined), line
    assert "nothing new" in run.stdout


def test_a_session_that_goes_wrong_is_named() -> None:
    session = demo.Session("title", "true", "says this", ("--dport 80",), (r"^tcp ",))
    result = subprocess.CompletedProcess([], 1, "says that", "")
    assert list(demo._defects(session, result, {"-A FORWARD --dport 81": 1}, ["udp 17"])) == [
        "exit status 1", "its output does not say 'says this'", "no packet was counted by the rule '--dport 80'",
        "no new connection '^tcp '"]


def test_a_session_that_must_fail_may_not_succeed() -> None:
    session = demo.Session("title", "true", "", (), fails=True)
    assert list(demo._defects(session, subprocess.CompletedProcess([], 0, "", ""), {}, ["tcp 6"])) == [
        "exit status 0", "a connection came into being"]
