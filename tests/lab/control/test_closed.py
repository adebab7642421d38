"""Closed before there is a daemon: `pyfw close` diverts what the config says, or everything; `pyfw open` is the way back."""
from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from firewall import BIN, Firewall
from pyfw.lab import GATEWAY_INSIDE, SERVER, Lab, Port

LOOPBACK = Port("gateway", "lo", "127.0.0.1", "::1", "00:00:00:00:00:00")
ROOT = Path(__file__).resolve().parents[3]
RULES = "rules: {filter: {FORWARD: {policy: ACCEPT}}}\n"


def pyfw(lab: Lab, *arguments: object) -> subprocess.CompletedProcess[str]:
    return lab.run("gateway", [BIN / "pyfw", *map(str, arguments)])


def passes(lab: Lab) -> dict[str, bool]:
    """Whether a packet gets through, by hook: the two families agree.  All pings are at once: each that fails takes a second."""
    def pings(role: str, target: str) -> bool:
        return lab.run(role, ["ping", "-c1", "-W1", target]).returncode == 0

    pairs = {"INPUT": ("client", GATEWAY_INSIDE), "FORWARD": ("client", SERVER), "OUTPUT": ("gateway", SERVER), "lo": ("gateway", LOOPBACK)}
    with ThreadPoolExecutor() as pool:
        through = {hook: [pool.submit(pings, role, target.address(family)) for family in (4, 6)]
                   for hook, (role, target) in pairs.items()}
    passed = {hook: {ping.result() for ping in pings} for hook, pings in through.items()}
    assert all(len(answers) == 1 for answers in passed.values()), passed
    return {hook: answers.pop() for hook, answers in passed.items()}


OPEN = {"INPUT": True, "FORWARD": True, "OUTPUT": True, "lo": True}
CLOSED = {"INPUT": False, "FORWARD": False, "OUTPUT": False, "lo": True}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "pyfw.yaml"


@pytest.fixture(autouse=True)
def opened(lab: Lab) -> None:
    """The control: the lab is open before."""
    assert passes(lab) == OPEN


@pytest.mark.parametrize("text", [None, "", "\0", "rules: [", "- a list", "hooks: [NOWHERE]\nqueue: {when_down: open}\nexempt: 7\n",
                                  "hooks: [INPUT]\nhooks: [INPUT]\n", "hooks: {INPUT: [" + "[" * 5000])
def test_a_config_that_cannot_be_read_closes_everything_but_lo(lab: Lab, config: Path, text: str | None) -> None:
    if text is not None:
        config.write_text(text)
    done = pyfw(lab, "close", "-c", config)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert passes(lab) == CLOSED
    assert pyfw(lab, "close", "-c", config).returncode == 0
    assert pyfw(lab, "open").returncode == 0
    assert passes(lab) == OPEN


@pytest.mark.parametrize(("text", "expected"), [
    ("hooks: [FORWARD]\n", OPEN | {"FORWARD": False}),
    ("hooks: [FORWARD]\nrules: {file: gone.rules}\n", OPEN | {"FORWARD": False}),       # what else is wrong does not matter
    ("hooks: [INPUT]\nqueue: {when_down: accept}\n", OPEN),
    ("variables: {IN: eth1}\nexempt: {interfaces: [lo, $IN]}\n", CLOSED | {"INPUT": True, "FORWARD": True}),
])
def test_what_the_config_says_of_the_diversion_counts(lab: Lab, config: Path, text: str, expected: dict[str, bool]) -> None:
    config.write_text(text)
    assert pyfw(lab, "close", "-c", config).returncode == 0
    assert passes(lab) == expected


def test_the_queue_is_the_configs_and_its_daemon_takes_over(lab: Lab, config: Path, tmp_path: Path) -> None:
    config.write_text(f"queue: {{number: 12}}\n{RULES}")
    assert pyfw(lab, "close", "-c", config).returncode == 0
    assert "--queue-num 12" in lab.run("gateway", ["iptables-save"]).stdout
    assert passes(lab) == CLOSED
    with Firewall(lab, config, tmp_path):
        assert passes(lab) == OPEN
        before = lab.run("gateway", ["iptables-save"]).stdout.count("\n-A")
        left = pyfw(lab, "close", "-c", config)
        assert left.returncode == 0
        assert "a daemon diverts the packets here" in left.stdout
        refused = pyfw(lab, "open")
        assert refused.returncode == 1
        assert "another pyfw diverts" in refused.stderr
        assert passes(lab) == OPEN
        assert lab.run("gateway", ["iptables-save"]).stdout.count("\n-A") == before
    assert "PYFW" not in lab.run("gateway", ["iptables-save"]).stdout


def test_without_python_it_closes_as_well(lab: Lab, config: Path, tmp_path: Path) -> None:
    """What pyfw-closed.service has recourse to; a daemon makes its own of it."""
    for program in ("iptables", "ip6tables"):
        done = lab.run("gateway", [f"{program}-restore", "-w", "30", "--noflush", ROOT / "systemd" / "closed.rules"])
        assert done.returncode == 0, done.stderr
    assert passes(lab) == CLOSED
    config.write_text(f"hooks: [FORWARD]\n{RULES}")
    with Firewall(lab, config, tmp_path):
        assert passes(lab) == OPEN
    assert "PYFW" not in lab.run("gateway", ["iptables-save"]).stdout
